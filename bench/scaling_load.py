"""Calls with many keys: each is drawn evenly from a file of keys, one a line, all of one length.

By `wrk` where it is installed, else by a client of our own. Every answer must be a 200, or the measurement ends.
"""

import asyncio
import random
import re
import shutil
import subprocess
import time
from pathlib import Path

from bench.servers import HOST, cpu_seconds
from farebox.domain.keys import KEY_LENGTH

__all__ = ["LINE_BYTES", "family_seconds", "saturate_with"]

LINE_BYTES = KEY_LENGTH + 1
_WRK = shutil.which("wrk")
# Keys are read one by one, so that a file of a million takes as long to begin with as a file of one.
_SCRIPT = f"""
function init(args)
  file, count = io.open(args[1], "rb"), tonumber(args[2])
  math.randomseed(tonumber(args[3]))
end
function request()
  file:seek("set", math.random(0, count - 1) * {LINE_BYTES})
  return "GET /api HTTP/1.1\\r\\nHost: {HOST}\\r\\nX-API-Key: " .. file:read({KEY_LENGTH}) .. "\\r\\n\\r\\n"
end
"""


def saturate_with(keys: Path, count: int, port: int, *, connections: int, seconds: float) -> tuple[float, int]:
    """As many calls as the server answers, with the first `count` keys of the file: calls a second, and calls."""
    if not _WRK:
        return asyncio.run(_by_ourselves(keys, count, port, connections, seconds))
    script = keys.with_suffix(".lua")
    script.write_text(_SCRIPT)
    whole = max(round(seconds), 1)  # wrk knows no others
    command = [_WRK, "-t1", f"-c{connections}", f"-d{whole}s", "-s", str(script), f"http://{HOST}:{port}", "--"]
    arguments = [str(keys), str(count), str(random.randrange(1 << 31))]
    said = subprocess.run([*command, *arguments], capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        raise SystemExit(f"The server did not answer as it should:\n{said}")
    calls, rate = re.search(r"(\d+) requests in", said), re.search(r"Requests/sec: +([\d.]+)", said)
    if calls is None or rate is None:
        raise SystemExit(f"wrk did not say how fast it was:\n{said}")
    return float(rate[1]), int(calls[1])


async def _by_ourselves(keys: Path, count: int, port: int, connections: int, seconds: float) -> tuple[float, int]:
    began = time.perf_counter()
    with keys.open("rb") as file:
        texts = [file.read(LINE_BYTES)[:KEY_LENGTH] for _ in range(count)]
        asked = [_ask(texts, port, time.perf_counter() + seconds) for _ in range(connections)]
        calls = sum(await asyncio.gather(*asked))
    return calls / (time.perf_counter() - began), calls


async def _ask(texts: list[bytes], port: int, until: float) -> int:
    """One keep-alive connection that asks one thing at a time. How often."""
    reader, writer = await asyncio.open_connection(HOST, port)
    calls = 0
    while time.perf_counter() < until:
        writer.write(b"GET /api HTTP/1.1\r\nHost: %b\r\nX-API-Key: %b\r\n\r\n" % (HOST.encode(), random.choice(texts)))
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if not head.startswith(b"http/1.1 200"):
            raise SystemExit(f"The server answered {head[:80]!r}")
        await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0]))
        calls += 1
    writer.close()
    return calls


def family_seconds(pid: int) -> float:
    """Processor time of a process and of all that it started and that still run."""
    try:
        children = [
            child for task in Path(f"/proc/{pid}/task").glob("*/children") for child in task.read_text().split()
        ]
        return cpu_seconds(pid) + sum(family_seconds(int(child)) for child in children)
    except FileNotFoundError:
        return 0.0  # it ended while we looked
