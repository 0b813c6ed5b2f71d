"""Test clocks: a few customers whose time moves apart from everybody else's, to the second."""

import calendar
from typing import Any

import pytest
from tests.unit.sandbox.town import DAY, GOOD_CARD, HOUR, START_AT, Seller

CLOCKS = "/v1/test_helpers/test_clocks"


def at(year: int, month: int, day: int, hour: int = 12) -> int:
    return calendar.timegm((year, month, day, hour, 0, 0))


def clock_of(seller: Seller, frozen_time: int, **params: Any) -> str:
    return str(seller.post(CLOCKS, frozen_time=frozen_time, **params)["id"])


def subscriber(seller: Seller, clock: str, *prices: str) -> Any:
    """A subscription of a customer of this clock, paid on the hosted page."""
    customer = seller.customer(test_clock=clock)
    seller.pay(seller.checkout(*(prices or (seller.price_id,)), customer=customer)["id"])
    return seller.get("/v1/subscriptions", customer=customer)["data"][0]


def advance(seller: Seller, clock: str, to_at: int) -> Any:
    begun = seller.post(f"{CLOCKS}/{clock}/advance", frozen_time=to_at)
    assert begun["status"] == "advancing"
    assert begun["status_details"] == {"advancing": {"target_frozen_time": to_at}}
    return seller.get(f"{CLOCKS}/{clock}")


def test_a_clock_is_made_and_deleted(seller: Seller) -> None:
    """A clock says where it stands and when it goes; deleting it deletes its customers and ends what they bought."""
    made = seller.post(CLOCKS, frozen_time=at(2026, 1, 31), name="January")
    assert made == {
        "id": made["id"],
        "object": "test_helpers.test_clock",
        "created": START_AT,
        "deletes_after": START_AT + 30 * DAY,
        "frozen_time": at(2026, 1, 31),
        "livemode": False,
        "name": "January",
        "status": "ready",
        "status_details": {},
    }
    subscription = subscriber(seller, made["id"])
    gone = seller.delete(f"{CLOCKS}/{made['id']}")
    assert gone == {"id": made["id"], "object": "test_helpers.test_clock", "deleted": True}
    assert seller.refused(404, "GET", f"{CLOCKS}/{made['id']}") == {
        "type": "invalid_request_error",
        "code": "resource_missing",
        "param": "id",
    }
    ended = seller.subscription(subscription["id"])
    assert (ended["status"], ended["ended_at"]) == ("canceled", at(2026, 1, 31))
    assert seller.get(f"/v1/customers/{subscription['customer']}")["deleted"] is True
    assert seller.get(CLOCKS)["data"] == []


def test_what_is_the_customers_is_the_clocks(seller: Seller) -> None:
    """Customer, session, subscription, invoice and event of a clock's customer are made in its time and name it."""
    frozen = at(2024, 1, 31)
    clock = clock_of(seller, frozen)
    customer = seller.get(f"/v1/customers/{subscriber(seller, clock)['customer']}")
    session = seller.get("/v1/checkout/sessions", customer=customer["id"])["data"][0]
    subscription = seller.get("/v1/subscriptions", customer=customer["id"])["data"][0]
    assert [thing["created"] for thing in (customer, session, subscription)] == [frozen] * 3
    assert session["expires_at"] == frozen + DAY
    assert customer["test_clock"] == subscription["test_clock"] == clock
    assert subscription["items"]["data"][0]["current_period_end"] == at(2024, 2, 29)
    advance(seller, clock, at(2024, 2, 29, 14))
    invoice = seller.invoices(subscription)[0]
    assert (invoice["created"], invoice["test_clock"], invoice["status"]) == (at(2024, 2, 29), clock, "paid")
    paid = seller.get("/v1/events", type="invoice.paid")["data"][0]
    assert paid["created"] == at(2024, 2, 29) + HOUR
    assert seller.now == START_AT


