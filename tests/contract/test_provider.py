"""The Provider's promises, kept by the Stripe adapter through the official SDK, over real HTTP, on the local Stripe."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import pytest
import uvicorn

from farebox.domain.accounts import Account
from farebox.domain.catalog import Meter, Plan, Price
from farebox.domain.inbox import HANDLED_EVENT_TYPES
from farebox.domain.keys import Secret
from farebox.domain.reports import MeterEvent, OutcomeKind
from farebox.errors import NotFound, ProviderForbidden
from farebox.ports import CheckoutSession, Offer, StoredProduct
from farebox.provider.stripe import StripeProvider
from farebox.sandbox import ManualClock, Sandbox, checkout, create_app, subscriptions
from farebox.sandbox.core import Context

START = 1_800_000_000 - 1_800_000_000 % 3600
CALLS = Meter("calls", "API calls", "farebox_calls")
TOKENS = Meter("tokens", "Tokens", "farebox_tokens")
TITLE = "Pay as you go – API calls"
PRICE = Price("calls", Decimal(100))
PLAN = Plan("payg", "Pay as you go", "usd", "month", (PRICE,))
LOOKUP_KEY = "farebox_payg_calls"
ACCOUNT = Account("acc_1", START, email="buyer@example.com")
CARD: dict[str, Any] = {"email": "buyer@example.com", "number": "4242 4242 4242 4242", "expiry": "12/40", "cvc": "123"}


@dataclass
class Town:
    """A fresh account at a served local Stripe, and the provider that speaks to it."""

    sandbox: Sandbox
    provider: StripeProvider
    key: str

    @property
    def inside(self) -> Context:
        self.provider.account()
        name = self.provider.account().id
        return self.sandbox.context(self.sandbox.accounts[name])

    @property
    def writes(self) -> list[str]:
        return [r["path"] for r in self.inside.state.requests if r["method"] != "GET"]

    def sell(self) -> str:
        """Have the catalog at Stripe. The price's id."""
        meter = self.provider.create_meter(CALLS)
        product = self.provider.create_product(PLAN, TITLE, meter="calls")
        return self.provider.create_price(PRICE, PLAN, product_id=product, meter_id=meter.id).id

    def open_checkout(self, account: Account = ACCOUNT) -> tuple[Account, CheckoutSession]:
        prices = self.provider.prices([LOOKUP_KEY])
        price = prices[0].id if prices else self.sell()
        known = replace(account, customer_id=self.provider.create_customer(account))
        urls = {
            "success_url": "https://x.example/claim?session_id={CHECKOUT_SESSION_ID}",
            "cancel_url": "https://x.example/",
        }
        return known, self.provider.create_checkout(known, Offer(PLAN, ((price, True),)), **urls)

    def subscribe(self) -> tuple[str, str]:
        """A buyer who has paid. The ids of customer and subscription."""
        account, session = self.open_checkout()
        inside = self.inside
        paid = checkout.pay(inside, inside.state.get("checkout.session", session.id), **CARD)
        return str(account.customer_id), str(paid["subscription"])


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, Sandbox]]:
    sandbox = Sandbox(ManualClock(START))
    server = uvicorn.Server(uvicorn.Config(create_app(sandbox), port=0, log_level="error", lifespan="off"))
    socket = server.config.bind_socket()
    sandbox.base_url = f"http://127.0.0.1:{socket.getsockname()[1]}"
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
    thread.start()
    yield sandbox.base_url, sandbox
    server.should_exit = True
    thread.join()
    socket.close()


@pytest.fixture
def town(served: tuple[str, Sandbox], request: pytest.FixtureRequest) -> Iterator[Town]:
    url, sandbox = served
    key = f"sk_test_{request.node.name}"  # every test has a Stripe account of its own
    provider = StripeProvider(Secret(key), (), api_base=url)
    yield Town(sandbox, provider, key)
    provider.close()


def event(customer_id: str, name: str, *, at: int, value: int = 25) -> MeterEvent:
    return MeterEvent(name, "acc_1", customer_id, "calls", CALLS.event_name, START, 1, value, at, name, START)


def test_the_account_behind_the_key(town: Town) -> None:
    """The account's id is the same each time, the mode is the key's."""
    assert town.provider.account() == town.provider.account()
    assert town.provider.account().id.startswith("acct_")
    assert town.provider.account().livemode is False


