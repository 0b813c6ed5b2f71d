"""PostgreSQL as the ledger's database: bounded waits, and settings that keep what was committed, checked each time.

A password never reaches a name, an error or a log. Needs psycopg 3, which the extra `farebox[postgres]` brings.
"""

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import DBAPIError

from farebox.errors import StoreUnusable
from farebox.ports import Durability
from farebox.store.listening import Listener
from farebox.store.patience import patient

__all__ = [
    "CONNECT_SECONDS_MAX",
    "FEED_CHANNEL",
    "IDLE_TRANSACTION_MILLISECONDS_MAX",
    "LOCK_WAIT_MILLISECONDS_MAX",
    "POOLED_CONNECTIONS_MAX",
    "POOL_WAIT_SECONDS_MAX",
    "SCHEMA_WAIT_MILLISECONDS_MAX",
    "STATEMENT_MILLISECONDS_MAX",
    "UNANSWERED_MILLISECONDS_MAX",
    "PostgresBackend",
]

CONNECT_SECONDS_MAX: Final = 3
STATEMENT_MILLISECONDS_MAX: Final = 15_000
LOCK_WAIT_MILLISECONDS_MAX: Final = 5_000
IDLE_TRANSACTION_MILLISECONDS_MAX: Final = 10_000  # a frozen or cut-off process gives up its locks
SCHEMA_WAIT_MILLISECONDS_MAX: Final = 120_000  # for somebody else's migration
UNANSWERED_MILLISECONDS_MAX: Final = 10_000  # after it a silent network counts as cut
POOLED_CONNECTIONS_MAX: Final = 10  # of one process
POOL_WAIT_SECONDS_MAX: Final = 5
FEED_CHANNEL: Final = "farebox_feed"
_SERVER_VERSION_MIN: Final = 130_000
_LOCKS: Final = 0x46617265  # "Fare": advisory locks of ours
_SCHEMA_LOCK: Final = 1
_CONTENDED: Final = frozenset({"40001", "40P01"})  # serialization failure, deadlock
_INSTALL: Final = "PostgreSQL needs psycopg: `pip install 'farebox[postgres]'`"
_KEEPALIVE: Final = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3}
_TOLD: Final = "To run on it all the same, set allow_weak_durability = true under [ledger] in farebox.toml."

# One question for each new connection: bounds its waits and reads what the server does with a commit.
_HELLO: Final = """
SELECT set_config('statement_timeout', %s, false), set_config('lock_timeout', %s, false),
       set_config('idle_in_transaction_session_timeout', %s, false),
       current_setting('server_version_num')::int, current_setting('server_version'),
       pg_is_in_recovery(), current_setting('server_encoding'), current_setting('fsync'),
       current_setting('full_page_writes'), current_setting('synchronous_commit'),
       current_setting('synchronous_standby_names')
"""