@pytest.mark.parametrize(
    ("frozen", "ends"),
    [
        (at(2024, 1, 31), [at(2024, 2, 29), at(2024, 3, 31), at(2024, 4, 30), at(2024, 5, 31)]),
        (at(2025, 1, 30), [at(2025, 2, 28), at(2025, 3, 30), at(2025, 4, 30), at(2025, 5, 30)]),
        (at(2027, 12, 31), [at(2028, 1, 31), at(2028, 2, 29), at(2028, 3, 31), at(2028, 4, 30)]),
    ],
)
def test_month_ends_and_leap_years(seller: Seller, frozen: int, ends: list[int]) -> None:
    """Periods that a clock walks through end on the anchor's day, or on the month's last where there is no such day."""
    clock = clock_of(seller, frozen)
    subscription = subscriber(seller, clock)
    for end in ends:
        advance(seller, clock, end - 1)
        assert len(seller.invoices(subscription)) == ends.index(end)
        advance(seller, clock, end)
        assert seller.invoices(subscription)[-1]["period_end"] == end
        assert seller.invoices(subscription)[-1]["created"] == end


def test_a_leap_day_once_a_year(seller: Seller) -> None:
    """A year that began on a leap day ends on the last of February, and on the next leap day again."""
    price = seller.price(seller.meter_id, interval="year")
    clock = clock_of(seller, at(2024, 2, 29))
    subscription = subscriber(seller, clock, price)
    for year, day in ((2025, 28), (2026, 28), (2027, 28), (2028, 29)):
        advance(seller, clock, at(year, 2, day))
        assert seller.invoices(subscription)[-1]["period_end"] == at(year, 2, day)


def test_usage_moves_with_the_clock(seller: Seller) -> None:
    """A meter event's window lies around its customer's own time, and so does what a preview and an invoice count."""
    frozen = at(2025, 6, 15)
    clock = clock_of(seller, frozen)
    subscription = subscriber(seller, clock)
    customer = subscription["customer"]
    assert seller.use(customer, "3", at=frozen - 35 * DAY).status == 200
    assert seller.use(customer, "5", at=frozen + 300).status == 200
    assert seller.use(customer, "5", at=frozen - 35 * DAY - 1).error["code"] == "timestamp_too_far_in_past"
    assert seller.use(customer, "5", at=frozen + 301).error["code"] == "timestamp_in_future"
    assert seller.use(customer, "2").json["timestamp"] == frozen
    preview = seller.post("/v1/invoices/create_preview", subscription=subscription["id"])
    assert (preview["total"], preview["created"]) == (700, frozen)
    other = seller.customer()
    assert seller.use(other, "1", at=frozen + 300).error["code"] == "timestamp_too_far_in_past"
    advance(seller, clock, at(2025, 7, 15, 14))
    assert [invoice["total"] for invoice in seller.invoices(subscription)] == [700]


def test_an_identifier_is_remembered_in_the_accounts_time(seller: Seller) -> None:
    """Moving a clock neither forgets what the account remembers nor keeps it longer."""
    clock = clock_of(seller, START_AT - 300 * DAY)
    customer = subscriber(seller, clock)["customer"]
    assert seller.use(customer, identifier="once").status == 200
    advance(seller, clock, START_AT - 270 * DAY)
    assert seller.use(customer, identifier="once").status == 400
    seller.move(DAY + 1)
    assert seller.use(customer, identifier="once").status == 200


def test_clocks_and_account_move_apart(seller: Seller) -> None:
    """Moving the account bills its own subscribers alone; moving a clock bills its own alone."""
    price = seller.price(seller.meter_id, interval="week")
    own = seller.subscribe(GOOD_CARD, price)
    first, second = (clock_of(seller, START_AT) for _ in range(2))
    subscriptions = [subscriber(seller, clock, price) for clock in (first, second)]
    advance(seller, first, START_AT + 8 * DAY)
    assert [len(seller.invoices(s)) for s in (own, *subscriptions)] == [0, 1, 0]
    seller.move(8 * DAY)
    assert [len(seller.invoices(s)) for s in (own, *subscriptions)] == [1, 1, 0]
    assert seller.get(f"{CLOCKS}/{second}")["frozen_time"] == START_AT


