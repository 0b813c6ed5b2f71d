"""Named leases: which process does the work that one is to do. Each new holder has a higher fence than the last.

And rounds: how far work has come that takes the accounts in turn, whichever process does it."""

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

    @rerun
    def take_turn(self, name: str, *, now: int, seconds: int) -> str | None:
        c = t.rounds.c
        # A turn in the future was taken by a clock that was wrong: it binds nobody.
        due = (c.turn_at <= now - seconds) | (c.turn_at > now)
        with self._database.write() as connection:
            # One statement: of two that find the turn due, the second waits for the first and then finds it taken.
            taken = connection.execute(
                upsert(connection, t.rounds)
                .values(name=name, after="", turn_at=now)
                .on_conflict_do_update(index_elements=["name"], set_={"turn_at": now}, where=due)
                .returning(c.after)
            ).first()
        return None if taken is None else str(taken[0])

    def keep_place(self, name: str, after: str) -> None:
        c = t.rounds.c
        with self._database.write() as connection:
            connection.execute(sa.update(t.rounds).where(c.name == name).values(after=after))


def _live(holder: str, now: int) -> sa.ColumnElement[bool]:
    """A renewal in time keeps the fence; who let the lease run out may have been replaced in between."""
    c = t.leases.c
    return (c.holder == holder) & (c.lease_end > now)
