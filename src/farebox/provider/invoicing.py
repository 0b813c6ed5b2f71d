"""What was billed, at Stripe: invoices with their lines, invoice items for late usage, and sums by the hour."""

from typing import Any, Final

import stripe

from farebox.domain.corrections import NO_METER, LateItem, LateItemState
from farebox.domain.invoices import BilledInvoice, BilledLine
from farebox.ports import BillingTerms
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
        with asking("late_items"):
            listed = self._api.invoice_items.list(params={"customer": customer_id, "limit": 100})
            return [_late_item(item) for item in all_of(listed) if LATE in (item["metadata"] or {})]

    def create_late_item(
        self,
        item: LateItem,
        *,
        customer_id: str,
        subscription_id: str | None,
        description: str,
        has_automatic_tax: bool = False,
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
        if has_automatic_tax:  # as Farebox's prices have it; Stripe taxes no item that does not say
            params["tax_behavior"] = "exclusive"
        with asking("create_late_item"):
            made = self._api.invoice_items.create(params=params, options={"idempotency_key": item.item_key})
            return str(made.id)

    def delete_late_item(self, invoice_item_id: str) -> None:
        with asking("delete_late_item"):
            try:
                self._api.invoice_items.delete(invoice_item_id)
            except stripe.InvalidRequestError as error:
                if error.http_status != 404:
                    raise

    def billing_terms(self, subscription_id: str) -> BillingTerms:
        with asking("billing_terms"):
            found = self._api.subscriptions.retrieve(subscription_id, params={"expand": ["discounts"]}).to_dict()
        ended_at = found.get("ended_at")
        discounts = [d for d in found.get("discounts") or () if isinstance(d, dict)]
        running = [d for d in discounts if not (ended_at and d.get("end")) or d["end"] > ended_at]
        coupons = ((d.get("source") or {}).get("coupon") for d in running)
        method = found.get("default_payment_method")
        return BillingTerms(
            payment_method_id=method["id"] if isinstance(method, dict) else method,
            has_automatic_tax=bool((found.get("automatic_tax") or {}).get("enabled")),
            coupon_ids=tuple(c["id"] if isinstance(c, dict) else c for c in coupons if c),
        )

    def invoice_late_items(self, customer_id: str, *, currency: str, key: str, terms: BillingTerms) -> str:
        params: dict[str, Any] = {
            "customer": customer_id,
            "currency": currency,
            "auto_advance": True,  # without it the invoice stays a draft
            "pending_invoice_items_behavior": "include",
            "metadata": {LATE: key},
        }
        if terms.payment_method_id is not None:  # Checkout sets the subscription's, not the customer's
            params["default_payment_method"] = terms.payment_method_id
        if terms.has_automatic_tax:
            params["automatic_tax"] = {"enabled": True}
        if terms.coupon_ids:
            params["discounts"] = [{"coupon": coupon_id} for coupon_id in terms.coupon_ids]
        with asking("invoice_late_items"):
            return str(self._api.invoices.create(params=params, options={"idempotency_key": key}).id)

    def invoice_status(self, invoice_id: str) -> str | None:
        with asking("invoice_status"):
            try:
                invoice = self._api.invoices.retrieve(invoice_id).to_dict()
            except stripe.InvalidRequestError as error:
                if error.http_status == 404:
                    return None
                raise
            return None if invoice.get("deleted") else str(invoice["status"] or "draft")


def _late_item(item: dict[str, Any]) -> LateItem:
    """An invoice item of ours. Whether its invoice is final is not known from it."""
    ours, invoice = item["metadata"], item.get("invoice")
    details = (item.get("parent") or {}).get("subscription_details") or {}
    return LateItem(
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
        state=LateItemState.DRAFT if invoice else LateItemState.PENDING,
        state_since_at=item["date"],
        attached_id=details.get("subscription"),
        invoice_id=invoice["id"] if isinstance(invoice, dict) else invoice,
    )


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
