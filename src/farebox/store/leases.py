"""Named leases: which process does the work that one is to do. Each new holder has a higher fence than the last."""

import sqlalchemy as sa

from farebox.store import tables as t
from farebox.store.engine import Database, rerun, upsert

__all__ = ["LeaseTables"]


class LeaseTables:
    """The part of the Store that gives out roles."""

    _database: Database

    @rerun
    def take_lease(self, name: str, holder: str, *, now: int, seconds: int) -> int | None:
        c = t.leases.c
        with self._database.write() as connection:
            # One statement: of two that find the lease free, the second waits for the first and then finds it taken.
            taken = connection.execute(
                upsert(connection, t.leases)
                .values(name=name, holder=holder, fence=1, lease_end=now + seconds)
                .on_conflict_do_update(
                    index_elements=["name"],
                    set_={
                        "holder": holder,
                        "lease_end": now + seconds,
                        "fence": sa.case((_live(holder, now), c.fence), else_=c.fence + 1),
                    },
                    where=(c.holder == holder) | (c.lease_end <= now),
                )
                .returning(c.fence)
            ).first()
        return None if taken is None else int(taken[0])

    def release_lease(self, name: str, holder: str) -> None:
        c = t.leases.c
        with self._database.write() as connection:
            connection.execute(sa.update(t.leases).where(c.name == name, c.holder == holder).values(lease_end=0))


def _live(holder: str, now: int) -> sa.ColumnElement[bool]:
    """A renewal in time keeps the fence; who let the lease run out may have been replaced in between."""
    c = t.leases.c
    return (c.holder == holder) & (c.lease_end > now)
