"""Farebox's own routes: checkout, webhook, claim, keys, usage, invoices, portal. Thin: parse, call a room, answer.

Blocking work runs on threads. Links are made from the public URL only, never from the Host header.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast

import structlog
from fastapi import Depends, FastAPI, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, RedirectResponse, Response

from farebox.billing.change import Settle, change_plan, drop_change, subscription_of
from farebox.billing.checkout import begin_checkout
from farebox.billing.claim import look_at_claim, take_claim
from farebox.billing.inbox import Receipt
from farebox.billing.invoices import portal_url, upcoming_invoice, usage_report
from farebox.billing.keys import create_key, revoke_key, rotate_key
from farebox.domain.access import Facts
from farebox.domain.accounts import Account
from farebox.domain.catalog import Catalog
from farebox.domain.keys import Pepper
from farebox.errors import (
    FareboxError,
    KeyInvalid,
    KeyMissing,
    MethodNotAllowed,
    NotFound,
    PlanUnknown,
)
from farebox.ports import Clock, Entropy, Provider, Store
from farebox.web import models
from farebox.web.answers import describe_answers
from farebox.web.asked import asked_body, invalid_input, is_form, refuse_cross_site, wants_page
from farebox.web.events import Events, add_event_routes
from farebox.web.limits import WEBHOOK_BODY_BYTES_MAX, RateLimit, bounded_body
from farebox.web.operator import Operator, add_operator_routes
from farebox.web.pages import Pages
from farebox.web.paying import add_pay_routes
from farebox.web.problems import problem_document, problem_headers

__all__ = ["Billing", "create_routes"]

_log = structlog.get_logger("farebox.routes")


@dataclass(frozen=True, slots=True)
class Billing:
    """What the routes work with. `identify` gives the facts of a request's key or raises, `identify_key`
    those of a key as text; `receive` takes a webhook."""

    store: Store
    provider: Provider
    clock: Clock
    entropy: Entropy
    catalog: Catalog
    peppers: Sequence[Pepper]
    live: bool
    prefix: str
    public_url: str
    grace_seconds: int
    identify: Callable[[Request], Awaitable[Facts]]
    identify_key: Callable[[str], Awaitable[Facts]]
    receive: Callable[[bytes, str], Receipt]
    settle: Settle
    operator: Operator
    events: Events

    @property
    def base_url(self) -> str:
        return self.public_url + self.prefix

    @property
    def plans_url(self) -> str:
        return self.base_url + "/"


def create_routes(billing: Billing) -> FastAPI:
    """The application that serves everything under the prefix."""
    app = FastAPI(
        title="Farebox billing",
        summary="Subscribe, claim a key, see usage and invoices.",
        version="1",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # Starlette's redirect is made from the Host header
        default_response_class=_PrivateJSON,
        responses={"default": {"description": "A problem document", "model": models.Problem}},
    )
    pages = Pages(billing.prefix, billing.public_url, billing.catalog)
    limit = RateLimit(billing.clock)
    _add_error_handlers(app, billing, pages)
    _add_purchase(app, billing, pages, limit)
    _add_claim(app, billing, pages, limit)
    _add_webhook(app, billing)
    add_pay_routes(app, pages, limit, billing.public_url, billing.identify_key, _portal_of(billing))
    _add_account(app, billing)
    _add_subscription(app, billing)
    _add_keys(app, billing)
    add_event_routes(app, billing.events)
    add_operator_routes(app, billing.operator)
    pages.mount(app)
    describe_answers(app)
    return app


def _add_error_handlers(app: FastAPI, billing: Billing, pages: Pages) -> None:
    def answer(request: Request, error: Exception, headers: Mapping[str, str] = MappingProxyType({})) -> Response:
        if not isinstance(error, FareboxError):
            _log.exception("route_broken", path=request.url.path, exc_info=error)
            error = FareboxError()
        elif error.internal:
            _log.warning("route_refused", path=request.url.path, code=error.code, reason=error.internal)
        if wants_page(request):
            again = request.url.path.endswith("/claim")
            return pages.problem(error, {**problem_headers(error), **headers}, again=again)
        document = problem_document(error, pay_url=billing.plans_url)
        if isinstance(error, PlanUnknown):
            document["plans"] = sorted(billing.catalog.plans)
        answer_headers = {**problem_headers(error), **headers}
        return JSONResponse(document, error.status, answer_headers, media_type="application/problem+json")

    async def on_error(request: Request, error: Exception) -> Response:
        return answer(request, error)

    async def on_invalid(request: Request, error: Exception) -> Response:
        return answer(request, invalid_input(list(cast(RequestValidationError, error).errors())))

    async def on_http(request: Request, error: Exception) -> Response:
        refusal = cast(HTTPException, error)
        if refusal.status_code == 405:
            return answer(request, MethodNotAllowed("This path takes other methods."), refusal.headers or {})
        if request.url.path.endswith(billing.prefix):
            return RedirectResponse(billing.plans_url, 307)
        return answer(request, NotFound("There is nothing at this path."))

    app.add_exception_handler(FareboxError, on_error)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(Exception, on_error)


class _PrivateJSON(JSONResponse):
    """What a key opens is kept by no cache on the way."""

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        super().init_headers({"Cache-Control": "no-store", **(headers or {})})


def _add_purchase(app: FastAPI, billing: Billing, pages: Pages, limit: RateLimit) -> None:
    @app.get("/", include_in_schema=False)
    async def plans() -> Response:
        return pages.plans()

    @app.post(
        "/checkout",
        status_code=201,
        openapi_extra=models.body_of(models.CheckoutRequest) | models.KEY_IF_ANY,
        responses=models.SENT_ON,
        response_model=models.CheckoutAnswer,
    )
    async def checkout(request: Request) -> Response:
        """Begin a purchase. A form post is sent on to Stripe with 303; a valid key attaches to its own account."""
        refuse_cross_site(request, billing.public_url, same_site=True)
        limit.take(_address(request))
        asked = await asked_body(request, models.CheckoutRequest)
        account = await _buyer(billing, request)
        session = await run_in_threadpool(
            begin_checkout,
            billing.store,
            billing.provider,
            billing.clock,
            billing.entropy,
            billing.catalog,
            plan_name=asked.plan,
            currency=asked.currency,
            email=asked.email,
            reference=asked.reference,
            account=account,
            claim_url=billing.base_url + "/claim",
            plans_url=billing.plans_url,
        )
        if is_form(request):
            return RedirectResponse(session.url, 303)
        return _PrivateJSON({"id": session.id, "url": session.url}, 201)


def _add_claim(app: FastAPI, billing: Billing, pages: Pages, limit: RateLimit) -> None:
    @app.get("/claim", include_in_schema=False)
    async def claim_page(request: Request, session_id: str = "") -> Response:
        limit.take(_address(request))
        checkout = await run_in_threadpool(look_at_claim, billing.store, billing.provider, billing.clock, session_id)
        return pages.claim(session_id, checkout)

    @app.post(
        "/claim",
        status_code=201,
        openapi_extra=models.body_of(models.ClaimRequest),
        responses=models.SHOWN_AS_PAGE,
        response_model=models.KeyAnswer,
    )
    async def claim(request: Request) -> Response:
        """Take the purchase's key. It is shown this once."""
        refuse_cross_site(request, billing.public_url)
        limit.take(_address(request))
        asked = await asked_body(request, models.ClaimRequest)
        if asked.replaces is not None and wants_page(request):
            checkout = await run_in_threadpool(
                look_at_claim, billing.store, billing.provider, billing.clock, asked.session_id
            )
            if asked.replaces != (checkout.key_id or ""):  # the browser posted the page of an earlier key again
                return pages.claim(asked.session_id, checkout)
        taken = await run_in_threadpool(
            take_claim,
            billing.store,
            billing.provider,
            billing.clock,
            billing.entropy,
            billing.peppers,
            live=billing.live,
            session_id=asked.session_id,
            replaces=asked.replaces,
        )
        if wants_page(request):
            return pages.key(taken)
        body = {"key": taken.key.reveal(), "id": taken.key_id, "account": taken.account_id, "plan": taken.plan}
        return _PrivateJSON(body, 201)


