"""Signed corrections of usage (L11): bounded by what the period holds, never after its invoice is final."""

from typing import Final

from farebox.domain.audit import AuditEntry
from farebox.domain.catalog import Catalog
from farebox.domain.corrections import REASON_CHARACTERS_MAX, Adjustment
from farebox.domain.reports import MeterEvent, Unsealed, freeze
from farebox.domain.usage import QUANTITY_MAX, Period, bucket_start
from farebox.errors import AdjustmentRefused, CustomerMissing, InputInvalid, MeterUnknown
from farebox.metering.reporter import EVENT_AGE_SECONDS_MAX
from farebox.ports import Clock, Store

__all__ = ["ADJUSTMENT_ID_CHARACTERS_MAX", "adjust_usage"]

ADJUSTMENT_ID_CHARACTERS_MAX: Final = 64


def adjust_usage(
    store: Store,
    clock: Clock,
    catalog: Catalog,
    *,
    id: str,
    account_id: str,
    meter: str,
    quantity: int,
    reason: str,
    at: int | None,
    audit: AuditEntry,
) -> Adjustment:
    """Correct the account's usage at an instant (None: now) by a signed quantity, once for each id.

    AdjustmentRefused where no period holds that time, it is final or too old, or less would be left than nothing.
    """
    now = clock.now_at()
    when = now if at is None else at
    _check(catalog, id=id, meter=meter, quantity=quantity, reason=reason, when=when, now=now)
    account = store.account(account_id)
    if account is None or account.customer_id is None:
        raise CustomerMissing(f"There is no account {account_id!r} that has been to checkout.")
    periods = store.periods(account_id)
    period = next((p for p in periods if p.start <= when < p.end), None)
    if period is None:
        raise AdjustmentRefused("No billing period of this account holds that time. Name one with --at.")
    start = bucket_start(when, sorted({edge for p in periods for edge in (p.start, p.end)}))
    ledger_id = store.ledger().id
    event_name = catalog.meters[meter].event_name

    def plan(bucket: Unsealed) -> MeterEvent:
        return freeze(ledger_id, bucket, event_name, now, quantity, kind="adjustment")

    asked = Adjustment(id, account_id, meter, when, quantity, reason, audit.actor, now)
    entry = audit.with_detail(adjustment=id, meter=meter, quantity=quantity, reason=reason)
    return store.adjust(asked, plan, period=Period(period.start, period.end), bucket_start=start, audit=entry)


def _check(catalog: Catalog, *, id: str, meter: str, quantity: int, reason: str, when: int, now: int) -> None:
    if meter not in catalog.meters:
        raise MeterUnknown(f"There is no meter {meter!r} (known: {', '.join(sorted(catalog.meters)) or 'none'}).")
    if quantity == 0 or abs(quantity) > QUANTITY_MAX:
        raise InputInvalid(f"The quantity is a whole number from -{QUANTITY_MAX} to {QUANTITY_MAX}, and not 0.")
    if not reason.strip() or len(reason) > REASON_CHARACTERS_MAX or not reason.isprintable():
        raise InputInvalid(f"A reason is needed, in plain text of at most {REASON_CHARACTERS_MAX} characters.")
    if not id or len(id) > ADJUSTMENT_ID_CHARACTERS_MAX or not id.isprintable():
        raise InputInvalid(f"An id is plain text of 1 to {ADJUSTMENT_ID_CHARACTERS_MAX} characters.")
    if when > now:
        raise AdjustmentRefused("That time has not come yet.")
    if when <= now - EVENT_AGE_SECONDS_MAX:
        raise AdjustmentRefused("That is more than 34 days ago, and Stripe takes no meter event so old.")
