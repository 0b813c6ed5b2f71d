"""The pages that Stripe hosts for a buyer: checkout with its test cards and 3-D Secure, the portal, and an invoice."""

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from farebox.sandbox import checkout, customers, subscriptions
from farebox.sandbox.core import Context
from farebox.sandbox.errors import StripeError
from farebox.sandbox.frame import Frame, form_of, see_other
from farebox.sandbox.state import State, StripeObject

__all__ = ["INVOICES_SHOWN_MAX", "hosted_routes"]

INVOICES_SHOWN_MAX: Final = 50
_TEST_CARDS: Final = (
    ("4242 4242 4242 4242", "is accepted"),
    ("4000 0027 6000 3184", "asks for 3-D Secure"),
    ("4000 0000 0000 0341", "fails when it is charged later"),
    ("4000 0000 0000 0259", "is accepted, and disputed when charged"),
    ("4000 0000 0000 0002", "is declined"),
    ("4000 0000 0000 9995", "has insufficient funds"),
    ("4000 0000 0000 0069", "has expired"),
    ("4000 0000 0000 0127", "has a wrong security code"),
)
_UNAUTHENTICATED: Final = (
    "We are unable to authenticate your payment method. Please choose a different payment method and try again."
)
_CHALLENGE: Final = "authentication_required"


def hosted_routes(frame: Frame) -> list[BaseRoute]:
    pages = _Hosted(frame)
    return [
        Route("/pay/{id}", pages.pay, methods=["GET", "POST"]),
        Route("/pay/{id}/authenticate", pages.authenticate, methods=["GET", "POST"]),
        Route("/portal/{id}", pages.portal, methods=["GET", "POST"]),
        Route("/invoice/{id}", pages.invoice),
    ]


class _Hosted:
    def __init__(self, frame: Frame) -> None:
        self._frame = frame

    def _open_session(self, request: Request) -> tuple[State, StripeObject] | Response:
        found = self._frame.find("checkout.session", request.path_params["id"])
        if found is None:
            return self._frame.message("No such page", "There is no such checkout session here.")
        if found[1]["status"] != "open":
            text = f"This checkout session is {found[1]['status']}. Start again at the seller's page."
            return self._frame.message("Nothing to pay here", text, 410)
        return found

    async def pay(self, request: Request) -> Response:
        found = self._open_session(request)
        if isinstance(found, Response):
            return found
        state, session = found
        if request.method == "GET":
            return self._pay_page(session)
        form = await form_of(request)
        try:
            await self._frame.work(state, session, lambda ctx: self._buy(ctx, session, form))
        except StripeError as error:
            if error.code == _CHALLENGE:
                session["_challenge"] = form
                return see_other(f"/pay/{session['id']}/authenticate")
            return self._pay_page(session, error, form)
        return see_other(checkout.success_url(session))

    async def authenticate(self, request: Request) -> Response:
        """The bank's page of 3-D Secure, which here is two buttons."""
        found = self._open_session(request)
        if isinstance(found, Response):
            return found
        state, session = found
        asked: dict[str, str] | None = session.get("_challenge")
        if asked is None:
            return see_other(f"/pay/{session['id']}")
        if request.method == "GET":
            return self._frame.page("challenge.html", session=session, last4=asked["card_number"][-4:])
        session["_challenge"] = None
        if (await form_of(request)).get("verdict") != "complete":
            return self._pay_page(session, StripeError(402, "card_error", _UNAUTHENTICATED), asked)
        try:
            await self._frame.work(state, session, lambda ctx: self._buy(ctx, session, asked, authenticated=True))
        except StripeError as error:
            return self._pay_page(session, error, asked)
        return see_other(checkout.success_url(session))

    def _buy(self, ctx: Context, session: StripeObject, form: dict[str, str], *, authenticated: bool = False) -> None:
        checkout.pay(
            ctx,
            session,
            email=form.get("email", ""),
            number=form.get("card_number", ""),
            expiry=form.get("exp", ""),
            cvc=form.get("cvc", ""),
            authenticated=authenticated,
            promotion_code=form.get("promotion_code", ""),
        )

    def _pay_page(
        self, session: StripeObject, problem: StripeError | None = None, form: dict[str, str] | None = None
    ) -> Response:
        shown = {"session": session, "cards": _TEST_CARDS, "problem": problem, "form": form or {}}
        return self._frame.page("pay.html", status=problem.status if problem is not None else 200, **shown)

    async def portal(self, request: Request) -> Response:
        found = self._frame.find("billing_portal.session", request.path_params["id"])
        if found is None:
            return self._frame.message("No such page", "There is no such portal session here.")
        state, session = found
        problem = None
        if request.method == "POST":
            form = await form_of(request)
            try:
                await self._frame.work(state, session, lambda ctx: _act(ctx, session, form))
                return see_other(f"/portal/{session['id']}")
            except StripeError as error:
                problem = error
        return self._portal_page(state, session, problem)

    def _portal_page(self, state: State, session: StripeObject, problem: StripeError | None) -> Response:
        with self._frame.sandbox.lock:
            customer = state.objects["customer"][session["customer"]]
            drawn_up = [i for i in state.of_customer("invoice", customer["id"]) if i["status"] != "draft"]
            shown: dict[str, Any] = {
                "session": session,
                "customer": customer,
                "features": _features(state, session),
                "subscriptions": state.of_customer("subscription", customer["id"]),
                "card": _card(self._frame.sandbox.context(state), customer),
                "invoices": drawn_up[: -INVOICES_SHOWN_MAX - 1 : -1],
                "cards": _TEST_CARDS,
                "problem": problem,
            }
            return self._frame.page("portal.html", status=problem.status if problem is not None else 200, **shown)

    async def invoice(self, request: Request) -> Response:
        found = self._frame.find("invoice", request.path_params["id"])
        if found is None:
            return self._frame.message("No such page", "There is no such invoice here.")
        state, invoice = found
        with self._frame.sandbox.lock:
            customer = state.objects["customer"].get(invoice["customer"])
            return self._frame.page("invoice.html", invoice=invoice, customer=customer)