def _add_webhook(app: FastAPI, billing: Billing) -> None:
    @app.post("/webhook", openapi_extra=models.SIGNED_EVENT, response_model=models.WebhookAnswer)
    async def webhook(request: Request) -> Response:
        """Stripe's events. Verified over the raw body, stored once, answered at once; worked off later."""
        body = await bounded_body(request, WEBHOOK_BODY_BYTES_MAX)
        signature = request.headers.get("stripe-signature", "")
        receipt = await run_in_threadpool(billing.receive, body, signature)
        return JSONResponse({"received": True, "stored": receipt.stored})


def _add_account(app: FastAPI, billing: Billing) -> None:
    identified = _identified(billing)
    asked = RateLimit(billing.clock)  # each asks Stripe, whose own limit all share

    @app.get("/usage")
    async def usage(facts: Facts = identified) -> models.UsageAnswer:
        """What this account has used in the current period and what it costs so far, from the ledger."""
        report = await run_in_threadpool(
            usage_report, billing.store, billing.clock, facts.account, billing.grace_seconds
        )
        return models.usage_answer(facts.account, report)

    @app.get("/invoices/upcoming")
    async def upcoming(facts: Facts = identified) -> models.InvoiceAnswer:
        """Stripe's preview of the next invoice."""
        asked.take(facts.account.id)
        invoice = await run_in_threadpool(
            upcoming_invoice, billing.store, billing.provider, billing.clock, facts.account, billing.grace_seconds
        )
        return models.invoice_answer(invoice)

    @app.post("/portal")
    async def portal(facts: Facts = identified) -> models.UrlAnswer:
        """A link to Stripe's billing portal: card, invoices, cancel at the period's end."""
        asked.take(facts.account.id)
        url = await run_in_threadpool(_portal_of(billing), facts)
        return models.UrlAnswer(url=url)


