"""Looking at a ledger from outside: plain rows for the oracle, read by SQL and not by the code under test."""

import sqlite3
from collections.abc import Iterable
from typing import Any

from sqlalchemy.engine import Connection
from tests.oracle import Sealed

__all__ = ["buckets", "events", "is_quiet", "late", "totals", "waiting", "work_waits"]

_WORK = """
SELECT EXISTS (SELECT 1 FROM usage WHERE dirty)
    OR EXISTS (SELECT 1 FROM meter_events WHERE state IN ('pending', 'sending') AND next_attempt_at <= ?)
    OR EXISTS (SELECT 1 FROM meter_events WHERE state = 'doubtful')
"""


Ledger = Connection | sqlite3.Connection


def _ask(connection: Ledger, query: str, values: tuple[Any, ...] = ()) -> Iterable[Any]:
    raw = connection.execute(query, values) if isinstance(connection, sqlite3.Connection) else None
    return raw if raw is not None else connection.exec_driver_sql(query, values)  # type: ignore[union-attr]


def totals(connection: Ledger) -> dict[tuple[str, str], int]:
    """Usage by account and meter."""
    rows = _ask(connection, "SELECT account_id, meter, SUM(quantity) FROM usage GROUP BY 1, 2")
    return {(row[0], row[1]): row[2] for row in rows}


def buckets(connection: Ledger, since: int = 0) -> dict[tuple[str, str, int], int]:
    """Usage by account, meter and bucket, of the buckets that begin at `since` or later."""
    rows = _ask(
        connection,
        "SELECT account_id, meter, bucket_start, SUM(quantity) FROM usage WHERE bucket_start >= ? GROUP BY 1, 2, 3",
        (since,),
    )
    return {(row[0], row[1], row[2]): row[3] for row in rows}


def events(connection: Ledger, since: int = 0) -> list[Sealed]:
    """Every meter event of those buckets."""
    rows = _ask(
        connection,
        "SELECT identifier, account_id, meter, bucket_start, value, timestamp, state, reason, kind FROM meter_events "
        "WHERE bucket_start >= ?",
        (since,),
    )
    return [Sealed._make((*row[:-1], row[-1] == "adjustment")) for row in rows]


def work_waits(raw: sqlite3.Connection, now: int) -> bool:
    """Whether there is anything that a reporter might do now."""
    return bool(raw.execute(_WORK, (now,)).fetchone()[0])


def late(connection: Ledger) -> int:
    """What is billed by invoice items, of periods whose invoices were final."""
    return int(next(iter(_ask(connection, "SELECT COALESCE(SUM(quantity), 0) FROM late_items")))[0])


def is_quiet(raw: sqlite3.Connection) -> bool:
    """Whether all usage is sealed and nothing is on its way."""
    waiting = "SELECT EXISTS (SELECT 1 FROM usage WHERE dirty) OR EXISTS (SELECT 1 FROM meter_events WHERE state IN "
    return not raw.execute(waiting + "('pending', 'sending'))").fetchone()[0]


def waiting(connection: Ledger, account: str, customer: str) -> dict[str, int]:
    """What waits of all accounts but one, by kind. Events in doubt wait for Stripe's sums, which may take days (L9)."""
    kinds = {
        "webhooks": ("SELECT COUNT(*) FROM events WHERE done_at IS NULL AND work <> ?", customer),
        "unsealed rows": ("SELECT COUNT(*) FROM usage WHERE dirty AND account_id <> ?", account),
        "meter events": (
            "SELECT COUNT(*) FROM meter_events WHERE state IN ('pending', 'sending') AND first_unknown_at IS NULL "
            "AND account_id <> ?",
            account,
        ),
        "late items": ("SELECT COUNT(*) FROM late_items WHERE invoice_item_id IS NULL AND account_id <> ?", account),
    }
    return {kind: int(next(iter(_ask(connection, query, (who,))))[0]) for kind, (query, who) in kinds.items()}
