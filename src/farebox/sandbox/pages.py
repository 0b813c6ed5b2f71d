"""What a person sees: the hosted checkout, the portal, and a window on the sandbox. Each says it is a stand-in."""

from collections.abc import Callable
from decimal import Decimal
from importlib import resources
from typing import Any, Final

from jinja2 import Environment, PackageLoader, select_autoescape
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from farebox.sandbox import checkout, customers, subscriptions
from farebox.sandbox.core import Context
from farebox.sandbox.decimals import EXACT, plain
from farebox.sandbox.errors import StripeError
from farebox.sandbox.movement import Movement
from farebox.sandbox.periods import moment
from farebox.sandbox.sandbox import Sandbox
from farebox.sandbox.state import State, StripeObject

__all__ = ["SHOWN_MAX", "page_routes"]

SHOWN_MAX: Final = 50
_SECURITY: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def page_routes(sandbox: Sandbox, movement: Movement) -> list[BaseRoute]:
    """The pages' routes, for the shell to serve beside the API."""
    pages = _Pages(sandbox, movement)
    return [
        Route("/", pages.home),
        Route("/move", pages.move, methods=["POST"]),
        Route("/pay/{id}", pages.pay, methods=["GET", "POST"]),
        Route("/portal/{id}", pages.portal, methods=["GET", "POST"]),
        Route("/style.css", pages.style),
    ]