def test_a_refused_key_is_forbidden(served: tuple[str, Sandbox]) -> None:
    """A key that Stripe does not take is ProviderForbidden, for calls and for meter events alike."""
    refused = StripeProvider(Secret("sk_live_0123456789"), (), api_base=served[0])
    with pytest.raises(ProviderForbidden, match="refuses live keys"):
        refused.account()
    assert refused.send_meter_event(event("cus_1", "fb_1", at=START)).kind is OutcomeKind.FORBIDDEN
    refused.close()


def test_meters(town: Town) -> None:
    """A meter is created to sum, listed as it is, renamed, and seen inactive until it is reactivated."""
    made = town.provider.create_meter(CALLS)
    assert (made.event_name, made.display_name, made.formula, made.active) == (
        "farebox_calls",
        "API calls",
        "sum",
        True,
    )
    assert (made.customer_key, made.value_key) == ("stripe_customer_id", "value")
    town.provider.rename_meter(made.id, "Calls")
    town.provider._api.billing.meters.deactivate(made.id)
    assert town.provider.meters() == [replace(made, display_name="Calls", active=False)]
    town.provider.reactivate_meter(made.id)
    assert town.provider.meters() == [replace(made, display_name="Calls")]


def test_products_and_prices(town: Town) -> None:
    """A price is found by its lookup key with its product; a second one takes the key over; a product is found by its
    plan.
    """
    meter = town.provider.create_meter(CALLS)
    assert town.provider.products() == {}
    product = town.provider.create_product(PLAN, TITLE, meter="calls")
    first = town.provider.create_price(PRICE, PLAN, product_id=product, meter_id=meter.id)
    assert (first.sold, first.currency, first.interval) == (PRICE, "usd", "month")
    assert (first.meter_id, first.product.id, first.active) == (meter.id, product, True)
    finer = replace(PRICE, unit_amount=Decimal("0.000000000001"))
    second = town.provider.create_price(finer, PLAN, product_id=product, meter_id=meter.id)
    named = replace(PLAN, title="Pay per call", metadata={"team": "search"})
    town.provider.update_product(product, named, "Pay per call – Calls", meter="calls", stale=())
    stored = StoredProduct(product, "Pay per call – Calls", {"team": "search"}, "calls")
    assert town.provider.prices([LOOKUP_KEY]) == [replace(second, product=stored)]
    assert second.sold == finer
    assert town.provider.products() == {("payg", "calls"): stored}
    town.provider.update_product(product, PLAN, TITLE, meter="calls", stale=["team"])
    assert town.provider.products() == {("payg", "calls"): StoredProduct(product, TITLE, {}, "calls")}


def test_more_prices_than_stripe_finds_at_once(town: Town) -> None:
    """Any number of lookup keys is found, though Stripe takes ten at once."""
    meter, product = town.provider.create_meter(CALLS), town.provider.create_product(PLAN, TITLE, meter="calls")
    keys = []
    for number in range(23):
        plan = replace(PLAN, name=f"plan{number}")
        keys.append(town.provider.create_price(PRICE, plan, product_id=product, meter_id=meter.id).lookup_key)
    assert sorted(p.lookup_key for p in town.provider.prices([*keys, "farebox_none_calls"])) == sorted(keys)


def test_a_price_that_is_no_plain_price_is_not_sold(town: Town) -> None:
    """A price under our lookup key that bills every other month is not taken for the plain one of the same amount."""
    meter, product = town.provider.create_meter(CALLS), town.provider.create_product(PLAN, TITLE, meter="calls")
    recurring = {"interval": "month", "interval_count": 2, "usage_type": "metered", "meter": meter.id}
    params = {"currency": "usd", "product": product, "unit_amount": 100, "recurring": recurring}
    town.provider._api.prices.create(params={**params, "lookup_key": LOOKUP_KEY})
    assert [p.active for p in town.provider.prices([LOOKUP_KEY])] == [False]


def test_a_customer_is_made_once(town: Town) -> None:
    """Asking again for an account's customer, after a crash say, gives the same one, which names the account."""
    customer_id = town.provider.create_customer(ACCOUNT)
    assert town.provider.create_customer(ACCOUNT) == customer_id
    found = town.inside.state.get("customer", customer_id)
    assert (found["metadata"], found["email"]) == ({"farebox_account": "acc_1"}, "buyer@example.com")
    assert town.provider.create_customer(replace(ACCOUNT, id="acc_2")) != customer_id


