"""Usage from anywhere: POST /events and the library's record_many. Each event counts once, in its own hour and period,
and a bad one costs the others nothing.
"""

import asyncio
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.shop import ADMIN_TOKEN, CATALOG, Shop, bearer, open_shop

from farebox import UsageEvent
from farebox.billing.claim import Claimed
from farebox.billing.inbox import refresh_account
from farebox.domain.usage import KEY_RECORDS, QUANTITY_MAX, Recorded
from farebox.errors import InputInvalid, StoreUnavailable
from farebox.metering.records import (
    RECORD_AGE_SECONDS_MAX,
    RECORD_AHEAD_SECONDS_MAX,
    RECORD_ID_CHARACTERS_MAX,
    RECORDS_PER_COMMIT_MAX,
)
from farebox.web.events import EVENTS_BODY_BYTES_MAX, EVENTS_MAX
from farebox.web.limits import BURST_REQUESTS_MAX

DAY, HOUR = 86_400, 3_600
OPERATOR = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
KEYS_RECORD = CATALOG + '\n[events]\nfrom = ["operator", "key"]\n'


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """A shop in which buyers' keys may record."""
    with open_shop(tmp_path, catalog=KEYS_RECORD) as opened:
        yield opened


def used(shop: Shop, claimed: Claimed, start: int = 0, end: int = 2**40) -> int:
    return sum(line.quantity for line in shop.store.usage(claimed.account_id, start, end))


def event(n: int | str, quantity: Any = 1, **more: Any) -> dict[str, Any]:
    return {"id": f"job-{n}", "meter": "calls", "quantity": quantity, **more}


def post(shop: Shop, body: Any, headers: dict[str, str]) -> Any:
    return shop.client.post("/billing/events", json=body, headers=headers)


def results(shop: Shop, headers: dict[str, str], *events: Any) -> list[str]:
    """Of each event what became of it: its status, and the code when it was rejected."""
    answer = post(shop, {"events": list(events)}, headers)
    assert answer.status_code == 200, answer.text
    return [r["code"] or r["status"] for r in answer.json()["results"]]


def test_one_event(shop: Shop) -> None:
    """A key records for its own account, once for each id, durable when answered."""
    claimed = shop.buy()
    first = post(shop, event(1, 120), bearer(claimed.key))
    assert (first.status_code, first.json()) == (
        200,
        {"results": [{"id": "job-1", "status": "recorded", "code": None, "detail": None}]},
    )
    assert used(shop, claimed) == 120
    assert post(shop, event(1, 120), bearer(claimed.key)).json()["results"][0]["status"] == "duplicate"
    refused = post(shop, event(1, 121), bearer(claimed.key)).json()["results"][0]
    assert (refused["status"], refused["code"]) == ("rejected", "record_conflict")
    assert refused["detail"] == "The id 'job-1' was recorded as 120 calls before. New usage needs a new id."
    assert used(shop, claimed) == 120
    assert shop.client.get("/billing/usage", headers=bearer(claimed.key)).json()["meters"][0]["quantity"] == 120


BAD: list[tuple[Any, str]] = [
    (event(1, -1), "quantity_invalid"),
    (event(2, 1.0), "quantity_invalid"),
    (event(3, "1"), "quantity_invalid"),
    (event(4, True), "quantity_invalid"),
    (event(5, None), "quantity_invalid"),
    (event(6, QUANTITY_MAX + 1), "quantity_invalid"),
    (event(7, meter="cals"), "meter_unknown"),
    (event(8, meter=["calls"]), "meter_unknown"),
    (event(9, meter=None), "meter_unknown"),
    ({"id": "", "meter": "calls", "quantity": 1}, "input_invalid"),
    ({"id": "a\x00b", "meter": "calls", "quantity": 1}, "input_invalid"),
    ({"id": "\ud800", "meter": "calls", "quantity": 1}, "input_invalid"),
    ({"id": 7, "meter": "calls", "quantity": 1}, "input_invalid"),
    ({"id": "i" * (RECORD_ID_CHARACTERS_MAX + 1), "meter": "calls", "quantity": 1}, "input_invalid"),
    ({"meter": "calls", "quantity": 1}, "input_invalid"),
    (event(10, amount=5), "input_invalid"),
    (event(11, at="now"), "input_invalid"),
    (event(12, at=1.5), "input_invalid"),
    (event(13, at=True), "input_invalid"),
    (event(14, at=-1), "input_invalid"),
    (event(15, at=10**30), "input_invalid"),
    (event(16, account="acct_of_another"), "account_unknown"),
    (event(17, account=["x"]), "account_unknown"),
    (5, "input_invalid"),
    (None, "input_invalid"),
    ([], "input_invalid"),
]


