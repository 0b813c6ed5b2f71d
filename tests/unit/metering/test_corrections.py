"""Corrections from the command's room to the invoice."""

from dataclasses import replace

import pytest
from tests.shop import Shop, bearer

from farebox.billing.claim import Claimed
from farebox.cli.adjust import instant
from farebox.domain.audit import AuditEntry
from farebox.domain.corrections import Adjustment
from farebox.domain.reports import ReportState
from farebox.errors import AdjustmentRefused, CustomerMissing, FareboxError, InputInvalid, MeterUnknown
from farebox.metering.corrections import adjust_usage


def adjust(
    shop: Shop, buyer: Claimed, quantity: int, *, at: int | None = None, meter: str = "calls", reason: str = "why"
) -> Adjustment:
    id = shop.entropy.token()
    return adjust_usage(
        shop.store,
        shop.clock,
        shop.catalog,
        id=id,
        account_id=buyer.account_id,
        meter=meter,
        quantity=quantity,
        reason=reason,
        at=at,
        audit=AuditEntry(id, shop.clock.now_at(), "ada@host", "adjust", buyer.account_id),
    )


def test_a_correction_is_on_every_bill(shop: Shop) -> None:
    """L11, I3: the buyer's page, Stripe's preview and the ledger count a correction in, whatever was sent before."""
    buyer = shop.buy()
    shop.call(buyer.key, 5)
    shop.runtime.background.flush()
    adjust(shop, buyer, -2)
    shop.call(buyer.key, 4)
    shop.runtime.background.flush()
    usage = shop.client.get("/billing/usage", headers=bearer(buyer.key)).json()
    assert (usage["meters"][0]["quantity"], usage["total"]) == (7, 700)
    preview = shop.client.get("/billing/invoices/upcoming", headers=bearer(buyer.key)).json()
    assert preview["total"] == 700
    delivered = shop.store.meter_events(buyer.account_id, state=ReportState.DELIVERED)
    assert sorted(event.value for event in delivered) == [-2, 4, 5]
    assert shop.store.audit(buyer.account_id)[0].detail["quantity"] == -2


def test_what_cannot_be_corrected(shop: Shop) -> None:
    """L11: outside every period, in the future, too long ago, without a reason, of no meter, of nobody: refused."""
    buyer = shop.buy()
    now = shop.clock.now_at()
    refused: list[tuple[type[FareboxError], dict[str, object]]] = [
        (AdjustmentRefused, {"quantity": 1, "at": now - 86_400}),
        (AdjustmentRefused, {"quantity": 1, "at": now + 60}),
        (AdjustmentRefused, {"quantity": 1, "at": now - 35 * 86_400}),
        (AdjustmentRefused, {"quantity": -1}),
        (InputInvalid, {"quantity": 0}),
        (InputInvalid, {"quantity": 1, "reason": " "}),
        (MeterUnknown, {"quantity": 1, "meter": "tokens"}),
    ]
    for error, asked in refused:
        with pytest.raises(error):
            adjust(shop, buyer, **asked)  # type: ignore[arg-type]
    with pytest.raises(CustomerMissing):
        adjust(shop, replace(buyer, account_id="acct_nobody"), 1)
    assert shop.store.adjustments(buyer.account_id) == []


def test_times_on_the_command_line() -> None:
    """Unix seconds, dates and ISO times are read as UTC; anything else is refused in words."""
    assert instant("1800000000") == instant("2027-01-15T08:00Z") == instant("2027-01-15T08:00")
    assert instant("2027-01-15") == 1_800_000_000 - 8 * 3600
    with pytest.raises(InputInvalid, match="Unix seconds"):
        instant("yesterday")
