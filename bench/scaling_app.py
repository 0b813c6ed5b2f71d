"""A paid endpoint that knows all keys of a file before its first call, and says what that took in a file beside it."""

import gc
import json
import logging
import mmap
import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI

from bench.scaling_load import LINE_BYTES
from bench.servers import memory_bytes
from farebox import Farebox
from farebox.domain.keys import KEY_LENGTH, Pepper
from farebox.metering.gate import Gate
from farebox.store.sql import SqlStore
from farebox.system import SystemClock, SystemEntropy

__all__ = ["FIRST", "hot", "memory_alone"]

FIRST = 100  # with so many known, all code has run and all connections are there: memory is counted from then on
MANY = 5_000  # keys that can be told from what else a process does
LOOKUPS = 100_000


def hot() -> FastAPI:
    """For uvicorn. BENCH_KEYS names the file of keys; the figures go to the same name with .json."""
    began = time.perf_counter()
    logging.getLogger("farebox").setLevel(logging.ERROR)  # there is no Stripe here, and that is meant
    farebox = Farebox(os.environ["FAREBOX_CONFIG"])

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        started = time.perf_counter() - began
        keys = Path(os.environ["BENCH_KEYS"])
        gate = farebox.runtime.gate
        figures = {"start_seconds": round(started, 2), **warmed(gate, keys), **looked_up(gate, keys)}
        keys.with_suffix(".json").write_text(json.dumps(figures))
        yield

    app = FastAPI(lifespan=lifespan)
    farebox.protect(app)

    @app.get("/api")
    async def hello() -> dict[str, str]:
        return {"hello": "world"}

    return app


def warmed(gate: Gate, keys: Path) -> dict[str, float]:
    """Let the gate read every key once. What a key took, and what it keeps in memory, where they are many."""
    count = keys.stat().st_size // LINE_BYTES
    with keys.open() as lines:
        for _, line in zip(range(FIRST), lines, strict=False):
            gate.fill(line[:KEY_LENGTH])
        gc.collect()
        memory, began = memory_bytes(os.getpid()), time.perf_counter()
        for line in lines:
            gate.fill(line[:KEY_LENGTH])
    took, filled = time.perf_counter() - began, count - FIRST
    gc.collect()
    if filled < MANY:
        return {}
    return {
        "fill_us": round(took / filled * 1e6, 1),
        "memory_bytes": round((memory_bytes(os.getpid()) - memory) / filled),
    }


def memory_alone(url: str, pepper: Pepper, keys: Path) -> float:
    """Memory of a key in a process that does nothing else."""
    store, clock = SqlStore(url, SystemClock(), SystemEntropy()), SystemClock()
    store.open()
    gate = Gate(store, clock, [pepper], 0)
    gate.poll()
    return warmed(gate, keys)["memory_bytes"]


def looked_up(gate: Gate, keys: Path) -> dict[str, float]:
    """How long it takes to find a key in memory: keys at random, each a text of its own, as requests bring them; and
    how long Python's full garbage collection, which looks at all that is kept, stops everything now and then."""
    with keys.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        places = [random.randrange(len(data) // LINE_BYTES) * LINE_BYTES for _ in range(LOOKUPS)]
        texts = [data[at : at + KEY_LENGTH].decode() for at in places]
    began = time.perf_counter()
    for text in texts:
        gate.known(text)
    took = time.perf_counter() - began
    remembered = sum(gate.known(text) is not None for text in texts)
    began = time.perf_counter()
    gc.collect()
    return {
        "lookup_ns": round(took / LOOKUPS * 1e9),
        "known_share": round(remembered / LOOKUPS, 3),
        "collection_ms": round((time.perf_counter() - began) * 1000, 1),
    }
