"""What was billed, at Stripe: invoices with their lines, invoice items for late usage, and sums by the hour."""

from typing import Any, Final

from farebox.domain.corrections import NO_METER, LateItem
from farebox.domain.invoices import BilledInvoice, BilledLine
from farebox.provider import translate
from farebox.provider.calls import StripeCalls, all_of, asking

__all__ = ["LATE", "InvoicingCalls"]

# Names under which a late item keeps its own in Stripe's metadata.
LATE: Final = "farebox_late"
_QUANTITY: Final = "farebox_quantity"


class InvoicingCalls(StripeCalls):
    """The part of the Provider that knows what was billed."""

    def billed_invoices(self, subscription_id: str, *, since: int) -> list[BilledInvoice]:
        found = []
        with asking("billed_invoices"):
            for invoice in all_of(self._api.invoices.list(params={"subscription": subscription_id, "limit": 100})):
                if invoice["created"] < since:  # newest first
                    break
                found.append(self._billed(invoice))
        return found

    def _billed(self, found: dict[str, Any]) -> BilledInvoice:
        lines = found["lines"]["data"]
        if found["lines"].get("has_more"):  # Stripe shows the first few of a list within another
            lines = list(all_of(self._api.invoices.line_items.list(found["id"], params={"limit": 100})))
        details = (found.get("parent") or {}).get("subscription_details") or {}
        return BilledInvoice(
            id=found["id"],
            status=found.get("status") or "draft",
            subscription_id=details.get("subscription"),
            period_end=found["period_end"],
            finalized_at=found["status_transitions"]["finalized_at"],
            lines=tuple(_line(line) for line in lines),
        )

    def hourly_summaries(self, meter_id: str, customer_id: str, start: int, end: int) -> dict[int, int]:
        params = {
            "customer": customer_id,
            "start_time": start,
            "end_time": end,
            "value_grouping_window": "hour",
            "limit": 100,
        }
        with asking("hourly_summaries"):
            listed = self._api.billing.meters.event_summaries.list(meter_id, params=params)
            return {int(entry["start_time"]): int(entry["aggregated_value"]) for entry in all_of(listed)}

    def late_items(self, customer_id: str) -> list[LateItem]:
        found = []
        with asking("late_items"):
            for item in all_of(self._api.invoice_items.list(params={"customer": customer_id, "limit": 100})):
                ours = item["metadata"] or {}
                if LATE in ours:
                    found.append(
                        LateItem(
                            id=ours[LATE],
                            account_id=ours[translate.ACCOUNT],
                            meter=ours.get(translate.METER, NO_METER),
                            period_start=item["period"]["start"],
                            period_end=item["period"]["end"],
                            quantity=int(ours[_QUANTITY]),
                            amount=item["amount"],
                            currency=item["currency"],
                            reason="found at Stripe",
                            created_at=item["date"],
                            invoice_item_id=item["id"],
                        )
                    )
        return found

    def create_late_item(
        self, item: LateItem, *, customer_id: str, subscription_id: str | None, description: str
    ) -> str:
        params: dict[str, Any] = {
            "customer": customer_id,
            "amount": item.amount,
            "currency": item.currency,
            "description": description,
            "period": {"start": item.period_start, "end": item.period_end},
            "metadata": {
                LATE: item.id,
                _QUANTITY: str(item.quantity),
                translate.ACCOUNT: item.account_id,
                **({translate.METER: item.meter} if item.meter != NO_METER else {}),
            },
        }
        if subscription_id is not None:
            params["subscription"] = subscription_id
        with asking("create_late_item"):
            options = {"idempotency_key": f"farebox-{item.id}"}
            return str(self._api.invoice_items.create(params=params, options=options).id)

    def invoice_late_items(self, customer_id: str, *, currency: str, key: str) -> str:
        params: dict[str, Any] = {
            "customer": customer_id,
            "currency": currency,
            "auto_advance": True,
            "pending_invoice_items_behavior": "include",
        }
        with asking("invoice_late_items"):
            made = self._api.invoices.create(params=params, options={"idempotency_key": f"farebox-final-{key}"})
            return str(made.id)


def _line(found: dict[str, Any]) -> BilledLine:
    """A line. One that stands for an invoice item, such as a late one or a proration, is no usage of an item."""
    parent = found.get("parent") or {}
    details = parent.get("subscription_item_details") or {}
    by_hand = details.get("invoice_item") or details.get("proration")
    return BilledLine(
        item_id=None if by_hand else details.get("subscription_item"),
        quantity=int(found["quantity"] or 0),
        amount=found["amount"],
        start=found["period"]["start"],
        end=found["period"]["end"],
    )
