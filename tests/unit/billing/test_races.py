"""Buyers who press twice, links that are opened again, and customers whom Stripe no longer knows."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from tests.postgres import Cluster
from tests.shop import CATALOG, Shop, bearer, open_shop

from farebox.billing.checkout import CHECKOUT_TURN_SECONDS, begin_checkout
from farebox.billing.sweep import sweep
from farebox.domain.accounts import Account, Checkout
from farebox.errors import AlreadySubscribed, CheckoutUnderWay, ProviderRejected
from farebox.ports import CheckoutSession, Provider, Store
from farebox.store.sql import SqlStore


def canceled(shop: Shop) -> Account:
    """An account that has bought before, and may buy again."""
    claimed = shop.buy()
    subscription = shop.objects("subscription")[0]["id"]
    shop.provider.cancel_subscription(subscription, at_period_end=False)
    shop.runtime.gate.poll()
    return shop.account(claimed)


def begin(shop: Shop, account: Account, store: Store, provider: Provider | None = None) -> CheckoutSession:
    """What a process does when the buyer presses, with a connection of its own to the ledger."""
    return begin_checkout(
        store,
        provider or shop.provider,
        shop.clock,
        shop.entropy,
        shop.catalog,
        plan_name="payg",
        account=account,
        claim_url="http://api.example.test/billing/claim",
        plans_url="http://api.example.test/billing/",
    )


@pytest.fixture(params=["file", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where a ledger may be made that several processes share."""
    if request.param == "postgres":
        cluster: Cluster = request.getfixturevalue("cluster")
        url = cluster.fresh()
        yield url
        cluster.drop(url)
    else:
        yield f"sqlite:///{tmp_path / 'ledger.db'}"


def another(shop: Shop, database: str) -> SqlStore:
    """Another process's connection to the same ledger."""
    store = SqlStore(database, shop.clock, shop.entropy)
    store.open()
    return store


def open_sessions(shop: Shop) -> list[str]:
    return [session["id"] for session in shop.objects("checkout.session") if session["status"] == "open"]


def test_two_purchases_at_once(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """I4: two presses with one key, served by two processes, leave one session that can be paid: two subscriptions
    would bill each call twice."""
    with open_shop(tmp_path, database=database) as shop:
        account, store = canceled(shop), another(shop, database)
        create, together = shop.provider.create_checkout, threading.Barrier(2)

        def slowly(*args: object, **named: object) -> CheckoutSession:
            with suppress(threading.BrokenBarrierError):
                together.wait(0.3)
            return create(*args, **named)  # type: ignore[arg-type]

        monkeypatch.setattr(shop.provider, "create_checkout", slowly)
        with ThreadPoolExecutor(2) as pool:
            sessions = list(pool.map(lambda own: begin(shop, account, own), [shop.store, store]))
        store.close()
        payable = open_sessions(shop)
        assert len(payable) == 1
        assert payable[0] in [session.id for session in sessions]
        shop.pay(payable[0])
        assert [s.status for s in shop.provider.subscriptions(str(account.customer_id))].count("active") == 1


def test_a_process_that_slept_through_its_turn(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F15, I4: a process that is stopped before it creates the session, and wakes when another one has sold, sells
    nothing: its session is closed before anybody has seen its address."""
    with open_shop(tmp_path, database=database) as shop:
        account, store = canceled(shop), another(shop, database)
        create, sold = shop.provider.create_checkout, []

        def asleep(*args: object, **named: object) -> CheckoutSession:
            monkeypatch.setattr(shop.provider, "create_checkout", create)
            shop.clock.pass_seconds(CHECKOUT_TURN_SECONDS)
            sold.append(begin(shop, account, store))
            return create(*args, **named)  # type: ignore[arg-type]

        monkeypatch.setattr(shop.provider, "create_checkout", asleep)
        with pytest.raises(CheckoutUnderWay):
            begin(shop, account, shop.store)
        assert open_sessions(shop) == [sold[0].id]
        store.close()


def test_a_process_that_died_in_its_turn(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """I18: the account's next purchase is refused in words while the turn of a dead process lasts, and then passes."""
    account = canceled(shop)
    monkeypatch.setattr("farebox.billing.checkout.CHECKOUT_WAIT_MILLISECONDS_MAX", 200)
    monkeypatch.setattr(shop.store, "release_lease", lambda *_: None)  # it never came so far
    first = begin(shop, account, shop.store)
    with pytest.raises(CheckoutUnderWay):
        begin(shop, account, shop.store)
    shop.clock.pass_seconds(CHECKOUT_TURN_SECONDS)
    second = begin(shop, account, shop.store)
    assert open_sessions(shop) == [second.id]
    assert second.id != first.id


def test_paid_while_the_next_purchase_looks(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """I4: a session that is paid and claimed while another purchase looks for what there is refuses that purchase."""
    account = canceled(shop)
    first = begin(shop, account, shop.store)
    look = shop.store.open_checkouts

    def paid_meanwhile(account_id: str) -> list[Checkout]:
        shop.pay(first.id)
        shop.claim(first.id)
        return look(account_id)

    monkeypatch.setattr(shop.store, "open_checkouts", paid_meanwhile)
    with pytest.raises(AlreadySubscribed):
        begin(shop, account, shop.store)
    assert open_sessions(shop) == []


def test_two_processes_make_one_customer(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A purchase whose process was overtaken while it made the customer goes on for the customer that was named."""
    account = Account("acc_1", shop.clock.now_at())
    shop.store.add_account(account)
    create = shop.provider.create_customer

    def overtaken(account: Account) -> str:
        monkeypatch.setattr(shop.provider, "create_customer", create)
        shop.store.set_customer(account.id, create(account))
        return create(account)

    monkeypatch.setattr(shop.provider, "create_customer", overtaken)
    session = begin(shop, account, shop.store)
    named = shop.store.account(account.id)
    assert named is not None
    assert shop.stripe.objects["checkout.session"][session.id]["customer"] == named.customer_id


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
