"""Freezes usage that nobody has reported yet into meter events (L5–L7). Never sends and never changes a sealed row."""

from collections.abc import Collection
from typing import Final

from farebox.domain.catalog import Catalog
from farebox.domain.reports import MeterEvent, Unsealed, seal
from farebox.ports import Clock, PeriodEnd, Store

__all__ = ["EDGE_ACCOUNTS_MAX", "EDGE_BACK_SECONDS", "EDGE_SECONDS", "Sealer"]

EDGE_SECONDS: Final = 30
EDGE_ACCOUNTS_MAX: Final = 1_000
EDGE_BACK_SECONDS: Final = 3_600  # Stripe keeps a renewal's invoice open for about an hour


class Sealer:
    """Seals what is due at each step."""

    def __init__(self, store: Store, clock: Clock, catalog: Catalog) -> None:
        self._store = store
        self._clock = clock
        self._catalog = catalog
        self._ledger_id: str | None = None
        self._edges_seen_at: int | None = None
        self._edge_until = 0
        self._edge_from: PeriodEnd | None = None  # where the look at ends of periods goes on; None: it begins anew

    def step(self, *, hard: bool = False, account_ids: Collection[str] | None = None) -> int:
        """Seal once and return how many meter events that made.

        `hard` also seals what was sealed within the last minute; `account_ids` seals only of these.
        """
        if self._ledger_id is None:
            self._ledger_id = self._store.ledger().id
        return len(self._store.seal(self._plan, now=self._clock.now_at(), hard=hard, account_ids=account_ids))

    def edge(self) -> int:
        """Seal hard what is left of the next EDGE_ACCOUNTS_MAX periods that have just ended by the clock, for a while,
        so that calls which were under way at the end come in as well. Cheap while no period ends. Returns how many
        meter events that made. When it fails, the next call begins with the same periods.
        """
        now = self._clock.now_at()
        if self._edge_from is None:
            seen_at = self._edges_seen_at if self._edges_seen_at is not None else now - EDGE_BACK_SECONDS
            self._edge_from, self._edge_until = PeriodEnd(min(seen_at, now - EDGE_SECONDS) + 1, ""), now
        ends = self._store.period_ends(self._edge_from, self._edge_until, limit=EDGE_ACCOUNTS_MAX)
        made = self.step(hard=True, account_ids={end.account_id for end in ends}) if ends else 0
        if len(ends) == EDGE_ACCOUNTS_MAX:
            self._edge_from = ends[-1]
        else:
            self._edge_from, self._edges_seen_at = None, self._edge_until
        return made

    @property
    def edge_left(self) -> bool:
        """Whether more periods have ended than the last `edge` looked at."""
        return self._edge_from is not None

    def _plan(self, unsealed: Unsealed) -> MeterEvent | None:
        # A meter that left the catalog still owes what was used: it is reported under its own name.
        meter = self._catalog.meters.get(unsealed.meter)
        event_name = meter.event_name if meter is not None else unsealed.meter
        return seal(str(self._ledger_id), unsealed, event_name, self._clock.now_at())
