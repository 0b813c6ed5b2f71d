"""L18 on a real server: clients that close their socket in the middle, a process that is killed there or stops."""

import contextlib
import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.stack import HOST, Stack, stack_in, until

from farebox.web.measured import UNSETTLED_BYTES_MAX

CONFIG = """
[meters.tokens]
title = "Tokens"
unpriced = "free"
[meters.bytes]
title = "Bytes"
unpriced = "free"
[[routes]]
match = "GET /chat"
charges = [{ meter = "calls" }, { meter = "tokens", from = "json:usage.total", minimum = 2 }]
[[routes]]
match = "GET /bytes"
charges = [{ meter = "calls" }, { meter = "bytes", from = "bytes" }]
"""
APP = """
import asyncio
import json

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from farebox import Farebox

app = FastAPI()
Farebox().protect(app)


@app.get("/chat")
async def chat(told: bool = False, end: int = 10**6) -> StreamingResponse:
    async def events():
        for n in range(1, end):
            yield f"data: {json.dumps({'n': n, 'usage': {'total': n * 10} if told else None})}\\n\\n"
            await asyncio.sleep(0.02)
        yield f"data: {json.dumps({'usage': {'total': 777}})}\\n\\ndata: [DONE]\\n\\n"

    return StreamingResponse(events(), media_type="text/event-stream")


@app.get("/bytes")
async def some(size: int = 1000) -> StreamingResponse:
    async def pieces():
        n = 0
        while True:
            n += size
            with open("made", "w") as file:
                file.write(str(n))
            yield b"x" * size
            await asyncio.sleep(0.02)

    return StreamingResponse(pieces())
"""


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    (tmp_path / "streams.py").write_text(APP)
    with stack_in(tmp_path, more=CONFIG) as running:
        running.app = ("streams:app", tmp_path)
        running.start_api()
        yield running


def read(stack: Stack, buyer: dict[str, str], path: str, enough: int) -> tuple[socket.socket, bytes]:
    """The first bytes of a stream, and the socket that it comes from."""
    connection = socket.create_connection((HOST, stack.api_port), 20)
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {buyer['Authorization']}\r\n\r\n"
    connection.sendall(request.encode())
    found = b""
    while len(found) < enough:
        piece = connection.recv(65_536)
        assert piece, found[:500]
        found += piece
    return connection, found


def used(stack: Stack, buyer: dict[str, str]) -> dict[str, int]:
    return {line["meter"]: line["quantity"] for line in stack.usage(buyer)["meters"]}


def told(found: bytes) -> list[int]:
    """The numbers of the events that the client read whole."""
    numbers = []
    for line in found.split(b"\n"):
        if line.startswith(b"data: "):
            with contextlib.suppress(ValueError):
                numbers.append(int(json.loads(line[6:])["n"]))
    return numbers


def test_a_closed_socket_is_settled(stack: Stack) -> None:
    """The client closes its socket in the middle of a stream: the bytes that went, and the last number that an event
    told, are counted, and reach Stripe; without such an event the minimum is."""
    buyer = stack.buy()
    connection, found = read(stack, buyer, "/bytes", 20_000)
    connection.close()
    counted = until(lambda: used(stack, buyer).get("bytes"), "the bytes are settled", 20)
    assert 19_000 <= counted <= int((stack.folder / "made").read_text())
    connection, found = read(stack, buyer, "/chat?told=true", 1_000)
    connection.close()
    until(lambda: "ended_early" in stack.log, "the stream is settled", 20)
    counted = until(lambda: used(stack, buyer).get("tokens", 0) > 2 and used(stack, buyer)["tokens"], "settled", 20)
    assert max(told(found)) * 10 <= counted <= max(told(found)) * 10 + 1_000
    connection, found = read(stack, buyer, "/chat", 1_000)
    connection.close()
    until(lambda: stack.log.count("ended_early") == 2, "the second is settled", 20)
    assert used(stack, buyer)["tokens"] == counted + 2
    whole = stack.client.get(stack.base + "/chat?end=3", headers=buyer).text
    assert "[DONE]" in whole
    assert used(stack, buyer) == {"calls": 4, "tokens": counted + 2 + 777, "bytes": used(stack, buyer)["bytes"]}


def test_a_kill_in_a_stream(stack: Stack) -> None:
    """Killed in the middle of its answers, a process has durable what it had to: fixed quantities, the minimum, and of
    the bytes that a client read all but the stated tail."""
    buyer = stack.buy()
    streams = [read(stack, buyer, "/chat?told=true", 500), read(stack, buyer, "/bytes?size=100000", 3_000_000)]
    stack.stop_api(signal.SIGKILL)
    for connection, _ in streams:
        connection.close()
    stack.start_api()
    counted = used(stack, buyer)
    assert (counted["calls"], counted["tokens"]) == (2, 2)
    assert counted["bytes"] >= len(streams[1][1]) - UNSETTLED_BYTES_MAX - 100_000
    assert counted["bytes"] <= int((stack.folder / "made").read_text())


def test_a_stop_waits_for_what_ends(stack: Stack) -> None:
    """The client leaves and the server is stopped at once: what it had is settled before the process is gone."""
    buyer = stack.buy()
    connection, found = read(stack, buyer, "/chat?told=true", 1_000)
    connection.close()
    stack.stop_api()
    stack.start_api()
    assert used(stack, buyer)["tokens"] >= max(told(found)) * 10
    assert "Traceback" not in stack.log