def test_checkout_until_paid(town: Town) -> None:
    """A session sells the metered price to the customer, carries our names to the subscription, and says when it is
    paid.
    """
    account, session = town.open_checkout()
    assert (session.status, session.payment_status, session.customer_id) == ("open", "unpaid", account.customer_id)
    assert session.url.startswith(town.sandbox.base_url)
    stored = town.inside.state.get("checkout.session", session.id)
    assert (stored["client_reference_id"], stored["mode"]) == ("acc_1", "subscription")
    assert stored["metadata"] == {"farebox_account": "acc_1", "farebox_plan": "payg"}
    paid = checkout.pay(town.inside, stored, **CARD)
    found = town.provider.checkout(session.id)
    assert found is not None
    assert (found.status, found.payment_status, found.url) == ("complete", "no_payment_required", "")
    subscription = town.inside.state.get("subscription", paid["subscription"])
    assert subscription["metadata"] == stored["metadata"]
    assert subscription["billing_mode"]["type"] == "flexible"


def test_checkouts_that_are_not_there(town: Town) -> None:
    """An unknown session is None; expiring closes an open one, and does nothing to one that is closed or unknown."""
    assert town.provider.checkout("cs_test_none") is None
    _, session = town.open_checkout()
    for _ in range(2):
        town.provider.expire_checkout(session.id)
        found = town.provider.checkout(session.id)
        assert found is not None
        assert found.status == "expired"
    town.provider.expire_checkout("cs_test_none")


def test_two_checkouts_are_two(town: Town) -> None:
    """A buyer who begins again gets a new session, not the earlier one replayed."""
    assert town.open_checkout()[1].id != town.open_checkout()[1].id


def test_subscriptions(town: Town) -> None:
    """A subscription is read with plan, status, and each item's price, meter and own period, to the second."""
    customer_id, subscription_id = town.subscribe()
    (found,) = town.provider.subscriptions(customer_id)
    assert (found.id, found.customer_id, found.plan, found.status) == (subscription_id, customer_id, "payg", "active")
    (item,) = found.items
    assert (item.meter, item.price, item.currency, item.period.start) == (
        "calls",
        PRICE,
        "usd",
        town.sandbox.now_at,
    )
    assert item.period.end > item.period.start + 27 * 86_400
    assert (found.cancel_at_period_end, found.collection_paused, found.status_since_at) == (False, False, 0)
    assert town.provider.subscriptions(town.provider.create_customer(replace(ACCOUNT, id="acc_2"))) == ()


def test_subscriptions_of_any_status_and_number(town: Town) -> None:
    """All pages of all statuses are read; what the seller sells beside Farebox is left out."""
    customer_id, first = town.subscribe()
    inside = town.inside
    customer = inside.state.get("customer", customer_id)
    ours = town.provider.prices([LOOKUP_KEY])[0]
    params: dict[str, Any] = {"currency": "usd", "product": ours.product.id, "unit_amount": 1}
    recurring = {"interval": "month", "usage_type": "metered", "meter": ours.meter_id}
    foreign = town.provider._api.prices.create(params={**params, "recurring": recurring}).id
    subscriptions.create_subscription(inside, customer, [{"price": foreign}], {})
    for _ in range(104):
        subscriptions.create_subscription(inside, customer, [{"price": ours.id}], {})
    town.provider.cancel_subscription(first, at_period_end=False)
    found = town.provider.subscriptions(customer_id)
    assert (len(found), {s.id: s.status for s in found}[first]) == (105, "canceled")
    assert {s.plan for s in found} == {"payg"}  # named by the price where the subscription does not say it


