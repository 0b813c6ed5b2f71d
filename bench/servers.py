"""Servers to measure: each in a process of its own on one core, the load and everything else on the others."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import httpx

__all__ = ["HOST", "cores", "cpu_seconds", "listening", "memory_bytes", "pinned", "process", "wait_for"]

HOST = "127.0.0.1"


@cache
def cores() -> tuple[set[int], set[int]]:
    """The core of what is measured, and those of all else; the same where there is only one or it cannot be chosen."""
    if not hasattr(os, "sched_setaffinity"):
        return set(), set()
    first, *others = sorted(os.sched_getaffinity(0))
    return {first}, set(others or [first])


@contextmanager
def pinned() -> Iterator[None]:
    """Keep this process and what it starts off the core of what is measured."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before, (_, others) = os.sched_getaffinity(0), cores()
    os.sched_setaffinity(0, others)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def process(
    arguments: Sequence[str], environment: Mapping[str, str], *, core: set[int] | None = None, python: str = ""
) -> Iterator[subprocess.Popen[bytes]]:
    """A Python program until the block ends, on these cores where it matters."""
    command = [python or sys.executable, *arguments]
    if core:
        # Before the program is loaded, so that its threads keep to it as well.
        pin = f"import os, sys; os.sched_setaffinity(0, {sorted(core)}); os.execv(sys.argv[1], sys.argv[1:])"
        command = [sys.executable, "-c", pin, *command]
    child = subprocess.Popen(command, env={**os.environ, **environment})
    try:
        yield child
    finally:
        child.send_signal(signal.SIGINT)
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@contextmanager
def listening(
    app: str, port: int, environment: Mapping[str, str], *options: str, python: str = ""
) -> Iterator[subprocess.Popen[bytes]]:
    """An application on uvicorn with one worker, on the core of what is measured."""
    uvicorn = ["-m", "uvicorn", "--host", HOST, "--port", str(port), "--log-level", "warning", "--no-access-log"]
    with process([*uvicorn, *options, app], environment, core=cores()[0], python=python) as child:
        yield child


def wait_for(url: str, seconds: int = 60) -> None:
    """Until it answers with a 200."""
    until = time.perf_counter() + seconds
    with httpx.Client(trust_env=False, timeout=5) as client:
        while time.perf_counter() < until:
            try:
                client.get(url).raise_for_status()
                return
            except httpx.HTTPError:
                time.sleep(0.01)
    raise SystemExit(f"{url} does not answer")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, from the system's own book."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_bytes(pid: int) -> int:
    """What a process holds in memory of its own."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("Private_Clean:", "Private_Dirty:")))
