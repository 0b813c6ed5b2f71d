"""State in a file: everything survives a restart, exactly; a file that is not ours, or damaged, is refused and kept."""

import sqlite3
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tests.unit.sandbox.town import DAY, HOUR, KEY, START_AT, Seller, Town, shown

from farebox.sandbox import Answer, ManualClock, Sandbox
from farebox.sandbox.codec import Codec
from farebox.sandbox.keeping import USAGE_CHUNK
from farebox.sandbox.persistence import Keeper, StateError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "stripe.state"


def restarted(file: Path, clock: ManualClock) -> Sandbox:
    """The state as a new process finds it, once the old one is gone."""
    sandbox = Sandbox(clock)
    Keeper(sandbox, file).close()
    return sandbox


def busy(seller: Seller) -> None:
    """A bit of everything: a paid and a failing subscriber, tiers, a test clock, webhooks in all states, answers."""
    seller.listen("hook", "invoice.created", "invoice.paid", "customer.created")
    good, bad = seller.subscribe(), seller.subscribe("4000 0000 0000 0341")
    for n in range(5):
        seller.use(good["customer"], "1.000000000001", identifier=f"a{n}")
        seller.use(bad["customer"], "2", identifier=f"b{n}")
    seller.ask("POST", "/v1/products", {"name": "Saved"}, idempotency_key="k1")
    clock = seller.post("/v1/test_helpers/test_clocks", frozen_time=START_AT)["id"]
    seller.customer(test_clock=clock, metadata={"a": "ä\u2028", "$": "1"})
    seller.checkout(seller.price_id)
    seller.deliver(500, 200)
    seller.post(f"/v1/prices/{seller.price_id}", nickname="Renamed")
    seller.move(32 * DAY)
    seller.deliver(200, 500)
    seller.move(2 * HOUR)


def test_everything_survives(seller: Seller, file: Path) -> None:
    """After a restart every object, answer, identifier, delivery and the clock's offset are what they were."""
    keeper = Keeper(seller.sandbox, file)
    busy(seller)
    keeper.close()
    again = restarted(file, seller.clock)
    before, after = seller.sandbox.accounts, again.accounts
    assert list(after) == list(before)
    for id in before:
        assert shown(after[id]) == shown(before[id])
    assert again.clock.offset_seconds == seller.sandbox.clock.offset_seconds > 32 * DAY


def test_each_change_is_kept(seller: Seller, file: Path) -> None:
    """Kept after each single request, the file says the same as kept at the end: no change goes unnoticed."""
    keeper, ask = Keeper(seller.sandbox, file), seller.sandbox.request

    def kept(method: str, url: str, headers: Mapping[str, str], body: bytes = b"") -> Answer:
        answer = ask(method, url, headers, body)
        keeper.keep()
        return answer

    seller.sandbox.request = kept  # type: ignore[method-assign]
    busy(seller)
    keeper.close()
    again = restarted(file, seller.clock)
    for id, state in seller.sandbox.accounts.items():
        assert shown(again.accounts[id]) == shown(state)


def test_life_goes_on(file: Path) -> None:
    """What was begun before a restart goes on after it: periods end, webhooks are tried again, answers are replayed."""
    clock = ManualClock(START_AT)
    seller = Seller(clock)
    keeper = Keeper(seller.sandbox, file)
    secret = seller.listen("hook", "invoice.paid")["secret"]
    subscription = seller.subscribe()
    seller.use(subscription["customer"], "7", identifier="once")
    made = seller.ask("POST", "/v1/customers", {"email": "a@b.example"}, idempotency_key="k")
    seller.move(31 * DAY + 2 * HOUR)
    assert seller.deliver(None) == 1
    keeper.close()
    town = Town(clock)
    town.sandbox = Sandbox(clock)
    Keeper(town.sandbox, file).close()
    assert town.now == seller.now
    assert town.use(subscription["customer"], identifier="once").status == 200  # a day has passed
    assert town.ask("POST", "/v1/customers", {"email": "a@b.example"}, idempotency_key="k").body != made.body
    clock.pass_ms(1_000)
    assert town.deliver() == 1
    assert town.received[0][1]["Stripe-Signature"].startswith(f"t={START_AT + 1},v1=")
    assert secret.startswith("whsec_")
    town.move(31 * DAY)
    invoices = town.get("/v1/invoices", subscription=subscription["id"])["data"]
    assert [invoice["total"] for invoice in invoices] == [100, 700]