def _add_subscription(app: FastAPI, billing: Billing) -> None:
    identified = _identified(billing)
    limit = RateLimit(billing.clock)

    @app.get("/subscription")
    async def subscription(facts: Facts = identified) -> models.SubscriptionAnswer:
        """The account's subscription: its plan, its period, and a change to come."""
        found = await run_in_threadpool(
            subscription_of, billing.store, billing.clock, facts.account, billing.grace_seconds
        )
        return models.subscription_answer(found)

    @app.post("/subscription", openapi_extra=models.body_of(models.SubscriptionRequest))
    async def change(request: Request, facts: Facts = identified) -> models.SubscriptionAnswer:
        """Change the plan when the period ends, or now: what was used before is billed at the old prices."""
        limit.take(facts.account.id)
        wanted = await asked_body(request, models.SubscriptionRequest)
        changed = await run_in_threadpool(
            change_plan,
            billing.store,
            billing.provider,
            billing.clock,
            billing.catalog,
            facts.account,
            wanted.plan,
            settle=billing.settle if wanted.when == "now" else None,
        )
        return models.subscription_answer(changed)

    @app.delete("/subscription/change")
    async def drop(facts: Facts = identified) -> models.SubscriptionAnswer:
        """Give up a change that was to come when the period ends."""
        limit.take(facts.account.id)
        kept = await run_in_threadpool(drop_change, billing.store, billing.provider, billing.clock, facts.account)
        return models.subscription_answer(kept)


def _add_keys(app: FastAPI, billing: Billing) -> None:
    identified = _identified(billing)

    @app.get("/keys")
    async def keys(facts: Facts = identified) -> models.KeysAnswer:
        """The account's keys: never the keys themselves, only how to recognise them."""
        found = await run_in_threadpool(billing.store.keys, facts.account.id)
        return models.KeysAnswer(keys=[models.key_row(key, current=key.id == facts.key_id) for key in found])

    @app.post("/keys", status_code=201, openapi_extra=models.body_of(models.KeyRequest, required=False))
    async def create(request: Request, facts: Facts = identified) -> models.KeyAnswer:
        """A further key. It is shown this once."""
        asked = await asked_body(request, models.KeyRequest)
        secret, row = await run_in_threadpool(
            create_key,
            billing.store,
            billing.clock,
            billing.entropy,
            billing.peppers,
            live=billing.live,
            account_id=facts.account.id,
            name=asked.name,
        )
        return models.KeyAnswer(key=secret.reveal(), id=row.id, account=facts.account.id)

    @app.post("/keys/{id}/rotate", status_code=201, openapi_extra=models.body_of(models.RotateRequest, required=False))
    async def rotate(id: str, request: Request, facts: Facts = identified) -> models.KeyAnswer:
        """A new key in the place of an old one, which works on for the overlap."""
        asked = await asked_body(request, models.RotateRequest)
        secret, row = await run_in_threadpool(
            rotate_key,
            billing.store,
            billing.clock,
            billing.entropy,
            billing.peppers,
            live=billing.live,
            account_id=facts.account.id,
            key_id=id,
            overlap_seconds=asked.overlap_seconds,
        )
        return models.KeyAnswer(key=secret.reveal(), id=row.id, account=facts.account.id)

    @app.delete("/keys/{id}", status_code=204)
    async def revoke(id: str, facts: Facts = identified) -> None:
        """End a key at once."""
        await run_in_threadpool(revoke_key, billing.store, billing.clock, account_id=facts.account.id, key_id=id)


def _identified(billing: Billing) -> Any:
    """A dependency that gives the facts of the request's key, whatever its subscription."""
    bearer: Any = Security(HTTPBearer(auto_error=False))
    header: Any = Security(APIKeyHeader(name="X-API-Key", auto_error=False))

    async def facts(request: Request, _bearer: Any = bearer, _header: Any = header) -> Facts:
        return await billing.identify(request)

    return Depends(facts)


def _portal_of(billing: Billing) -> Callable[[Facts], str]:
    """How to make a link to Stripe's billing portal for the holder of a key."""
    return lambda facts: portal_url(billing.provider, facts.account, return_url=billing.plans_url)


async def _buyer(billing: Billing, request: Request) -> Account | None:
    """The account of the request's key, or None when it carries none. A Bearer that is no key is the seller's own."""
    try:
        return (await billing.identify(request)).account
    except KeyMissing:
        return None
    except KeyInvalid:
        theirs = request.headers.get("authorization", "").lower().removeprefix("bearer").strip()
        if not theirs or theirs.startswith("fb_") or "x-api-key" in request.headers:
            raise
        return None


def _address(request: Request) -> str:
    return request.client.host if request.client is not None else ""
