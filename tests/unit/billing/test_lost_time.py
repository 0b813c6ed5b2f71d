"""The time that a restore lost: which ids were recorded in it is not known, so usage of it is not counted anew (L6)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from tests.shop import ADMIN_TOKEN, START_AT, Shop, StillClock
from tests.unit.billing.test_restoring import back_up, restore, settled
from typer.testing import CliRunner

from farebox import UsageEvent
from farebox.billing.claim import Claimed
from farebox.billing.restoring import Restorer
from farebox.cli import app
from farebox.domain.audit import AuditEntry
from farebox.domain.restoring import LostSpan, Span, lost_since
from farebox.errors import ProviderUnavailable, RecordConflict, UsageInLostTime
from farebox.starter import STARTER_CONFIG
from farebox.store.sql import SqlStore
from farebox.system import SystemEntropy

HOUR: Final = 3_600
OPERATOR: Final = {"Authorization": f"Bearer {ADMIN_TOKEN}"}


def used(shop: Shop, claimed: Claimed) -> int:
    return sum(line.quantity for line in shop.store.usage(claimed.account_id, 0, 1 << 40))


def sent(shop: Shop, claimed: Claimed, id: str, quantity: int, at: int | None) -> str:
    """What POST /events answers to one event."""
    event = {"account": claimed.account_id, "id": id, "meter": "calls", "quantity": quantity, "at": at}
    (made,) = shop.client.post("/billing/events", json={"events": [event]}, headers=OPERATOR).json()["results"]
    return str(made["code"] or made["status"])


def recorded(shop: Shop, claimed: Claimed, id: str, quantity: int, at: int) -> None:
    portal = shop.client.portal
    assert portal is not None
    portal.call(shop.runtime.records.record, UsageEvent(claimed.account_id, "calls", quantity, id, at))


class Loss:
    """A ledger that was backed up, used for two hours more, lost, restored and settled."""

    def __init__(self, shop: Shop) -> None:
        self.buyer = shop.buy()
        shop.clock.pass_seconds(HOUR)
        assert sent(shop, self.buyer, "before", 3, shop.clock.now_at()) == "recorded"
        self.backup_at = shop.clock.now_at()
        copy = back_up(shop)
        shop.clock.pass_seconds(HOUR)
        self.lost_at = shop.clock.now_at()
        assert sent(shop, self.buyer, "lost", 5, self.lost_at) == "recorded"
        shop.runtime.background.flush()
        shop.clock.pass_seconds(HOUR)
        restore(shop, copy)


def test_ids_of_the_lost_time_do_not_count_anew(shop: Shop) -> None:
    """F27, I4: a job that sends all of it again after the restore is refused where its ids may have been counted, and
    told why; ids from before the backup are duplicates; other times count as ever."""
    loss = Loss(shop)
    found = settled(shop)
    assert found.imported == 5
    restored_at = shop.clock.now_at()
    assert found.lost == LostSpan(loss.backup_at, restored_at, restored_at)
    shop.clock.pass_seconds(HOUR)
    shop.runtime.gate.poll()
    assert sent(shop, loss.buyer, "lost", 5, loss.lost_at) == "usage_in_lost_time"
    assert sent(shop, loss.buyer, "edge", 5, loss.backup_at) == "usage_in_lost_time"
    assert sent(shop, loss.buyer, "end", 5, restored_at) == "usage_in_lost_time"
    assert sent(shop, loss.buyer, "before", 3, loss.backup_at) == "duplicate"
    assert sent(shop, loss.buyer, "before", 4, loss.backup_at) == "record_conflict"
    assert used(shop, loss.buyer) == 8
    assert sent(shop, loss.buyer, "earlier", 1, loss.backup_at - 1) == "recorded"
    assert sent(shop, loss.buyer, "later", 10, restored_at + 1) == "recorded"
    assert sent(shop, loss.buyer, "untimed", 100, None) == "recorded"
    assert used(shop, loss.buyer) == 8 + 111


def test_the_library_raises(shop: Shop) -> None:
    """`record` of the lost time raises; of an id that the backup knew it is done, or a conflict."""
    loss = Loss(shop)
    settled(shop)
    with pytest.raises(UsageInLostTime, match="restored from a backup") as error:
        recorded(shop, loss.buyer, "lost", 5, loss.lost_at)
    assert (error.value.code, error.value.status) == ("usage_in_lost_time", 409)
    recorded(shop, loss.buyer, "before", 3, loss.backup_at)
    with pytest.raises(RecordConflict):
        recorded(shop, loss.buyer, "before", 4, loss.backup_at)
    assert used(shop, loss.buyer) == 8


def test_a_person_lifts_it(shop: Shop) -> None:
    """Lifted, usage of that time counts again; who lifted what is in the audit log."""
    loss = Loss(shop)
    settled(shop)
    shop.clock.pass_seconds(1)
    entry = AuditEntry("a1", shop.clock.now_at(), "ada", "usage.lost.lift", "ledger")
    (lifted,) = shop.store.lift_lost_spans(at=shop.clock.now_at(), audit=entry)
    assert lifted.lifted_at == shop.clock.now_at()
    assert shop.store.lift_lost_spans(at=shop.clock.now_at(), audit=entry) == []
    assert sent(shop, loss.buyer, "lost", 5, loss.lost_at) == "recorded"
    assert [(e.actor, e.action) for e in shop.store.audit()][:1] == [("ada", "usage.lost.lift")]
    assert shop.store.audit()[0].detail == {"start": loss.backup_at, "end": lifted.end}


def test_a_run_that_was_broken_off(shop: Shop) -> None:
    """The lost time is known before the run writes anything: what a broken-off run has written is not taken for the
    backup's newest (I14)."""
    loss = Loss(shop)

    def broken() -> None:
        raise ProviderUnavailable

    with pytest.raises(ProviderUnavailable):
        settled(shop, settle=broken)
    shop.clock.pass_seconds(60)
    settled(shop)
    assert [(span.start, span.end) for span in shop.store.lost_spans()] == [(loss.backup_at, shop.clock.now_at())]
    assert sent(shop, loss.buyer, "lost", 5, loss.lost_at) == "usage_in_lost_time"