def test_answers_and_identifiers_are_replayed(seller: Seller, file: Path) -> None:
    """Within the day an idempotency key gets its answer and a meter event's identifier its refusal, restart or not."""
    keeper = Keeper(seller.sandbox, file)
    customer = seller.customer()
    seller.use(customer, identifier="once")
    made = seller.ask("POST", "/v1/customers", {"email": "a@b.example"}, idempotency_key="k")
    keeper.close()
    again = Town(seller.clock)
    Keeper(again.sandbox, file).close()
    replayed = again.ask("POST", "/v1/customers", {"email": "a@b.example"}, idempotency_key="k")
    assert (replayed.body, replayed.headers["Idempotent-Replayed"]) == (made.body, "true")
    assert again.use(customer, identifier="once").status == 400


def test_what_is_shared_stays_shared(seller: Seller, file: Path) -> None:
    """A subscription shows its price as it is now, after a restart, too."""
    keeper = Keeper(seller.sandbox, file)
    subscription = seller.subscribe()
    keeper.close()
    again = Town(seller.clock)
    Keeper(again.sandbox, file).close()
    again.post(f"/v1/prices/{seller.price_id}", nickname="New")
    assert again.get(f"/v1/subscriptions/{subscription['id']}")["items"]["data"][0]["price"]["nickname"] == "New"


def test_only_changes_are_written(seller: Seller, file: Path) -> None:
    """Reading writes the log of requests alone; an idle sandbox writes nothing; much usage is written in part."""
    keeper = Keeper(seller.sandbox, file)
    customer = seller.customer()
    for n in range(2 * USAGE_CHUNK + 1):
        seller.use(customer, identifier=f"i{n}")
    keeper.keep()
    assert keeper.keep() == 0
    seller.get("/v1/customers")
    assert keeper.keep() == 3  # the request, the one that left the log for it, and the time
    seller.use(customer, identifier="more")
    # One chunk of three, the identifier and its time, the requests, what it named: not the thousands before.
    assert keeper.keep() <= 10
    keeper.close()
    again = restarted(file, seller.clock)
    usage = again.accounts[next(iter(again.accounts))].usage
    assert [len(entries) for entries in usage.values()] == [2 * USAGE_CHUNK + 2]


def test_settings_survive(town: Town, file: Path) -> None:
    """Faults, lag, limits and the seed with all that was drawn from it are set after a restart as before."""
    keeper = Keeper(town.sandbox, file)
    town.sandbox.aggregation_lag_seconds = 90
    town.sandbox.faults.add({"path": "/v1/products", "rate_millionths": 500_000, "count": None, "status": 500})
    town.sandbox.limits.set({"mode": "live"})
    town.sandbox.ids.seed(7)
    drawn = [town.sandbox.ids.fraction("requests") for _ in range(3)]
    keeper.close()
    again = restarted(file, town.clock)
    assert again.aggregation_lag_seconds == 90
    assert again.faults.listed() == town.sandbox.faults.listed()
    assert again.limits.asked()["meter_events_per_second"] == 1_000
    following = [again.ids.fraction("requests") for _ in range(3)]
    town.sandbox.ids.seed(7)
    assert drawn + following == [town.sandbox.ids.fraction("requests") for _ in range(6)]


def test_time_never_goes_back(town: Town, file: Path) -> None:
    """A restart on a machine whose clock was put back does not put Stripe's time back."""
    keeper = Keeper(town.sandbox, file)
    town.customer()
    keeper.close()
    assert restarted(file, ManualClock(START_AT - DAY)).clock.now_at() == START_AT


def test_reset_begins_anew(seller: Seller, file: Path) -> None:
    """With reset, what was kept is gone."""
    Keeper(seller.sandbox, file).close()
    fresh = Sandbox(seller.clock)
    Keeper(fresh, file, reset=True).close()
    assert fresh.accounts == {}
    assert restarted(file, seller.clock).accounts == {}


FOREIGN = [b"hello", b"SQLite format 3\0" + b"\0" * 200, b"{}" * 100]


@pytest.mark.parametrize("content", FOREIGN)
@pytest.mark.parametrize("reset", [False, True])
def test_foreign_files_are_kept(town: Town, file: Path, content: bytes, reset: bool) -> None:
    """A file that is no state file is refused in words, even with reset, and not a byte of it changes."""
    file.write_bytes(content)
    with pytest.raises(StateError, match="is not a state file of the local Stripe"):
        Keeper(town.sandbox, file, reset=reset)
    assert file.read_bytes() == content


