"""Whether the money is right: one meter in one period, as the ledger, Stripe's meters and the invoice have it.

Pure: from figures to a verdict with its reasons.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Final

from farebox.domain.corrections import NEVER_AT, LateItemGroup, LateItemState
from farebox.domain.invoices import MeterBill
from farebox.domain.periods import FINAL_AFTER_SECONDS

__all__ = [
    "DRAFT_SECONDS_MAX",
    "LAG_SECONDS_MAX",
    "LATE_DRAFT_SECONDS_MAX",
    "LATE_ITEM_SECONDS_MAX",
    "LATE_UNCOLLECTED_SECONDS_MAX",
    "OPEN_SECONDS_MAX",
    "Balance",
    "Reason",
    "Unbilled",
    "Verdict",
    "judge",
    "merged",
]

LAG_SECONDS_MAX: Final = 3_600
OPEN_SECONDS_MAX: Final = 1_800
DRAFT_SECONDS_MAX: Final = 4 * 86_400
LATE_ITEM_SECONDS_MAX: Final = 86_400
LATE_DRAFT_SECONDS_MAX: Final = 3 * 86_400
LATE_UNCOLLECTED_SECONDS_MAX: Final = 30 * 86_400


class Verdict(StrEnum):
    """AGREES: every unit is where it belongs. WAITING: it is on its way there. DIFFERS: something must be done."""

    AGREES = "agrees"
    WAITING = "waiting"
    DIFFERS = "differs"


@dataclass(frozen=True, slots=True)
class Balance:
    """One meter of an account in one period, from the ledger alone. Quantities in units.

    `moved`: meter events whose time lies in another period than their usage (a boundary learned late), signed.
    `uncertain`: units in events of which nobody knows whether Stripe counted them; `fresh`: delivered in the last hour.
    `late_items`: the late items by state, of a minimum in minor units. `foreign_name`: Stripe refused an event as known
    that was never sent.
    """

    used: int = 0
    adjusted: int = 0
    moved: int = 0
    unsealed: int = 0
    pending: int = 0
    delivered: int = 0
    rejected: int = 0
    doubtful: int = 0
    withdrawn: int = 0
    uncertain: int = 0
    fresh: int = 0
    late: int = 0
    late_items: tuple[LateItemGroup, ...] = ()
    oldest_waiting_at: int | None = None
    foreign_name: bool = False

    @property
    def ledger(self) -> int:
        """What the ledger bills in the period."""
        return self.used + self.adjusted + self.moved

    @property
    def late_open(self) -> int:
        """Units in late items that are on no final invoice yet."""
        return sum(group.quantity for group in self.late_items if group.state.is_unbilled)


def merged(balances: Iterable[Balance]) -> Balance:
    """Several meters' balances as one, where they are counted under one name at Stripe."""
    found = list(balances)

    def earliest(*times: int | None) -> int | None:
        return min((time for time in times if time is not None), default=None)

    sums: dict[str, int] = {
        field.name: sum(getattr(balance, field.name) for balance in found)
        for field in fields(Balance)
        if field.name not in ("late_items", "oldest_waiting_at", "foreign_name")
    }
    return Balance(
        **sums,
        late_items=tuple(group for balance in found for group in balance.late_items),
        oldest_waiting_at=earliest(*(balance.oldest_waiting_at for balance in found)),
        foreign_name=any(balance.foreign_name for balance in found),
    )


@dataclass(frozen=True, slots=True)
class Unbilled:
    """What a period that is over owes while no final invoice closes it. `due_at`: since when an invoice could be
    there. `ended`: no further one comes by itself. `draft_id`: an invoice that may bill it and is not final."""

    quantity: int
    due_at: int
    ended: bool
    draft_id: str | None = None


@dataclass(frozen=True, slots=True)
class Reason:
    """`code` is stable; `quantity` units, or minor units for `amount`."""

    code: str
    quantity: int
    text: str


def judge(
    balance: Balance,
    *,
    stripe: int | None,
    bill: MeterBill | None,
    now: int,
    bills_late: bool,
    unbilled: Unbilled | None = None,
) -> tuple[Verdict, tuple[Reason, ...]]:
    """The verdict and every reason for it. `stripe` is what its meters show, `bill` what the final invoice has;
    without one `unbilled` is what a period that is over still owes."""
    found = _of_invoice(balance, bill, bills_late) if bill is not None else _of_meters(balance, stripe, now)
    if bill is None and unbilled is not None and (unbilled.ended or now - unbilled.due_at >= FINAL_AFTER_SECONDS):
        found.append(_of_unbilled(unbilled, now))
    found += [judged for group in balance.late_items for judged in _of_late_items(group, now)]
    if balance.unsealed < 0:
        more = Reason("conservation", -balance.unsealed, "meter events hold more than was used")
        found.append((Verdict.DIFFERS, more))
    verdicts = {verdict for verdict, _ in found}
    worst = next((v for v in (Verdict.DIFFERS, Verdict.WAITING) if v in verdicts), Verdict.AGREES)
    return worst, tuple(reason for _, reason in found)


_Found = list[tuple[Verdict, Reason]]


def _of_unbilled(unbilled: Unbilled, now: int) -> tuple[Verdict, Reason]:
    """The period is over, and no final invoice bills it: that may be on its way for a while, and no longer."""
    comes = unbilled.draft_id is not None or not unbilled.ended
    age = now - unbilled.due_at
    verdict = Verdict.WAITING if age < (DRAFT_SECONDS_MAX if comes else FINAL_AFTER_SECONDS) else Verdict.DIFFERS
    what = "used" if unbilled.quantity else "the minimum of a period that is over"
    where = f"; {unbilled.draft_id} is a draft" if unbilled.draft_id is not None else ""
    return verdict, Reason("unbilled", unbilled.quantity, f"{what}, on no final invoice for {_span(age)}{where}")


