"""Load on a server: as fast as answers come by `wrk` where it is installed, else by a client of our own, which is said;
and at a steady rate by a client of our own, since `wrk` has none.

Every answer must be a 200, or the measurement ends.
"""

import asyncio
import re
import shutil
import statistics
import subprocess
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from bench.servers import HOST, cpu_seconds

__all__ = ["Measured", "generator", "saturate", "steady"]

_WRK = shutil.which("wrk")
_TICK_SECONDS = 0.0005


@dataclass(frozen=True, slots=True)
class Measured:
    """Answers a second, and the server's processor time for each; for a steady rate its times to answer as well."""

    rate: float
    cpu_us: float
    p50_ms: float = 0.0
    p99_ms: float = 0.0


def generator() -> str:
    """What makes the load."""
    return "wrk" if _WRK else "a client of our own on asyncio (wrk is not installed)"


def saturate(port: int, key: str, *, pid: int, connections: int, seconds: float, path: str = "/api") -> Measured:
    """As many calls as the server answers over so many connections."""
    cpu, began = cpu_seconds(pid), time.perf_counter()
    if _WRK:
        command = [
            _WRK,
            "-t1",
            f"-c{connections}",
            f"-d{max(round(seconds), 1)}s",
            "--timeout",
            "30s",
            "-H",
            f"X-API-Key: {key}",
        ]
        said = subprocess.run(
            [*command, f"http://{HOST}:{port}{path}"], capture_output=True, text=True, check=True
        ).stdout
        if "Non-2xx" in said or "Socket errors" in said:
            raise SystemExit(f"The server did not answer as it should:\n{said}")
        found = re.search(r"(\d+) requests in", said)
        assert found is not None, said
        calls = int(found[1])
    else:
        calls = asyncio.run(_as_fast(port, _request(key, path), connections, began + seconds))
    took = time.perf_counter() - began
    return Measured(calls / took, (cpu_seconds(pid) - cpu) / calls * 1e6)


def steady(port: int, key: str, *, pid: int, connections: int, seconds: float, rate: float) -> Measured:
    """Calls at a steady rate, each timed from when it was due: a server that falls behind is not spared."""
    cpu, began = cpu_seconds(pid), time.perf_counter()
    took_ms = sorted(asyncio.run(_at_rate(port, _request(key, "/api"), connections, seconds, rate)))
    spent = cpu_seconds(pid) - cpu
    cuts = statistics.quantiles(took_ms, n=100)
    return Measured(len(took_ms) / (time.perf_counter() - began), spent / len(took_ms) * 1e6, cuts[49], cuts[98])


def _request(key: str, path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nX-API-Key: {key}\r\n\r\n".encode()


class _Client(asyncio.Protocol):
    """One keep-alive connection that asks one thing at a time."""

    def __init__(self, request: bytes, done: Any) -> None:
        self._request = request
        self._done = done
        self._answer = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def ask(self) -> None:
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, separator, body = self._answer.partition(b"\r\n\r\n")
        if not separator:
            return
        if not head.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"The server answered {head[:80]!r}")
        at = head.lower().index(b"content-length:") + 15
        if len(body) >= int(head[at:].split(b"\r\n", 1)[0]):
            self._answer = b""
            self._done(self)

    def close(self) -> None:
        self._transport.close()


async def _connect(port: int, request: bytes, connections: int, done: Any) -> list[_Client]:
    loop = asyncio.get_running_loop()
    made = [await loop.create_connection(lambda: _Client(request, done), HOST, port) for _ in range(connections)]
    return [client for _, client in made]


async def _as_fast(port: int, request: bytes, connections: int, until: float) -> int:
    count, left, over = 0, connections, asyncio.Event()

    def done(client: _Client) -> None:
        nonlocal count, left
        count += 1
        if time.perf_counter() < until:
            client.ask()
            return
        left -= 1
        if not left:
            over.set()

    clients = await _connect(port, request, connections, done)
    for client in clients:
        client.ask()
    await over.wait()
    for client in clients:
        client.close()
    return count


async def _at_rate(port: int, request: bytes, connections: int, seconds: float, rate: float) -> list[float]:
    """Milliseconds that each call took. What is due while all connections are busy waits for one, and its time runs."""
    took_ms: list[float] = []
    asked: dict[_Client, float] = {}
    waiting: deque[float] = deque()

    def ask(client: _Client, due: float) -> None:
        asked[client] = due
        client.ask()

    def done(client: _Client) -> None:
        took_ms.append((time.perf_counter() - asked.pop(client)) * 1000)
        if waiting:
            ask(client, waiting.popleft())
        else:
            idle.append(client)
        if over is not None and not asked:
            over.set()

    over: asyncio.Event | None = None
    idle = await _connect(port, request, connections, done)
    clients = list(idle)
    began, sent = time.perf_counter(), 0
    while (passed := time.perf_counter() - began) < seconds:
        while sent < passed * rate:
            due = began + sent / rate
            sent += 1
            if idle:
                ask(idle.pop(), due)
            else:
                waiting.append(due)
        await asyncio.sleep(_TICK_SECONDS)
    over = asyncio.Event()  # what is under way may end
    if asked:
        await over.wait()
    for client in clients:
        client.close()
    return took_ms