def test_a_bad_event_costs_the_others_nothing(shop: Shop) -> None:
    """Each event is answered by itself, in its place; the good ones among bad ones are recorded."""
    claimed, other = shop.buy(), shop.buy()
    mixed = [event("first", 1), *(bad for bad, _ in BAD), event("last", 2), event(18, account=other.account_id)]
    raw = json.dumps({"events": mixed})  # a surrogate can only be sent as an escape
    headers = {**bearer(claimed.key), "Content-Type": "application/json"}
    answer = shop.client.post("/billing/events", content=raw, headers=headers)
    assert answer.status_code == 200
    said = answer.json()["results"]
    assert [r["code"] or r["status"] for r in said] == [
        "recorded",
        *(code for _, code in BAD),
        "recorded",
        "account_unknown",
    ]
    assert all(r["detail"] and len(r["detail"]) < 300 for r in said if r["status"] == "rejected")
    assert (used(shop, claimed), used(shop, other)) == (3, 0)
    assert results(shop, bearer(claimed.key), event(1, 1)) == ["recorded"]  # what was rejected has not used up its id


def test_ids_within_a_batch(shop: Shop) -> None:
    """The same id again in one batch is a duplicate, with other values a conflict; another account's is another."""
    one, other = shop.buy(), shop.buy()
    mine, theirs = {"account": one.account_id}, {"account": other.account_id}
    batch = [event(1, 5, **mine), event(1, 5, **mine), event(1, 6, **mine), event(1, 7, **theirs)]
    assert results(shop, OPERATOR, *batch) == ["recorded", "duplicate", "record_conflict", "recorded"]
    assert results(shop, OPERATOR, *batch) == ["duplicate", "duplicate", "record_conflict", "duplicate"]
    assert (used(shop, one), used(shop, other)) == (5, 7)


