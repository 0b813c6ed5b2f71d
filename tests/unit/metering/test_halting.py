"""The halt of reporting stands in the ledger: no restart forgets it, and every reporter of the ledger heeds it (L6)."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest
from tests.postgres import Cluster
from tests.reporting import AT, HOUR, Scripted, Town, Wire
from tests.shop import Shop, StillClock

from farebox.billing.restoring import Restorer
from farebox.domain.audit import AuditEntry
from farebox.domain.reports import Outcome, OutcomeKind, ReportState
from farebox.errors import SettlementMissed, StoreUnavailable
from farebox.metering.reporter import HALT_LOOK_MILLISECONDS, Reporter
from farebox.metering.settlement import Settlement

DUPLICATE = Outcome(OutcomeKind.DUPLICATE, "An event already exists with identifier x.")
BUYERS = 6


@pytest.fixture(params=["file", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "postgres":
        cluster: Cluster = request.getfixturevalue("cluster")
        fresh = cluster.fresh()
        yield fresh
        cluster.drop(fresh)
    else:
        yield f"sqlite:///{tmp_path / 'ledger.db'}"


@pytest.fixture
def town(url: str) -> Iterator[Town]:
    """Six buyers, each with usage that waits to be sent."""
    made = Town(url, provider=Scripted())
    for n in range(BUYERS):
        made.add_buyer(n, f"cus_{n}")
        made.use(5, buyer=n)
    made.sealer.step(hard=True)
    yield made
    made.close()


def script(town: Town) -> Scripted:
    assert isinstance(town.provider, Scripted)
    return town.provider


def entry(town: Town | Shop) -> AuditEntry:
    return AuditEntry("audit_1", town.clock.now_at(), "ada", "usage.resume", "ledger")


def test_a_restart_forgets_nothing(tmp_path: Path) -> None:
    """F27, I4: a restored ledger that halted sends nothing after a restart days later, when Stripe has forgotten the
    names that would show it to be a copy."""
    live, backup = tmp_path / "live.db", tmp_path / "backup.db"
    lost = Town(f"sqlite:///{live}", wire=Wire(StillClock(AT)))
    for n in range(BUYERS):
        lost.add_buyer(n)
        lost.use(5, buyer=n)
    wire = lost.wire
    lost.close()
    shutil.copy(live, backup)
    lost = Town(f"sqlite:///{live}", wire=wire)
    for n in range(BUYERS):
        lost.use(1, buyer=n)
    lost.sealer.step(hard=True)
    lost.reporter.step(10)
    lost.close()
    wire.clock.pass_seconds(HOUR)
    back = Town(f"sqlite:///{backup}", wire=wire)
    back.sealer.step(hard=True)
    back.reporter.step(1)
    assert (back.reporter.halted is not None, wire.total) == (True, BUYERS * 6)
    wire.clock.pass_seconds(48 * HOUR)
    wire._forget()
    restarted = back.new_reporter()
    sent = len(wire.sent)
    assert [restarted.step(10) for _ in range(5)] == [0] * 5
    assert (restarted.halted, len(wire.sent), wire.total) == (back.reporter.halted, sent, BUYERS * 6)
    back.close()


def test_every_process_heeds_it(town: Town) -> None:
    """What one process notices keeps each other one from sending, also what that one had taken before (L6)."""
    other = town.new_reporter()

    def meanwhile(jobs: Sequence[Callable[[], None]]) -> None:
        """The other process notices while this one has taken its events and sends none yet."""
        script(town).script = [DUPLICATE]
        assert other.step(1) == 1
        town.clock.manual.pass_ms(HALT_LOOK_MILLISECONDS)
        for job in jobs:
            job()

    town.reporter.step(3, meanwhile)
    assert (len(script(town).sent), town.reporter.halted) == (1, other.halted)
    assert town.reporter.halted is not None
    town.clock.pass_seconds(HOUR)
    assert (town.reporter.step(10), other.step(10), len(script(town).sent)) == (0, 0, 1)
    assert sorted(town.states) == [ReportState.DOUBTFUL] + [ReportState.PENDING] * 5


def test_nothing_is_taken_once_it_is_halted(town: Town) -> None:
    """A halt that comes between a reporter's look and its taking leaves it nothing to send."""
    assert town.store.halt_reporting("It is a copy.", now=AT)
    assert not town.store.halt_reporting("Another reason.", now=AT + 1)
    assert town.store.take_meter_events("h", now=AT + 9, lease_seconds=28, limit=9) == []
    found = town.store.ledger()
    assert (found.halted_reason, found.halted_at) == ("It is a copy.", AT)
    assert set(town.states) == {ReportState.PENDING}


