"""What was used, at Stripe: meter events and their sums. A meter event is tried once a call, because only the ledger
may decide to try again."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import stripe

from farebox.domain.reports import ErrorReport, MeterEvent, Outcome, OutcomeKind
from farebox.provider import translate
from farebox.provider.calls import StripeCalls, all_of, asking
from farebox.provider.outcomes import outcome_of

__all__ = ["UsageCalls"]


class UsageCalls(StripeCalls):
    """The part of the Provider that counts."""

    def __init__(self) -> None:
        self._session_lock = threading.Lock()
        self._session = ""  # the token that opens the stream for a quarter of an hour

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

    def open_stream(self) -> Outcome | None:
        with self._session_lock:  # the others wait for the one session
            if self._session:
                return None
            try:
                made = self._client.v2.billing.meter_event_session.create(options={"max_network_retries": 0})
            except stripe.StripeError as error:
                outcome = outcome_of(error)
                kind = OutcomeKind.FORBIDDEN if outcome.kind is OutcomeKind.FORBIDDEN else OutcomeKind.THROTTLED
                return replace(outcome, kind=kind, unsent=True)
            self._session = made.authentication_token
        return None

    def send_meter_events(self, events: Sequence[MeterEvent], *, idempotency_key: str) -> Outcome:
        params: Any = {"events": [_streamed(event) for event in events]}
        session = self._session
        options: Any = {"api_key": session, "idempotency_key": idempotency_key, "max_network_retries": 0}
        if not session:
            return Outcome(OutcomeKind.THROTTLED, "there is no session for the stream", unsent=True)
        try:
            self._client.v2.billing.meter_event_stream.create(params, options)
        except stripe.StripeError as error:
            outcome = outcome_of(error)
            if outcome.kind is not OutcomeKind.FORBIDDEN:
                return outcome
            with self._session_lock:
                if self._session == session:
                    self._session = ""
            expired = isinstance(error, stripe.TemporarySessionExpiredError)
            return replace(outcome, kind=OutcomeKind.THROTTLED if expired else outcome.kind, unsent=True)
        return Outcome(OutcomeKind.DELIVERED)

    def summary(self, meter_id: str, customer_id: str, start: int, end: int) -> int:
        params = {"customer": customer_id, "start_time": start, "end_time": end, "limit": 100}
        with asking("summary"):
            listed = self._api.billing.meters.event_summaries.list(meter_id, params=params)
            return sum(int(entry["aggregated_value"]) for entry in all_of(listed))

    def error_report(self, event_id: str) -> ErrorReport:
        with asking("error_report"):
            return translate.error_report_of(self._client.v2.core.events.retrieve(event_id).to_dict())


def _streamed(event: MeterEvent) -> dict[str, Any]:
    at = datetime.fromtimestamp(event.timestamp, UTC)
    return {
        "event_name": event.event_name,
        "identifier": event.identifier,
        "payload": {"stripe_customer_id": event.customer_id, "value": str(event.value)},
        "timestamp": f"{at:%Y-%m-%dT%H:%M:%S}.000Z",
    }
