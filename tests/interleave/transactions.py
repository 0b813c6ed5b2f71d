"""The transactions that move money, each as one entry: to interleave a new one with all others, add it to the table.

An entry is called with a stage and the side ("a" or "b") on which it runs, so that both sides can run the same one. It
returns what its caller would believe; `claims` says what must be true of the ledger then.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import sqlalchemy as sa
from tests.contract.test_store import AT, DAY, HOUR, key
from tests.interleave.stage import END, MIDDLE, NOW, Stage, bill, late_plan, plan

from farebox.domain.accounts import Checkout
from farebox.domain.audit import AuditEntry
from farebox.domain.corrections import Adjustment, LateItem, LateItemState
from farebox.domain.reports import (
    MeterEvent,
    Outcome,
    OutcomeKind,
    ReportedError,
    ReportState,
    Settlement,
    Unsealed,
    freeze,
)
from farebox.domain.restoring import Share, Span
from farebox.domain.usage import Batch, Period
from farebox.errors import AdjustmentRefused, FareboxError, StoreError, WriterFenced
from farebox.ports import ProcessRow
from farebox.store import tables as t
from farebox.store.late import _name as item_name
from farebox.store.sql import SqlStore

__all__ = ["TRANSACTIONS", "Transaction", "faults_of"]

Call = Callable[[SqlStore, Stage, str], Any]
Counted = dict[tuple[int, str], int]


@dataclass(frozen=True, slots=True)
class Transaction:
    """`refusals`: what it may raise beside another transaction. Anything else that it raises is a fault."""

    run: Call
    refusals: tuple[type[FareboxError], ...] = ()


def _commit(store: SqlStore, stage: Stage, side: str) -> None:
    store.commit_batch(stage.batch())


def _record(store: SqlStore, stage: Stage, side: str) -> None:
    store.commit_batch(stage.records(side))


def _landed(store: SqlStore, stage: Stage, side: str) -> bool:
    return store.batch_landed(stage.batch())


def _close_writer(store: SqlStore, stage: Stage, side: str) -> None:
    store.close_writer(stage.writer())


def _remove_process(store: SqlStore, stage: Stage, side: str) -> bool:
    return store.remove_process(ProcessRow(stage.id("pro"), "host", 1, AT, AT, 0, 1))


def _seal(store: SqlStore, stage: Stage, side: str) -> list[MeterEvent]:
    return store.seal(plan, now=NOW, hard=True, account_ids=[stage.account_id])


def _take(store: SqlStore, stage: Stage, side: str) -> list[MeterEvent]:
    return store.take_meter_events(side, now=NOW, lease_seconds=DAY, limit=9)


def _settle(store: SqlStore, stage: Stage, side: str) -> set[str]:
    event = stage.sending
    settlement = Settlement(event, Outcome(OutcomeKind.DELIVERED), ReportState.DELIVERED, event.transport)
    return store.settle_meter_events("proto", [settlement], now=NOW)


def _close(store: SqlStore, stage: Stage, side: str) -> list[LateItem]:
    return store.close_period(stage.second, bill("in_2", 10, 2), plan=late_plan, now=NOW)


def _bill_late(store: SqlStore, stage: Stage, side: str) -> list[LateItem]:
    return store.bill_late(stage.first, plan=late_plan, now=NOW)


def _bring_items(store: SqlStore, stage: Stage, side: str) -> list[str]:
    """Take the account's due items and say that they are at Stripe. The ids of those that this side could save."""
    items = store.take_late_items(stage.account_id, now=NOW, lease_end=NOW + HOUR, limit=9)

    def at_stripe(item: LateItem) -> LateItem:
        name, later = f"ii_{item.id}", NOW + DAY
        return replace(item, invoice_item_id=name, state=LateItemState.PENDING, next_look_at=later, lease_end=0)

    return [item.id for item in items if store.save_late_item(item, at_stripe(item))]


def _adopt_item(store: SqlStore, stage: Stage, side: str) -> bool:
    """The item that bills what is late, as it is found at Stripe after a restore."""
    with store.database.read() as connection:
        name = item_name(connection, stage.first, "calls", 7)
    item = LateItem(name, stage.account_id, "calls", AT, MIDDLE, 4, 4, "usd", "known at Stripe", NOW, "ii_2")
    return store.adopt_late_item(item)


def _adjust(store: SqlStore, stage: Stage, side: str) -> Adjustment:
    def correct(bucket: Unsealed) -> MeterEvent:
        return freeze("ledger", bucket, "farebox_calls", NOW, -2, kind="adjustment")

    wanted = Adjustment(stage.id("adjust"), stage.account_id, "calls", MIDDLE + 70, -2, "r", "ada", NOW)
    audit = AuditEntry(stage.id(f"audit_{side}"), NOW, "ada", "usage_adjusted", stage.account_id, {})
    return store.adjust(wanted, correct, period=Period(MIDDLE, END), bucket_start=MIDDLE, audit=audit)


