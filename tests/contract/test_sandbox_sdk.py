"""The unmodified official SDK, over real loopback HTTP, through every endpoint that the local Stripe models: each test
once with its plain calls and once with its asynchronous ones.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, TypeVar

import pytest
import stripe
import uvicorn

from farebox.sandbox import ManualClock, Sandbox, create_app
from farebox.sandbox.state import State

# The SDK hands httpx its form as `data=`, which httpx calls outdated.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
START_AT: Final = 1_800_000_000
DAY: Final = 86_400
EXPECTED: Final[dict[str, set[str]]] = {}  # by test: the endpoints that it asks with success
Test = TypeVar("Test", bound=Callable[..., None])


def covers(*routes: str) -> Callable[[Test], Test]:
    """The test asks these endpoints, given as "GET POST /v1/…"; it fails if it does not."""

    def expecting(test: Test) -> Test:
        EXPECTED[test.__name__] = {f"{verb} {r.split()[-1]}" for r in routes for verb in r.split()[:-1]}
        return test

    return expecting


Work = Callable[[Coroutine[Any, Any, Any]], Any]


@dataclass
class Awaiting:
    """The SDK's client as if its calls were plain: each that has an asynchronous twin is that twin, run to its end.

    The twin's transport has no plain calls: what would reach Stripe by one fails.
    """

    within: Any
    run: Work

    def __getattr__(self, name: str) -> Any:
        twin = getattr(self.within, f"{name}_async", None)
        if twin is not None:
            return lambda *args, **options: self.run(twin(*args, **options))
        found = getattr(self.within, name)
        return found if callable(found) or isinstance(found, str) else Awaiting(found, self.run)


@dataclass
class Town:
    """An account of its own at the served local Stripe, and the SDK's client for it. Untyped, as scripts use it."""

    sandbox: Sandbox
    client: Any
    run: Work | None = None  # None: the plain client

    def with_calls(self, thing: Any) -> Any:
        """What a call has answered, to make further calls of."""
        return thing if self.run is None else Awaiting(thing, self.run)

    def through(self, listed: Any) -> list[Any]:
        """All that a list holds, from every page of it."""
        pages = listed.auto_paging_iter()
        return list(pages) if self.run is None else list(self.run(_gathered(pages)))

    @property
    def v1(self) -> Any:
        return self.client.v1

    @property
    def state(self) -> State:
        return self.sandbox.accounts[self.v1.accounts.retrieve_current().id]

    @property
    def now(self) -> int:
        return self.sandbox.now_at

    def sell(self) -> tuple[Any, Any]:
        """A meter, and a price of a dollar on it."""
        meter = self.v1.billing.meters.create(
            params={
                "display_name": "API calls",
                "event_name": "calls",
                "default_aggregation": {"formula": "sum"},
                "customer_mapping": {"event_payload_key": "stripe_customer_id", "type": "by_id"},
                "value_settings": {"event_payload_key": "value"},
            }
        )
        product = self.v1.products.create(params={"name": "API calls"})
        recurring = {"interval": "month", "usage_type": "metered", "meter": meter.id}
        price = self.v1.prices.create(
            params={"currency": "usd", "product": product.id, "unit_amount_decimal": "100", "recurring": recurring}
        )
        return meter, price

    def checkout(self, price: Any) -> Any:
        return self.v1.checkout.sessions.create(
            params={
                "mode": "subscription",
                "success_url": "https://seller.example/?s={CHECKOUT_SESSION_ID}",
                "line_items": [{"price": price.id}],
                "subscription_data": {"billing_mode": {"type": "flexible"}, "metadata": {"plan": "payg"}},
            }
        )

    def subscribe(self, price: Any, number: str = "4242424242424242") -> Any:
        session = self.checkout(price)
        self.sandbox.pay(session.id, number=number, expiry="12/40", cvc="123", email="ada@example.test")
        return self.v1.subscriptions.retrieve(self.v1.checkout.sessions.retrieve(session.id).subscription)

    def use(self, customer: str, value: int, at: int | None = None, **options: Any) -> Any:
        payload = {"stripe_customer_id": customer, "value": str(value)}
        event = {"event_name": "calls", "payload": payload, "timestamp": at or self.now}
        return self.v1.billing.meter_events.create(params={**event, **options})

    def asked(self) -> set[str]:
        """The endpoints that have answered this account with success."""
        return {
            f"{route.method} {route.template}"
            for request in self.state.requests
            for route, pattern in self.sandbox._routes
            if request["status"] == 200 and route.method == request["method"] and pattern.fullmatch(request["path"])
        }


async def _gathered(pages: AsyncIterator[Any]) -> list[Any]:
    return [each async for each in pages]


