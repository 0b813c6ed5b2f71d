"""What falls due by itself: the right thing next, at a cost of what happens and not of what there is."""

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.sandbox.town import DAY, GOOD_CARD, HOUR, START_AT, Seller

from farebox.sandbox import sandbox as whole
from farebox.sandbox.movement import Movement
from farebox.sandbox.schedule import ACCOUNT, Schedule

STEP = st.tuples(
    st.sampled_from(["sub_1", "sub_2", "in_1", "in_2", "cs_1"]),
    st.one_of(st.none(), st.integers(0, 9)),
    st.sampled_from([ACCOUNT, "clock_1"]),
)


@given(st.lists(STEP, max_size=40))
def test_the_first_is_the_first(steps: list[tuple[str, int | None, str]]) -> None:
    """However objects are scheduled, moved and taken out, each timeline's earliest is found, the lower id first."""
    due, known = Schedule(), dict[str, tuple[int, str]]()
    for id, at, timeline in steps:
        due.schedule(at, id, timeline)
        known.pop(id, None)
        if at is not None:
            known[id] = (at, timeline)
        for wanted in (ACCOUNT, "clock_1"):
            of = sorted((at, id) for id, (at, own) in known.items() if own == wanted)
            assert due.first(wanted) == (of[0] if of else None)
            subscriptions = [entry for entry in of if entry[1].startswith("sub_")]
            assert due.first(wanted, "sub") == (subscriptions[0] if subscriptions else None)


def test_a_timeline_that_is_gone() -> None:
    """What is forgotten with its clock is not due, and can be scheduled elsewhere."""
    due = Schedule()
    due.schedule(1, "sub_1", "clock_1")
    due.schedule(2, "sub_2")
    due.forget("clock_1")
    assert (due.first("clock_1"), due.first()) == (None, (2, "sub_2"))
    due.schedule(1, "sub_1")
    assert due.first() == (1, "sub_1")


def test_time_costs_what_happens(seller: Seller, monkeypatch: pytest.MonkeyPatch) -> None:
    """With many subscriptions that nothing happens to, the week of one looks at that one only."""
    weekly = seller.price(seller.meter_id, interval="week")
    for _ in range(50):
        seller.subscribe()
    seller.subscribe(GOOD_CARD, weekly)
    seller.move(1)
    looked: list[str] = []
    happenings = whole.happenings  # type: ignore[attr-defined]

    def counted(ctx: Any, thing: Any) -> Any:
        looked.append(thing["object"])
        return happenings(ctx, thing)

    monkeypatch.setattr(whole, "happenings", counted)
    seller.move(7 * DAY + 2 * HOUR)
    assert looked.count("subscription") < 10
    assert looked.count("invoice") < 10
    assert len(looked) < 40


def test_lists_of_a_customer(seller: Seller) -> None:
    """What a customer's list shows is theirs, a session that became theirs by paying included, the newest first."""
    first, second = seller.subscribe(), seller.subscribe()
    own = first["customer"]
    seller.post("/v1/subscriptions", customer=own, items=[{"price": seller.price_id}])
    listed = seller.get("/v1/subscriptions", customer=own)["data"]
    assert [s["customer"] for s in listed] == [own, own]
    assert listed[1]["id"] == first["id"]
    assert len(seller.get("/v1/checkout/sessions", customer=own)["data"]) == 1
    assert [s["id"] for s in seller.get("/v1/subscriptions", customer=second["customer"])["data"]] == [second["id"]]


class Rests(threading.Event):
    """Counts the rests that a move of time takes, and takes none."""

    def __init__(self) -> None:
        super().__init__()
        self.at: list[int] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.at.append(int(timeout or 0))
        return False


def test_one_rest_for_many_drafts(seller: Seller) -> None:
    """A move of time rests once for all periods that end within half an hour, and again for one that ends later."""
    for seconds in (1, 60, 1_000, 3_000):
        seller.subscribe()
        seller.clock.pass_ms(seconds * 1_000)
    movement, rests = Movement(seller.sandbox), Rests()
    movement._stopping = rests
    movement.begin({"to_at": START_AT + 31 * DAY + 2 * HOUR, "settle_seconds": 7, "wait": True})
    assert rests.at == [7]
    seller.clock.pass_ms(10_000_000)
    seller.subscribe()
    movement.begin({"to_at": START_AT + 65 * DAY, "settle_seconds": 7, "wait": True})
    assert rests.at == [7, 7, 7]
    paid = [i["status"] for i in seller.get("/v1/invoices", limit=100)["data"]]
    assert paid == ["paid"] * 9
