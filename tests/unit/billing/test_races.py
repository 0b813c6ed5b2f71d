"""Buyers who press twice, links that are opened again, and customers whom Stripe no longer knows."""

import threading
from contextlib import suppress
from pathlib import Path

import pytest
from tests.shop import CATALOG, Shop, bearer, open_shop

from farebox.billing.sweep import sweep
from farebox.errors import ProviderRejected
from farebox.ports import CheckoutSession


def test_two_purchases_at_once(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two presses with one key leave one session that can be paid: two subscriptions would bill each call twice."""
    claimed = shop.buy()
    subscription = shop.objects("subscription")[0]["id"]
    shop.provider.cancel_subscription(subscription, at_period_end=False)
    shop.runtime.gate.poll()
    create, together = shop.provider.create_checkout, threading.Barrier(2)

    def slowly(*args: object, **named: object) -> CheckoutSession:
        with suppress(threading.BrokenBarrierError):
            together.wait(0.3)
        return create(*args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(shop.provider, "create_checkout", slowly)
    answers: list[int] = []

    def press() -> None:
        answer = shop.client.post("/billing/checkout", json={"plan": "payg"}, headers=bearer(claimed.key))
        answers.append(answer.status_code)

    threads = [threading.Thread(target=press) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert answers == [201, 201]
    assert [s["status"] for s in shop.objects("checkout.session")].count("open") == 1


def test_a_claim_link_of_an_account_in_use(shop: Shop) -> None:
    """Once the buyer has rotated the key or used the account, the link shows no further key within its day."""
    session_id = shop.checkout()
    shop.pay(session_id)
    claimed = shop.claim(session_id)
    rotated = shop.client.post(f"/billing/keys/{claimed.key_id}/rotate", json={}, headers=bearer(claimed.key))
    assert rotated.status_code == 201
    again = shop.client.post("/billing/claim", json={"session_id": session_id})
    assert (again.status_code, again.json()["code"]) == (409, "claim_taken")
    assert shop.client.get("/api", headers={"X-API-Key": rotated.json()["key"]}).status_code == 200


def test_a_sweep_passes_the_unknown(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A customer whom Stripe refuses does not keep the sweep from those who come after."""
    for _ in range(3):
        shop.buy()
    accounts = shop.store.accounts(limit=10)
    real, asked = shop.provider.subscriptions, []

    def subscriptions(customer_id: str) -> object:
        asked.append(customer_id)
        if customer_id == accounts[0].customer_id:
            raise ProviderRejected(internal="No such customer")
        return real(customer_id)

    monkeypatch.setattr(shop.provider, "subscriptions", subscriptions)
    assert sweep(shop.store, shop.provider, shop.clock) == ""
    assert asked == [account.customer_id for account in accounts]


@pytest.mark.parametrize(("method", "path"), [("GET", "/billing/invoices/upcoming"), ("POST", "/billing/portal")])
def test_what_asks_stripe_is_bounded(shop: Shop, method: str, path: str) -> None:
    """One key cannot use up the requests to Stripe that all share: 429 with when to come again, others unharmed."""
    mine, theirs = shop.buy(), shop.buy()
    answers = [shop.client.request(method, path, headers=bearer(mine.key)) for _ in range(40)]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(refused) == 10
    assert all(answer.headers["retry-after"] for answer in refused)
    assert shop.client.request(method, path, headers=bearer(theirs.key)).status_code == 200


def test_a_clock_behind_stripes(shop: Shop) -> None:
    """Calls made before the period has begun by our clock are billed in that period, not lost before it."""
    claimed = shop.buy()
    start = shop.store.subscriptions(claimed.account_id)[0].items[0].period.start
    facts = shop.store.find_facts([key.digest for key in shop.store.keys(claimed.account_id)])
    assert facts is not None
    shop.runtime.recorder.now_at = lambda: start - 30  # type: ignore[method-assign]
    shop.call(claimed.key, 3)
    assert sum(line.quantity for line in shop.store.usage(claimed.account_id, start, start + 1)) == 3


def test_a_meter_that_was_inactive_for_a_moment(shop: Shop) -> None:
    """Usage that Stripe refuses for a cause that can be mended is billed once it is mended."""
    claimed = shop.buy()
    shop.call(claimed.key, 7)
    meter = shop.objects("billing.meter")[0]["id"]
    shop.at_stripe("POST", f"/v1/billing/meters/{meter}/deactivate")
    shop.runtime.background.flush()
    assert [event.state.value for event in shop.store.meter_events()] == ["pending"]
    shop.at_stripe("POST", f"/v1/billing/meters/{meter}/reactivate")
    shop.clock.pass_seconds(301)
    shop.runtime.background.flush()
    assert [event.state.value for event in shop.store.meter_events()] == ["delivered"]


@pytest.mark.parametrize("headers", [{"Authorization": "Bearer session-of-the-sellers-own"}, {}])
def test_a_checkout_without_a_key(shop: Shop, headers: dict[str, str]) -> None:
    """A Bearer that is no key is the seller's own business: the purchase is for a new account."""
    shop.buy()
    assert shop.client.post("/billing/checkout", json={"plan": "payg"}, headers=headers).status_code == 201
    assert len(shop.store.accounts(limit=10)) == 2


def test_a_key_where_the_file_says(tmp_path: Path) -> None:
    """A key in the place that `credentials` names attaches the purchase to its account, and no other place does."""
    query = '[http]\ncredentials = ["query:api_key"]\n' + CATALOG
    with open_shop(tmp_path, catalog=query) as shop:
        claimed = shop.buy()
        url = f"/billing/checkout?api_key={claimed.key.reveal()}"
        refused = shop.client.post(url, json={"plan": "payg"})
        assert (refused.status_code, refused.json()["code"]) == (409, "already_subscribed")
        ignored = shop.client.post("/billing/checkout", json={"plan": "payg"}, headers=bearer(claimed.key))
        assert ignored.status_code == 201
