"""The ledger on SQLAlchemy Core: PostgreSQL, SQLite in a file, or in memory for tests.

Every method is one transaction.
"""

from typing import Final

import sqlalchemy as sa

from farebox.errors import StoreUnusable
from farebox.ports import Clock, Durability, Entropy, Ledger
from farebox.store import tables as t
from farebox.store.accounts import AccountTables
from farebox.store.audit import AuditTables
from farebox.store.corrections import CorrectionTables
from farebox.store.engine import Database, insert_new
from farebox.store.feed import FeedTables
from farebox.store.halting import HaltingTables
from farebox.store.inbox import InboxTables
from farebox.store.late import LateTables
from farebox.store.late_items import LateItemTables
from farebox.store.leases import LeaseTables
from farebox.store.lost import LostTables
from farebox.store.parked import ParkedTables
from farebox.store.periods import PeriodTables
from farebox.store.presence import PresenceTables
from farebox.store.reconciling import ReconcilingTables
from farebox.store.reports import ReportTables
from farebox.store.restoring import RestoringTables
from farebox.store.sending import SendingTables
from farebox.store.usage import UsageTables

__all__ = ["MEMORY_URL", "SqlStore"]

MEMORY_URL: Final = "sqlite://"


class SqlStore(
    UsageTables,
    FeedTables,
    HaltingTables,
    AccountTables,
    InboxTables,
    SendingTables,
    ReportTables,
    ParkedTables,
    PeriodTables,
    PresenceTables,
    CorrectionTables,
    AuditTables,
    ReconcilingTables,
    LateTables,
    LateItemTables,
    RestoringTables,
    LostTables,
    LeaseTables,
):
    """The Store. `url` is a SQLAlchemy URL; `clock` and `entropy` name a new ledger once.

    `allow_weak_durability`: take a database that could lose what it acknowledged.
    """

    def __init__(self, url: str, clock: Clock, entropy: Entropy, *, allow_weak_durability: bool = False) -> None:
        self._database = Database(url, allow_weak=allow_weak_durability)
        self._clock = clock
        self._entropy = entropy

    @property
    def database(self) -> Database:
        return self._database

    def open(self, *, migrate: bool = False) -> None:
        self._database.open(migrate=migrate)
        with self._database.write() as connection:
            if connection.execute(sa.select(t.ledger.c.id)).first() is None:
                # Of two processes that open it for the first time, one names it.
                name = {"one": 1, "id": self._entropy.token(), "created_at": self._clock.now_at()}
                head = {"one": 1, "n": 0, "epoch": self._entropy.token()}
                for table, row in ((t.ledger, name), (t.feed_head, head)):
                    insert_new(connection, table, row)

    def close(self) -> None:
        self._database.close()

    def ping(self) -> None:
        with self._database.read() as connection:
            connection.execute(sa.select(1))

    def durability(self) -> Durability:
        return self._database.durability()

    def ledger(self) -> Ledger:
        c = t.ledger.c
        with self._database.read() as connection:
            columns = (c.id, c.created_at, c.provider_account, c.livemode, c.halted_reason, c.halted_at)
            return Ledger(*connection.execute(sa.select(*columns)).one())

    def bind_ledger(self, provider_account: str, livemode: bool) -> Ledger:
        c = t.ledger.c
        with self._database.write() as connection:
            bound = connection.execute(sa.select(c.provider_account, c.livemode).with_for_update()).one()
            if bound.provider_account is None:
                connection.execute(sa.update(t.ledger).values(provider_account=provider_account, livemode=livemode))
            elif (bound.provider_account, bound.livemode) != (provider_account, livemode):
                mode = "live" if bound.livemode else "test"
                raise StoreUnusable(
                    f"This ledger belongs to the Stripe account {bound.provider_account} in {mode} mode, "
                    f"but the key is of {provider_account}. Use its own key, or another FAREBOX_DATABASE_URL."
                )
        return self.ledger()