def test_a_person_ends_it(town: Town) -> None:
    """It ends on a person's word, which the audit log keeps; then all goes on."""
    script(town).script = [DUPLICATE]
    town.reporter.step(1)
    assert town.store.resume_reporting(audit=entry(town)) == town.reporter.halted
    assert town.store.resume_reporting(audit=entry(town)) is None
    assert [e.action for e in town.store.audit()] == ["usage.resume"]
    assert (town.reporter.step(10), town.reporter.halted) == (BUYERS - 1, None)


def test_the_ledger_is_away_when_it_is_noticed(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """What shows the ledger to be a copy is not forgotten while it cannot be written down: nothing else is sent, and
    it is written before anything is taken (L6)."""
    script(town).script = [DUPLICATE]

    def away(*_: Any, **__: Any) -> NoReturn:
        raise StoreUnavailable

    monkeypatch.setattr(town.store, "settle_meter_events", away)
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            town.reporter.step(1)
    monkeypatch.undo()
    town.reporter.step(10)
    assert (len(script(town).sent), town.reporter.halted is not None) == (1, True)
    assert sorted(town.states) == [ReportState.DOUBTFUL] + [ReportState.PENDING] * 5


def test_a_step_beside_it(town: Town) -> None:
    """Two threads share a reporter: what one has noticed is not forgotten when the other begins a step (L6)."""
    script(town).script = [DUPLICATE]

    def beside(jobs: Sequence[Callable[[], None]]) -> None:
        jobs[0]()
        town.reporter.step(10)
        for job in jobs[1:]:
            job()

    town.reporter.step(3, beside)
    assert (len(script(town).sent), town.reporter.halted is not None) == (1, True)


def test_a_settlement_heeds_it(shop: Shop) -> None:
    """A change that needs all usage settled is refused at once while reporting is halted, and sends nothing."""
    buyer = shop.buy()
    shop.call(buyer.key, 3)
    shop.store.halt_reporting("It is a copy.", now=shop.clock.now_at())
    account = shop.account(buyer)
    background = shop.runtime.background
    reporter = Reporter(shop.store, shop.provider, shop.clock, shop.entropy)
    settlement = Settlement(shop.store, shop.provider, shop.clock, background.sealer, reporter, lambda _: None)

    def cancel() -> object:
        raise AssertionError("nothing may be changed")

    shop.store.bind_ledger(shop.provider.account().id, False)
    shop.runtime.presence.leave()
    sent = shop.asked.count("POST /v1/billing/meter_events")
    with pytest.raises(SettlementMissed, match="It is a copy"):
        settlement.run(account, cancel)
    assert shop.asked.count("POST /v1/billing/meter_events") == sent
    assert shop.store.subscriptions(account.id)[0].status == "active"


def test_what_settles_a_restore_ends_it(shop: Shop) -> None:
    """`reconcile --after-restore` ends the halt, and readiness says degraded until then."""
    buyer = shop.buy()
    shop.call(buyer.key, 2)
    background = shop.runtime.background
    shop.store.halt_reporting("It is a copy.", now=shop.clock.now_at())
    background._report_step()
    assert shop.client.get("/billing/readyz").json() == {"status": "degraded"}
    assert background.reporter.halted == "It is a copy."
    restorer = Restorer(shop.store, shop.provider, shop.clock, shop.entropy, shop.catalog)
    restorer.run(audit=entry(shop))
    background._report_step()
    assert shop.client.get("/billing/readyz").json() == {"status": "ready"}
    reporter = Reporter(shop.store, shop.provider, shop.clock, shop.entropy)
    assert reporter.look() is None