class _Pages:
    def __init__(self, sandbox: Sandbox, movement: Movement) -> None:
        self._sandbox = sandbox
        self._movement = movement
        self._templates = Environment(
            loader=PackageLoader("farebox.sandbox"), autoescape=select_autoescape(default=True), trim_blocks=True
        )
        self._templates.filters.update(money=_money, moment=moment)
        self._style = (resources.files("farebox.sandbox") / "templates" / "style.css").read_text("utf-8")

    async def style(self, _request: Request) -> Response:
        return Response(self._style, media_type="text/css", headers={"Cache-Control": "max-age=60"})

    async def home(self, _request: Request) -> Response:
        with self._sandbox.lock:
            states = [_overview(state) for state in self._sandbox.accounts.values()]
            now = self._sandbox.clock.now_at()
        return self._page(
            "home.html", now=now, offset=self._sandbox.clock.offset_seconds, moving=self._movement.moving, states=states
        )

    async def move(self, request: Request) -> Response:
        form = await request.form()
        try:
            await run_in_threadpool(self._movement.begin, {"advance": str(form.get("advance", "")).strip()})
        except ValueError as error:
            return self._page("message.html", status=400, title="Time was not moved", text=str(error))
        return RedirectResponse("/", 303)

    async def pay(self, request: Request) -> Response:
        found = self._find("checkout.session", request.path_params["id"])
        if found is None:
            return self._gone("There is no such checkout session here.")
        state, session = found
        if session["status"] != "open":
            return self._gone(f"This checkout session is {session['status']}. Start again at the seller's page.", 410)
        if request.method == "GET":
            return self._pay_page(session)
        form = {name: str(value) for name, value in (await request.form()).items()}

        def work(ctx: Context) -> StripeObject:
            return checkout.pay(
                ctx,
                session,
                email=form.get("email", ""),
                number=form.get("card_number", ""),
                expiry=form.get("exp", ""),
                cvc=form.get("cvc", ""),
            )

        try:
            await run_in_threadpool(self._run, state, work)
        except StripeError as error:
            return self._pay_page(session, problem=error.message, form=form, status=402)
        return RedirectResponse(checkout.success_url(session), 303)

    def _pay_page(
        self, session: StripeObject, *, problem: str = "", form: dict[str, str] | None = None, status: int = 200
    ) -> Response:
        lines = [
            {
                "title": line["description"],
                "amount": _money(line["price"]["unit_amount_decimal"], line["currency"]),
                "interval": line["price"]["recurring"]["interval"],
            }
            for line in session["_line_items"]["data"]
        ]
        shown = {"session": session, "lines": lines, "problem": problem, "form": form or {}}
        return self._page("pay.html", status=status, **shown)

    async def portal(self, request: Request) -> Response:
        found = self._find("billing_portal.session", request.path_params["id"])
        if found is None:
            return self._gone("There is no such portal session here.")
        state, session = found
        problem = ""
        if request.method == "POST":
            form = {name: str(value) for name, value in (await request.form()).items()}
            try:
                await run_in_threadpool(self._run, state, lambda ctx: self._act(ctx, session, form))
                return RedirectResponse(f"/portal/{session['id']}", 303)
            except StripeError as error:
                problem = error.message
        return self._portal_page(state, session, problem)

    def _act(self, ctx: Context, session: StripeObject, form: dict[str, str]) -> None:
        """What a buyer may do here, within what the portal's configuration allows."""
        features = ctx.state.objects["billing_portal.configuration"][session["configuration"]]["features"]
        action = form.get("action", "")
        if action == "card" and features["payment_method_update"]["enabled"]:
            customer = ctx.state.objects["customer"][session["customer"]]
            card = customers.check_card(ctx, form.get("card_number", ""), form.get("exp", ""), form.get("cvc", ""))
            method = customers.attach_card(ctx, customer, card)
            for subscription in _subscriptions(ctx.state, session["customer"]):
                subscription["default_payment_method"] = method["id"]
            return
        subscription = ctx.state.get("subscription", form.get("subscription", ""))
        if subscription["customer"] != session["customer"] or not features["subscription_cancel"]["enabled"]:
            raise StripeError(400, "invalid_request_error", "This portal does not allow that.")
        if action == "cancel" and features["subscription_cancel"]["mode"] == "immediately":
            subscriptions.cancel_now(ctx, subscription, invoice_now=False)
        elif action in ("cancel", "resume"):
            subscriptions.set_cancel_at_period_end(ctx, subscription, on=action == "cancel")
        else:
            raise StripeError(400, "invalid_request_error", "This portal does not know that action.")

    def _portal_page(self, state: State, session: StripeObject, problem: str) -> Response:
        with self._sandbox.lock:
            shown = {
                "session": session,
                "customer": state.objects["customer"][session["customer"]],
                "features": state.objects["billing_portal.configuration"][session["configuration"]]["features"],
                "subscriptions": _subscriptions(state, session["customer"]),
                "cards": [m for m in state.all("payment_method") if m["customer"] == session["customer"]][-1:],
                "invoices": [i for i in reversed(state.all("invoice")) if i["customer"] == session["customer"]][
                    :SHOWN_MAX
                ],
                "problem": problem,
            }
            return self._page("portal.html", status=400 if problem else 200, **shown)

    def _run(self, state: State, work: Callable[[Context], object]) -> None:
        with self._sandbox.lock:
            self._sandbox.tick()
            self._sandbox.reschedule()
            work(self._sandbox.context(state))

    def _find(self, kind: str, id: str) -> tuple[State, StripeObject] | None:
        with self._sandbox.lock:
            for state in self._sandbox.accounts.values():
                if id in state.objects[kind]:
                    return state, state.objects[kind][id]
        return None

    def _gone(self, text: str, status: int = 404) -> Response:
        return self._page("message.html", status=status, title="Nothing to do here", text=text)

    def _page(self, name: str, *, status: int = 200, **values: Any) -> Response:
        return HTMLResponse(self._templates.get_template(name).render(**values), status, headers=_SECURITY)


def _subscriptions(state: State, customer_id: str) -> list[StripeObject]:
    return [s for s in state.all("subscription") if s["customer"] == customer_id]


def _overview(state: State) -> dict[str, Any]:
    kinds = ("customer", "subscription", "invoice", "price", "billing.meter", "checkout.session", "event")
    return {
        "id": state.account_id,
        "counts": [(kind.replace("_", " ").replace(".", " "), len(state.objects[kind])) for kind in kinds],
        "invoices": list(reversed(state.all("invoice")))[:SHOWN_MAX],
        "requests": list(reversed(state.requests))[:SHOWN_MAX],
        "deliveries": list(reversed(state.deliveries))[:SHOWN_MAX],
    }


def _money(minor: int | Decimal, currency: str) -> str:
    if currency == "jpy":
        return f"{plain(Decimal(minor))} JPY"
    whole, _, part = plain(EXACT.scaleb(Decimal(minor), -2)).partition(".")
    return f"{whole}.{part:0<2} {currency.upper()}"
