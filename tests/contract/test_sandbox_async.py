"""The official SDK's asynchronous client, over httpx and real loopback HTTP, through the main endpoints."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
import stripe
import uvicorn

from farebox.sandbox import ManualClock, Sandbox, create_app

# The SDK hands httpx its form as `data=`, which httpx calls outdated.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
START_AT: Final = 1_800_000_000
DAY: Final = 86_400


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


@asynccontextmanager
async def client_of(sandbox: Sandbox, key: str, retries: int = 0) -> AsyncIterator[Any]:
    """The SDK's client of an account. Untyped, as scripts use it."""
    bases: Any = {"api": sandbox.base_url, "meter_events": sandbox.base_url}
    transport = stripe.HTTPXClient(timeout=10)
    try:
        yield stripe.StripeClient(key, base_addresses=bases, http_client=transport, max_network_retries=retries).v1
    finally:
        await transport.close_async()  # type: ignore[no-untyped-call]


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await work()

    asyncio.run(limited())


async def sold(v1: Any) -> tuple[Any, Any]:
    """A meter and a price of a dollar on it."""
    meter = await v1.billing.meters.create_async(
        params={"display_name": "Calls", "event_name": "calls", "default_aggregation": {"formula": "sum"}}
    )
    product = await v1.products.create_async(params={"name": "API calls"})
    recurring = {"interval": "month", "usage_type": "metered", "meter": meter.id}
    price = await v1.prices.create_async(
        params={"currency": "usd", "product": product.id, "unit_amount_decimal": "100", "recurring": recurring}
    )
    return meter, price


def test_from_the_price_to_the_paid_invoice(served: Sandbox) -> None:
    """Checkout, usage, preview, renewal and invoice: 25 calls at a dollar are a paid invoice of 25 dollars."""

    async def work() -> None:
        async with client_of(served, "sk_test_async_journey") as v1:
            meter, price = await sold(v1)
            session = await v1.checkout.sessions.create_async(
                params={
                    "mode": "subscription",
                    "success_url": "https://seller.example/?s={CHECKOUT_SESSION_ID}",
                    "line_items": [{"price": price.id}],
                    "subscription_data": {"billing_mode": {"type": "flexible"}},
                }
            )
            served.pay(session.id, number="4242424242424242", expiry="12/40", cvc="123")
            session = await v1.checkout.sessions.retrieve_async(session.id, params={"expand": ["subscription"]})
            assert (session.status, session.subscription.status) == ("complete", "active")
            subscription, customer = session.subscription, session.customer
            payload = {"stripe_customer_id": customer, "value": "25"}
            event = {"event_name": "calls", "payload": payload, "identifier": "one", "timestamp": served.now_at}
            await v1.billing.meter_events.create_async(params=event)
            with pytest.raises(stripe.InvalidRequestError, match="already exists with identifier one"):
                await v1.billing.meter_events.create_async(params=event)
            minute = served.now_at - served.now_at % 60
            window = {"customer": customer, "start_time": minute, "end_time": minute + 60}
            summaries = await v1.billing.meters.event_summaries.list_async(meter.id, params=window)
            assert [s.aggregated_value for s in summaries.data] == [25]
            preview = await v1.invoices.create_preview_async(params={"subscription": subscription.id})
            assert preview.total == 2_500
            served.advance(served.now_at + 31 * DAY + 7_200)
            (invoice,) = (await v1.invoices.list_async(params={"subscription": subscription.id})).data
            assert (invoice.status, invoice.total) == ("paid", 2_500)
            with pytest.raises(stripe.InvalidRequestError, match="already paid"):
                await v1.invoices.pay_async(invoice.id)
            ended = await v1.subscriptions.cancel_async(subscription.id)
            assert ended.status == "canceled"
            types = {e.type for e in (await v1.events.list_async(params={"limit": 100})).data}
            assert {"checkout.session.completed", "invoice.paid", "customer.subscription.deleted"} <= types

    run(work)


def test_pages_of_a_list(served: Sandbox) -> None:
    """The asynchronous iterator goes through every page of a list, each object once."""

    async def work() -> None:
        async with client_of(served, "sk_test_async_pages") as v1:
            made = [(await v1.customers.create_async(params={"name": str(i)})).id for i in range(23)]
            listed = await v1.customers.list_async(params={"limit": 10})
            assert [c.id async for c in listed.auto_paging_iter()] == made[::-1]

    run(work)


def test_many_at_once(served: Sandbox) -> None:
    """Fifty calls in flight at the same time are all served, and none is lost."""

    async def work() -> None:
        async with client_of(served, "sk_test_async_crowd") as v1:
            made = await asyncio.gather(*(v1.products.create_async(params={"name": str(i)}) for i in range(50)))
            listed = await v1.products.list_async(params={"limit": 100})
            assert {p.id for p in listed.data} == {p.id for p in made}

    run(work)


def test_portal_and_webhooks(served: Sandbox) -> None:
    """A portal is configured and opened; a webhook endpoint is made, changed and deleted."""

    async def work() -> None:
        async with client_of(served, "sk_test_async_portal") as v1:
            customer = await v1.customers.create_async(params={"email": "ada@example.test"})
            features = {"invoice_history": {"enabled": True}}
            await v1.billing_portal.configurations.create_async(params={"features": features})
            session = await v1.billing_portal.sessions.create_async(params={"customer": customer.id})
            assert session.url == f"{served.base_url}/portal/{session.id}"
            hook = await v1.webhook_endpoints.create_async(
                params={"url": "https://seller.example/hook", "enabled_events": ["invoice.paid"]}
            )
            assert hook.secret.startswith("whsec_")
            assert (await v1.webhook_endpoints.update_async(hook.id, params={"disabled": True})).status == "disabled"
            assert (await v1.webhook_endpoints.delete_async(hook.id)).deleted is True

    run(work)


def test_faults(served: Sandbox) -> None:
    """A conflict is retried by the SDK itself with one effect; a broken connection is its connection error."""

    async def work() -> None:
        async with client_of(served, "sk_test_async_faults", retries=1) as v1:
            served.faults.add({"path": "/v1/customers", "status": 409})
            made = await v1.customers.create_async(params={"name": "Ada"})
            assert [c.id for c in (await v1.customers.list_async()).data] == [made.id]
        async with client_of(served, "sk_test_async_faults") as v1:
            served.faults.add({"path": "/v1/customers", "reset": "after"})
            with pytest.raises(stripe.APIConnectionError):
                await v1.customers.create_async(params={"name": "Grace"})
            assert len((await v1.customers.list_async()).data) == 2

    run(work)
