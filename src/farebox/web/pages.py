"""Pages for buyers: the plans, the claim, the key, and errors in words. No script but one small file of our own."""

from importlib import resources
from typing import Any, Final
from urllib.parse import urlsplit

from fastapi import FastAPI
from jinja2 import Environment, PackageLoader, select_autoescape
from starlette.responses import HTMLResponse, Response

from farebox.billing.claim import Claimed
from farebox.domain.accounts import Checkout
from farebox.domain.catalog import Catalog, Plan, format_minor
from farebox.domain.words import price_in_words
from farebox.errors import FareboxError, NotFound

__all__ = ["PAGE_HEADERS", "Pages"]

PAGE_HEADERS: Final = {
    "Cache-Control": "no-store",
    # No form-action: browsers apply it to redirects too, and checkout's form is sent on to Stripe.
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_PASSING: Final = frozenset(
    {"claim_unpaid", "provider_unavailable", "provider_throttled", "store_unavailable", "too_many_requests"}
)
_STATIC: Final = {"farebox.css": "text/css", "farebox.js": "text/javascript"}


class Pages:
    """Renders the buyer's pages for one catalog. Everything that comes from outside is escaped."""

    def __init__(self, prefix: str, public_url: str, catalog: Catalog) -> None:
        # A proxy may serve the app below a path of its own, which the public URL names: every link begins with it.
        self._base = urlsplit(public_url).path.rstrip("/") + prefix
        self._base_url = public_url + prefix
        self._public_url = public_url
        self._catalog = catalog
        self._templates = Environment(
            loader=PackageLoader("farebox.web"), autoescape=select_autoescape(default=True), trim_blocks=True
        )

    def mount(self, app: FastAPI) -> None:
        """Serve the style and the script."""
        files = {name: (resources.files("farebox.web") / "static" / name).read_text("utf-8") for name in _STATIC}

        @app.get("/static/{name}", include_in_schema=False)
        async def static(name: str) -> Response:
            if name not in files:
                raise NotFound("There is no such file.")
            return Response(files[name], media_type=_STATIC[name], headers={"Cache-Control": "max-age=300"})

    def plans(self) -> Response:
        plans = [
            {
                "name": plan.name,
                "title": plan.title,
                "interval": plan.interval,
                "trial_days": plan.trial_days,
                "card_required": plan.card_required,
                "offers": [self._offer(offer) for offer in plan.offers],
            }
            for plan in self._catalog.plans.values()
        ]
        return self._page("plans.html", plans=plans)

    def _offer(self, plan: Plan) -> dict[str, Any]:
        """A plan in one of its currencies: each line with its price, in parts where it costs by tiers."""
        rows = [] if plan.base is None else [(f"Each {plan.interval}", [format_minor(plan.base, plan.currency)])]
        for price in plan.prices:
            parts = price_in_words(price, plan.currency).split("; ")
            rows.append((self._catalog.meters[price.meter].title, parts))
        if plan.minimum:
            rows.append((f"At least, each {plan.interval}", [format_minor(plan.minimum, plan.currency)]))
        if plan.setup_fee is not None:
            rows.append(("Once, to begin", [format_minor(plan.setup_fee, plan.currency)]))
        return {"currency": plan.currency, "rows": rows}

    def claim(self, session_id: str, checkout: Checkout) -> Response:
        return self._page(
            "claim.html", session_id=session_id, plan=self._title(checkout.plan), replaces=checkout.key_id or ""
        )

    def key(self, claimed: Claimed) -> Response:
        return self._page(
            "key.html",
            status=201,
            key=claimed.key.reveal(),
            plan=self._title(claimed.plan),
            replaced=claimed.replaced,
            try_url=self._try_url(),
            usage_url=f"{self._base_url}/usage",
        )

    def problem(self, error: FareboxError, headers: dict[str, str], *, again: bool) -> Response:
        """The error in words. `again` says that opening the same address once more may help."""
        again = again and error.code in _PASSING
        pay_url = error.pay_at if error.pay_at.startswith("http") else f"{self._base}/{error.pay_at}"
        return self._page(
            "problem.html",
            status=error.status,
            extra=headers,
            error=error,
            again=again,
            pay_url=pay_url if error.pay_at else "",
        )

    def pay(self) -> Response:
        """The form that asks for a key and leads to Stripe's billing portal."""
        return self._page("pay.html")

    def _title(self, plan: str) -> str:
        return self._catalog.plans[plan].title if plan in self._catalog.plans else plan

    def _try_url(self) -> str:
        """An address that answers with the new key: the first priced GET route that has no parameters, else usage."""
        priced = (
            r.path for r in self._catalog.routes if (r.meter is not None or r.terms is not None) and r.method == "GET"
        )
        path = next((path for path in priced if "{" not in path and "*" not in path), None)
        return f"{self._base_url}/usage" if path is None else self._public_url + path

    def _page(self, name: str, *, status: int = 200, extra: dict[str, str] | None = None, **values: Any) -> Response:
        text = self._templates.get_template(name).render(base=self._base, **values)
        return HTMLResponse(text, status, {**(extra or {}), **PAGE_HEADERS})
