"""A PostgreSQL server of the tests' own, in a folder that goes with it, on the loopback address and a free port.

As root it runs as another user, for PostgreSQL refuses root. It keeps its writes as a real one does, since Farebox
refuses one that does not.
"""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from farebox.store.engine import Database

__all__ = ["Cluster", "cluster_in", "postgres_programs"]

HOST: Final = "127.0.0.1"
START_SECONDS_MAX: Final = 60
_ROOT: Final = Path(__file__).resolve().parent.parent
_MEMORY: Final = Path("/dev/shm")  # noqa: S108
_MEMORY_BYTES_MIN: Final = 1 << 30
_MADE: Final = ("-U", "farebox", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
_TEMPLATE: Final = "farebox_template"


def postgres_programs() -> Path:
    """The folder with initdb and postgres. The test fails, with what to do, when there is none."""
    if name := os.environ.get("FAREBOX_POSTGRES"):
        return Path(name)
    asked = subprocess.run(["sh", "tools/postgres.sh"], cwd=_ROOT, capture_output=True, text=True, check=False)  # noqa: S607
    if asked.returncode != 0:
        pytest.fail(asked.stderr)
    return Path(asked.stdout.strip())


@dataclass
class Cluster:
    """A server with its databases. `url` of a database is what FAREBOX_DATABASE_URL takes."""

    folder: Path
    programs: Path
    port: int
    settings: dict[str, str] = field(default_factory=dict)
    server: subprocess.Popen[bytes] | None = None
    made: int = 0

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://farebox@{HOST}:{self.port}/{database}"

    def start(self) -> None:
        options = [f"-c{name}={value}" for name, value in self.settings.items()]
        with (self.folder / "log").open("ab") as log:
            self.server = subprocess.Popen(
                [self.programs / "postgres", "-D", self.folder / "data", "-p", str(self.port), *options],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                **_other_user(),
            )
        ends = time.monotonic() + START_SECONDS_MAX
        while True:
            try:
                psycopg.connect(self.url(), connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                if self.server.poll() is not None or time.monotonic() > ends:
                    raise AssertionError((self.folder / "log").read_text()[-2000:]) from None
                time.sleep(0.05)

    def stop(self, by: signal.Signals = signal.SIGINT) -> None:
        """SIGINT cuts all connections and writes everything down; SIGQUIT is a crash."""
        if self.server is not None:
            self.server.send_signal(by)
            self.server.wait(START_SECONDS_MAX)
            self.server = None

    def ask(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one statement as the database's owner and return its rows, if it has any."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description is not None else []

    def fresh(self, *, empty: bool = False) -> str:
        """The URL of a new database: with the schema in it, or `empty`."""
        if not empty and self.made == 0:
            self.ask(f"CREATE DATABASE {_TEMPLATE} TEMPLATE template0 ENCODING 'UTF8'")
            database = Database(self.url(_TEMPLATE))
            database.open()
            database.close()
        self.made += 0 if empty else 1
        name = f"test_{time.monotonic_ns()}"
        self.ask(f"CREATE DATABASE {name} TEMPLATE {'template0' if empty else _TEMPLATE} ENCODING 'UTF8'")
        return self.url(name)

    def drop(self, url: str) -> None:
        self.ask(f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)")


@contextlib.contextmanager
def cluster_in(programs: Path, **settings: str) -> Iterator[Cluster]:
    """A running server, in memory where there is room: what it forces to disk is there at once."""
    roomy = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _MEMORY_BYTES_MIN
    folder = Path(tempfile.mkdtemp(prefix="farebox-postgres-", dir=_MEMORY if roomy else None))
    ours = {
        "listen_addresses": HOST,
        "unix_socket_directories": "",
        "max_connections": "200",
        "shared_buffers": "32MB",
        "max_wal_size": "256MB",
        "log_min_messages": "warning",
    }
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        cluster = Cluster(folder, programs, probe.getsockname()[1], ours | settings)
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, _user().pw_uid, _user().pw_gid)
        made = subprocess.run(
            [programs / "initdb", "-D", folder / "data", *_MADE],
            capture_output=True,
            text=True,
            cwd=folder,
            check=False,
            **_other_user(),
        )
        assert made.returncode == 0, made.stderr
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _user() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise AssertionError("PostgreSQL does not run as root, and there is no other user to run it.")


def _other_user() -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    return {"user": _user().pw_uid, "group": _user().pw_gid, "extra_groups": []}
