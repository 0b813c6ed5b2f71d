"""Whether the money is right: one meter in one period, as the ledger, Stripe's meters and the invoice have it.

Pure: from figures to a verdict with its reasons.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from farebox.domain.invoices import MeterBill

__all__ = ["LAG_SECONDS_MAX", "OPEN_SECONDS_MAX", "Balance", "Reason", "Verdict", "judge"]

LAG_SECONDS_MAX: Final = 3_600
OPEN_SECONDS_MAX: Final = 1_800


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
    `late_open`: late items that are not known to be at Stripe. `foreign_name`: Stripe refused an event as known that
    was never sent.
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
    late_open: int = 0
    oldest_waiting_at: int | None = None
    foreign_name: bool = False

    @property
    def ledger(self) -> int:
        """What the ledger bills in the period."""
        return self.used + self.adjusted + self.moved


@dataclass(frozen=True, slots=True)
class Reason:
    """`code` is stable; `quantity` units, or minor units for `amount`."""

    code: str
    quantity: int
    text: str


def judge(
    balance: Balance, *, stripe: int | None, bill: MeterBill | None, now: int, bills_late: bool
) -> tuple[Verdict, tuple[Reason, ...]]:
    """The verdict and every reason for it. `stripe` is what its meters show, `bill` what the final invoice has."""
    found = _of_invoice(balance, bill, bills_late) if bill is not None else _of_meters(balance, stripe, now)
    if balance.unsealed < 0:
        more = Reason("conservation", -balance.unsealed, "meter events hold more than was used")
        found.append((Verdict.DIFFERS, more))
    verdicts = {verdict for verdict, _ in found}
    worst = next((v for v in (Verdict.DIFFERS, Verdict.WAITING) if v in verdicts), Verdict.AGREES)
    return worst, tuple(reason for _, reason in found)


_Found = list[tuple[Verdict, Reason]]


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
    if balance.late_open:
        text = "in an invoice item that Stripe does not have yet"
        found.append((Verdict.WAITING, Reason("late_item_waits", balance.late_open, text)))
    if bill.amount != bill.expected_amount:
        text = f"the invoice says {bill.amount}, the ledger's prices make it {bill.expected_amount}"
        found.append((Verdict.DIFFERS, Reason("amount", bill.amount - bill.expected_amount, text)))
    return found


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