def test_cancel(town: Town) -> None:
    """Cancelling for the period's end lets it run; cancelling now bills what was reported."""
    customer_id, subscription_id = town.subscribe()
    town.provider.cancel_subscription(subscription_id, at_period_end=True)
    (found,) = town.provider.subscriptions(customer_id)
    assert (found.status, found.cancel_at_period_end) == ("active", True)
    assert (
        town.provider.send_meter_event(event(customer_id, "fb_1", at=town.sandbox.now_at, value=3)).kind
        is OutcomeKind.DELIVERED
    )
    town.sandbox.clock.move_to(town.sandbox.now_at + 60)
    town.provider.cancel_subscription(subscription_id, at_period_end=False)
    assert town.provider.subscriptions(customer_id)[0].status == "canceled"
    assert [(i.status, i.total) for i in town.provider.invoices(customer_id, limit=5)] == [("paid", 300)]
    with pytest.raises(NotFound, match="ended"):
        town.provider.preview_invoice(subscription_id)


def test_usage_until_the_preview(town: Town) -> None:
    """25 calls delivered are 25 in the summary and $25.00 in the preview; the same identifier again adds nothing."""
    customer_id, subscription_id = town.subscribe()
    meter_id, now = town.provider.meters()[0].id, town.sandbox.now_at
    sent = event(customer_id, "fb_1", at=now)
    assert town.provider.send_meter_event(sent).kind is OutcomeKind.DELIVERED
    again = replace(sent, idempotency_key="fb_1_other")
    assert town.provider.send_meter_event(again).kind is OutcomeKind.DUPLICATE
    assert town.provider.send_meter_event(sent).kind is OutcomeKind.DELIVERED  # replayed
    assert town.provider.summary(meter_id, customer_id, now, now + 60) == 25
    assert town.provider.summary(meter_id, customer_id, now + 60, now + 120) == 0
    preview = town.provider.preview_invoice(subscription_id)
    assert (preview.total, preview.amount_due, preview.currency) == (2500, 2500, "usd")
    assert [line[1:] for line in preview.lines] == [(25, 2500)]
    assert preview.period_start == town.provider.subscriptions(customer_id)[0].items[0].period.start


def test_usage_that_stripe_rejects(town: Town) -> None:
    """Too old, too far ahead, an unknown customer, an unknown meter: rejected, each with Stripe's reason."""
    customer_id, _ = town.subscribe()
    now = town.sandbox.now_at
    wrong = {
        "35 calendar days": event(customer_id, "fb_1", at=now - 36 * 86_400),
        "5 minutes": event(customer_id, "fb_2", at=now + 301),
        "No such customer": event("cus_nobody", "fb_3", at=now),
        "No active meter": replace(event(customer_id, "fb_4", at=now), event_name="nothing"),
    }
    for reason, sent in wrong.items():
        outcome = town.provider.send_meter_event(sent)
        assert outcome.kind is OutcomeKind.REJECTED
        assert reason in outcome.reason


def test_webhook_endpoints(town: Town) -> None:
    """An endpoint asks for the events that we handle, in the version that we read, and tells its secret once only."""
    made = town.provider.create_endpoint("https://api.example.com/billing/webhook")
    assert made.secret is not None
    assert made.secret.startswith("whsec_")
    assert (made.enabled_events, made.api_version, made.active) == (HANDLED_EVENT_TYPES, "2026-10-28.endive", True)
    assert town.provider.endpoints() == [replace(made, secret=None)]


def test_portal(town: Town) -> None:
    """Our portal configuration cancels at the period's end only and switches no price, is mended when somebody
    changed it, and is the one that sessions use.
    """
    assert town.provider.portal() is None
    town.provider._api.billing_portal.configurations.create(params={"features": {"invoice_history": {"enabled": True}}})
    made = town.provider.ensure_portal()
    assert (made.cancel_mode, made.price_switch) == ("at_period_end", False)
    before = len(town.writes)
    assert town.provider.ensure_portal() == made == town.provider.portal()
    assert len(town.writes) == before
    features = town.inside.state.get("billing_portal.configuration", made.id)["features"]
    features["subscription_cancel"]["mode"] = "immediately"
    features["subscription_update"].update(enabled=True, default_allowed_updates=["price"])
    changed = town.provider.portal()
    assert changed is not None
    assert (changed.cancel_mode, changed.price_switch) == ("immediately", True)
    url = town.provider.create_portal_session(town.provider.create_customer(ACCOUNT), return_url="https://x.example/")
    assert url.startswith(town.sandbox.base_url)
    assert town.provider.portal() == made
    (session,) = town.inside.state.all("billing_portal.session")
    assert session["configuration"] == made.id