def test_a_session_expires_by_its_customers_clock(seller: Seller) -> None:
    """A session of a clock's customer is open until the clock has passed its end."""
    clock = clock_of(seller, START_AT)
    session = seller.checkout(seller.price_id, customer=seller.customer(test_clock=clock))
    seller.move(3 * DAY)
    assert seller.get(f"/v1/checkout/sessions/{session['id']}")["status"] == "open"
    advance(seller, clock, START_AT + DAY)
    assert seller.get(f"/v1/checkout/sessions/{session['id']}")["status"] == "expired"


def test_lists_leave_out_who_lives_by_a_clock(seller: Seller) -> None:
    """Customers and subscriptions of a clock are listed for it alone, or for the customer."""
    own = seller.subscribe()
    clock = clock_of(seller, START_AT)
    theirs = subscriber(seller, clock)
    assert [s["id"] for s in seller.get("/v1/subscriptions")["data"]] == [own["id"]]
    assert [s["id"] for s in seller.get("/v1/subscriptions", test_clock=clock)["data"]] == [theirs["id"]]
    assert [c["id"] for c in seller.get("/v1/customers")["data"]] == [own["customer"]]
    assert [c["id"] for c in seller.get("/v1/customers", test_clock=clock)["data"]] == [theirs["customer"]]


def test_how_far_a_clock_goes(seller: Seller) -> None:
    """Forward only; two intervals of the shortest subscription at most, two years without one."""
    clock = clock_of(seller, at(2025, 1, 31))
    refused = {"type": "invalid_request_error", "param": "frozen_time"}
    path = f"{CLOCKS}/{clock}/advance"
    assert seller.refused(400, "POST", path, {"frozen_time": at(2025, 1, 31)}) == refused
    assert seller.refused(400, "POST", path, {"frozen_time": at(2027, 1, 31) + 1}) == refused
    assert advance(seller, clock, at(2025, 1, 31) + 1)["status"] == "ready"
    subscriber(seller, clock)
    assert seller.refused(400, "POST", path, {"frozen_time": at(2025, 3, 31) + 2}) == refused
    assert advance(seller, clock, at(2025, 3, 31) + 1)["frozen_time"] == at(2025, 3, 31) + 1


def test_room_on_a_clock(seller: Seller) -> None:
    """A clock takes three customers, each of whom has three subscriptions at most."""
    clock = clock_of(seller, START_AT)
    subscription = subscriber(seller, clock)
    items = [{"price": seller.price_id}]
    for _ in range(2):
        seller.post("/v1/subscriptions", customer=subscription["customer"], items=items)
    full = {"customer": subscription["customer"], "items": items}
    assert seller.refused(400, "POST", "/v1/subscriptions", full)["param"] == "customer"
    seller.customer(test_clock=clock), seller.customer(test_clock=clock)
    assert seller.refused(400, "POST", "/v1/customers", {"test_clock": clock})["param"] == "test_clock"
    unknown = {"type": "invalid_request_error", "code": "resource_missing", "param": "test_clock"}
    assert seller.refused(400, "POST", "/v1/customers", {"test_clock": "clock_unknown"}) == unknown


def test_an_existing_customer_joins_a_new_clock(seller: Seller) -> None:
    """A clock can be made for a customer that is there already, with all that is theirs; once, and for good."""
    own = seller.subscribe()
    assert seller.refused(400, "POST", CLOCKS, {"frozen_time": START_AT - 1, "customer": own["customer"]}) == {
        "type": "invalid_request_error",
        "param": "frozen_time",
    }
    clock = clock_of(seller, START_AT, customer=own["customer"])
    assert seller.subscription(own["id"])["test_clock"] == clock
    advance(seller, clock, START_AT + 32 * DAY)
    assert len(seller.invoices(own)) == 1
    seller.move(32 * DAY)
    assert len(seller.invoices(own)) == 1
    again = seller.refused(400, "POST", CLOCKS, {"frozen_time": START_AT, "customer": own["customer"]})
    assert again["param"] == "customer"