@pytest.fixture(scope="module")
def served() -> Iterator[Sandbox]:
    sandbox = Sandbox(ManualClock(START_AT))
    server = uvicorn.Server(uvicorn.Config(create_app(sandbox), port=0, log_level="critical", lifespan="off"))
    socket = server.config.bind_socket()
    sandbox.base_url = f"http://127.0.0.1:{socket.getsockname()[1]}"
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
    thread.start()
    while not server.started:
        thread.join(0.01)
        assert thread.is_alive()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        yield sandbox
    server.should_exit = True
    thread.join()
    socket.close()


@pytest.fixture(params=["plain", "async"])
def town(served: Sandbox, request: pytest.FixtureRequest) -> Iterator[Town]:
    bases: Any = {"api": served.base_url, "meter_events": served.base_url}
    key = f"sk_test_{request.node.name}"  # every test has a Stripe account of its own
    transport: Any = stripe.RequestsClient(timeout=10) if request.param == "plain" else stripe.HTTPXClient(timeout=10)
    client = stripe.StripeClient(key, base_addresses=bases, http_client=transport)
    with asyncio.Runner() as runner:
        asynchronous = request.param == "async"
        opened = Town(served, Awaiting(client, runner.run), runner.run) if asynchronous else Town(served, client)
        yield opened
        missed = EXPECTED.get(request.node.originalname, set()) - opened.asked()
        if asynchronous:
            runner.run(transport.close_async())
        else:
            transport.close()
    assert missed == set()


def test_every_endpoint_is_asked() -> None:
    """The tests of this file ask every endpoint that the local Stripe models."""
    assert {f"{route.method} {route.template}" for route, _ in Sandbox()._routes} == set().union(*EXPECTED.values())


@covers("GET /v1/account")
def test_account(town: Town) -> None:
    """The account behind the key is the same each time."""
    account = town.v1.accounts.retrieve_current()
    assert account.id.startswith("acct_")
    assert account.id == town.v1.accounts.retrieve_current().id


@covers("POST GET /v1/products", "GET POST /v1/products/{id}")
def test_products(town: Town) -> None:
    """Products are made, read, changed, and paged through to the last."""
    ids = [town.v1.products.create(params={"name": f"p{i}", "metadata": {"i": str(i)}}).id for i in range(23)]
    town.v1.products.update(ids[0], params={"name": "first", "active": False})
    found = town.v1.products.retrieve(ids[0])
    assert (found.name, found.active, found.metadata["i"], found.livemode) == ("first", False, "0", False)
    assert [p.id for p in town.through(town.v1.products.list(params={"limit": 10}))] == ids[::-1]


@covers("POST GET /v1/prices", "GET POST /v1/prices/{id}")
def test_prices(town: Town) -> None:
    """A price has exact decimals, is found by its lookup key with its product, and can be retired."""
    meter, first = town.sell()
    assert (first.unit_amount, first.unit_amount_decimal, first.recurring.meter) == (100, Decimal(100), meter.id)
    fine = town.v1.prices.create(
        params={
            "currency": "usd",
            "product": first.product,
            "unit_amount_decimal": "0.000000000001",
            "recurring": {"interval": "month", "usage_type": "metered", "meter": meter.id},
            "lookup_key": "payg",
            "transfer_lookup_key": True,
        }
    )
    assert fine.unit_amount_decimal == Decimal("0.000000000001")
    (found,) = town.v1.prices.list(params={"lookup_keys": ["payg"], "expand": ["data.product"]}).data
    assert (found.id, found.product.name) == (fine.id, "API calls")
    town.v1.prices.update(fine.id, params={"active": False})
    assert town.v1.prices.retrieve(fine.id).active is False


@covers(
    "POST GET /v1/billing/meters",
    "GET POST /v1/billing/meters/{id}",
    "POST /v1/billing/meters/{id}/deactivate",
    "POST /v1/billing/meters/{id}/reactivate",
)
def test_meters(town: Town) -> None:
    """A meter is made, renamed, retired and brought back."""
    meter, _ = town.sell()
    town.v1.billing.meters.update(meter.id, params={"display_name": "Calls"})
    assert town.v1.billing.meters.deactivate(meter.id).status == "inactive"
    assert [m.id for m in town.v1.billing.meters.list(params={"status": "inactive"}).data] == [meter.id]
    assert town.v1.billing.meters.reactivate(meter.id).status == "active"
    found = town.v1.billing.meters.retrieve(meter.id)
    assert (found.display_name, found.default_aggregation.formula) == ("Calls", "sum")


@covers("POST /v1/billing/meter_events", "GET /v1/billing/meters/{id}/event_summaries")
def test_usage(town: Town) -> None:
    """Events are accepted once each and counted; refusals are the SDK's own exceptions."""
    meter, _ = town.sell()
    customer = town.v1.customers.create().id
    minute = town.now - town.now % 60
    assert town.use(customer, 25, identifier="fb_1").identifier == "fb_1"
    with pytest.raises(stripe.InvalidRequestError, match="already exists with identifier fb_1") as refused:
        town.use(customer, 25, identifier="fb_1")
    assert (refused.value.http_status, refused.value.code, refused.value.param) == (400, None, "identifier")
    with pytest.raises(stripe.InvalidRequestError, match="35 calendar days"):
        town.use(customer, 1, at=town.now - 36 * DAY)
    window = {"customer": customer, "start_time": minute, "end_time": minute + 60}
    (shown,) = town.v1.billing.meters.event_summaries.list(meter.id, params=window).data
    assert (shown.aggregated_value, shown.start_time, shown.end_time) == (25, minute, minute + 60)


