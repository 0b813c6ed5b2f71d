"""Freezes usage that nobody has reported yet into meter events (L5–L7). Never sends and never changes a sealed row."""

from collections.abc import Collection
from typing import Final

from farebox.domain.catalog import Catalog
from farebox.domain.reports import MeterEvent, Unsealed, seal
from farebox.ports import Clock, Store

__all__ = ["EDGE_BACK_SECONDS", "EDGE_SECONDS", "Sealer"]

EDGE_SECONDS: Final = 30
EDGE_BACK_SECONDS: Final = 3_600  # Stripe keeps a renewal's invoice open for about an hour


class Sealer:
    """Seals what is due at each step."""

    def __init__(self, store: Store, clock: Clock, catalog: Catalog) -> None:
        self._store = store
        self._clock = clock
        self._catalog = catalog
        self._ledger_id: str | None = None
        self._edges_seen_at: int | None = None

    def step(self, *, hard: bool = False, account_ids: Collection[str] | None = None) -> int:
        """Seal once and return how many meter events that made.

        `hard` also seals what was sealed within the last minute; `account_ids` seals only of these.
        """
        if self._ledger_id is None:
            self._ledger_id = self._store.ledger().id
        return len(self._store.seal(self._plan, now=self._clock.now_at(), hard=hard, account_ids=account_ids))

    def edge(self) -> int:
        """Seal hard what is left of periods that have just ended by the clock, for a while, so that calls which were
        under way at the end come in as well. Cheap while no period ends. Returns how many meter events that made.
        """
        now = self._clock.now_at()
        seen_at = self._edges_seen_at if self._edges_seen_at is not None else now - EDGE_BACK_SECONDS
        ended = self._store.accounts_with_period_end(min(seen_at, now - EDGE_SECONDS), now)
        made = self.step(hard=True, account_ids=ended) if ended else 0
        self._edges_seen_at = now
        return made

    def _plan(self, unsealed: Unsealed) -> MeterEvent | None:
        # A meter that left the catalog still owes what was used: it is reported under its own name.
        meter = self._catalog.meters.get(unsealed.meter)
        event_name = meter.event_name if meter is not None else unsealed.meter
        return seal(str(self._ledger_id), unsealed, event_name, self._clock.now_at())
