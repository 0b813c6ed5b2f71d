"""Stopping has an end, whatever hangs (I18)."""

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from structlog.testing import capture_logs
from tests.shop import Shop, bearer, open_shop

from farebox import app, background
from farebox.errors import StoreUnavailable
from farebox.loops import Loop
from farebox.metering import gate as gate_module
from farebox.system import SystemClock
from farebox.web import middleware

ENDS: Final = """
import threading
from farebox.threads import DaemonThreads
threads = DaemonThreads(2, name="test")
threads.submit(threading.Event().wait)
"""


@pytest.fixture
def hanging() -> Iterator[threading.Event]:
    """What hangs until it is set."""
    event = threading.Event()
    yield event
    event.set()


def test_a_ledger_that_hangs_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hanging: threading.Event
) -> None:
    """I18: where the last acts on the ledger do not come to an end, stopping does, and says so."""
    monkeypatch.setattr(app, "FINISH_SECONDS_MAX", 0.3)
    began = time.monotonic()
    with capture_logs() as logs, open_shop(tmp_path) as shop:
        monkeypatch.setattr(shop.runtime.presence, "leave", lambda: hanging.wait(30))
        began = time.monotonic()
    assert time.monotonic() - began < 5
    assert "stop_incomplete" in [e["event"] for e in logs]


def test_loops_that_hang(shop: Shop, monkeypatch: pytest.MonkeyPatch, hanging: threading.Event) -> None:
    """I18: all loops are told to end before any is waited for, and the bound is one for all of them."""
    monkeypatch.setattr(background, "SHUTDOWN_MILLISECONDS_MAX", 500)
    running = shop.runtime.background
    running._clock = SystemClock()
    running._loops = [Loop(f"hangs{n}", lambda: hanging.wait(30), interval_ms=1_000) for n in range(5)]
    for loop in running._loops:
        loop.start()
    began = time.monotonic()
    with capture_logs() as logs:
        running.stop()
    assert time.monotonic() - began < 2
    assert [e["event"] for e in logs].count("loop_did_not_end") == 5
    hanging.set()


def test_a_look_up_that_hangs(shop: Shop, monkeypatch: pytest.MonkeyPatch, hanging: threading.Event) -> None:
    """I18, I12: a call whose key is not cached is 503 within the bound when the ledger does not answer."""
    monkeypatch.setattr(middleware, "FILL_SECONDS_MAX", 0.2)
    buyer = shop.buy()
    shop.runtime.gate.poll()
    monkeypatch.setattr(shop.store, "find_facts", lambda _digests: hanging.wait(30))
    for _ in range(app.READER_THREADS_MAX + 2):
        assert shop.client.get("/api", headers=bearer(buyer.key)).status_code == 503


def test_sends_that_hang(shop: Shop, monkeypatch: pytest.MonkeyPatch, hanging: threading.Event) -> None:
    """I18: a send that does not end delays the others by no more than the bound, is no fault of the program, and what
    has not begun by then never begins."""
    monkeypatch.setattr(background, "SENDING_SECONDS_MAX", 0.3)
    began: list[int] = []

    def job(number: int) -> Callable[[], None]:
        def work() -> None:
            began.append(number)
            hanging.wait(30)

        return work

    jobs = [lambda: began.append(-1), *(job(number) for number in range(background.SENDER_THREADS_MAX + 1))]
    with capture_logs() as logs:
        shop.runtime.background._side_by_side(jobs)
    assert [e["sends"] for e in logs if e["event"] == "sends_overdue"] == [len(jobs) - 1]
    hanging.set()
    assert shop.runtime.background._senders.end(10)
    assert sorted(began) == [-1, *range(background.SENDER_THREADS_MAX)]


def test_a_feed_that_hangs(shop: Shop, monkeypatch: pytest.MonkeyPatch, hanging: threading.Event) -> None:
    """I18: while one thread waits for the change feed for ever, others wait no longer than the bound."""
    monkeypatch.setattr(gate_module, "STALENESS_MILLISECONDS", 100)
    monkeypatch.setattr(shop.store, "changes", lambda _epoch, _after: hanging.wait(30))

    def poll() -> None:
        with contextlib.suppress(AttributeError):  # what comes in the end is no answer
            shop.runtime.gate.poll()

    thread = threading.Thread(target=poll)
    thread.start()
    with pytest.raises(StoreUnavailable):
        shop.runtime.gate.poll()
    hanging.set()
    thread.join(10)


def test_a_process_ends_although_a_thread_hangs() -> None:
    """I18: a thread in which something hangs does not keep the process."""
    assert subprocess.run([sys.executable, "-c", ENDS], timeout=30, check=False).returncode == 0