@covers(
    "POST GET /v1/customers",
    "GET POST DELETE /v1/customers/{id}",
    "GET /v1/customers/{id}/payment_methods",
    "GET /v1/payment_methods/{id}",
)
def test_customers(town: Town) -> None:
    """A customer is made, changed, found by e-mail, shown with the card that paid, and deleted."""
    subscription = town.subscribe(town.sell()[1])
    (card,) = town.v1.customers.payment_methods.list(subscription.customer).data
    assert (card.card.brand, card.card.last4) == ("visa", "4242")
    assert town.v1.payment_methods.retrieve(card.id).customer == subscription.customer
    made = town.v1.customers.create(params={"email": "grace@example.test", "metadata": {"account": "acc_1"}})
    town.v1.customers.update(made.id, params={"name": "Grace"})
    (found,) = town.v1.customers.list(params={"email": "grace@example.test"}).data
    assert (found.id, found.name, found.metadata["account"]) == (made.id, "Grace", "acc_1")
    assert town.v1.customers.delete(made.id).deleted is True
    assert town.v1.customers.retrieve(made.id).deleted is True


@covers(
    "POST GET /v1/checkout/sessions",
    "GET /v1/checkout/sessions/{id}",
    "POST /v1/checkout/sessions/{id}/expire",
    "GET /v1/checkout/sessions/{id}/line_items",
)
def test_checkout(town: Town) -> None:
    """A session is made with its page, listed, expanded, and expired."""
    _, price = town.sell()
    made = town.checkout(price)
    assert made.url == f"{town.sandbox.base_url}/pay/{made.id}"
    expanded = town.v1.checkout.sessions.retrieve(made.id, params={"expand": ["line_items"]})
    lines = town.v1.checkout.sessions.line_items.list(made.id)
    assert [x.price.id for x in expanded.line_items.data] == [x.price.id for x in lines.data] == [price.id]
    assert town.v1.checkout.sessions.expire(made.id).status == "expired"
    assert [s.id for s in town.v1.checkout.sessions.list(params={"status": "expired"}).data] == [made.id]


@covers("POST GET /v1/subscriptions", "GET POST DELETE /v1/subscriptions/{id}")
def test_subscriptions(town: Town) -> None:
    """A subscription is made by hand or at checkout, has its periods on its items, is changed, and ends."""
    _, price = town.sell()
    bought = town.subscribe(price)
    (item,) = bought["items"].data
    assert (item.current_period_start, item.current_period_end) == (START_AT, START_AT + 31 * DAY)
    assert not hasattr(bought, "current_period_end")
    assert (bought.metadata["plan"], bought.billing_mode.type) == ("payg", "flexible")
    by_hand = town.v1.subscriptions.create(params={"customer": bought.customer, "items": [{"price": price.id}]})
    ids = [s.id for s in town.v1.subscriptions.list(params={"customer": bought.customer}).data]
    assert ids == [by_hand.id, bought.id]
    assert town.v1.subscriptions.update(bought.id, params={"cancel_at_period_end": True}).cancel_at_period_end is True
    assert town.v1.subscriptions.cancel(by_hand.id, params={"invoice_now": True}).status == "canceled"


@covers(
    "POST /v1/invoices/create_preview",
    "GET /v1/invoices",
    "GET /v1/invoices/{id}",
    "POST /v1/invoices/{id}/finalize",
    "POST /v1/invoices/{id}/pay",
    "POST /v1/invoices/{id}/void",
)
def test_invoices(town: Town) -> None:
    """25 calls are 25 dollars in the preview and on the invoice, which is finalized, paid or voided by hand."""
    _, price = town.sell()
    subscription, failing = town.subscribe(price), town.subscribe(price, "4000000000000341")
    for each in (subscription, failing):
        town.use(each.customer, 25)
    preview = town.v1.invoices.create_preview(params={"subscription": subscription.id})
    assert (preview.total, preview.lines.data[0].quantity) == (2_500, 25)
    town.sandbox.advance(subscription["items"].data[0].current_period_end)
    drafts = {i.parent.subscription_details.subscription: i.id for i in town.v1.invoices.list().data}
    assert town.v1.invoices.retrieve(drafts[subscription.id]).status == "draft"
    paid = town.v1.invoices.pay(drafts[subscription.id])
    assert (paid.status, paid.amount_paid, len(paid.payments.data)) == ("paid", 2_500, 1)
    assert town.v1.invoices.finalize_invoice(drafts[failing.id]).status == "open"
    with pytest.raises(stripe.CardError, match="declined"):
        town.v1.invoices.pay(drafts[failing.id])
    assert town.v1.subscriptions.retrieve(failing.id).status == "past_due"
    assert town.v1.invoices.void_invoice(drafts[failing.id]).status == "void"


