"""Every pair of transactions on one account, the first paused after each of its statements (F33)."""

from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from tests.contract.test_store import of
from tests.interleave.stage import Stage, Stages
from tests.interleave.transactions import TRANSACTIONS, faults_of
from tests.interleave.turns import WAITING, Interleaver, Run, meets
from tests.postgres import Cluster

from farebox.store.sql import SqlStore

PAIRS: Final = list(product(TRANSACTIONS, TRANSACTIONS))
ON_SQLITE: Final = list(product(("seal", "take_meter_events"), TRANSACTIONS))  # which look before they lock
_OURS: Final = "?options=-c%20deadlock_timeout%3D20ms"  # two that wait for each other are told at once


class Ground:
    """One ledger with a connection for each side, and one of the test's own."""

    def __init__(self, url: str, waits: Callable[[], bool] | None) -> None:
        self.first, self.second, self.own = of(url), of(url), of(url)
        for store in (self.own, self.first, self.second):
            store.open()
        self.stages = Stages(self.own)
        self.interleaver = Interleaver(self.first.database, self.second.database, waits)
        self._alone: dict[str, list[str]] = {}

    def close(self) -> None:
        self.interleaver.close()
        for store in (self.first, self.second, self.own):
            store.close()

    def run(self, first: str, second: str, pause_after: int) -> tuple[Stage, Run]:
        stage = self.stages.next(self.own)

        def call(name: str, store: SqlStore, side: str) -> Callable[[], Any]:
            return lambda: TRANSACTIONS[name].run(store, stage, side)

        return stage, self.interleaver.run(
            call(first, self.first, "a"), call(second, self.second, "b"), pause_after=pause_after
        )

    def statements(self, name: str) -> list[str]:
        """Those that the transaction makes when nobody else is there."""
        if name not in self._alone:
            stage = self.stages.next(self.own)
            call = TRANSACTIONS[name].run
            alone = self.interleaver.run(lambda: call(self.first, stage, "a"), lambda: None, pause_after=0)
            self._alone[name] = alone.statements
        return self._alone[name]


@pytest.fixture(scope="module")
def postgres(cluster: Cluster) -> Iterator[Ground]:
    url = cluster.fresh()
    with psycopg.connect(url, autocommit=True) as monitor:
        ground = Ground(url + _OURS, lambda: monitor.execute(WAITING).fetchone() is not None)
        yield ground
        ground.close()
    cluster.drop(url)


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    folder: Path = tmp_path_factory.mktemp("interleave")
    ground = Ground(f"sqlite:///{folder / 'ledger.db'}", None)
    yield ground
    ground.close()


def _judge(ground: Ground, first: str, second: str, pause_after: int) -> list[int]:
    """Let both run, hold the ledger against its promises, and name the statements after which a pause can matter."""
    alone = ground.statements(second)
    stage, run = ground.run(first, second, pause_after)
    others = [*run.others, *alone]
    places = [n for n, statement in enumerate(run.statements, start=1) if meets(statement, others)]
    if places:  # else the two have nothing to do with each other
        faults = faults_of(stage, [(first, run.first), (second, run.second)])
        assert not faults, f"{first} beside {second}, {run}\n" + "\n".join(faults)
    return places


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_two_at_once(postgres: Ground, first: str, second: str) -> None:
    """F33, I3, I4, I15: on PostgreSQL no place at which a transaction can be overtaken loses, doubles or strands a
    unit: what is unsealed or late keeps its hint, late items come to what the invoice lacks, a claim is taken once."""
    for place in _judge(postgres, first, second, 0):
        _judge(postgres, first, second, place)


@pytest.mark.parametrize(("first", "second"), ON_SQLITE, ids=["-".join(pair) for pair in ON_SQLITE])
def test_two_at_once_on_sqlite(sqlite: Ground, first: str, second: str) -> None:
    """F33: on SQLite the second waits, or goes first where the first has only looked, and the same holds."""
    for place in _judge(sqlite, first, second, 0)[:1]:
        _judge(sqlite, first, second, place)