def _retry(store: SqlStore, stage: Stage, side: str) -> list[str]:
    return [e.identifier for e in store.retry_meter_events(stage.parked, suffix=side, now=NOW)]


def _refuse(store: SqlStore, stage: Stage, side: str) -> tuple[list[str], list[str]]:
    return store.refuse_reported(ReportedError("code", "refused", stage.delivered), others=False, now=NOW)


def _send_again(store: SqlStore, stage: Stage, side: str) -> tuple[list[str], list[str]]:
    return store.refuse_reported(ReportedError("code", "of many", stage.request), others=True, now=NOW)


def _renew(store: SqlStore, stage: Stage, side: str) -> bool:
    renewed = stage.subscription(END, END + 30 * DAY)
    return store.put_subscriptions(
        stage.account_id, (renewed,), fence=store.take_fence(stage.account_id), at=END + HOUR
    )


def _end(store: SqlStore, stage: Stage, side: str) -> bool:
    """The second period turns out to have ended early."""
    ended = stage.subscription(MIDDLE, END, "canceled")
    at = MIDDLE + 4 * HOUR
    return store.finish_inbox(stage.work, at=at, account_id=stage.account_id, subscriptions=(ended,))


def _hold(store: SqlStore, stage: Stage, side: str) -> int | None:
    return store.hold_account(stage.account_id, now=NOW, until=NOW + 60)


def _release(store: SqlStore, stage: Stage, side: str) -> None:
    store.release_account(stage.account_id, until=NOW + 60)


def _claim(store: SqlStore, stage: Stage, side: str) -> bool:
    made = key(stage.id(f"claimed_{side}"), stage.account_id)
    return store.claim(stage.id("cs"), made, at=NOW, replaceable_seconds=0)


def _checkout(store: SqlStore, stage: Stage, side: str) -> bool:
    """A purchase in one of two processes: its turn, the sessions that are open, its own session."""
    lease = (stage.id("checkout"), side)
    if store.take_lease(*lease, now=NOW, seconds=60) is None:
        return False
    for one in store.open_checkouts(stage.account_id):
        store.set_checkout_status(one.session_id, "expired")
    return store.add_checkout(Checkout(stage.id(f"sold_{side}"), stage.account_id, "payg", NOW), lease=lease)


def _import(store: SqlStore, stage: Stage, side: str) -> bool:
    """False where what it was to cover has been sealed since it was looked at."""
    start = MIDDLE + 5 * HOUR
    share = Share(Span(start, start + HOUR, start), covered=2, imported=13)
    try:
        store.import_share(stage.account_id, "calls", "farebox_calls", share, now=NOW)
    except StoreError as error:
        if not error.internal.startswith("usage was sealed"):
            raise
        return False
    return True


def _renew_ledger(store: SqlStore, stage: Stage, side: str) -> None:
    audit = AuditEntry(stage.id(f"renewed_{side}"), NOW, "ada", "restore", "ledger", {})
    store.renew_ledger(stage.id("ledger"), side, audit=audit)


TRANSACTIONS: Final[dict[str, Transaction]] = {
    "commit_batch": Transaction(_commit, refusals=(WriterFenced,)),
    "commit_records": Transaction(_record, refusals=(WriterFenced,)),
    "batch_landed": Transaction(_landed, refusals=(WriterFenced,)),
    "close_writer": Transaction(_close_writer),
    "remove_process": Transaction(_remove_process),
    "seal": Transaction(_seal),
    "take_meter_events": Transaction(_take),
    "settle_meter_events": Transaction(_settle),
    "close_period": Transaction(_close),
    "bill_late": Transaction(_bill_late),
    "take_late_items": Transaction(_bring_items),
    "adopt_late_item": Transaction(_adopt_item),
    "adjust": Transaction(_adjust, refusals=(AdjustmentRefused,)),
    "retry_meter_events": Transaction(_retry),
    "refuse_reported": Transaction(_refuse),
    "send_again": Transaction(_send_again),
    "put_subscriptions": Transaction(_renew),
    "finish_inbox": Transaction(_end),
    "hold_account": Transaction(_hold),
    "release_account": Transaction(_release),
    "claim": Transaction(_claim),
    "add_checkout": Transaction(_checkout),
    "import_share": Transaction(_import),
    "renew_ledger": Transaction(_renew_ledger),
}