@covers("POST /v1/invoices")
def test_an_invoice_by_hand(town: Town) -> None:
    """What waits for a customer is billed without a subscription, after an hour, by the card that it names."""
    v1, subscription = town.v1, town.subscribe(town.sell()[1])
    customer = subscription.customer
    v1.subscriptions.cancel(subscription.id)
    item = v1.invoice_items.create(params={"customer": customer, "amount": 700, "currency": "usd"})
    asked = {
        "customer": customer,
        "auto_advance": True,
        "default_payment_method": subscription.default_payment_method,
        "pending_invoice_items_behavior": "include",
    }
    made = v1.invoices.create(params=asked)
    assert (made.status, made.total, made.billing_reason, made.parent) == ("draft", 700, "manual", None)
    assert v1.invoice_items.retrieve(item.id).invoice == made.id
    town.sandbox.advance(town.now + 3_600)
    assert v1.invoices.retrieve(made.id).status == "paid"
    assert v1.invoices.create(params=asked).total == 0
    assert [i.id for i in v1.invoices.list(params={"subscription": subscription.id}).data] == []


@covers(
    "POST /v1/invoices/{id}",
    "GET /v1/invoices/{id}/lines",
    "POST /v1/invoices/{id}/mark_uncollectible",
    "POST GET /v1/invoiceitems",
    "GET POST DELETE /v1/invoiceitems/{id}",
    "POST GET /v1/customers/{id}/balance_transactions",
    "GET /v1/customers/{id}/balance_transactions/{transaction}",
    "POST GET /v1/credit_notes",
    "GET /v1/credit_notes/{id}",
    "POST /v1/credit_notes/{id}/void",
)
def test_money_beside_subscriptions(town: Town) -> None:
    """Items, balance and credit notes come together on one invoice, exactly."""
    v1, subscription = town.v1, town.subscribe(town.sell()[1], "4000000000000341")
    customer = subscription.customer
    item = v1.invoice_items.create(params={"customer": customer, "amount": 700, "currency": "usd"})
    v1.invoice_items.update(item.id, params={"amount": 900})
    gone = v1.invoice_items.create(params={"customer": customer, "amount": 1, "currency": "usd"})
    assert v1.invoice_items.delete(gone.id).deleted is True
    assert [(i.id, i.amount) for i in v1.invoice_items.list(params={"pending": True}).data] == [(item.id, 900)]
    credit = {"amount": -250, "currency": "usd"}
    moved = v1.customers.balance_transactions.create(customer, params=credit)
    assert v1.customers.balance_transactions.retrieve(customer, moved.id).ending_balance == -250
    town.sandbox.advance(town.now + 31 * DAY + 3_600)
    (invoice,) = v1.invoices.list(params={"subscription": subscription.id}).data
    assert (invoice.total, invoice.amount_due, invoice.starting_balance) == (900, 650, -250)
    assert [line.amount for line in v1.invoices.line_items.list(invoice.id).data] == [0, 900]
    assert v1.invoice_items.retrieve(item.id).invoice == invoice.id
    assert [t.amount for t in v1.customers.balance_transactions.list(customer).data] == [250, -250]
    note = v1.credit_notes.create(params={"invoice": invoice.id, "amount": 50})
    assert v1.credit_notes.retrieve(note.id).type == "pre_payment"
    assert v1.credit_notes.void_credit_note(note.id).status == "void"
    assert [n.status for n in v1.credit_notes.list(params={"invoice": invoice.id}).data] == ["void"]
    assert v1.invoices.update(invoice.id, params={"metadata": {"a": "b"}}).metadata["a"] == "b"
    assert v1.invoices.mark_uncollectible(invoice.id).status == "uncollectible"


