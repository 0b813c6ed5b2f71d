"""Backups as the manual tells to make them, of an open ledger, restored and settled, on each kind of database."""

import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from tests.contract.test_reconciling import answer, balance, conserved, record, subscribed
from tests.contract.test_store import AT, HOUR, of, plan, used
from tests.postgres import Cluster

from farebox.domain.audit import AuditEntry
from farebox.domain.reports import OutcomeKind, ReportState
from farebox.domain.restoring import Share, Span
from farebox.store.sql import SqlStore


def copied(source: str, folder: Path, request: pytest.FixtureRequest) -> str:
    """A backup made beside the open ledger, and restored elsewhere. Where that is."""
    if source.startswith("sqlite"):
        backup = folder / "backup.db"
        with closing(sqlite3.connect(source.removeprefix("sqlite:///"))) as connection:
            connection.execute("VACUUM INTO ?", [str(backup)])
        return f"sqlite:///{backup}"
    cluster: Cluster = request.getfixturevalue("cluster")
    dump, target = folder / "farebox.dump", cluster.fresh(empty=True)
    subprocess.run([cluster.programs / "pg_dump", "--format=custom", f"--file={dump}", source], check=True)
    subprocess.run([cluster.programs / "pg_restore", "--no-owner", f"--dbname={target}", dump], check=True)
    return target


@pytest.mark.parametrize("kind", ["file", "postgres"])
def test_a_backup_is_whole_and_settles(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """F27, L6: the copy has what was acknowledged before it and nothing after; told what Stripe has since, each unit is
    in one place, and the new life seals only what is new."""
    cluster: Cluster | None = request.getfixturevalue("cluster") if kind == "postgres" else None
    url = cluster.fresh() if cluster is not None else f"sqlite:///{tmp_path / 'ledger.db'}"
    store = of(url)
    store.open()
    period = subscribed(store)
    record(store, used(3))
    store.seal(plan, now=AT, hard=True)
    answer(store, OutcomeKind.DELIVERED, ReportState.DELIVERED, now=AT + 60)
    record(store, used(2))
    target = copied(url, tmp_path, request)
    record(store, used(4))
    store.close()
    restored: SqlStore = of(target)
    restored.open()
    assert (balance(restored, period).used, balance(restored, period).unsealed) == (5, 2)
    found = Share(Span(AT, AT + HOUR, AT), covered=2, imported=4)
    restored.import_share("acc_1", "calls", "farebox_calls", found, now=AT + HOUR)
    restored.renew_ledger("new", "epoch", audit=AuditEntry("aud_1", AT, "ada", "restore", "ledger"))
    record(restored, used(1))
    assert [event.value for event in restored.seal(plan, now=AT + HOUR, hard=True)] == [1]
    settled = balance(restored, period)
    assert (settled.used, settled.delivered, settled.unsealed) == (10, 9, 0)
    assert conserved(settled)
    restored.close()
    if cluster is not None:
        cluster.drop(url)
        cluster.drop(target)
