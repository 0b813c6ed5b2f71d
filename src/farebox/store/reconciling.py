"""What the reconciler reads: what the ledger has of a period, meter by meter, and since when something differs."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from farebox.domain.balance import LAG_SECONDS_MAX, Balance
from farebox.domain.corrections import NO_METER
from farebox.domain.periods import BillingPeriod
from farebox.domain.reports import CELL_SECONDS, ReportState
from farebox.store import tables as t
from farebox.store.corrections import adjusted_quantities, used_quantities
from farebox.store.engine import Database, rerun, upsert
from farebox.store.late_items import late_groups
from farebox.store.reports import IS_OF_USAGE

__all__ = ["ReconcilingTables", "balances_of", "unsealed_buckets"]

_OPEN = ("pending", "sending")


class ReconcilingTables:
    """The part of the Store that knows whether the money is right."""

    _database: Database

    def balances(self, period: BillingPeriod, *, now: int) -> dict[str, Balance]:
        with self._database.read() as connection:
            return balances_of(connection, period, now)

    def neighbours(self, period: BillingPeriod, meter: str) -> int:
        m = t.meter_events.c
        first = period.start - period.start % CELL_SECONDS
        last = period.end + -period.end % CELL_SECONDS
        query = sa.select(sa.func.coalesce(sa.func.sum(m.value), 0)).where(
            m.account_id == period.account_id,
            m.meter == meter,
            m.state == ReportState.DELIVERED,
            m.timestamp.between(first, period.start - 1) | m.timestamp.between(period.end, last - 1),
        )
        with self._database.read() as connection:
            return int(connection.execute(query).scalar_one())

    def orphans(self, account_id: str, *, since: int) -> dict[str, int]:
        u, p = t.usage.c, t.periods.c
        held = sa.exists().where(p.account_id == u.account_id, p.start <= u.bucket_start, p.end > u.bucket_start)
        query = (
            sa.select(u.meter, sa.func.sum(u.quantity))
            .where(u.account_id == account_id, u.bucket_start >= since, ~held)
            .group_by(u.meter)
        )
        with self._database.read() as connection:
            return {row[0]: int(row[1]) for row in connection.execute(query)}

    def event_names(self, account_id: str) -> dict[str, str]:
        m = t.meter_events.c
        query = sa.select(m.meter, sa.func.max(m.event_name)).where(m.account_id == account_id).group_by(m.meter)
        with self._database.read() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    @rerun
    def note_differences(
        self, account_id: str, found: Mapping[tuple[str, int], str], *, agreed: set[tuple[str, int]], at: int
    ) -> dict[tuple[str, int], int]:
        d = t.differences.c
        with self._database.write() as connection:
            for meter, start in sorted(agreed):
                gone = sa.delete(t.differences).where(d.account_id == account_id, d.meter == meter)
                connection.execute(gone.where(d.period_start == start))
            for (meter, start), reason in sorted(found.items()):
                row = {"account_id": account_id, "meter": meter, "period_start": start, "since_at": at}
                connection.execute(
                    upsert(connection, t.differences)
                    .values(**row, seen_at=at, reason=reason)
                    .on_conflict_do_update(
                        index_elements=["account_id", "meter", "period_start"], set_={"seen_at": at, "reason": reason}
                    )
                )
            rows = connection.execute(sa.select(d.meter, d.period_start, d.since_at).where(d.account_id == account_id))
            return {(row[0], row[1]): row[2] for row in rows}

    def difference_count(self) -> int:
        with self._database.read() as connection:
            return int(connection.execute(sa.select(sa.func.count()).select_from(t.differences)).scalar_one())


def balances_of(connection: Connection, period: BillingPeriod, now: int) -> dict[str, Balance]:
    """By meter: what was used, corrected, sealed, sent and billed late, of all that touches the period. A meter whose
    item came later is counted from then on."""
    found = _balances(connection, period, period.start, now)
    for item in period.items:
        if period.start < item.period.start < period.end:
            found[item.meter] = _balances(connection, period, item.period.start, now).get(item.meter, Balance())
    return found


def _balances(connection: Connection, period: BillingPeriod, start: int, now: int) -> dict[str, Balance]:
    account_id, end = period.account_id, period.end
    used = used_quantities(connection, account_id, start, end)
    adjusted = adjusted_quantities(connection, account_id, start, end)
    stamped = _events(connection, account_id, t.meter_events.c.timestamp, start, end, now)
    bucketed = _events(connection, account_id, t.meter_events.c.bucket_start, start, end, now)
    unsealed: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for meter, bucket, quantity, last_used_at in unsealed_buckets(connection, period):
        if bucket >= start:
            unsealed[meter].append((quantity, last_used_at))
    late = late_groups(connection, period)
    meters = {*used, *adjusted, *stamped, *bucketed, *late, *(item.meter for item in period.items)}
    found = {}
    for meter in sorted(meters):
        states, own = stamped[meter], bucketed[meter]
        waits = [last for _, last in unsealed[meter]] + ([states["waits"]] if states["waits"] else [])
        found[meter] = Balance(
            used=used.get(meter, 0),
            adjusted=adjusted.get(meter, 0),
            moved=states["counted"] - own["counted"],
            unsealed=sum(quantity for quantity, _ in unsealed[meter]),
            pending=states["pending"] + states["sending"],
            delivered=states["delivered"],
            rejected=states["rejected"],
            doubtful=states["doubtful"],
            withdrawn=states["withdrawn"],
            uncertain=states["uncertain"],
            fresh=states["fresh"],
            late=sum(group.quantity for group in late[meter]) if meter != NO_METER else 0,
            late_items=tuple(late[meter]),
            oldest_waiting_at=min(waits, default=None),
            foreign_name=states["foreign"] > 0,
        )
    return found


def unsealed_buckets(connection: Connection, period: BillingPeriod) -> list[tuple[str, int, int, int]]:
    """Meter, bucket, units that no meter event holds, and the last use, of the period's buckets that have any."""
    u, m = t.usage.c, t.meter_events.c
    used = sa.select(u.meter, u.bucket_start, sa.func.sum(u.quantity), sa.func.max(u.last_used_at)).where(
        u.account_id == period.account_id, u.bucket_start >= period.start, u.bucket_start < period.end
    )
    done = sa.select(m.meter, m.bucket_start, sa.func.sum(m.value)).where(
        m.account_id == period.account_id, m.bucket_start >= period.start, m.bucket_start < period.end, IS_OF_USAGE
    )
    sealed = {(r[0], r[1]): int(r[2]) for r in connection.execute(done.group_by(m.meter, m.bucket_start))}
    rows = connection.execute(used.group_by(u.meter, u.bucket_start).order_by(u.meter, u.bucket_start))
    found = [(r[0], r[1], int(r[2]) - sealed.get((r[0], r[1]), 0), r[3]) for r in rows]
    return [bucket for bucket in found if bucket[2] != 0]


def _events(
    connection: Connection, account_id: str, when: Any, start: int, end: int, now: int
) -> dict[str, dict[str, int]]:
    """Units of the meter events with `when` in [start, end): by meter, by state and by what is known of them."""
    m = t.meter_events.c
    unknown = m.first_unknown_at.is_not(None)
    fresh = sa.case((m.settled_at > now - LAG_SECONDS_MAX, m.value), else_=0)
    query = (
        sa.select(m.meter, m.state, unknown, sa.func.sum(m.value), sa.func.min(m.created_at), sa.func.sum(fresh))
        .where(m.account_id == account_id, when >= start, when < end, m.kind != "void")
        .group_by(m.meter, m.state, unknown)
    )
    found: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for meter, state, is_unknown, value, created_at, recent in connection.execute(query):
        sums, units = found[meter], int(value)
        sums[state] += units
        sums["counted"] += units
        if state in _OPEN:
            sums["waits"] = min(sums["waits"] or created_at, created_at)
        if state in ("sending", "doubtful") or (state == "pending" and is_unknown):
            sums["uncertain"] += units
        if state == "doubtful" and not is_unknown:
            sums["foreign"] += 1
        if state == "delivered":
            sums["fresh"] += int(recent)
    return found