def test_a_ledger_that_was_served_before_it_was_settled(shop: Shop) -> None:
    """What was used after the restore does not shorten the lost time: what Stripe has and the ledger lacks does tell,
    and so may whoever knows when the backup was made."""
    loss = Loss(shop)
    shop.clock.pass_seconds(2 * HOUR)
    assert sent(shop, loss.buyer, "after", 1, None) == "recorded"
    hour = loss.lost_at - loss.lost_at % HOUR
    assert settled(shop, backup_at=None).lost == LostSpan(hour, shop.clock.now_at(), shop.clock.now_at())
    assert sent(shop, loss.buyer, "lost", 5, loss.lost_at) == "usage_in_lost_time"
    told = settled(shop, backup_at=loss.backup_at).lost
    assert told is not None
    assert told.start == loss.backup_at
    assert [(span.start, span.end) for span in shop.store.lost_spans()] == [(loss.backup_at, shop.clock.now_at())]


def test_a_rehearsal_says_it_and_refuses_nothing(shop: Shop) -> None:
    """--dry-run names the lost time, and usage of it goes on being taken."""
    loss = Loss(shop)
    restorer = Restorer(shop.store, shop.provider, shop.clock, shop.entropy, shop.catalog)
    lost = restorer.rehearse().lost
    assert lost is not None
    assert lost.start == loss.backup_at
    assert shop.store.lost_spans() == []
    assert sent(shop, loss.buyer, "lost", 5, loss.lost_at) == "recorded"


@pytest.mark.parametrize(
    ("newest", "imported", "start"),
    [
        (HOUR + 60, [], HOUR + 60),
        (HOUR + 60, [HOUR], HOUR + 60),  # the hour in which the backup was made
        (HOUR + 60, [2 * HOUR], HOUR + 60),
        (5 * HOUR, [2 * HOUR, 3 * HOUR], 2 * HOUR),
    ],
)
def test_when_the_lost_time_began(newest: int, imported: list[int], start: int) -> None:
    """At the newest that the ledger knows, unless an hour before it lacks usage that Stripe has."""
    assert lost_since(newest, [Span(hour, hour + HOUR, hour) for hour in imported]) == start


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SqlStore]:
    """A ledger with a lost time, in a folder that the commands work in."""
    monkeypatch.chdir(tmp_path)
    for name in ("STRIPE_SECRET_KEY", "STRIPE_API_BASE", "FAREBOX_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FAREBOX_DATABASE_URL", "sqlite:///ledger.db")
    (tmp_path / "farebox.toml").write_text(STARTER_CONFIG)
    store = SqlStore("sqlite:///ledger.db", StillClock(), SystemEntropy())
    store.open()
    store.keep_lost_span(LostSpan(START_AT, START_AT + HOUR, START_AT + HOUR))
    yield store
    store.close()


def said(*arguments: str) -> Any:
    done = CliRunner().invoke(app, ["usage", "lost", *arguments], prog_name="farebox", catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout) if "--json" in arguments else done.stdout


def test_the_command(ledger: SqlStore) -> None:
    """`farebox usage lost` shows what is refused, and --lift ends it, once, with who did it."""
    assert said("--json") == {
        "lifted": 0,
        "lost": [{"start": START_AT, "end": START_AT + HOUR, "found_at": START_AT + HOUR, "lifted_at": None}],
    }
    assert "2027-01-15" in said()
    lifted = said("--lift", "--actor", "ada", "--json")
    assert (lifted["lifted"], lifted["lost"][0]["lifted_at"] is not None) == (1, True)
    assert said("--lift", "--json")["lifted"] == 0
    assert "0 lost times" in said("--lift")
    assert [(e.actor, e.action, e.subject) for e in ledger.audit()] == [("ada", "usage.lost.lift", "ledger")]
    assert ledger.lost_spans() == []
