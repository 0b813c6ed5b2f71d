"""The page on which a buyer whose subscription is not paid reaches Stripe's billing portal with an API key alone."""

from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response

from farebox.domain.access import Facts
from farebox.web import models
from farebox.web.asked import asked_body, refuse_cross_site
from farebox.web.limits import RateLimit
from farebox.web.pages import Pages

__all__ = ["add_pay_routes"]


def add_pay_routes(
    app: FastAPI,
    pages: Pages,
    limit: RateLimit,
    public_url: str,
    identify_key: Callable[[str], Awaitable[Facts]],
    portal_of: Callable[[Facts], str],
) -> None:
    """Add the page and its form. `identify_key` gives the facts of a working key or raises; `portal_of` makes a link to
    Stripe's portal, which lists open invoices and cards. A buyer whose key is refused with 402 is sent here.
    """

    @app.get("/pay", include_in_schema=False)
    async def pay_page() -> Response:
        return pages.pay()

    @app.post("/pay", include_in_schema=False)
    async def pay(request: Request) -> Response:
        refuse_cross_site(request, public_url)
        limit.take(request.client.host if request.client is not None else "")
        form = await asked_body(request, models.PayRequest)
        facts = await identify_key(form.key.strip())
        return RedirectResponse(await run_in_threadpool(portal_of, facts), 303)
