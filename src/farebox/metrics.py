"""What the operator sees on /metrics: read from the running parts when asked, never kept twice."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from farebox.errors import StoreError
from farebox.metering.parking import Parking
from farebox.metering.reconciler import Reconciler
from farebox.metering.recorder import Recorder
from farebox.metering.reporter import Reporter
from farebox.metering.spool import Spooler
from farebox.ports import Clock, SpoolSummary, Store

__all__ = ["registry_of"]


def registry_of(
    store: Store,
    clock: Clock,
    recorder: Recorder,
    reporter: Reporter,
    reconciler: Reconciler,
    parking: Parking,
    spooler: Spooler | None = None,
) -> CollectorRegistry:
    """A registry of its own, so that it meets no metric of the seller's."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures(store, clock, recorder, reporter, reconciler, parking, spooler))
    return registry


class _Figures(Collector):
    def __init__(
        self,
        store: Store,
        clock: Clock,
        recorder: Recorder,
        reporter: Reporter,
        reconciler: Reconciler,
        parking: Parking,
        spooler: Spooler | None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._recorder = recorder
        self._reporter = reporter
        self._reconciler = reconciler
        self._parking = parking
        self._spooler = spooler

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        recorder, reporter = self._recorder, self._reporter
        yield CounterMetricFamily("farebox_calls", "Charges committed since the start", recorder.committed_calls)
        yield CounterMetricFamily("farebox_commits", "Ledger commits since the start", recorder.committed_batches)
        yield GaugeMetricFamily("farebox_store_healthy", "1 while usage can be recorded", int(recorder.healthy))
        yield GaugeMetricFamily(
            "farebox_reporter_halted", "1 while nothing is reported", int(reporter.halted is not None)
        )
        outcomes = CounterMetricFamily("farebox_meter_event_attempts", "Attempts by outcome", labels=["outcome"])
        for kind, count in reporter.counts.outcomes.items():
            outcomes.add_metric([kind.value], count)
        yield outcomes
        yield GaugeMetricFamily(
            "farebox_reconciled_at_seconds", "When this process last compared", self._reconciler.last_run_at
        )
        counts = reporter.counts
        yield CounterMetricFamily("farebox_delivered_events", "Meter events delivered", counts.delivered_events)
        yield CounterMetricFamily("farebox_delivered_units", "Units delivered", counts.delivered_quantity)
        slowed = reporter.pace.slowdowns + reporter.stream_pace.slowdowns
        yield CounterMetricFamily("farebox_report_slowdowns", "Times that reporting was slowed down", slowed)
        parked = CounterMetricFamily("farebox_quantities_parked", "Quantities not believed", labels=["meter", "reason"])
        for (meter, reason), count in sorted(self._parking.counts().items()):
            parked.add_metric([meter, reason], count)
        yield parked
        yield from self._spool()
        try:
            yield from self._ledger()
        except StoreError:
            return

    def _spool(self) -> Iterator[Metric]:
        """Of this process whether it spools; of its folder what waits there, of whatever process."""
        waiting = self._spooler.summary() if self._spooler is not None else SpoolSummary()
        age = self._clock.now_at() - waiting.oldest_at if waiting.oldest_at is not None else 0
        yield GaugeMetricFamily("farebox_spooling", "1 while calls go into the spool", int(self._recorder.spooling))
        yield GaugeMetricFamily("farebox_spooled_batches", "Batches in spool files", waiting.batches)
        yield GaugeMetricFamily("farebox_spool_age_seconds", "Age of the oldest spool file", max(age, 0))
        others = sum(self._spooler.of_others().values()) if self._spooler is not None else 0
        yield GaugeMetricFamily("farebox_spool_files_of_others", "Spool files that bear another ledger's id", others)
        yield GaugeMetricFamily("farebox_spool_damaged", "Spool files that cannot be read whole", waiting.damaged)

    def _ledger(self) -> Iterator[Metric]:
        backlog = self._store.report_backlog()
        events = GaugeMetricFamily("farebox_meter_events", "Meter events by state", labels=["state"])
        units = GaugeMetricFamily("farebox_meter_event_units", "Units in meter events by state", labels=["state"])
        for state in backlog.counts:
            events.add_metric([state.value], backlog.counts[state])
            units.add_metric([state.value], backlog.quantities[state])
        yield events
        yield units
        yield GaugeMetricFamily("farebox_unsealed_units", "Units not in a meter event yet", backlog.unsealed_quantity)
        for name, oldest, what in (
            ("farebox_oldest_unreported_seconds", backlog.oldest_open_at, "Age of the oldest open meter event"),
            ("farebox_oldest_parked_seconds", backlog.oldest_parked_at, "Age of the oldest parked meter event"),
        ):
            yield GaugeMetricFamily(name, what, self._clock.now_at() - oldest if oldest is not None else 0)
        yield GaugeMetricFamily("farebox_inbox_waiting", "Webhook events not worked off", self._store.inbox_waiting())
        yield GaugeMetricFamily("farebox_differences", "Meters and periods that differ", self._store.difference_count())