@covers(
    "POST /v1/subscriptions/{id}/resume",
    "DELETE /v1/subscriptions/{id}/discount",
    "POST GET /v1/coupons",
    "GET POST DELETE /v1/coupons/{id}",
    "POST GET /v1/promotion_codes",
    "GET POST /v1/promotion_codes/{id}",
)
def test_trials_and_discounts(town: Town) -> None:
    """A trial that pauses is resumed; a coupon by its code is put on, counted, and taken off."""
    v1, (_, price) = town.v1, town.sell()
    coupon = v1.coupons.create(params={"percent_off": 12.5, "duration": "forever"})
    v1.coupons.update(coupon.id, params={"name": "Eighth"})
    assert [(c.id, c.name, c.percent_off) for c in v1.coupons.list().data] == [(coupon.id, "Eighth", 12.5)]
    promotion = {"type": "coupon", "coupon": coupon.id}
    code = v1.promotion_codes.create(params={"promotion": promotion, "code": "EIGHTH"})
    v1.promotion_codes.update(code.id, params={"metadata": {"a": "b"}})
    assert [c.id for c in v1.promotion_codes.list(params={"code": "eighth"}).data] == [code.id]
    made = v1.subscriptions.create(
        params={
            "customer": v1.customers.create().id,
            "items": [{"price": price.id}],
            "trial_period_days": 7,
            "trial_settings": {"end_behavior": {"missing_payment_method": "pause"}},
            "discounts": [{"promotion_code": code.id}],
        }
    )
    assert (made.status, len(made.discounts)) == ("trialing", 1)
    assert v1.promotion_codes.retrieve(code.id).times_redeemed == v1.coupons.retrieve(coupon.id).times_redeemed == 1
    town.sandbox.advance(town.now + 7 * DAY)
    assert v1.subscriptions.retrieve(made.id).status == "paused"
    assert v1.subscriptions.resume(made.id).status == "active"
    assert v1.subscriptions.delete_discount(made.id).deleted is True
    assert v1.coupons.delete(coupon.id).deleted is True


@covers(
    "POST GET /v1/subscription_schedules",
    "GET POST /v1/subscription_schedules/{id}",
    "POST /v1/subscription_schedules/{id}/release",
)
def test_schedules(town: Town) -> None:
    """A subscription's items are planned for its period's end, and the plan is given up."""
    v1, (_, price) = town.v1, town.sell()
    made = v1.subscriptions.create(params={"customer": v1.customers.create().id, "items": [{"price": price.id}]})
    schedule = v1.subscription_schedules.create(params={"from_subscription": made.id})
    running = schedule.phases[0]
    first = {"items": [{"price": price.id}], "start_date": running.start_date, "end_date": running.end_date}
    coming = {"items": [{"price": price.id}], "duration": {"interval": "month", "interval_count": 2}}
    changed = v1.subscription_schedules.update(schedule.id, params={"phases": [first, coming]})
    assert [phase.start_date for phase in changed.phases] == [running.start_date, running.end_date]
    assert v1.subscription_schedules.retrieve(schedule.id).status == "active"
    assert v1.subscription_schedules.release(schedule.id).released_subscription == made.id
    assert [s.status for s in v1.subscription_schedules.list(params={"customer": made.customer}).data] == ["released"]


@covers(
    "POST GET /v1/billing/credit_grants",
    "GET POST /v1/billing/credit_grants/{id}",
    "POST /v1/billing/credit_grants/{id}/expire",
    "POST /v1/billing/credit_grants/{id}/void",
    "GET /v1/billing/credit_balance_summary",
    "GET /v1/billing/credit_balance_transactions",
    "GET /v1/billing/credit_balance_transactions/{id}",
)
def test_credit_grants(town: Town) -> None:
    """Grants are made, changed, expired, voided; their balance and their transactions add up."""
    billing, customer = town.v1.billing, town.v1.customers.create().id
    amount = {"type": "monetary", "monetary": {"currency": "usd", "value": 1_000}}
    scope = {"scope": {"price_type": "metered"}}
    asked = {"customer": customer, "amount": amount, "applicability_config": scope, "category": "promotional"}
    kept, expired, void = [billing.credit_grants.create(params=asked).id for _ in range(3)]
    billing.credit_grants.update(kept, params={"metadata": {"a": "b"}})
    assert billing.credit_grants.retrieve(kept).metadata["a"] == "b"
    assert billing.credit_grants.expire(expired).expires_at == town.now
    assert billing.credit_grants.void_grant(void).voided_at == town.now
    assert [g.id for g in billing.credit_grants.list(params={"customer": customer}).data] == [void, expired, kept]
    chosen = {"type": "applicability_scope", "applicability_scope": {"price_type": "metered"}}
    summary = billing.credit_balance_summary.retrieve(params={"customer": customer, "filter": chosen})
    assert [b.available_balance.monetary.value for b in summary.balances] == [1_000]
    found = town.through(billing.credit_balance_transactions.list(params={"customer": customer, "limit": 1}))
    assert [t.type for t in found] == ["debit", "credit", "credit", "credit"]
    assert billing.credit_balance_transactions.retrieve(found[0].id).debit.type == "credits_voided"


@covers("GET /v1/disputes", "GET /v1/disputes/{id}", "POST /v1/disputes/{id}/close")
def test_disputes(town: Town) -> None:
    """The card that disputes opens a dispute of what it paid, which can be given up."""
    subscription = town.subscribe(town.sell()[1], "4000000000000259")
    town.use(subscription.customer, 5)
    town.sandbox.advance(town.now + 31 * DAY + 3_600)
    (dispute,) = town.v1.disputes.list().data
    assert (dispute.amount, town.v1.disputes.retrieve(dispute.id).status) == (500, "needs_response")
    assert town.v1.disputes.close(dispute.id).status == "lost"


