"""Several fetchers of one account's subscriptions: the state moves forward only, and none keeps another out (L17)."""

from tests.shop import Shop, bearer


def test_fetchers_do_not_keep_each_other_out(shop: Shop) -> None:
    """A fetch that has merely begun hinders no other; the one that began first may still bring what it saw."""
    claimed = shop.buy()
    account = shop.account(claimed)
    fetched = shop.provider.subscriptions(str(account.customer_id))
    first, second = shop.store.take_fence(account.id), shop.store.take_fence(account.id)
    assert shop.store.put_subscriptions(account.id, fetched, fence=first, at=shop.clock.now_at())
    assert shop.store.put_subscriptions(account.id, fetched, fence=second, at=shop.clock.now_at())


def test_an_older_fetch_cannot_undo_a_newer(shop: Shop) -> None:
    """What a fetch begun earlier brings after a later one was applied is left aside: a dead key stays dead."""
    claimed = shop.buy()
    account = shop.account(claimed)
    paused = shop.store.take_fence(account.id)
    seen_before = shop.provider.subscriptions(str(account.customer_id))
    shop.provider.cancel_subscription(seen_before[0].id, at_period_end=False)
    later = shop.store.take_fence(account.id)
    seen_after = shop.provider.subscriptions(str(account.customer_id))
    assert shop.store.put_subscriptions(account.id, seen_after, fence=later, at=shop.clock.now_at())
    assert not shop.store.put_subscriptions(account.id, seen_before, fence=paused, at=shop.clock.now_at())
    shop.runtime.gate.poll()
    assert shop.client.get("/api", headers=bearer(claimed.key)).status_code == 402


def test_a_claimed_key_works_at_once(shop: Shop) -> None:
    """A claim made while the webhook's worker is fetching still brings the subscription before it shows the key."""
    session_id = shop.checkout()
    shop.pay(session_id)
    account_id = str(shop.store.checkout(session_id).account_id)  # type: ignore[union-attr]
    put = shop.store.put_subscriptions

    def meanwhile(*args: object, **named: object) -> bool:
        shop.store.take_fence(account_id)  # the worker begins its own fetch just now
        return put(*args, **named)  # type: ignore[arg-type]

    shop.store.put_subscriptions = meanwhile  # type: ignore[method-assign]
    answer = shop.client.post("/billing/claim", json={"session_id": session_id})
    assert answer.status_code == 201
    called = shop.client.get("/api", headers={"X-API-Key": answer.json()["key"]})
    assert called.status_code == 200, called.text