def test_an_id_that_another_process_used_meanwhile(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """An id that somebody else uses between the look and the commit is not counted twice, and the conflict of one
    costs its batch nothing."""
    claimed = shop.buy()
    key = bearer(claimed.key)
    assert results(shop, key, event(1, 5), event(2, 6)) == ["recorded", "recorded"]
    monkeypatch.setattr(shop.store, "recorded", lambda account_id, ids: {})
    said = results(shop, key, event(1, 5), event(2, 7), event(2, 7), event(3, 8))
    assert said == ["duplicate", "record_conflict", "record_conflict", "recorded"]
    assert used(shop, claimed) == 5 + 6 + 8


def test_the_same_event_many_times_at_once(shop: Shop) -> None:
    """Of all who send an event at the same time, one is told that it was recorded, and the others a duplicate."""
    claimed = shop.buy()
    records, portal = shop.runtime.records, shop.client.portal
    assert portal is not None

    async def crowd() -> list[list[Recorded]]:
        sent = [UsageEvent(claimed.account_id, "calls", 5, f"job-{n}") for n in range(3)]
        return await asyncio.gather(*(records.record_many(sent) for _ in range(10)))

    made = portal.call(crowd)
    for place in range(3):
        assert sorted(answer[place].status for answer in made) == ["duplicate"] * 9 + ["recorded"]
    assert used(shop, claimed) == 15


@pytest.mark.parametrize(("before", "status"), [(False, "recorded"), (True, "duplicate")])
def test_who_was_first_when_the_answer_was_lost(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, before: bool, status: str
) -> None:
    """A commit whose answer was lost and that turns out to have landed is told as what it was: the first, or not."""
    claimed, commit = shop.buy(), shop.store.commit_batch
    if before:
        assert results(shop, bearer(claimed.key), event(1, 5)) == ["recorded"]
        monkeypatch.setattr(shop.store, "recorded", lambda account_id, ids: {})  # it looked before the other committed

    def cut_off(batch: Any) -> None:
        commit(batch)
        raise StoreUnavailable(internal="the answer was lost")

    monkeypatch.setattr(shop.store, "commit_batch", cut_off)
    assert results(shop, bearer(claimed.key), event(1, 5), event(2, 6)) == [status, "recorded"]
    assert used(shop, claimed) == 11


def test_who_may(shop: Shop) -> None:
    """A key of a paying account for itself, the operator for any account that there is, and nobody else."""
    claimed, bought = shop.buy(), shop.checkout()
    (unpaid,) = (a.id for a in shop.store.accounts(limit=9) if a.id != claimed.account_id)
    assert bought
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Bearer {ADMIN_TOKEN}x"}):
        assert post(shop, event(1), headers).status_code == 401
    operator = [event(1, 3, account=claimed.account_id), event(1, 4, account=unpaid), event(2), event(3, account="no")]
    assert results(shop, OPERATOR, *operator) == ["recorded", "recorded", "input_invalid", "account_unknown"]
    assert results(shop, bearer(claimed.key), event(9, account=claimed.account_id), event(8, account=None)) == [
        "recorded",
        "recorded",
    ]
    fence = shop.store.take_fence(claimed.account_id)
    assert shop.store.put_subscriptions(claimed.account_id, (), fence=fence, at=shop.clock.now_at())
    shop.runtime.gate.poll()
    refused = post(shop, event(4), bearer(claimed.key))
    assert (refused.status_code, refused.json()["code"]) == (402, "subscription_missing")
    assert results(shop, OPERATOR, event(4, account=claimed.account_id)) == ["recorded"]


def test_no_key_records_unless_the_seller_says_so(tmp_path: Path) -> None:
    """Where farebox.toml does not name "key", only the operator records, and the refusal says how it is allowed."""
    with open_shop(tmp_path) as shop:
        claimed = shop.buy()
        for headers in (bearer(claimed.key), {"X-API-Key": claimed.key.reveal()}):
            refused = post(shop, event(1), headers)
            assert (refused.status_code, refused.json()["code"]) == (403, "operator_only")
            assert "[events] from" in refused.json()["detail"]
        assert results(shop, OPERATOR, event(1, account=claimed.account_id)) == ["recorded"]
        assert used(shop, claimed) == 1


def test_no_operator_without_a_token(tmp_path: Path) -> None:
    """Where no operator's token is set, none is taken for one."""
    with open_shop(tmp_path, admin=False, catalog=KEYS_RECORD) as shop:
        for token in (ADMIN_TOKEN, "", "None"):
            assert post(shop, event(1), {"Authorization": f"Bearer {token}"}).status_code == 401


WHOLLY_BAD: list[tuple[bytes, int]] = [
    (b"", 422),
    (b"{", 422),
    (b"[]", 422),
    (b"7", 422),
    (b"null", 422),
    (b"{}", 422),
    (b"\xff", 422),
    (b"[" * 60_000, 422),
    (b'{"id": "a", "meter": "calls"}', 422),
    (b'{"events": []}', 422),
    (b'{"events": {}}', 422),
    (b'{"events": null}', 422),
    (b'{"events": [1], "account": "x"}', 422),
    (json.dumps({"events": [0] * (EVENTS_MAX + 1)}).encode(), 422),
    (b'{"id": "a", "meter": "calls", "quantity": ' + b"9" * 5_000 + b"}", 422),
    (b" " * (EVENTS_BODY_BYTES_MAX + 1), 413),
]


@pytest.mark.parametrize(("body", "status"), WHOLLY_BAD)
def test_wholly_bad_bodies(shop: Shop, body: bytes, status: int) -> None:
    """A body in which no events can be told apart is a problem document that says what to send."""
    answer = shop.client.post("/billing/events", content=body, headers=bearer(shop.buy().key))
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert len(answer.content) < 1_000


def test_a_full_batch(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many events as may come at once are recorded, in commits so small that paid calls do not wait long."""
    claimed, sizes, commit = shop.buy(), [], shop.store.commit_batch

    def spied(batch: Any) -> None:
        sizes.append(len(batch.increments))
        commit(batch)

    monkeypatch.setattr(shop.store, "commit_batch", spied)
    assert results(shop, bearer(claimed.key), *(event(n) for n in range(EVENTS_MAX))) == ["recorded"] * EVENTS_MAX
    assert used(shop, claimed) == EVENTS_MAX
    assert max(sizes) == RECORDS_PER_COMMIT_MAX


def test_too_often(shop: Shop) -> None:
    """An account that sends too many requests is told when to come again; others and the operator go on."""
    claimed, other = shop.buy(), shop.buy()
    statuses = [post(shop, event(n), bearer(claimed.key)).status_code for n in range(BURST_REQUESTS_MAX + 1)]
    assert statuses == [200] * BURST_REQUESTS_MAX + [429]
    assert post(shop, event(1), bearer(other.key)).status_code == 200
    assert results(shop, OPERATOR, event("o", account=claimed.account_id)) == ["recorded"]


def test_the_time_of_use(shop: Shop) -> None:
    """An event counts in the hour in which it was used, up to 34 days back; neither before nor after, nor before the
    account was ever billed; a clock that is a little ahead is now."""
    claimed = shop.buy()
    start = shop.clock.now_at()
    for _ in range(35):
        shop.clock.pass_seconds(DAY)
        shop.sandbox.tick()
    refresh_account(shop.store, shop.provider, shop.clock, shop.account(claimed))
    now = shop.clock.now_at()
    shop.runtime.gate.poll()
    oldest, ahead = now - RECORD_AGE_SECONDS_MAX, now + RECORD_AHEAD_SECONDS_MAX
    times = [now - 5 * HOUR, oldest, oldest - 1, ahead, ahead + 1, now, None]
    mine = {"account": claimed.account_id}
    said = results(shop, OPERATOR, *(event(n, 1 << n, at=at, **mine) for n, at in enumerate(times)))
    assert said == ["recorded", "recorded", "input_invalid", "recorded", "input_invalid", "recorded", "recorded"]
    hour = now - now % HOUR
    assert used(shop, claimed, hour, hour + 1) == 8 + 32 + 64
    assert used(shop, claimed, hour - 5 * HOUR, hour - 4 * HOUR) == 1
    assert used(shop, claimed, oldest - HOUR, oldest + 1) == 2
    late = shop.buy()
    shop.runtime.gate.poll()
    assert results(shop, bearer(late.key), event(1, at=now - DAY), event(2, at=now)) == ["input_invalid", "recorded"]
    assert start < now


def test_a_key_records_in_its_current_period(shop: Shop) -> None:
    """A key may choose a time of its current period, and none before it: that would be billed at an earlier price."""
    claimed = shop.buy()
    (period,) = shop.store.periods(claimed.account_id)
    shop.clock.pass_seconds(period.end - shop.clock.now_at() + HOUR)
    shop.sandbox.tick()
    refresh_account(shop.store, shop.provider, shop.clock, shop.account(claimed))
    shop.runtime.gate.poll()
    times = [period.start, period.end - 1, period.end, None]
    said = results(shop, bearer(claimed.key), *(event(n, 1 << n, at=at) for n, at in enumerate(times)))
    assert said == ["input_invalid", "input_invalid", "recorded", "recorded"]
    assert used(shop, claimed, period.start, period.end) == 0


def test_ids_of_keys_and_of_the_seller_never_meet(shop: Shop) -> None:
    """What a key records takes no id of the operator's or the code's, before or after, nor do they take one of its."""
    claimed = shop.buy()
    mine = {"account": claimed.account_id}
    key = bearer(claimed.key)
    assert shop.client.portal is not None
    assert results(shop, key, event(1, 1), event(2, 5)) == ["recorded", "recorded"]
    assert results(shop, OPERATOR, event(1, 70, **mine), event(2, 5, **mine)) == ["recorded", "recorded"]
    shop.client.portal.call(partial(shop.runtime.record, claimed.account_id, "calls", 400, record_id="job-3"))
    assert results(shop, key, event(3, 1), event(2, 5), event(1, 2)) == ["recorded", "duplicate", "record_conflict"]
    assert used(shop, claimed) == 1 + 5 + 70 + 5 + 400 + 1
    reserved = {**event(1, 1, **mine), "id": KEY_RECORDS + "job-1"}
    assert results(shop, OPERATOR, reserved) == ["input_invalid"]
    with pytest.raises(InputInvalid, match="key:"):
        asyncio.run(shop.runtime.record(claimed.account_id, "calls", 1, record_id=KEY_RECORDS + "job-1"))
    assert results(shop, key, {**event(1, 9), "id": KEY_RECORDS + "job-1"}) == ["recorded"]


def test_a_key_records_no_zero(shop: Shop) -> None:
    """Zero from a key is refused: it would fill the ledger with ids and cost nothing. The operator may."""
    claimed = shop.buy()
    assert results(shop, bearer(claimed.key), event(1, 0)) == ["quantity_invalid"]
    assert results(shop, OPERATOR, event(1, 0, account=claimed.account_id)) == ["recorded"]


def test_the_period_of_use(shop: Shop) -> None:
    """L4, L10: an event from before a renewal is billed in the period in which it was used: with its invoice while that
    is open, and on the next one when it is final, at its own period's price; each unit once."""
    claimed = shop.buy()
    account = shop.account(claimed)
    (period,) = shop.store.periods(account.id)
    shop.clock.pass_seconds(period.end - shop.clock.now_at() + 600)
    shop.sandbox.tick()
    refresh_account(shop.store, shop.provider, shop.clock, account)
    assert results(shop, OPERATOR, event(1, 3, account=account.id, at=period.end - 1)) == ["recorded"]
    assert results(shop, OPERATOR, event(2, 5, account=account.id, at=period.end)) == ["recorded"]
    assert used(shop, claimed, period.start, period.end) == 3
    shop.runtime.background.flush()
    shop.clock.pass_seconds(2 * HOUR)
    shop.sandbox.tick()
    assert [invoice["total"] for invoice in shop.objects("invoice") if invoice["status"] != "draft"][-1] == 300
    late = shop.runtime.background.late
    late.step()
    assert results(shop, OPERATOR, event(3, 4, account=account.id, at=period.end - 60)) == ["recorded"]
    shop.runtime.background.flush()
    assert late.step() == 1
    (item,) = shop.objects("invoiceitem")
    assert (item["amount"], "(late usage)" in item["description"]) == (400, True)
    assert late.step() == 0


def test_a_lost_ledger(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the ledger is away the whole is refused with 503 and when to come again, and repeating it counts once."""
    claimed, commit = shop.buy(), shop.store.commit_batch

    def lost(batch: Any) -> None:
        commit(batch)
        raise StoreUnavailable(internal="the answer was lost")

    def away(batch: Any) -> bool:
        raise StoreUnavailable(internal="away")

    monkeypatch.setattr(shop.store, "commit_batch", lost)
    monkeypatch.setattr(shop.store, "batch_landed", away)
    refused = post(shop, event(1, 5), bearer(claimed.key))
    assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
    assert refused.headers["retry-after"]
    monkeypatch.undo()
    assert results(shop, bearer(claimed.key), event(1, 5)) == ["duplicate"]
    assert used(shop, claimed) == 5


def test_from_the_library(shop: Shop) -> None:
    """`record_many` says of each event what became of it; `record` with a time raises what is wrong with it."""
    claimed = shop.buy()
    account, now = claimed.account_id, shop.clock.now_at()
    records = shop.runtime.records
    assert shop.client.portal is not None
    made = shop.client.portal.call(
        records.record_many,
        [
            UsageEvent(account, "calls", 2, "a", at=now),
            UsageEvent(account, "calls", -2, "b"),
            UsageEvent(account, "calls", 2, "a"),
        ],
    )
    assert made == [
        Recorded("a", "recorded"),
        Recorded("b", "rejected", "quantity_invalid", "calls: a quantity must lie between 0 and 1000000000000"),
        Recorded("a", "duplicate"),
    ]
    assert shop.client.portal.call(records.record_many, []) == []
    for at in (now + DAY, now - 40 * DAY, now - 1):
        with pytest.raises(InputInvalid, match="at: "):
            asyncio.run(shop.runtime.record(account, "calls", 1, record_id="c", at=at))
    assert used(shop, claimed) == 2


class Counted:
    """A whole number of another library's, as numpy's are: it has `__index__` and is no int."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


def test_numbers_of_other_libraries(shop: Shop) -> None:
    """A quantity or a time that Python takes for an index is recorded as the whole number that it is."""
    claimed = shop.buy()
    start = shop.clock.now_at()
    shop.clock.pass_seconds(2 * HOUR)
    made: Any = UsageEvent(claimed.account_id, "calls", Counted(7), "a", at=Counted(start))  # type: ignore[arg-type]
    assert shop.client.portal is not None
    said = shop.client.portal.call(shop.runtime.records.record_many, [made, made])
    assert [result.status for result in said] == ["recorded", "duplicate"]
    assert used(shop, claimed, start - start % HOUR, start + 1) == 7


def test_what_a_key_records_is_its_own(shop: Shop) -> None:
    """Usage that a key has recorded is shown as that key's, and makes a key that has been used."""
    claimed = shop.buy()
    assert results(shop, bearer(claimed.key), event(1, 5)) == ["recorded"]
    (line,) = shop.store.usage(claimed.account_id, 0, 2**40, by_operation=True)
    assert (line.key_id, line.operation, line.quantity) == (claimed.key_id, "record", 5)
    assert shop.store.key_used(claimed.account_id, claimed.key_id)
