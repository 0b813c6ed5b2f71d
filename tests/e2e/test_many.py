"""Many processes on one ledger, SQLite and PostgreSQL: what one knows all know, and what one loses none has lost."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx
import pytest
from tests.e2e.stack import EXAMPLES, HOST, Stack, free_port, stack_in, until
from tests.postgres import Cluster, cluster_in, postgres_programs

REVOKED_SECONDS_MAX: Final = 1.0
TAKEOVER_SECONDS_MAX: Final = 30.0
HEALED_SECONDS_MAX: Final = 10.0


@pytest.fixture(params=["sqlite", "postgres"])
def stack(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stack]:
    """A local Stripe, and a ledger of each kind; the test starts the processes."""
    if request.param == "sqlite":
        with stack_in(tmp_path) as running:
            yield running
        return
    cluster: Cluster = request.getfixturevalue("cluster")
    url = cluster.fresh(empty=True)
    with stack_in(tmp_path) as running:
        running.environment["FAREBOX_DATABASE_URL"] = url
        yield running
    cluster.drop(url)


@contextlib.contextmanager
def connections(count: int, headers: Mapping[str, str]) -> Iterator[list[httpx.Client]]:
    """So many connections that stay open, spread over the workers by chance."""
    with contextlib.ExitStack() as open_ones:
        yield [
            open_ones.enter_context(httpx.Client(headers=dict(headers), timeout=30, trust_env=False))
            for _ in range(count)
        ]


@dataclass
class Load:
    """Buyers that call without a pause. An answer of 200 was accepted; what broke may have been."""

    base: str
    headers: Mapping[str, str]
    accepted: int = 0
    unknown: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ended: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def running(self, threads: int) -> Iterator[None]:
        with ThreadPoolExecutor(threads) as pool:
            jobs = [pool.submit(self._call) for _ in range(threads)]
            try:
                yield
            finally:
                self._ended.set()
            for job in jobs:
                job.result()

    def _call(self) -> None:
        while not self._ended.is_set():
            with httpx.Client(timeout=30, trust_env=False) as client:
                for _ in range(10):
                    try:
                        status = client.get(self.base + "/api", headers=dict(self.headers)).status_code
                    except httpx.HTTPError:
                        status = 0
                    with self._lock:
                        self.accepted += status == 200
                        self.unknown += status != 200
                    if status != 200:
                        self._ended.wait(0.02)  # refused at once: leave the processor to who mends it
                        break


def used(stack: Stack, buyer: Mapping[str, str]) -> int:
    return int(stack.usage(buyer)["meters"][0]["quantity"])


def children(process: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def workers(process: int) -> list[int]:
    """uvicorn's workers: of its children those that run our application (another one tracks resources)."""
    return [pid for pid in children(process) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def revoke(stack: Stack, buyer: Mapping[str, str]) -> None:
    """By one process, over HTTP."""
    (key,) = stack.client.get(stack.base + "/billing/keys", headers=buyer).raise_for_status().json()["keys"]
    answer = stack.client.delete(f"{stack.base}/billing/keys/{key['id']}", headers=buyer)
    assert answer.is_success, answer.text


def until_refused(clients: list[httpx.Client], base: str) -> tuple[float, int]:
    """How many seconds from now the last call began that still passed, and how many did."""
    began, last, passed = time.monotonic(), 0.0, 0
    for client in clients:
        while True:
            asked = time.monotonic() - began
            if client.get(base + "/api").status_code == 401:
                break
            last, passed = max(last, asked), passed + 1
            assert asked < 30
    return last, passed


def test_workers(stack: Stack) -> None:
    """The journey with four workers: each call is counted once, and a revoked key is refused by all within 1 s (I9)."""
    stack.start_api("--workers", "4")
    assert stack.api is not None
    until(lambda: len(workers(stack.api.pid if stack.api else 0)) == 4, "four workers")
    buyer = stack.buy()
    with connections(12, buyer) as clients:
        for _ in range(5):
            assert {client.get(stack.base + "/api").status_code for client in clients} == {200}
        assert used(stack, buyer) == 60
        revoke(stack, buyer)
        seconds, passed = until_refused(clients, stack.base)
        assert seconds < REVOKED_SECONDS_MAX
    until(lambda: stack.counted() == 60 + passed, "all is reported")
    stack.stop_api()
    assert stack.counted() == 60 + passed
    assert "Traceback" not in stack.log


def test_workers_that_are_killed(stack: Stack) -> None:
    """F02: workers are killed under load, one after another: no accepted call is lost, none counts twice (I1–I4)."""
    stack.start_api("--workers", "3")
    assert stack.api is not None
    buyer = stack.buy()
    load = Load(stack.base, buyer)
    with load.running(6):
        for _ in range(4):
            before = load.accepted
            until(lambda before=before: load.accepted > before + 60, "calls are accepted")  # type: ignore[misc]
            os.kill(until(lambda: workers(stack.api.pid if stack.api else 0), "a worker is there")[0], signal.SIGKILL)
        before = load.accepted
        until(lambda: load.accepted > before + 60, "calls are accepted")
    counted = used(stack, buyer)
    assert load.accepted <= counted <= load.accepted + load.unknown
    stack.stop_api()
    assert stack.counted() == counted


def test_a_dead_reporter_is_followed(stack: Stack) -> None:
    """F15: while one process reports the other does nothing of it; once that is killed, it takes over within 30 s."""
    stack.start_api()
    port = free_port()
    other = stack.spawn_api("--port", str(port))
    base = f"http://{HOST}:{port}"
    until(lambda: stack.client.get(base + "/billing/readyz").is_success, "the second process starts")
    buyer = stack.buy()
    for _ in range(5):
        assert stack.client.get(base + "/api", headers=buyer).status_code == 200
        stack.call(buyer)
    until(lambda: stack.counted() == 10, "all is reported")
    assert delivered_by(stack, stack.base) > 0
    assert delivered_by(stack, base) == 0
    assert stack.api is not None
    stack.api.kill()
    began = time.monotonic()
    for _ in range(3):
        assert stack.client.get(base + "/api", headers=buyer).status_code == 200
    until(lambda: stack.counted() == 13, "the other process reports", TAKEOVER_SECONDS_MAX)
    assert time.monotonic() - began < TAKEOVER_SECONDS_MAX
    assert delivered_by(stack, base) > 0
    other.send_signal(signal.SIGTERM)
    other.wait(60)


def delivered_by(stack: Stack, base: str) -> float:
    """Meter events that this process has delivered since it started."""
    token = {"Authorization": f"Bearer {stack.environment['FAREBOX_ADMIN_TOKEN']}"}
    text = stack.client.get(base + "/billing/metrics", headers=token).raise_for_status().text
    found = [
        line for line in text.splitlines() if line.startswith('farebox_meter_event_attempts_total{outcome="delivered"}')
    ]
    return sum(float(line.rpartition(" ")[2]) for line in found)


PRELOADED: Final = """
import os, signal, socket, sys
import uvicorn
from fire_api.app import app

sock = socket.create_server(("127.0.0.1", int(sys.argv[1])))
children = []
for _ in range(2):
    pid = os.fork()
    if pid == 0:
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[sock])
        os._exit(0)
    children.append(pid)
signal.signal(signal.SIGTERM, lambda *_: [os.kill(child, signal.SIGTERM) for child in children])
for child in children:
    os.waitpid(child, 0)
"""


def test_preloaded_workers(stack: Stack) -> None:
    """F22: an app that is imported once and forked into workers counts in each by connections of its own."""
    environment = stack.environment | {"PYTHONPATH": str(EXAMPLES)}
    stack.api = stack.spawn("-c", PRELOADED, str(stack.api_port), log="api.log", environment=environment)
    until(lambda: stack.client.get(stack.base + "/billing/readyz").is_success, "the API starts")
    buyer = stack.buy()
    load = Load(stack.base, buyer)
    with load.running(4):
        until(lambda: load.accepted > 100, "calls are accepted")
    assert load.unknown == 0
    assert used(stack, buyer) == load.accepted
    stack.stop_api()
    assert stack.counted() == load.accepted
    assert "Traceback" not in stack.log


def test_a_worker_that_serves_nothing(stack: Stack) -> None:
    """`farebox worker` works off webhooks and reports what `farebox serve --workers` and the app leave to it."""
    worker = stack.spawn("-m", "farebox", "worker", log="worker.log", environment=stack.environment)
    until(lambda: "The worker runs" in (stack.folder / "worker.log").read_text(), "the worker starts")
    port = str(stack.api_port)
    serve = ["-m", "farebox", "serve", "--workers", "2", "--port", port]
    stack.api = stack.spawn(*serve, log="api.log", environment=stack.environment)
    until(lambda: stack.client.get(stack.base + "/billing/readyz").is_success, "Farebox serves")
    buyer = stack.buy()
    stack.stop_api()
    stack.start_api()
    stack.call(buyer, 4)
    until(lambda: stack.counted() == 4, "the worker reports")
    assert delivered_by(stack, stack.base) == 0
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0
    assert "Traceback" not in (stack.folder / "worker.log").read_text() + stack.log


def test_a_database_that_restarts(tmp_path: Path) -> None:
    """F19: PostgreSQL is restarted and crashed again and again under load: nothing is lost or doubled, all heals."""
    with cluster_in(postgres_programs()) as cluster, stack_in(tmp_path) as stack:
        stack.environment["FAREBOX_DATABASE_URL"] = cluster.fresh(empty=True)
        stack.start_api("--workers", "2")
        buyer = stack.buy()
        load = Load(stack.base, buyer)
        healed: list[float] = []
        with load.running(4):
            for by in (signal.SIGINT, signal.SIGQUIT, signal.SIGINT, signal.SIGQUIT):
                before = load.accepted
                until(lambda before=before: load.accepted > before + 50, "calls are accepted")  # type: ignore[misc]
                cluster.stop(by)
                cluster.start()
                began, before = time.monotonic(), load.accepted
                until(lambda before=before: load.accepted > before, "it heals by itself")  # type: ignore[misc]
                healed.append(time.monotonic() - began)
        assert max(healed) < HEALED_SECONDS_MAX, healed
        assert load.unknown > 0
        counted = used(stack, buyer)
        assert load.accepted <= counted <= load.accepted + load.unknown
        until(lambda: stack.counted() == counted, "all is reported", 60)
        stack.stop_api()
        assert stack.counted() == counted
        assert "Traceback" not in stack.log