@covers(
    "POST GET /v1/billing_portal/configurations",
    "GET POST /v1/billing_portal/configurations/{id}",
    "POST /v1/billing_portal/sessions",
)
def test_portal(town: Town) -> None:
    """A portal is configured, changed in part, and opened for a customer."""
    configurations = town.v1.billing_portal.configurations
    cancel = {"enabled": True, "mode": "at_period_end"}
    features = {"subscription_cancel": cancel, "invoice_history": {"enabled": True}}
    made = configurations.create(params={"features": features})
    configurations.update(made.id, params={"features": {"subscription_cancel": {"enabled": False}}})
    (found,) = configurations.list(params={"is_default": True}).data
    kept = configurations.retrieve(made.id).features
    assert (found.id, kept.subscription_cancel.enabled, kept.invoice_history.enabled) == (made.id, False, True)
    customer = town.v1.customers.create().id
    session = town.v1.billing_portal.sessions.create(params={"customer": customer, "return_url": "https://x.example"})
    assert session.url == f"{town.sandbox.base_url}/portal/{session.id}"


@covers(
    "POST GET /v1/webhook_endpoints",
    "GET POST DELETE /v1/webhook_endpoints/{id}",
    "GET /v1/events",
    "GET /v1/events/{id}",
)
def test_webhooks(town: Town) -> None:
    """A delivery satisfies the SDK's own signature check, and is found in the list of events."""
    endpoints = town.v1.webhook_endpoints
    params = {"url": "https://seller.example/hook", "enabled_events": ["product.created"]}
    made = endpoints.create(params={**params, "api_version": "2026-10-28.endive"})
    endpoints.update(made.id, params={"enabled_events": ["customer.created"]})
    assert [e.enabled_events for e in endpoints.list().data] == [["customer.created"]]
    assert getattr(endpoints.retrieve(made.id), "secret", None) is None
    customer = town.v1.customers.create(params={"email": "ada@example.test"})
    came: dict[str, bytes] = {}
    town.sandbox.deliver_due(lambda _, headers, body: came.update({headers["Stripe-Signature"]: body}) or 200)
    ((header, body),) = came.items()
    event = town.client.construct_event(body, header, made.secret, tolerance=None)
    assert (event.type, event.data.object.id) == ("customer.created", customer.id)
    with pytest.raises(stripe.SignatureVerificationError):
        town.client.construct_event(body + b" ", header, made.secret, tolerance=None)
    assert [e.id for e in town.v1.events.list(params={"types": ["customer.created"]}).data] == [event.id]
    assert town.v1.events.retrieve(event.id).data.object.email == "ada@example.test"
    assert endpoints.delete(made.id).deleted is True


@covers(
    "POST /v1/billing/meter_event_adjustments",
    "POST /v2/billing/meter_event_adjustments",
    "POST /v2/billing/meter_event_session",
    "POST /v2/billing/meter_event_stream",
    "POST /v2/billing/meter_events",
)
def test_usage_of_v2(town: Town) -> None:
    """A session's token opens the stream; single events and cancellations work alike in v1 and v2."""
    meter, _ = town.sell()
    customer, v2 = town.v1.customers.create().id, town.client.v2.billing

    def event(identifier: str) -> dict[str, Any]:
        payload = {"stripe_customer_id": customer, "value": "2"}
        return {"event_name": "calls", "identifier": identifier, "payload": payload}

    session = v2.meter_event_session.create()
    events = [event(f"e{i}") for i in range(100)]
    v2.meter_event_stream.create({"events": events}, {"api_key": session.authentication_token})
    assert v2.meter_events.create(event("single")).identifier == "single"
    with pytest.raises(stripe.InvalidRequestError) as refused:
        v2.meter_events.create(event("single"))
    assert refused.value.code == "duplicate_meter_event"
    for adjustments, identifier in (
        (v2.meter_event_adjustments, "e1"),
        (town.v1.billing.meter_event_adjustments, "e2"),
    ):
        cancel = {"event_name": "calls", "type": "cancel", "cancel": {"identifier": identifier}}
        assert adjustments.create(cancel).status == "pending"
    minute = town.now - town.now % 60
    window = {"customer": customer, "start_time": minute, "end_time": minute + 60}
    (shown,) = town.v1.billing.meters.event_summaries.list(meter.id, params=window).data
    assert shown.aggregated_value == 198
    state = town.state
    session_kept = state.objects["v2.billing.meter_event_session"][session.id]
    session_kept["_ends_at"] = town.now
    with pytest.raises(stripe.TemporarySessionExpiredError):
        v2.meter_event_stream.create({"events": events}, {"api_key": session.authentication_token})