def test_foreign_databases_are_kept(town: Town, file: Path) -> None:
    """Another program's SQLite database, Farebox's own ledger among them, is refused."""
    with sqlite3.connect(file) as base:
        base.execute("create table account (id text)")
    base.close()
    content = file.read_bytes()
    with pytest.raises(StateError, match="is not a state file"):
        Keeper(town.sandbox, file, reset=True)
    assert file.read_bytes() == content


@pytest.mark.parametrize("where", [100, -200, "cut", "row"])
def test_damaged_files_are_kept(seller: Seller, file: Path, where: int | str) -> None:
    """A state file that is cut off or has a wrong byte is refused in words and kept; reset begins anew."""
    keeper = Keeper(seller.sandbox, file)
    seller.subscribe()
    keeper.close()
    content = bytearray(file.read_bytes())
    if where == "cut":
        del content[len(content) // 2 :]
    elif where == "row":
        at = content.index(b'"API calls"')
        content[at + 1 : at + 4] = b"XYZ"
    else:
        assert isinstance(where, int)
        content[where : where + 50] = b"\xff" * 50
    file.write_bytes(content)
    with pytest.raises(StateError, match=r"is damaged|cannot be used"):
        Keeper(Sandbox(seller.clock), file)
    assert file.read_bytes() == content
    Keeper(Sandbox(seller.clock), file, reset=True).close()


def test_a_newer_version_is_kept(town: Town, file: Path) -> None:
    """A state that a newer local Stripe has written is refused and kept."""
    Keeper(town.sandbox, file).close()
    with sqlite3.connect(file) as base:
        base.execute("pragma user_version = 2")
    base.close()
    with pytest.raises(StateError, match="version 2"):
        Keeper(Sandbox(town.clock), file)


def test_one_process_at_a_time(town: Town, file: Path) -> None:
    """A file in use is refused, with reset, too; when the other is gone it is free."""
    keeper = Keeper(town.sandbox, file)
    for reset in (False, True):
        with pytest.raises(StateError, match="in use by another"):
            Keeper(Sandbox(town.clock), file, reset=reset)
    keeper.close()
    Keeper(Sandbox(town.clock), file).close()


@pytest.mark.parametrize("where", ["no/such/folder.state", "."])
def test_places_that_cannot_be(town: Town, tmp_path: Path, where: str) -> None:
    """A folder that is not there, or a folder itself, is refused in words."""
    with pytest.raises(StateError, match=r"no folder|is not a state file"):
        Keeper(town.sandbox, tmp_path / where)


def test_the_file_is_private(town: Town, file: Path) -> None:
    """Only its owner may read the file: it holds the endpoints' signing secrets, and never a key."""
    keeper = Keeper(town.sandbox, file)
    town.listen()
    keeper.close()
    assert file.stat().st_mode & 0o777 == 0o600
    assert KEY.encode() not in file.read_bytes()


def test_a_failed_write_is_made_up_for(seller: Seller, file: Path) -> None:
    """What could not be written, because the disk was full, say, is written the next time."""
    keeper = Keeper(seller.sandbox, file)
    seller.subscribe()
    write = keeper._write

    def failing(rows: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    keeper._write = failing  # type: ignore[method-assign]
    with pytest.raises(sqlite3.OperationalError):
        keeper.keep()
    keeper._write = write  # type: ignore[method-assign]
    keeper.close()
    again = restarted(file, seller.clock)
    for id, state in seller.sandbox.accounts.items():
        assert shown(again.accounts[id]) == shown(state)


def test_json_is_exact() -> None:
    """Decimals, tuples, bytes, sets and odd names come back as what they were; what has no form here is refused."""
    codec = Codec(lambda _: None, lambda _: {})
    value = {"$": [1], "a": (Decimal("1.50"), b"\xff\0"), "b": {("m", "c"): {"x", "y"}}, "c": "\ud800"[:0] + "ä"}
    assert codec.value(codec.text(value)) == value
    assert str(codec.value(codec.text(Decimal("1E+3")))) == "1E+3"
    assert codec.value(codec.text([0.1, 12.5])) == [0.1, 12.5]
    with pytest.raises(TypeError, match="object, which cannot be kept"):
        codec.text({"what": object()})