def _features(state: State, session: StripeObject) -> StripeObject:
    features: StripeObject = state.objects["billing_portal.configuration"][session["configuration"]]["features"]
    return features


def _card(ctx: Context, customer: StripeObject) -> StripeObject | None:
    """The card that pays for the newest subscription that goes on, else the customer's default."""
    every = ctx.state.of_customer("subscription", customer["id"])
    running = next((s for s in reversed(every) if s["status"] not in subscriptions.ENDED), None)
    return customers.card_of(ctx, running, customer)


def _act(ctx: Context, session: StripeObject, form: dict[str, str]) -> None:
    """What a buyer may do in the portal, within what its configuration allows."""
    features = _features(ctx.state, session)
    action = form.get("action", "")
    if action == "card" and features["payment_method_update"]["enabled"]:
        customer = ctx.state.objects["customer"][session["customer"]]
        card = customers.check_card(ctx, form.get("card_number", ""), form.get("exp", ""), form.get("cvc", ""))
        method = customers.attach_card(ctx, customer, card)
        customer["invoice_settings"]["default_payment_method"] = method["id"]
        for subscription in ctx.state.of_customer("subscription", customer["id"]):
            subscription["default_payment_method"] = method["id"]
        return
    subscription = ctx.state.get("subscription", form.get("subscription", ""))
    if subscription["customer"] != session["customer"] or not features["subscription_cancel"]["enabled"]:
        raise StripeError(400, "invalid_request_error", "This portal does not allow that.")
    if subscription["status"] in subscriptions.ENDED:
        raise StripeError(400, "invalid_request_error", "This subscription has ended already.")
    if action == "cancel" and features["subscription_cancel"]["mode"] == "immediately":
        subscriptions.cancel_now(ctx, subscription, invoice_now=False)
    elif action in ("cancel", "resume"):
        subscriptions.set_cancel_at_period_end(ctx, subscription, on=action == "cancel")
    else:
        raise StripeError(400, "invalid_request_error", "This portal does not know that action.")
