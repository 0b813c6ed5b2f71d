"""What is promised of the database itself: its schema, its settings, its name, and who opens it first."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from structlog.testing import capture_logs
from tests.postgres import Cluster
from tests.shop import StillClock

from farebox.domain.accounts import Account
from farebox.domain.corrections import LateItemState
from farebox.domain.reports import ReportState
from farebox.domain.usage import Batch, Increment
from farebox.errors import StoreError, StoreUnavailable, StoreUnusable
from farebox.store.sql import SqlStore
from farebox.store.tables import metadata
from farebox.system import SystemEntropy

AT: Final = 1_800_000_000
ROOT: Final = Path(__file__).resolve().parents[2]


def of(url: str, *, allow_weak: bool = False) -> SqlStore:
    return SqlStore(url, StillClock(AT), SystemEntropy(), allow_weak_durability=allow_weak)


def engine_of(url: str) -> sa.Engine:
    return sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))


@pytest.fixture(params=["file", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database with nothing in it."""
    if request.param == "postgres":
        cluster: Cluster = request.getfixturevalue("cluster")
        empty = cluster.fresh(empty=True)
        yield empty
        cluster.drop(empty)
    else:
        yield f"sqlite:///{tmp_path / 'ledger.db'}"


def upgrade(url: str, revision: str) -> None:
    """Bring the schema to an earlier revision, as the Farebox of that time did."""
    config = Config()
    config.set_main_option("script_location", str(ROOT / "src" / "farebox" / "store" / "migrations"))
    engine = engine_of(url)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA application_id = 0x46617265")
    engine.dispose()