def _span(seconds: int) -> str:
    hours = seconds // 3_600
    return f"{hours // 24} days" if hours >= 48 else f"{hours} hours" if hours >= 2 else f"{seconds // 60} minutes"


def _of_invoice(balance: Balance, bill: MeterBill, bills_late: bool) -> _Found:
    """The invoice is final: what it has and the late items are all that is billed."""
    found: _Found = []
    missing = balance.ledger - bill.quantity - balance.late
    if missing > 0:
        # An invoice that our prices do not explain is for a person to look at.
        is_billed = bills_late and bill.amount == bill.expected_amount
        text = "used, and not on the final invoice" + ("; the next run bills it" if is_billed else "")
        found.append((Verdict.DIFFERS, Reason("late", missing, text)))
    if missing < 0:
        found.append((Verdict.DIFFERS, Reason("overbilled", -missing, "on the invoice, and not in the ledger")))
    if bill.amount != bill.expected_amount:
        text = f"the invoice says {bill.amount}, the ledger's prices make it {bill.expected_amount}"
        found.append((Verdict.DIFFERS, Reason("amount", bill.amount - bill.expected_amount, text)))
    return found


_LATE_REASONS: Final = {
    LateItemState.NEW: ("late_item_waits", "in an invoice item that Stripe does not have yet"),
    LateItemState.MOVING: ("late_item_waits", "in an invoice item that moves to a last invoice"),
    LateItemState.PENDING: ("late_item_waits", "in an invoice item that waits for the next invoice"),
    LateItemState.DRAFT: ("late_item_waits", "in an invoice item on a draft invoice"),
    LateItemState.OPEN: ("late_item_uncollected", "in an invoice item whose invoice is final and not paid"),
    LateItemState.UNCOLLECTIBLE: ("late_item_uncollected", "in an invoice item whose invoice is marked uncollectible"),
    LateItemState.VOID: ("late_item_voided", "in an invoice item whose invoice was voided"),
    LateItemState.DELETED: ("late_item_deleted", "in an invoice item that was deleted at Stripe"),
    LateItemState.REFUSED: ("late_item_refused", "in an invoice item that Stripe refuses"),
}
# How long a state is on its way; at once a difference where there is no time.
_LATE_SECONDS_MAX: Final = {
    LateItemState.NEW: LATE_ITEM_SECONDS_MAX,
    LateItemState.MOVING: LATE_ITEM_SECONDS_MAX,
    LateItemState.PENDING: NEVER_AT,  # until the subscription's next invoice, in a year perhaps
    LateItemState.DRAFT: LATE_DRAFT_SECONDS_MAX,
    LateItemState.OPEN: LATE_UNCOLLECTED_SECONDS_MAX,
}


def _of_late_items(group: LateItemGroup, now: int) -> _Found:
    """Late items that no paid invoice has: on their way, or for a person to look at."""
    if group.state not in _LATE_REASONS:
        return []
    code, text = _LATE_REASONS[group.state]
    age = max(now - group.since_at, 0)
    verdict = Verdict.WAITING if age <= _LATE_SECONDS_MAX.get(group.state, -1) else Verdict.DIFFERS
    return [(verdict, Reason(code, group.quantity, f"{text}, for {_span(age)}"))]


def _of_meters(balance: Balance, stripe: int | None, now: int) -> _Found:
    """The period is open: what is delivered should show, and the rest be on its way."""
    found: _Found = []
    waits = balance.oldest_waiting_at
    stuck = waits is not None and now - waits > OPEN_SECONDS_MAX
    on_its_way = Verdict.DIFFERS if stuck else Verdict.WAITING
    since = f" for {(now - waits) // 60} minutes" if stuck and waits is not None else ""
    if balance.unsealed > 0:
        found.append((on_its_way, Reason("unsealed", balance.unsealed, f"not in a meter event{since}")))
    if balance.pending:
        found.append((on_its_way, Reason("pending", balance.pending, f"in meter events on their way{since}")))
    if balance.rejected:
        found.append((Verdict.DIFFERS, Reason("rejected", balance.rejected, "in meter events that Stripe refused")))
    if balance.doubtful and not balance.foreign_name:
        text = "in meter events that Stripe may or may not have counted"
        found.append((Verdict.DIFFERS, Reason("doubtful", balance.doubtful, text)))
    if balance.foreign_name:
        text = "Stripe has meter events of this ledger that it never sent: it was restored or copied"
        found.append((Verdict.DIFFERS, Reason("restored", balance.doubtful, text)))
    if stripe is not None and stripe != balance.delivered:
        found.append(_of_sums(balance, stripe))
    return found


def _of_sums(balance: Balance, stripe: int) -> tuple[Verdict, Reason]:
    lacking = balance.delivered - stripe
    if lacking > 0:
        if balance.fresh >= lacking:
            return Verdict.WAITING, Reason("lag", lacking, "accepted by Stripe within the last hour, not summed up yet")
        return Verdict.DIFFERS, Reason("missing", lacking, "accepted by Stripe, and not in its sum")
    if balance.uncertain >= -lacking:
        return Verdict.WAITING, Reason("uncertain", -lacking, "counted by Stripe, whose answer was lost")
    text = "in Stripe's sum, and never sent by this ledger"
    return Verdict.DIFFERS, Reason("foreign", -lacking, text)