@covers(
    "POST GET /v2/core/event_destinations",
    "GET POST DELETE /v2/core/event_destinations/{id}",
    "POST /v2/core/event_destinations/{id}/disable",
    "POST /v2/core/event_destinations/{id}/enable",
    "POST /v2/core/event_destinations/{id}/ping",
    "GET /v2/core/events",
    "GET /v2/core/events/{id}",
)
def test_thin_events(town: Town) -> None:
    """A destination's notification satisfies the SDK's own check; the SDK fetches the event and what it is about."""
    meter, _ = town.sell()
    destinations = town.client.v2.core.event_destinations
    made = destinations.create(
        {
            "name": "ours",
            "type": "webhook_endpoint",
            "event_payload": "thin",
            "enabled_events": ["v1.billing.meter.error_report_triggered"],
            "webhook_endpoint": {"url": "https://seller.example/thin"},
            "include": ["webhook_endpoint.signing_secret"],
        }
    )
    destinations.update(made.id, {"description": "errors of meters"})
    destinations.disable(made.id)
    assert destinations.enable(made.id).status == "enabled"
    shown = destinations.retrieve(made.id, {"include": ["webhook_endpoint.url"]})
    assert (shown.description, shown.webhook_endpoint.url) == ("errors of meters", "https://seller.example/thin")
    assert [d.id for d in town.through(destinations.list({"limit": 1}))] == [made.id]
    event = {"event_name": "calls", "payload": {"stripe_customer_id": "cus_none", "value": "1"}}
    town.client.v2.billing.meter_events.create(event, {"idempotency_key": "key-1"})
    came: dict[str, bytes] = {}
    found = town.client.v2.core.events.list({"object_id": meter.id}).data
    town.sandbox.deliver_due(lambda _, headers, body: came.update({headers["Stripe-Signature"]: body}) or 200)
    ((header, body),) = came.items()
    notice = town.client.parse_event_notification(body, header, made.webhook_endpoint.signing_secret, tolerance=10**9)
    notice = town.with_calls(notice)
    report = notice.fetch_event()
    assert (notice.id, report.id) == (found[0].id, found[0].id)
    (kind,) = report.data.reason.error_types
    assert (kind.code, kind.sample_errors[0].request.identifier) == ("meter_event_customer_not_found", "key-1")
    assert (notice.fetch_related_object().id, report.related_object.id) == (meter.id, meter.id)
    if town.run is None:  # the event itself has no asynchronous twin of this
        assert report.fetch_related_object().id == meter.id
    assert destinations.ping(made.id).type == "v2.core.event_destination.ping"
    assert destinations.delete(made.id).id == made.id


@covers(
    "POST GET /v1/payment_methods",
    "POST /v1/payment_methods/{id}/attach",
    "POST /v1/payment_methods/{id}/detach",
)
def test_payment_methods(town: Town) -> None:
    """A test token becomes a card, which is attached, listed, made the default, and detached."""
    methods = town.v1.payment_methods
    card = methods.create({"type": "card", "card": {"token": "tok_visa"}, "billing_details": {"name": "Ada"}})
    customer = town.v1.customers.create().id
    assert methods.attach(card.id, {"customer": customer}).customer == customer
    town.v1.customers.update(customer, {"invoice_settings": {"default_payment_method": card.id}})
    ready = methods.attach("pm_card_mastercard", {"customer": customer})
    assert [m.id for m in methods.list({"customer": customer, "type": "card"}).data] == [ready.id, card.id]
    assert (ready.card.brand, card.card.last4, card.billing_details.name) == ("mastercard", "4242", "Ada")
    assert methods.detach(card.id).customer is None
    assert town.v1.customers.retrieve(customer).invoice_settings.default_payment_method is None


@covers(
    "GET /v1/payment_pages/{id}",
    "POST /v1/payment_pages/{id}/confirm",
    "POST /v1/stripecli/sessions",
)
def test_what_the_cli_asks(town: Town) -> None:
    """The paths that only Stripe's command line asks: it pays a session, and begins to listen."""

    def ask(method: str, path: str, **params: Any) -> Any:
        return town.client.deserialize(town.client.raw_request(method, path, **params), api_mode="V1")

    product = town.v1.products.create({"name": "Shirt"})
    price = town.v1.prices.create({"currency": "usd", "unit_amount": 1_500, "product": product.id})
    items = [{"price": price.id, "quantity": 2}]
    session = town.v1.checkout.sessions.create(
        {"mode": "payment", "line_items": items, "success_url": "https://seller.example"}
    )
    assert ask("get", f"/v1/payment_pages/{session.id}").total == 3_000
    card = town.v1.payment_methods.create({"type": "card", "card": {"token": "tok_visa"}}).id
    ask("post", f"/v1/payment_pages/{session.id}/confirm", payment_method=card, expected_amount=3_000)
    assert town.v1.checkout.sessions.retrieve(session.id).payment_status == "paid"
    listening = ask("post", "/v1/stripecli/sessions", device_name="x", websocket_features=["webhooks"])
    assert listening.websocket_url.startswith("ws://127.0.0.1")