def test_the_schema_is_what_the_code_says(url: str) -> None:
    """The migrations make exactly the tables, columns and indexes that the code speaks of."""
    store = of(url)
    store.open()
    store.close()
    engine = engine_of(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences = [
            found
            for found in compare_metadata(context, metadata)
            # A condition of an index is written back in the database's own words.
            if not isinstance(found, tuple) or found[0] not in ("remove_index", "add_index")
        ]
        inspector = sa.inspect(connection)
        for table in metadata.tables.values():
            there = {
                index["name"] for index in inspector.get_indexes(table.name) if not index.get("duplicates_constraint")
            }
            assert there >= {index.name for index in table.indexes}
    engine.dispose()
    assert differences == []


def test_an_older_schema(url: str) -> None:
    """A ledger of an earlier version is refused until `farebox migrate` has upgraded it, and then has lost nothing."""
    upgrade(url, "0001")
    engine = engine_of(url)
    rows = {
        "ledger": {"one": 1, "id": "the ledger", "created_at": AT},
        "feed_head": {"one": 1, "n": 7, "epoch": "an epoch"},
        "accounts": {
            "id": "acc_1",
            "created_at": AT,
            "email": "a@example.test",
            "reference": "",
            "customer_id": "cus_1",
        },
        "writers": {"id": "w1", "batch": 1, "nonce": "n", "state": "live"},
        "usage": {
            "account_id": "acc_1",
            "meter": "calls",
            "key_id": "key_1",
            "operation": "GET /",
            "bucket_start": AT,
            "writer": "w1",
            "quantity": 5,
            "calls": 5,
            "last_used_at": AT,
            "dirty": False,
        },
        "meter_events": {
            "identifier": "event_1",
            "account_id": "acc_1",
            "customer_id": "cus_1",
            "meter": "calls",
            "event_name": "calls",
            "bucket_start": AT,
            "sequence": 0,
            "value": 5,
            "timestamp": AT,
            "idempotency_key": "event_1",
            "created_at": AT,
            "state": "pending",
            "attempts": 0,
            "next_attempt_at": 0,
            "reason": "",
            "holder": "",
            "lease_end": 0,
        },
    }
    with engine.begin() as connection:
        old = sa.MetaData()
        old.reflect(connection)
        for name, row in rows.items():
            connection.execute(sa.insert(old.tables[name]).values(row))
    engine.dispose()
    store = of(url)
    with pytest.raises(StoreUnusable, match="Run `farebox migrate`"):
        store.open()
    store.open(migrate=True)
    assert (store.ledger().id, store.changes("an epoch", 7).complete) == ("the ledger", True)
    assert store.account("acc_1") == Account("acc_1", AT, "a@example.test", "", "cus_1")
    assert [line.quantity for line in store.usage("acc_1", 0, AT + 1)] == [5]
    store.commit_batch(Batch("w1", 2, "m", (Increment("acc_1", "calls", "key_1", "GET /", AT, 2, 1, AT),)))
    assert [line.quantity for line in store.usage("acc_1", 0, AT + 1)] == [7]
    (event,) = store.take_meter_events("h", now=AT, lease_seconds=60, limit=9)
    assert (event.identifier, event.value, event.state) == ("event_1", 5, ReportState.SENDING)
    store.close()
    again = of(url)
    again.open()
    again.close()


def test_late_items_of_an_older_schema(url: str) -> None:
    """What an earlier version had sent is looked at again; what costs nothing is settled; what waits is due."""
    upgrade(url, "0003")
    engine = engine_of(url)
    period = {"account_id": "acc_1", "subscription_id": "sub_1", "start": AT, "end": AT + 9, "items": "[]"}
    item = {
        "account_id": "acc_1",
        "meter": "calls",
        "period_start": AT,
        "period_end": AT + 9,
        "quantity": 3,
        "amount": 300,
        "currency": "usd",
        "reason": "not on in_1",
        "created_at": AT,
    }
    with engine.begin() as connection:
        old = sa.MetaData()
        old.reflect(connection)
        account = {"id": "acc_1", "created_at": AT, "email": "", "reference": "", "customer_id": "cus_1"}
        connection.execute(sa.insert(old.tables["accounts"]).values({**_zeros(old, "accounts"), **account}))
        connection.execute(sa.insert(old.tables["periods"]).values(period))
        for id, invoice_item_id in (("late_1", None), ("late_2", ""), ("late_3", "ii_3")):
            row = {**item, "id": id, "invoice_item_id": invoice_item_id}
            connection.execute(sa.insert(old.tables["late_items"]).values(row))
    engine.dispose()
    store = of(url)
    store.open(migrate=True)
    states = {late.id: (late.state, late.subscription_id) for late in store.late_items("acc_1")}
    assert states == {
        "late_1": (LateItemState.NEW, "sub_1"),
        "late_2": (LateItemState.FREE, "sub_1"),
        "late_3": (LateItemState.PENDING, "sub_1"),
    }
    due = store.take_late_items("acc_1", now=AT + 60, lease_end=AT + 120, limit=9)
    assert {late.id for late in due} == {"late_1", "late_3"}
    store.close()


def _zeros(schema: sa.MetaData, table: str) -> dict[str, int]:
    """Zero in each column that must have a number and has no default."""
    columns = schema.tables[table].columns
    return {c.name: 0 for c in columns if not c.nullable and isinstance(c.type, sa.Integer)}


def test_a_newer_schema(url: str) -> None:
    """A ledger that a newer Farebox wrote is refused, by `farebox migrate` too."""
    store = of(url)
    store.open()
    store.close()
    engine = engine_of(url)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    for migrate in (False, True):
        with pytest.raises(StoreUnusable, match="written by a newer Farebox"):
            of(url).open(migrate=migrate)


OPENER: Final = """
import sys
from farebox.store.sql import SqlStore
from farebox.system import SystemClock, SystemEntropy
store = SqlStore(sys.argv[1], SystemClock(), SystemEntropy())
print("ready", flush=True)
sys.stdin.readline()
store.open()
print(store.ledger().id, store.changes("", 0).epoch)
store.close()
"""


def test_opened_first_by_several(url: str) -> None:
    """Processes that open an empty database at the same moment make one schema and one ledger."""
    children = [
        subprocess.Popen([sys.executable, "-c", OPENER, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    told = [child.communicate(timeout=60)[0].strip() for child in children]
    assert [child.returncode for child in children] == [0] * 4
    assert len(set(told)) == 1


def test_a_foreign_database(cluster: Cluster) -> None:
    """A database that holds tables of another program under our names is refused and left alone (F28)."""
    url = cluster.fresh(empty=True)
    name = url.rpartition("/")[2]
    cluster.ask("CREATE TABLE accounts (id int)", name)
    with pytest.raises(StoreUnusable, match="holds tables of another program"):
        of(url).open()
    assert cluster.ask("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'", name) == [(1,)]
    cluster.drop(url)


WEAK: Final = {
    "synchronous_commit": ("off", "synchronous_commit is off: a crash loses what was acknowledged"),
    "fsync": ("off", "fsync is off: a power cut damages the database. Set fsync = on"),
    "full_page_writes": ("off", "Set full_page_writes = on"),
}


@pytest.mark.parametrize("setting", WEAK)
def test_weak_settings(cluster: Cluster, setting: str) -> None:
    """A server that may lose what it acknowledged is refused with what to set; told to, we say it loudly (L3)."""
    value, words = WEAK[setting]
    url = cluster.fresh()
    cluster.ask(f"ALTER SYSTEM SET {setting} = {value}")
    cluster.ask("SELECT pg_reload_conf()")
    try:
        while cluster.ask(f"SHOW {setting}") != [(value,)]:  # the server reads its settings at its own pace
            pass
        with pytest.raises(StoreUnusable, match=words) as refused:
            of(url).open()
        assert "allow_weak_durability = true" in refused.value.detail
        store = of(url, allow_weak=True)
        with capture_logs() as said:
            store.open()
        assert [words.split(":")[0] in weakness for weakness in store.durability().weaknesses] in ([True], [False])
        assert ("weak_durability", "critical") in [(line["event"], line["log_level"]) for line in said]
        store.close()
    finally:
        cluster.ask(f"ALTER SYSTEM RESET {setting}")
        cluster.ask("SELECT pg_reload_conf()")
        while cluster.ask(f"SHOW {setting}") == [(value,)]:
            pass
        cluster.drop(url)


def test_an_encoding_that_loses_text(cluster: Cluster) -> None:
    """A database that does not keep its text as UTF-8 is refused."""
    cluster.ask("CREATE DATABASE ascii TEMPLATE template0 ENCODING 'SQL_ASCII'")
    with pytest.raises(StoreUnusable, match="Create it with ENCODING 'UTF8'"):
        of(cluster.url("ascii")).open()
    cluster.ask("DROP DATABASE ascii WITH (FORCE)")


def test_what_cannot_be_reached(cluster: Cluster) -> None:
    """No server, no database and no such user are said in words, without the password (A07)."""
    gone = f"postgresql://farebox:hunter2@127.0.0.1:{cluster.port}"
    for url, words in (
        ("postgresql://farebox:hunter2@127.0.0.1:1/x", "refused"),
        (f"{gone}/missing", 'database "missing" does not exist'),
        (f"{gone}/missing?password=hunter2".replace("farebox", "nobody"), 'role "nobody" does not exist'),
    ):
        with pytest.raises(StoreUnusable, match=words) as refused:
            of(url).open()
        assert "hunter2" not in str(refused.value) + refused.value.internal


def test_without_the_driver() -> None:
    """Without the extra it says what to install."""
    code = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from farebox.store.engine import Database\n"
        "try: Database('postgresql://a:hunter2@127.0.0.1/b').open()\n"
        "except Exception as error: print(type(error).__name__, error.detail)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "StoreUnusable PostgreSQL needs psycopg: `pip install 'farebox[postgres]'`.\n"


def test_text_that_the_database_refuses(cluster: Cluster) -> None:
    """What cannot be stored is refused as such, not as an outcome that nobody knows: nothing waits for it."""
    url = cluster.fresh()
    store = of(url)
    store.open()
    for reference in ("a\x00b", "x" * 300):
        with pytest.raises(StoreError) as refused:
            store.add_account(Account("acc_1", AT, reference=reference))
        assert not isinstance(refused.value, StoreUnavailable)
    store.close()
    cluster.drop(url)


def test_a_fork_after_opening(url: str) -> None:
    """F22: a forked child writes over connections of its own, and the parent's stay whole, on either database."""
    store = of(url)
    store.open()
    store.commit_batch(Batch("parent", 1, "1", (Increment("acc_1", "calls", "key_1", "GET /", AT, 1, 1, AT),)))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            store.commit_batch(Batch("child", 1, "1", (Increment("acc_1", "calls", "key_1", "GET /", AT, 2, 1, AT),)))
            store.wait_for_change(1)
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    store.commit_batch(Batch("parent", 2, "2", (Increment("acc_1", "calls", "key_1", "GET /", AT, 4, 1, AT),)))
    assert [line.quantity for line in store.usage("acc_1", 0, AT + 1)] == [7]
    store.close()


def test_a_server_that_was_restarted(cluster: Cluster) -> None:
    """F19: after a crash of the server the next question of each thread gets an answer, not an error."""
    url = cluster.fresh()
    store = of(url)
    store.open()
    store.commit_batch(Batch("w", 1, "1", (Increment("acc_1", "calls", "key_1", "GET /", AT, 1, 1, AT),)))
    for by in (signal.SIGQUIT, signal.SIGINT):
        cluster.stop(by)
        with pytest.raises(StoreUnavailable):
            store.ping()
        cluster.start()
        store.ping()
    store.commit_batch(Batch("w", 2, "2", (Increment("acc_1", "calls", "key_1", "GET /", AT, 2, 1, AT),)))
    assert [line.quantity for line in store.usage("acc_1", 0, AT + 1)] == [3]
    store.close()
    cluster.drop(url)


def test_a_process_that_freezes_in_a_transaction(cluster: Cluster) -> None:
    """A connection that stops in the middle of a change keeps its rows from others for a bounded time only."""
    url = cluster.fresh()
    store = of(url)
    store.open()
    bounds = {}
    with store.database.read() as connection:
        for setting in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
            bounds[setting] = connection.execute(sa.text(f"SHOW {setting}")).scalar_one()
    assert bounds == {
        "statement_timeout": "15s",
        "lock_timeout": "5s",
        "idle_in_transaction_session_timeout": "10s",
    }
    store.close()
    cluster.drop(url)
