"""The account on which pairs of transactions are interleaved: made once through the Store, copied for every run.

It has a period whose invoice is final, with usage that came late for it, and one that has just ended, with usage in
every state on its way to the provider. `Stage.faults` says which promise the ledger does not keep any more.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final

import sqlalchemy as sa
from tests.contract.test_store import AT, DAY, HOUR, key

from farebox.domain.accounts import Account, Checkout, Subscription, SubscriptionItem
from farebox.domain.audit import AuditEntry
from farebox.domain.balance import Balance
from farebox.domain.catalog import Price
from farebox.domain.corrections import NO_METER, Adjustment, late_amount, minimum_due
from farebox.domain.inbox import InboxEvent, InboxWork
from farebox.domain.invoices import MeterBill, PeriodBill
from farebox.domain.periods import BillingPeriod
from farebox.domain.reports import (
    MeterEvent,
    Outcome,
    OutcomeKind,
    ReportState,
    Settlement,
    Transport,
    Unsealed,
    freeze,
    seal,
)
from farebox.domain.usage import Batch, Increment, Period
from farebox.ports import ProcessRow
from farebox.store import tables as t
from farebox.store.periods import read_period
from farebox.store.reconciling import balances_of
from farebox.store.sql import SqlStore

__all__ = ["END", "MIDDLE", "NOW", "Stage", "Stages", "bill", "late_plan", "plan"]

MIDDLE: Final = AT + 30 * DAY  # the first period ends and the second begins
END: Final = AT + 60 * DAY
NOW: Final = END + 3 * HOUR
COPIED: Final = "PROTO"  # in every id of the original; each copy has a number in its place
LATE_ROUNDS_MAX: Final = 3
_HASHED: Final = ("identifier", "idempotency_key")
_GLOBAL: Final = frozenset({"ledger", "feed", "feed_head"})


def plan(unsealed: Unsealed) -> MeterEvent | None:
    return seal("ledger", unsealed, f"farebox_{unsealed.meter}", NOW)


def late_plan(bucket: Unsealed, quantity: int) -> MeterEvent:
    return freeze("ledger", bucket, f"farebox_{bucket.meter}", NOW, quantity)


def subscription(start: int, end: int, status: str = "active") -> Subscription:
    items = tuple(
        SubscriptionItem(f"si_{meter}", f"price_{meter}", Price(meter, Decimal(1)), "usd", Period(start, end), minimum)
        for meter, minimum in (("calls", 40), ("tokens", 0))
    )
    return Subscription(f"sub_{COPIED}", f"cus_{COPIED}", "payg", status, AT, items)


@dataclass(frozen=True, slots=True)
class Stage:
    """One copy. `base` is what had been used, by bucket and meter, before anything was interleaved; `request`
    is the idempotency key that two delivered events shared."""

    store: SqlStore
    number: str
    first: BillingPeriod
    second: BillingPeriod
    base: dict[tuple[int, str], int]
    parked: tuple[str, ...]
    delivered: str
    request: str
    sending: MeterEvent
    work: InboxWork
    late_item_id: str

    def id(self, kind: str) -> str:
        return f"{kind}_{self.number}"

    @property
    def account_id(self) -> str:
        return self.id("acc")

    def subscription(self, start: int, end: int, status: str = "active") -> Subscription:
        made = subscription(start, end, status)
        return replace(made, id=self.id("sub"), customer_id=self.id("cus"))

    def writer(self) -> str:
        return f"{self.id('pro')}-1"

    def batch(self) -> Batch:
        """The next batch of a writer that lives: usage of either period, in rows that are there and in new ones."""
        rows = (("calls", AT, 1), ("calls", MIDDLE, 3), ("calls", MIDDLE + 5 * HOUR, 5), ("tokens", MIDDLE, 7))
        used = (Increment(self.account_id, m, "", "late", at, n, 1, at + 9) for m, at, n in rows)
        return Batch(self.writer(), 2, "second", tuple(used))

    def records(self, writer: str) -> Batch:
        """The same two records, from whichever process sends them."""
        return Batch(
            self.id(writer),
            1,
            writer,
            tuple(
                Increment(self.account_id, "calls", "", "record", at, 11, 1, at + 9, f"id-{at}") for at in (AT, MIDDLE)
            ),
        )

    def heal(self) -> bool:
        """Let what is to run again run again, led by hints alone. Whether it comes to an end."""
        for _ in range(LATE_ROUNDS_MAX):
            self.store.seal(plan, now=NOW, hard=True, account_ids=[self.account_id])
            periods = self.store.closed_with_late_usage(limit=9)
            if not periods:
                return True
            for period in periods:
                self.store.bill_late(period, plan=late_plan, now=NOW)
        return False

    def faults(self, connection: sa.Connection, counted: dict[tuple[int, str], int]) -> list[str]:
        """What does not hold once all is quiet. `counted` is what was used beside the base."""
        found = []
        expected = {place: self.base.get(place, 0) + counted.get(place, 0) for place in {*self.base, *counted}}
        u = t.usage.c
        sums = sa.select(u.bucket_start, u.meter, sa.func.sum(u.quantity)).where(u.account_id == self.account_id)
        used = {(row[0], row[1]): int(row[2]) for row in connection.execute(sums.group_by(u.bucket_start, u.meter))}
        if used != expected:
            found.append(f"used {used}, acknowledged {expected}")
        late = t.late_items
        items = connection.execute(sa.select(late).where(late.c.account_id == self.account_id)).all()
        p = t.periods.c
        periods = sa.select(t.periods).where(p.account_id == self.account_id, p.start.in_([AT, MIDDLE]))
        for row in connection.execute(periods).all():
            of_period = [one for one in items if one.period_start == row.start]
            balances = balances_of(connection, read_period(row), NOW)
            found += _not_conserved(row.start, balances, closed=row.billed is not None)
            if row.billed is not None:
                billed = {meter: values[0] for meter, values in json.loads(row.billed).items()}
                found += _not_billed(read_period(row), balances, billed, of_period)
        head = connection.execute(sa.select(t.feed_head.c.n)).scalar_one()
        last = connection.execute(sa.select(sa.func.max(t.feed.c.n))).scalar()
        if last is not None and last != head:
            found.append(f"the feed's head is {head} and its last change {last}")
        return found


def _not_conserved(start: int, balances: dict[str, Balance], *, closed: bool) -> list[str]:
    """All that was used is in meter events, once, unless an invoice item bills it."""
    found = []
    for meter, balance in balances.items():
        if balance.unsealed < 0:
            found.append(f"{_place(meter, start)}: meter events hold {-balance.unsealed} more than was used")
        if balance.unsealed and not closed:
            found.append(f"{_place(meter, start)}: {balance.unsealed} units have no hint and no meter event")
    return found


def _not_billed(
    period: BillingPeriod, balances: dict[str, Balance], billed: dict[str, int], items: Sequence[Any]
) -> list[str]:
    """Of a period whose invoice is final: invoice and items come to the ledger, and nothing is left to send."""
    found = []
    for meter, balance in balances.items():
        if meter == NO_METER:  # the minimum, which has no units
            continue
        place, invoiced = _place(meter, period.start), billed.get(meter, 0)
        if balance.ledger != invoiced + balance.late:
            found.append(f"{place}: ledger {balance.ledger}, invoice {invoiced}, late items {balance.late}")
        price = next(item.price for item in period.items if item.meter == meter)
        amount = sum(one.amount for one in items if one.meter == meter)
        if amount != late_amount(invoiced, balance.late, price):
            found.append(f"{place}: late items of {amount} for {balance.late} units")
        if balance.pending:
            found.append(f"{place}: {balance.pending} units are still to be sent, and their invoice is final")
    due = minimum_due(period, {meter: balance.ledger for meter, balance in balances.items()})
    charged = sum(one.amount for one in items if one.meter == NO_METER)
    if charged != due:
        found.append(f"minimum of the period from {period.start}: {charged} charged, {due} due")
    return found


def _place(meter: str, start: int) -> str:
    return f"{meter} of the {'first' if start == AT else 'second'} period"


class Stages:
    """Makes copies of the original on one database, one at a time: what the last one left is removed."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store
        self._made = 0
        account_id = f"acc_{COPIED}"
        self._original(account_id)
        with store.database.read() as connection:
            self._script = _script(connection)
            u = t.usage.c
            sums = sa.select(u.bucket_start, u.meter, sa.func.sum(u.quantity)).group_by(u.bucket_start, u.meter)
            self._base = {(row[0], row[1]): int(row[2]) for row in connection.execute(sums)}
        events = [_renamed(event) for event in store.meter_events(limit=99)]
        self._parked = tuple(e.identifier for e in events if e.state in (ReportState.REJECTED, ReportState.DOUBTFUL))
        self._delivered = next(
            e.identifier
            for e in events
            if e.state is ReportState.DELIVERED and e.meter == "calls" and e.bucket_start == MIDDLE
        )
        self._first, self._second = store.periods(account_id)
        self._sending = next(e for e in events if e.state is ReportState.SENDING)
        (self._late_item,) = [one for one in store.late_items(account_id) if one.meter == "calls"]

    def next(self, store: SqlStore) -> Stage:
        """A fresh copy, looked at through this store."""
        self._made += 1
        number = f"{self._made:05}"

        def own(text: str) -> str:
            return text.replace(COPIED, number)

        with self._store.database.write() as connection:
            cursor = connection.connection.cursor()
            script = own(self._script)
            if connection.dialect.name == "sqlite":
                for statement in script.split(";\n"):
                    cursor.execute(statement)
            else:
                cursor.execute(script)
            cursor.close()
        work, account_id = self._work, f"acc_{COPIED}"
        return Stage(
            store=store,
            number=number,
            first=replace(self._first, account_id=own(account_id), subscription_id=own(self._first.subscription_id)),
            second=replace(self._second, account_id=own(account_id), subscription_id=own(self._first.subscription_id)),
            base=self._base,
            parked=tuple(map(own, self._parked)),
            delivered=own(self._delivered),
            request=own(f"{COPIED}request_{COPIED}"),
            sending=replace(
                self._sending, identifier=own(self._sending.identifier), account_id=own(self._sending.account_id)
            ),
            work=replace(
                work,
                name=own(work.name),
                customer_id=own(str(work.customer_id)),
                events=tuple(replace(event, id=own(event.id)) for event in work.events),
            ),
            late_item_id=own(f"{COPIED}{self._late_item.id}"),
        )

    def _original(self, account_id: str) -> None:
        store, writer = self._store, f"pro_{COPIED}-1"
        store.add_account(Account(account_id, AT, customer_id=f"cus_{COPIED}"))
        store.add_key(replace(key(f"key_{COPIED}", account_id), digest=f"digest_{COPIED}"))
        store.add_checkout(Checkout(f"cs_{COPIED}", account_id, "payg", AT))
        store.beat(ProcessRow(f"pro_{COPIED}", "host", 1, AT, AT, 0, 1))
        self._record(writer, [("calls", AT, 5)])
        self._deliver(account_id)
        self._apply(account_id, subscription(AT, MIDDLE))
        (first,) = store.periods(account_id)
        store.close_period(first, bill("in_1", 5), plan=late_plan, now=NOW)
        self._record(f"late_{COPIED}", [("calls", AT, 2)])
        store.bill_late(first, plan=late_plan, now=NOW)
        self._apply(account_id, subscription(MIDDLE, END))
        self._record(f"w1_{COPIED}", [("calls", MIDDLE, 10), ("tokens", MIDDLE, 2)])
        self._deliver(account_id, request=f"request_{COPIED}")
        for hour, state in ((1, ReportState.REJECTED), (2, ReportState.DOUBTFUL)):
            self._record(f"w{hour + 1}_{COPIED}", [("calls", MIDDLE + hour * HOUR, 2 + hour)])
            self._deliver(account_id, state)
        self._record(f"w4_{COPIED}", [("tokens", MIDDLE, 4)])
        self._seal(account_id)
        store.take_meter_events("proto", now=NOW, lease_seconds=DAY, limit=9)
        self._record(f"w5_{COPIED}", [("calls", MIDDLE + 3 * HOUR, 6)])
        self._seal(account_id)
        adjustment = Adjustment(f"adj_{COPIED}", account_id, "calls", MIDDLE + 9, -1, "r", "ada", NOW)
        audit = AuditEntry(f"aud_{COPIED}", NOW, "ada", "usage_adjusted", account_id, {})

        def correct(bucket: Unsealed) -> MeterEvent:
            return freeze("ledger", bucket, "farebox_calls", NOW, -1, kind="adjustment")

        store.adjust(adjustment, correct, period=Period(MIDDLE, END), bucket_start=MIDDLE, audit=audit)
        # Now what came late for the first period, and what is not sealed yet of the second.
        self._record(f"w6_{COPIED}", [("calls", AT, 4), ("calls", MIDDLE + 5 * HOUR, 7), ("tokens", MIDDLE, 3)])
        event = InboxEvent(f"evt_{COPIED}", "customer.subscription.updated", "sub", f"cus_{COPIED}", NOW, False)
        store.add_event(event, at=NOW)
        work = store.take_inbox("proto", now=NOW, lease_seconds=DAY)
        assert work is not None
        self._work = work

    def _record(self, writer: str, rows: Collection[tuple[str, int, int]]) -> None:
        account_id = f"acc_{COPIED}"
        increments = tuple(Increment(account_id, m, "", "late", at, n, 1, at + 5) for m, at, n in rows)
        self._store.commit_batch(Batch(writer, 1, writer, increments))

    def _apply(self, account_id: str, fetched: Subscription) -> None:
        self._store.put_subscriptions(account_id, (fetched,), fence=self._store.take_fence(account_id), at=AT)

    def _seal(self, account_id: str) -> None:
        self._store.seal(plan, now=NOW, hard=True, account_ids=[account_id])

    def _deliver(self, account_id: str, state: ReportState = ReportState.DELIVERED, request: str = "") -> None:
        self._seal(account_id)
        for event in self._store.take_meter_events("proto", now=NOW, lease_seconds=60, limit=9):
            way = Transport.STREAM if request else event.transport
            settlement = Settlement(event, Outcome(OutcomeKind.DELIVERED), state, way, idempotency_key=request)
            assert self._store.settle_meter_events("proto", [settlement], now=NOW)


def bill(invoice_id: str, calls: int, tokens: int = 0) -> PeriodBill:
    """What a final invoice says, at a price of 1."""
    lines = {"calls": MeterBill(calls, calls, calls), "tokens": MeterBill(tokens, tokens, tokens)}
    return PeriodBill(invoice_id, NOW, lines)


def _renamed(event: MeterEvent) -> MeterEvent:
    return replace(event, identifier=f"{COPIED}{event.identifier}")


def _script(connection: sa.Connection) -> str:
    """SQL that empties the ledger's tables and writes the original into them."""
    tables = [table for table in t.metadata.sorted_tables if table.name not in _GLOBAL]
    lines = [f"DELETE FROM {table.name}" for table in reversed(tables)]  # noqa: S608
    for table in tables:
        rows = [dict(row._mapping) for row in connection.execute(sa.select(table))]
        for row in rows:
            for name in (*_HASHED, *(("id",) if table.name == "late_items" else ())):
                if row.get(name):
                    row[name] = f"{COPIED}{row[name]}"
        if rows:
            statement = sa.insert(table).values(rows)
            lines.append(str(statement.compile(connection, compile_kwargs={"literal_binds": True})))
    return ";\n".join(lines)