@pytest.mark.parametrize(("when", "made"), [("before", 0), ("after", 1)])
def test_broken_connections(town: Town, when: str, made: int) -> None:
    """A connection that breaks before or after the effect is the SDK's connection error (F06, F07)."""
    state = town.state
    town.sandbox.faults.add({"path": "/v1/customers", "reset": when})
    with pytest.raises(stripe.APIConnectionError, match=r"without response|RemoteProtocolError"):
        town.v1.customers.create()
    assert len(state.all("customer")) == made


def test_again_after_a_lost_answer(town: Town) -> None:
    """The same call under the same key after its answer was lost gives that answer: one customer is made (F07)."""
    town.sandbox.faults.add({"path": "/v1/customers", "reset": "after"})
    options = {"idempotency_key": "key-1"}
    with pytest.raises(stripe.APIConnectionError):
        town.v1.customers.create(options=options)
    made = town.v1.customers.create(options=options)
    assert made.last_response.headers["Idempotent-Replayed"] == "true"
    assert [c.id for c in town.v1.customers.list().data] == [made.id]


def test_the_sdks_own_retry(town: Town) -> None:
    """The SDK's own retry of a conflict comes through, with one effect."""
    town.sandbox.faults.add({"path": "/v1/customers", "status": 409})
    made = town.v1.customers.create(options={"max_network_retries": 1})
    assert [c.id for c in town.v1.customers.list().data] == [made.id]


@covers(
    "POST GET /v1/test_helpers/test_clocks",
    "GET DELETE /v1/test_helpers/test_clocks/{id}",
    "POST /v1/test_helpers/test_clocks/{id}/advance",
)
def test_test_clocks(town: Town) -> None:
    """A clock's customer lives in its time: a month's advance bills them, and nobody else."""
    clocks = town.v1.test_helpers.test_clocks
    _, price = town.sell()
    clock = clocks.create(params={"frozen_time": START_AT, "name": "one month"})
    customer = town.v1.customers.create(params={"test_clock": clock.id})
    items = [{"price": price.id}]
    subscription = town.v1.subscriptions.create(params={"customer": customer.id, "items": items})
    end = subscription["items"].data[0].current_period_end
    assert [c.id for c in town.v1.customers.list(params={"test_clock": clock.id}).data] == [customer.id]
    assert clocks.advance(clock.id, params={"frozen_time": end + 7_200}).status == "advancing"
    arrived = clocks.retrieve(clock.id)
    assert (arrived.status, arrived.frozen_time) == ("ready", end + 7_200)
    invoice = town.v1.invoices.list(params={"customer": customer.id}).data[0]
    assert (invoice.created, invoice.status) == (end, "paid")
    assert [c.id for c in clocks.list().data] == [clock.id]
    assert clocks.delete(clock.id).deleted is True
    assert town.v1.subscriptions.retrieve(subscription.id).status == "canceled"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, stripe.InvalidRequestError),
        (401, stripe.AuthenticationError),
        (403, stripe.PermissionError),
        (429, stripe.RateLimitError),
        (500, stripe.APIError),
        (503, stripe.APIError),
    ],
)
def test_faults_are_the_sdks_exceptions(town: Town, status: int, error: type[stripe.StripeError]) -> None:
    """A fault that is asked for is what the SDK raises for that status at Stripe."""
    town.sandbox.faults.add({"path": "/v1/products", "status": status})
    with pytest.raises(error) as raised:
        town.v1.products.list()
    assert (type(raised.value), raised.value.http_status) == (error, status)


def test_what_is_absent(town: Town) -> None:
    """What is not modelled raises in the SDK and says so, in v1 and in v2."""
    with pytest.raises(stripe.APIError, match="does not model") as raised:
        town.v1.charges.list()
    assert raised.value.http_status == 501
    with pytest.raises(stripe.APIError, match="does not model"):
        town.client.v2.core.accounts.list()


def test_idempotency(town: Town) -> None:
    """The same key twice is one object; with other parameters it is the SDK's IdempotencyError."""
    options = {"idempotency_key": "key-1"}
    first = town.v1.customers.create(params={"name": "Ada"}, options=options)
    assert town.v1.customers.create(params={"name": "Ada"}, options=options).id == first.id
    with pytest.raises(stripe.IdempotencyError):
        town.v1.customers.create(params={"name": "Grace"}, options=options)


@pytest.mark.parametrize("town", ["async"], indirect=True)
def test_many_at_once(town: Town) -> None:
    """Fifty calls in flight at the same time are all served, and none is lost."""
    products = town.client.within.v1.products

    async def crowd() -> list[Any]:
        return await asyncio.gather(*(products.create_async({"name": str(i)}) for i in range(50)))

    assert town.run is not None
    made = town.run(crowd())
    assert {p.id for p in town.v1.products.list({"limit": 100}).data} == {p.id for p in made}