def test_an_advancing_clock_rests_until_it_was_heard(seller: Seller) -> None:
    """A clock stays at a renewal's draft until invoice.created was delivered and a moment more: late usage is billed,
    and meanwhile nothing that lives by it can be changed."""
    seller.listen("hook", "invoice.created", "test_helpers.test_clock.ready")
    frozen = at(2025, 1, 31)
    clock = clock_of(seller, frozen)
    subscription = subscriber(seller, clock)
    customer = subscription["customer"]
    assert advance(seller, clock, at(2025, 3, 2))["status"] == "advancing"
    assert [invoice["status"] for invoice in seller.invoices(subscription)] == ["draft"]
    changing = ("POST", f"/v1/customers/{customer}", {"name": "Ada"})
    assert seller.refused(429, *changing) == {"type": "invalid_request_error", "code": "lock_timeout"}
    assert seller.refused(429, "POST", f"{CLOCKS}/{clock}/advance", {"frozen_time": at(2025, 3, 3)})["code"]
    assert seller.use(customer, "7", at=at(2025, 2, 28) - 1).status == 200
    assert seller.deliver() == 1
    assert seller.get(f"{CLOCKS}/{clock}")["status"] == "advancing"
    seller.clock.pass_ms(3_000)
    arrived = seller.get(f"{CLOCKS}/{clock}")
    assert (arrived["status"], arrived["frozen_time"]) == ("ready", at(2025, 3, 2))
    assert [(i["status"], i["total"]) for i in seller.invoices(subscription)] == [("paid", 700)]
    assert seller.deliver() == 1
    assert seller.ask(*changing).status == 200


def test_a_webhook_that_is_refused_holds_the_clocks_draft(seller: Seller) -> None:
    """A draft whose invoice.created is answered with an error waits for three days of the clock's time, not of ours."""
    seller.listen("hook", "invoice.created")
    clock = clock_of(seller, at(2025, 1, 31))
    subscription = subscriber(seller, clock)
    advance(seller, clock, at(2025, 3, 2))
    seller.deliver(500)
    seller.clock.pass_ms(3_000)
    assert seller.get(f"{CLOCKS}/{clock}")["status"] == "ready"
    assert [invoice["status"] for invoice in seller.invoices(subscription)] == ["draft"]
    seller.post(f"{CLOCKS}/{clock}/advance", frozen_time=at(2025, 3, 4))
    seller.clock.pass_ms(3_000)
    assert seller.invoices(subscription)[0]["status_transitions"]["finalized_at"] == at(2025, 2, 28) + 72 * HOUR


def test_a_clock_deletes_itself(seller: Seller) -> None:
    """Thirty days after it was made, in the account's time, a clock and its customers are gone."""
    clock = clock_of(seller, at(2020, 1, 1))
    customer = subscriber(seller, clock)["customer"]
    seller.move(30 * DAY - 1)
    assert seller.get(f"{CLOCKS}/{clock}")["status"] == "ready"
    seller.move(1)
    assert seller.ask("GET", f"{CLOCKS}/{clock}").status == 404
    assert seller.get(f"/v1/customers/{customer}")["deleted"] is True


def test_a_clock_tells_where_it_is(seller: Seller) -> None:
    """A clock's own events say created, advancing, ready and deleted, in the account's time."""
    clock = clock_of(seller, at(2020, 1, 1))
    advance(seller, clock, at(2020, 2, 1))
    seller.delete(f"{CLOCKS}/{clock}")
    found = [e for e in seller.get("/v1/events", limit=100)["data"] if "test_clock" in e["type"]]
    assert [(e["type"].rpartition(".")[2], e["created"]) for e in reversed(found)] == [
        ("created", START_AT),
        ("advancing", START_AT),
        ("ready", START_AT),
        ("deleted", START_AT),
    ]