class PostgresBackend:
    """A database that many processes and machines share. Reads see one instant; writes are READ COMMITTED."""

    path = None
    time_ms: Final[sa.ColumnElement[Any]] = sa.cast(
        sa.func.extract("epoch", sa.func.clock_timestamp()) * 1000, sa.BigInteger
    )
    advice = "Name another database in FAREBOX_DATABASE_URL."
    options: Final = {
        "read": {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True},
        "write": {"isolation_level": "READ COMMITTED", "postgresql_readonly": False},
    }

    def __init__(self, url: URL, *, allow_weak: bool) -> None:
        self._url = url.set(drivername="postgresql+psycopg")
        self._allow_weak = allow_weak
        self._settings = ""
        self._version = ""
        self._weaknesses: tuple[str, ...] = ()
        self._listener = Listener(FEED_CHANNEL)
        # Nothing of the query: a password may stand there as well.
        self.name = url.set(drivername="postgresql", query={}, password=None).render_as_string()

    def create_engine(self) -> Engine:
        """An engine whose connections bound their waits and are checked. StoreUnusable without psycopg."""
        ours = {
            "connect_timeout": CONNECT_SECONDS_MAX,
            "tcp_user_timeout": UNANSWERED_MILLISECONDS_MAX,
            "application_name": "farebox",
            "client_encoding": "utf8",
            **_KEEPALIVE,
        }
        connect_args = {name: value for name, value in ours.items() if name not in self._url.query}
        try:
            engine = sa.create_engine(
                self._url,
                hide_parameters=True,  # e-mail addresses and digests belong in no trace
                pool_size=POOLED_CONNECTIONS_MAX,
                max_overflow=0,
                pool_timeout=POOL_WAIT_SECONDS_MAX,
                pool_pre_ping=True,  # after a restart of the server the first to ask gets a new one, not an error
                connect_args=connect_args,
            )
        except ImportError as error:
            raise StoreUnusable(f"{_INSTALL}.", internal=str(error)) from error
        connections = patient(engine.dialect.loaded_dbapi)
        event.listen(
            engine, "do_connect", lambda _dialect, _record, arguments, named: connections.connect(*arguments, **named)
        )
        event.listen(engine, "checkin", _hurry)
        event.listen(engine, "connect", self._on_connect, insert=True)  # before SQLAlchemy asks questions of its own
        return engine

    def durability(self) -> Durability:
        return Durability(f"PostgreSQL {self._version}, {self.name}", self._settings, self._weaknesses)

    def wait_for_notice(self, engine: Engine, timeout_ms: int) -> None:
        """Until somebody notifies, on a connection of its own. A lost one only costs the time to look again."""
        self._listener.wait(engine, timeout_ms)

    def hang_up(self) -> None:
        """Listen no more."""
        self._listener.close()

    def lock_schema(self, connection: Connection) -> None:
        """Until the transaction ends nobody else makes or changes the schema. Waits for a migration under way."""
        raw: Any = connection.connection.dbapi_connection
        raw.endless = True
        for name, value in (("lock_timeout", str(SCHEMA_WAIT_MILLISECONDS_MAX)), ("statement_timeout", "0")):
            connection.execute(sa.select(sa.func.set_config(name, value, True)))
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCKS, _SCHEMA_LOCK)))

    def mark(self, connection: Connection) -> None:
        """Nothing to do: a database is known by its tables."""

    def unusable(self, error: DBAPIError) -> StoreUnusable:
        reason = " ".join(str(error.orig).split())
        return StoreUnusable(f"{self.name} cannot be used: {reason}. Check FAREBOX_DATABASE_URL and the server.")

    def contended(self, error: DBAPIError) -> bool:
        """Whether the database gave up a transaction that would succeed in another turn."""
        return getattr(error.orig, "sqlstate", None) in _CONTENDED

    def _on_connect(self, raw: Any, _record: Any) -> None:
        try:
            self._greet(raw)
        except BaseException:
            raw.close()  # nobody else will
            raise

    def _greet(self, raw: Any) -> None:
        raw.autocommit = True
        bounds = (STATEMENT_MILLISECONDS_MAX, LOCK_WAIT_MILLISECONDS_MAX, IDLE_TRANSACTION_MILLISECONDS_MAX)
        with raw.cursor() as cursor:
            row = cursor.execute(_HELLO, [str(bound) for bound in bounds]).fetchone()
        raw.autocommit = False
        number, self._version, standby, encoding, *kept = row[3:]
        if number < _SERVER_VERSION_MIN:
            raise StoreUnusable(f"{self.name} is PostgreSQL {self._version}. Farebox needs 13 or newer.")
        if standby:
            raise StoreUnusable(f"{self.name} is a standby that cannot be written. Name the primary server.")
        if encoding != "UTF8":
            raise StoreUnusable(f"{self.name} keeps its text as {encoding}. Create it with ENCODING 'UTF8'.")
        self._check_durability(*kept)

    def _check_durability(self, fsync: str, full_page_writes: str, commit: str, standbys: str) -> None:
        self._settings = f"fsync {fsync}, full_page_writes {full_page_writes}, synchronous_commit {commit}"
        weak = []
        if fsync != "on":
            weak.append("fsync is off: a power cut damages the database. Set fsync = on.")
        if full_page_writes != "on":
            weak.append("full_page_writes is off: a power cut can leave torn pages. Set full_page_writes = on.")
        if commit == "off":
            weak.append("synchronous_commit is off: a crash loses what was acknowledged. Set synchronous_commit = on.")
        elif commit == "local" and standbys:
            weak.append(
                "synchronous_commit is local: a failover loses what was acknowledged. Set synchronous_commit = on."
            )
        self._weaknesses = tuple(weak)
        if weak and not self._allow_weak:
            raise StoreUnusable(f"{self.name} does not keep its writes: {' '.join(weak)} {_TOLD}")


def _hurry(raw: Any, _record: Any) -> None:
    """What waited for a migration waits no longer than others when it is used again."""
    if raw is not None:
        raw.endless = False
