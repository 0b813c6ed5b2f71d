"""Meter events that Stripe took and refused later: joined to the ledger's own, and parked with Stripe's reason.

A report names a few samples. Of a request of the stream, which many events share, the others are sent again alone.
"""

from typing import Final

import structlog

from farebox.ports import Clock, Provider, Store

__all__ = ["refuse_late"]

_DUPLICATE: Final = "duplicate_meter_event"

_log = structlog.get_logger("farebox.reporter")


def refuse_late(store: Store, provider: Provider, clock: Clock, event_id: str) -> str | None:
    """Work off one of Stripe's error reports.

    Returns the identifier of an event that Stripe already had when it was first sent, if there is one: then this
    ledger was restored or copied (L6). Other duplicates are delivered, as they stand.
    """
    report = provider.error_report(event_id)
    suspect = None
    unnamed = report.count - len(report.errors)
    for error in report.errors:
        if error.code == _DUPLICATE:
            named = store.find_reported(error.name)
            if len(named) == 1 and named[0].first_unknown_at is None:
                suspect = named[0].identifier
            continue
        refused, again = store.refuse_reported(error, others=unnamed > 0, now=clock.now_at())
        for identifier in refused:
            _log.error("meter_event_refused_late", identifier=identifier, code=error.code, reason=error.message)
        if again:
            _log.warning("meter_events_sent_again_alone", count=len(again), code=error.code, reason=error.message)
        if not refused and not again:
            _log.warning("error_report_of_others", name=error.name, code=error.code, reason=error.message)
    if unnamed > 0:
        _log.error("meter_events_refused_without_a_name", count=unnamed, report=event_id)
    return suspect
