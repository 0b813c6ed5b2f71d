"""A ledger at work on the recording disk, and what of its promises is left in images of a loss of power."""

import random
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.power.disk import Disk, recording

from farebox.domain.accounts import Account
from farebox.domain.catalog import Catalog, Meter
from farebox.domain.reports import Outcome, OutcomeKind, ReportState, Settlement
from farebox.domain.usage import BUCKET_SECONDS, Batch, Increment
from farebox.metering.sealer import Sealer
from farebox.store import sqlite
from farebox.store.sql import SqlStore
from farebox.system import SystemEntropy

__all__ = ["Losses", "lose_power"]

START_AT = 1_800_000_000
BATCHES = 60
CHECKPOINT_PAGES = 20  # often, so that images fall into checkpoints too


@dataclass
class Losses:
    """Over all images: promised batches that were gone, and what else was broken."""

    images: int = 0
    lost: int = 0
    broken: int = 0


class StandingClock:
    """A clock that the workload moves."""

    at = START_AT

    def now_at(self) -> int:
        return self.at

    system_at = now_at

    def monotonic_ms(self) -> int:
        return self.at * 1000


def lose_power(seed: int, images: int, *, synchronous: str = "FULL") -> Losses:
    """Run one workload drawn from the seed, lose power at so many of its moments, and look at what is left."""
    chance = random.Random(seed)
    losses = Losses()
    with tempfile.TemporaryDirectory() as name:
        with recording(synchronous=synchronous) as disk:
            began = work(Path(name) / "ledger.db", disk, chance)
        place = Path(name) / "found"
        place.mkdir()
        for number in range(images):
            at = chance.randrange(began, len(disk.steps) + 1)
            examine(disk, at, chance if number % 2 else None, place, losses)
    return losses


def work(path: Path, disk: Disk, chance: random.Random) -> int:
    """Batches of usage, seals and deliveries. Returns the step from which on the ledger promises anything."""
    clock, entropy = StandingClock(), SystemEntropy()
    store = SqlStore(f"sqlite:///{path}", clock, entropy)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite, "CHECKPOINT_PAGES", CHECKPOINT_PAGES)  # for every connection that is made
        return _work(store, clock, entropy, disk, chance)


def _work(store: SqlStore, clock: StandingClock, entropy: SystemEntropy, disk: Disk, chance: random.Random) -> int:
    store.open()
    store.add_account(Account("acct_1", START_AT, customer_id="cus_1"))
    sealer = Sealer(store, clock, Catalog(meters={"calls": Meter("calls", "Calls", "calls")}, plans={}, routes=()))
    began = len(disk.steps)
    for number in range(1, BATCHES + 1):
        start = clock.at - clock.at % BUCKET_SECONDS
        increments = tuple(
            Increment("acct_1", "calls", f"key_{chance.randrange(8)}", "GET /api", start, 1, 1, clock.at)
            for _ in range(chance.randrange(1, 12))
        )
        # The first increment of each batch tells it apart: one row of its own.
        mark = Increment("acct_1", "marks", f"batch_{number:04}", "GET /api", start, 1, 1, clock.at)
        store.commit_batch(Batch("writer_1", number, entropy.token(), (mark, *increments)))
        disk.promise()
        clock.at += chance.randrange(1, 400)
        if chance.random() < 0.3:
            sealer.step(hard=True)
        if chance.random() < 0.3:
            deliver(store, clock)
    store.close()
    return began


def deliver(store: SqlStore, clock: StandingClock) -> None:
    taken = store.take_meter_events("holder", now=clock.at, lease_seconds=60, limit=10)
    delivered = Outcome(OutcomeKind.DELIVERED)
    settled = [Settlement(event, delivered, ReportState.DELIVERED, event.transport) for event in taken]
    store.settle_meter_events("holder", settled, now=clock.at)


def examine(disk: Disk, at: int, chance: random.Random | None, place: Path, losses: Losses) -> None:
    """Find the ledger as after a loss of power: whole, with every promised batch, and with none of them in part."""
    for old in place.iterdir():
        old.unlink()
    for file, content in disk.image(at, chance).items():
        if not file.endswith("-shm"):
            (place / file).write_bytes(content)
    promised = sum(step.what == "promise" for step in disk.steps[:at])
    losses.images += 1
    try:
        with closing(sqlite3.connect(place / "ledger.db")) as found:
            whole = found.execute("PRAGMA integrity_check").fetchone()[0]
            marks = found.execute("SELECT count(*) FROM usage WHERE meter = 'marks'").fetchone()[0]
            number = found.execute("SELECT max(batch) FROM writers").fetchone()[0] or 0
            used = found.execute("SELECT sum(quantity) FROM usage").fetchone()[0] or 0
            sealed = found.execute("SELECT sum(value) FROM meter_events").fetchone()[0] or 0
    except sqlite3.DatabaseError:
        losses.broken += 1
        return
    losses.lost += marks < promised
    losses.broken += whole != "ok" or number != marks or marks > promised + 1 or sealed > used
