"""The unmodified official SDK, over real loopback HTTP, through every endpoint that the local Stripe models."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, TypeVar

import pytest
import stripe
import uvicorn

from farebox.sandbox import ManualClock, Sandbox, create_app
from farebox.sandbox.state import State

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


@dataclass
class Town:
    """An account of its own at the served local Stripe, and the SDK's client for it. Untyped, as scripts use it."""

    sandbox: Sandbox
    client: Any

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


@pytest.fixture
def town(served: Sandbox, request: pytest.FixtureRequest) -> Iterator[Town]:
    transport = stripe.RequestsClient(timeout=10)
    bases: Any = {"api": served.base_url, "meter_events": served.base_url}
    key = f"sk_test_{request.node.name}"  # every test has a Stripe account of its own
    opened = Town(served, stripe.StripeClient(key, base_addresses=bases, http_client=transport))
    yield opened
    missed = EXPECTED.get(request.node.originalname, set()) - opened.asked()
    transport.close()  # type: ignore[no-untyped-call]
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
    assert [p.id for p in town.v1.products.list(params={"limit": 10}).auto_paging_iter()] == ids[::-1]


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
    town.sandbox.advance(town.now + 31 * DAY)
    drafts = {i.parent.subscription_details.subscription: i.id for i in town.v1.invoices.list().data}
    assert town.v1.invoices.retrieve(drafts[subscription.id]).status == "draft"
    paid = town.v1.invoices.pay(drafts[subscription.id])
    assert (paid.status, paid.amount_paid, len(paid.payments.data)) == ("paid", 2_500, 1)
    assert town.v1.invoices.finalize_invoice(drafts[failing.id]).status == "open"
    with pytest.raises(stripe.CardError, match="declined"):
        town.v1.invoices.pay(drafts[failing.id])
    assert town.v1.subscriptions.retrieve(failing.id).status == "past_due"
    assert town.v1.invoices.void_invoice(drafts[failing.id]).status == "void"


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


@pytest.mark.parametrize(("when", "made"), [("before", 0), ("after", 1)])
def test_broken_connections(town: Town, when: str, made: int) -> None:
    """A connection that breaks before or after the effect is the SDK's connection error (F06, F07)."""
    state = town.state
    town.sandbox.faults.add({"path": "/v1/customers", "reset": when})
    with pytest.raises(stripe.APIConnectionError, match="without response"):
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
        town.client.v2.billing.meter_event_session.create()


def test_idempotency(town: Town) -> None:
    """The same key twice is one object; with other parameters it is the SDK's IdempotencyError."""
    options = {"idempotency_key": "key-1"}
    first = town.v1.customers.create(params={"name": "Ada"}, options=options)
    assert town.v1.customers.create(params={"name": "Ada"}, options=options).id == first.id
    with pytest.raises(stripe.IdempotencyError):
        town.v1.customers.create(params={"name": "Grace"}, options=options)
