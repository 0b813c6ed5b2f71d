"""What was used, at Stripe: meter events and their sums. A meter event is tried once a call, because only the ledger
may decide to try again."""

import stripe

from farebox.domain.reports import MeterEvent, Outcome, OutcomeKind
from farebox.provider.calls import StripeCalls, all_of, asking
from farebox.provider.outcomes import outcome_of

__all__ = ["UsageCalls"]


class UsageCalls(StripeCalls):
    """The part of the Provider that counts."""

    def send_meter_event(self, event: MeterEvent) -> Outcome:
        params = {
            "event_name": event.event_name,
            "payload": {"stripe_customer_id": event.customer_id, "value": str(event.value)},
            "identifier": event.identifier,
            "timestamp": event.timestamp,
        }
        options = {"idempotency_key": event.idempotency_key, "max_network_retries": 0}
        try:
            self._api.billing.meter_events.create(params=params, options=options)
        except stripe.StripeError as error:
            return outcome_of(error)
        return Outcome(OutcomeKind.DELIVERED)

    def summary(self, meter_id: str, customer_id: str, start: int, end: int) -> int:
        params = {"customer": customer_id, "start_time": start, "end_time": end, "limit": 100}
        with asking("summary"):
            listed = self._api.billing.meters.event_summaries.list(meter_id, params=params)
            return sum(int(entry["aggregated_value"]) for entry in all_of(listed))
