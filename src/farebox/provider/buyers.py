"""Who buys, at Stripe: customers, checkouts, subscriptions and invoices."""

from collections.abc import Iterator, Sequence
from typing import Any, Final, NoReturn, cast

import stripe

from farebox.domain.accounts import Account, Subscription
from farebox.errors import CustomerGone, NotFound, PaymentRequired, ProviderFailed, ProviderRejected
from farebox.ports import CheckoutSession, Invoice, Offer
from farebox.provider import translate
from farebox.provider.calls import StripeCalls, all_of, asking
from farebox.provider.phases import items_of, running_phase, settings_of

__all__ = ["TIERED_PRICES_REMEMBERED_MAX", "BuyerCalls"]

TIERED_PRICES_REMEMBERED_MAX: Final = 10_000


class BuyerCalls(StripeCalls):
    """The part of the Provider that sells, and follows what was sold."""

    _tiers: dict[str, list[dict[str, Any]]]

    def create_customer(self, account: Account) -> str:
        params: dict[str, Any] = {"metadata": {translate.ACCOUNT: account.id}}
        if account.email:
            params["email"] = account.email
        try:
            with asking("create_customer"):
                options = {"idempotency_key": f"farebox-customer-{account.id}"}
                return str(self._api.customers.create(params=params, options=options).id)
        except ProviderFailed:  # this key gets the same failure for a day; the SDK makes a new one
            with asking("create_customer"):
                return str(self._api.customers.create(params=params).id)

    def accounts_since(self, since: int) -> list[Account]:
        found = []
        with asking("accounts_since"):
            for customer in all_of(self._api.customers.list(params={"limit": 100})):
                if customer["created"] < since:  # newest first
                    break
                account_id = (customer["metadata"] or {}).get(translate.ACCOUNT)
                if account_id:
                    email = customer.get("email") or ""
                    found.append(Account(account_id, customer["created"], email, "", customer["id"]))
        return found

    def create_checkout(self, account: Account, offer: Offer, *, success_url: str, cancel_url: str) -> CheckoutSession:
        plan = offer.plan
        ours = {**plan.metadata, translate.ACCOUNT: account.id, translate.PLAN: plan.name}
        lines = _lines(offer)
        subscription: dict[str, Any] = {"metadata": ours, "billing_mode": {"type": "flexible"}}
        if offer.setup_id is not None:
            lines.append({"price": offer.setup_id, "quantity": 1})
        if offer.trial_days:
            subscription["trial_period_days"] = offer.trial_days
            if not plan.card_required:  # the trial's end finds no card: the buyer is asked, not billed in vain
                subscription["trial_settings"] = {"end_behavior": {"missing_payment_method": "cancel"}}
        params: dict[str, Any] = {
            "mode": "subscription",
            "customer": account.customer_id,
            "client_reference_id": account.id,
            "line_items": lines,
            "success_url": success_url,
            "cancel_url": cancel_url,
            "metadata": ours,
            "subscription_data": subscription,
        }
        if not plan.card_required:
            params["payment_method_collection"] = "if_required"
        if plan.promotion_codes:
            params["allow_promotion_codes"] = True
        if plan.tax:
            params["automatic_tax"] = {"enabled": True}
            params["customer_update"] = {"address": "auto", "name": "auto"}
        with asking("create_checkout"):
            return translate.checkout_of(self._api.checkout.sessions.create(params=params).to_dict())

    def checkout(self, session_id: str) -> CheckoutSession | None:
        with asking("checkout"):
            try:
                return translate.checkout_of(self._api.checkout.sessions.retrieve(session_id).to_dict())
            except stripe.InvalidRequestError as error:
                if error.http_status == 404:
                    return None
                raise

    def expire_checkout(self, session_id: str) -> None:
        try:
            with asking("expire_checkout"):
                self._api.checkout.sessions.expire(session_id)
        except ProviderRejected:
            # Already complete or expired: what it is now decides, not what we wished.
            return

    def subscriptions(self, customer_id: str) -> tuple[Subscription, ...]:
        params = {"customer": customer_id, "status": "all", "limit": 100}
        with asking("subscriptions"):
            found = list(self._listed_subscriptions(customer_id, params))
            for one in found:
                if one["items"].get("has_more"):  # Stripe shows the first few of a list within another
                    listed = self._api.subscription_items.list(params={"subscription": one["id"], "limit": 100})
                    one["items"]["data"] = list(all_of(listed))
                for item in one["items"]["data"]:
                    self._expand_tiers(item["price"])
        ours = (translate.subscription_of(one) for one in found)
        return tuple(s for s in ours if s is not None)

    def _listed_subscriptions(self, customer_id: str, params: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """CustomerGone only when the customer itself says that it was deleted: a key of another account knows none."""
        try:
            yield from all_of(self._api.subscriptions.list(params=cast(Any, params)))
        except stripe.InvalidRequestError as error:
            if error.code == "resource_missing" and self._api.customers.retrieve(customer_id).to_dict().get("deleted"):
                raise CustomerGone(internal=str(error.user_message or error)) from error
            raise

    def _expand_tiers(self, price: dict[str, Any]) -> None:
        """Put the tiers into the price: too deep for Stripe to expand here. A price's amounts never change."""
        if price["billing_scheme"] != "tiered" or translate.METER not in (price["metadata"] or {}):
            return
        found = self._tiers.get(price["id"])
        if found is None:
            found = self._api.prices.retrieve(price["id"], params={"expand": ["tiers"]}).to_dict()["tiers"]
            if len(self._tiers) >= TIERED_PRICES_REMEMBERED_MAX:
                self._tiers.clear()
            self._tiers[price["id"]] = found
        price["tiers"] = found

    def preview_invoice(self, subscription_id: str) -> Invoice:
        with asking("preview_invoice"):
            try:
                made = self._api.invoices.create_preview(params={"subscription": subscription_id})
            except stripe.InvalidRequestError as error:
                if error.code == "invoice_upcoming_none":
                    raise NotFound("There is no upcoming invoice: the subscription has ended.") from error
                raise
            return translate.invoice_of(made.to_dict())

    def invoices(self, customer_id: str, *, limit: int) -> list[Invoice]:
        with asking("invoices"):
            page = self._api.invoices.list(params={"customer": customer_id, "limit": limit})
            return [translate.invoice_of(invoice.to_dict()) for invoice in page.data]

    def cancel_subscription(self, subscription_id: str, *, at_period_end: bool) -> None:
        with asking("cancel_subscription"):
            if at_period_end:
                self._release(self._subscription(subscription_id))
                self._api.subscriptions.update(subscription_id, params={"cancel_at_period_end": True})
            else:
                self._api.subscriptions.cancel(subscription_id, params={"invoice_now": True})

    def interval_of(self, price_id: str) -> str:
        with asking("interval_of"):
            found = self._api.prices.retrieve(price_id).to_dict()
            return str((found.get("recurring") or {}).get("interval", ""))

    def change_subscription(self, subscription_id: str, offer: Offer) -> None:
        with asking("change_subscription"):
            found = self._subscription(subscription_id)
            self._release(found)
            params = {**_changed(found, offer), "proration_behavior": "create_prorations"}
            self._api.subscriptions.update(subscription_id, params=params)

    def has_payment_method(self, subscription_id: str) -> bool:
        with asking("has_payment_method"):
            found = self._api.subscriptions.retrieve(subscription_id, params={"expand": ["customer"]}).to_dict()
        customer = found["customer"]
        settings = customer.get("invoice_settings") or {}
        methods = (found.get("default_payment_method"), settings.get("default_payment_method"))
        return any((*methods, found.get("default_source"), customer.get("default_source")))

    def unused_base(self, subscription_id: str) -> int:
        with asking("unused_base"):
            found = self._subscription(subscription_id)
            fees = {item["id"] for item in found["items"]["data"] if _is_ours(item) and "quantity" in item}
            details = {
                "items": [{"id": id, "deleted": True} for id in sorted(fees)],
                "proration_behavior": "always_invoice",
            }
            asked = {"subscription": subscription_id, "subscription_details": details}
            made = self._api.invoices.create_preview(params=asked).to_dict() if fees else {"lines": {"data": []}}
        lines = made["lines"]["data"]
        return -sum(int(line["amount"]) for line in lines if line["amount"] < 0 and _item_of(line) in fees)

    def buy_subscription_change(self, subscription_id: str, offer: Offer, *, extra_amounts: Sequence[int]) -> None:
        with asking("buy_subscription_change"):
            found = self._subscription(subscription_id)
            self._release(found)
            product = next(item["price"]["product"] for item in found["items"]["data"] if _is_ours(item))
            added: list[dict[str, Any]] = [
                {"price_data": {"currency": found["currency"], "product": product, "unit_amount": amount}}
                for amount in extra_amounts
            ]
            if offer.setup_id is not None:
                added.append({"price": offer.setup_id})
            params: dict[str, Any] = {
                **_changed(found, offer),
                "proration_behavior": "always_invoice",
                "payment_behavior": "error_if_incomplete",
            }
            params |= {"trial_end": "now"} if found["status"] == "trialing" else {"billing_cycle_anchor": "now"}
            if added:
                params["add_invoice_items"] = added
            try:
                self._api.subscriptions.update(subscription_id, params=params)
            except stripe.CardError as error:
                _refuse_unpaid(error)
            except stripe.InvalidRequestError as error:
                if error.code != "resource_missing" or error.param:
                    raise
                _refuse_unpaid(error)  # there is nothing to charge

    def plan_subscription_change(self, subscription_id: str, offer: Offer) -> None:
        with asking("plan_subscription_change"):
            found = self._subscription(subscription_id)
            self._release(found)
            made = self._api.subscription_schedules.create(params={"from_subscription": subscription_id}).to_dict()
            running, plan = made["phases"][0], offer.plan
            ours = {item["price"]["id"] for item in found["items"]["data"] if _is_ours(item)}
            phases = [
                running_phase(running, found),
                {
                    **settings_of(running, found),
                    "items": [*items_of(running, without=ours), *_lines(offer)],
                    "duration": {"interval": plan.interval, "interval_count": 1},
                    "metadata": {**plan.metadata, translate.PLAN: plan.name, translate.NEXT_PLAN: ""},
                    "proration_behavior": "none",
                },
            ]
            if offer.setup_id is not None:
                phases[1]["add_invoice_items"] = [{"price": offer.setup_id}]
            changed = {"phases": phases, "end_behavior": "release", "proration_behavior": "none"}
            self._api.subscription_schedules.update(made["id"], params=changed)
            # Last, so that what is told was done.
            self._api.subscriptions.update(subscription_id, params={"metadata": {translate.NEXT_PLAN: plan.name}})

    def drop_subscription_change(self, subscription_id: str) -> None:
        with asking("drop_subscription_change"):
            self._release(self._subscription(subscription_id))
            self._api.subscriptions.update(subscription_id, params={"metadata": {translate.NEXT_PLAN: ""}})

    def _subscription(self, subscription_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self._api.subscriptions.retrieve(subscription_id).to_dict()
        if found["items"].get("has_more"):
            listed = self._api.subscription_items.list(params={"subscription": subscription_id, "limit": 100})
            found["items"]["data"] = list(all_of(listed))
        return found

    def _release(self, subscription: dict[str, Any]) -> None:
        """Take a subscription out of the schedule that manages it: a planned change is given up."""
        schedule = subscription.get("schedule")
        if schedule:
            self._api.subscription_schedules.release(schedule if isinstance(schedule, str) else schedule["id"])


def _changed(found: dict[str, Any], offer: Offer) -> dict[str, Any]:
    """The parameters that give a subscription the offer's items in the place of ours, and its plan's name."""
    old = [{"id": item["id"], "deleted": True} for item in found["items"]["data"] if _is_ours(item)]
    metadata = {**offer.plan.metadata, translate.PLAN: offer.plan.name, translate.NEXT_PLAN: ""}
    return {"items": [*old, *_lines(offer)], "metadata": metadata}


def _item_of(line: dict[str, Any]) -> str | None:
    """The subscription item that a line is of."""
    details = (line.get("parent") or {}).get("subscription_item_details") or {}
    found: str | None = details.get("subscription_item")
    return found


def _refuse_unpaid(error: stripe.StripeError) -> NoReturn:
    raise PaymentRequired(
        "The payment for this change failed, and nothing was changed. Pay with another card in the billing portal, "
        "then ask again.",
        internal=str(error.user_message or error),
        pay_at="pay",
    ) from error


def _is_ours(item: dict[str, Any]) -> bool:
    """Whether Farebox sells it. What the seller has put beside it on a subscription stays."""
    return translate.PLAN in (item["price"]["metadata"] or {})


def _lines(offer: Offer) -> list[dict[str, Any]]:
    return [{"price": id} if metered else {"price": id, "quantity": 1} for id, metered in offer.recurring_ids]