def faults_of(stage: Stage, results: Sequence[tuple[str, Any]]) -> list[str]:
    """What does not hold after both sides have ended. `results`: name and outcome of each side, the first first."""
    found = [
        f"{name} raised {outcome!r} ({getattr(outcome, 'internal', '')})"
        for name, outcome in results
        if isinstance(outcome, BaseException) and not isinstance(outcome, TRANSACTIONS[name].refusals)
    ]
    outcomes: dict[str, list[Any]] = {}
    for name, outcome in results:
        if not isinstance(outcome, BaseException):
            outcomes.setdefault(name, []).append(outcome)
    if not stage.heal():
        found.append("the hints of late usage never go")
    with stage.store.database.read() as connection:
        found += _of_events(connection, stage, outcomes)
        found += _of_accounts(connection, stage, outcomes)
        return found + stage.faults(connection, _counted(stage, outcomes))


def _counted(stage: Stage, outcomes: dict[str, list[Any]]) -> Counted:
    """The usage that the ledger must hold beside what it held: what was acknowledged, once, and nothing else."""
    batches: list[Batch] = []
    if "commit_batch" in outcomes:
        batches.append(stage.batch())
    elif True in outcomes.get("batch_landed", []):
        raise AssertionError("batch_landed says so of a batch that was never committed")
    if "commit_records" in outcomes:
        batches.append(stage.records("a"))
    counted: Counted = {}
    for batch in batches:
        for one in batch.increments:
            place = (one.bucket_start, one.meter)
            counted[place] = counted.get(place, 0) + one.quantity
    place = (MIDDLE + 5 * HOUR, "calls")
    counted[place] = counted.get(place, 0) + 13 * outcomes.get("import_share", []).count(True)
    return counted


def _of_events(connection: sa.Connection, stage: Stage, outcomes: dict[str, list[Any]]) -> list[str]:
    """Nothing is given out twice, and what was settled stays settled."""
    found = []
    m = t.meter_events.c
    rows = connection.execute(sa.select(m.identifier, m.state).where(m.account_id == stage.account_id)).all()
    states = {row[0]: row[1] for row in rows}
    of_id = sa.select(sa.func.count()).select_from(t.adjustments).where(t.adjustments.c.id == stage.id("adjust"))
    adjusted = connection.execute(of_id).scalar_one()
    taken = [event.identifier for events in outcomes.get("take_meter_events", []) for event in events]
    sealed = [event.identifier for events in outcomes.get("seal", []) for event in events]
    retried = [identifier for names in outcomes.get("retry_meter_events", []) for identifier in names]
    settled = [identifier for names in outcomes.get("settle_meter_events", []) for identifier in names]
    refused = [identifier for meant, again in outcomes.get("refuse_reported", []) for identifier in meant + again]
    brought = [identifier for names in outcomes.get("take_late_items", []) for identifier in names]
    for what, names in (
        ("brought to Stripe", brought),
        ("taken", taken),
        ("sealed", sealed),
        ("retried", retried),
        ("settled", settled),
        ("refused", refused),
    ):
        if len(set(names)) != len(names):
            found.append(f"{what} twice: {names}")
    if any(states.get(identifier) is None for identifier in sealed):
        found.append("a sealed event is not there")
    if any(states[identifier] != "delivered" for identifier in settled):
        found.append(f"a settled event is not delivered any more: {[states[i] for i in settled]}")
    if adjusted != bool(outcomes.get("adjust")):
        found.append(f"{adjusted} adjustments, {len(outcomes.get('adjust', []))} acknowledged")
    return found


def _of_accounts(connection: sa.Connection, stage: Stage, outcomes: dict[str, list[Any]]) -> list[str]:
    """One claim, one hold at a time, and facts that are as the last fetch found them."""
    found = []
    claims = outcomes.get("claim", []).count(True)
    k = t.api_keys.c
    of_claims = sa.select(sa.func.count()).select_from(t.api_keys)
    keys = connection.execute(of_claims.where(k.account_id == stage.account_id, k.name.like("claimed%"))).scalar_one()
    if claims > 1 or keys != claims:
        found.append(f"{claims} claims taken, {keys} keys of them")
    c = t.checkouts.c
    of_sales = sa.select(sa.func.count()).select_from(t.checkouts).where(c.account_id == stage.account_id)
    payable = connection.execute(of_sales.where(c.session_id.like("sold%"), c.status == "open")).scalar_one()
    if payable > 1:
        found.append(f"{payable} sessions can be paid")
    holds = [n for n in outcomes.get("hold_account", []) if n is not None]
    if len(holds) > 1:
        found.append("held twice at once")
    if outcomes.get("remove_process", []).count(True) > 1:
        found.append("one process removed twice")
    return found
