"""One core and ever more keys: of up to 10,000 accounts with a subscription each, so also ever more active customers.

Keys are drawn evenly, so with a million of them almost every call is the first one of its key in this hour, and makes
a row of its own in the ledger. That is told apart from the gate's part by calls with a thousand of a million keys.
There is no Stripe behind these servers, and nothing is sealed meanwhile: both have figures of their own.
"""

import json
import random
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import sqlalchemy as sa

from bench.hello import spread
from bench.scaling_app import memory_alone
from bench.scaling_load import saturate_with
from bench.servers import HOST, cpu_seconds, listening, pinned, wait_for
from bench.shop import Shop
from farebox.config import load_settings
from farebox.domain.accounts import SubscriptionItem
from farebox.domain.catalog import Price
from farebox.domain.keys import KEY_ENTROPY_BYTES, Pepper, digest, mint
from farebox.domain.usage import Period
from farebox.store import tables as t
from farebox.store.periods import items_text
from farebox.store.sql import SqlStore
from farebox.system import SystemClock, SystemEntropy

__all__ = ["ACCOUNTS", "KEYS", "Served", "account_a_key", "compared", "populate", "start"]

ACCOUNTS = 10_000
KEYS = (1, 100, 1_000, 10_000, 100_000, 1_000_000)
FEW = 1_000
COMPARED = 3  # the last sides: the most keys, FEW keys, and FEW of the most keys
ACCOUNTS_OF_ONE = 100_000  # accounts with one key each, for their memory
CHUNK = 50_000
PORT = 8911
DAY_SECONDS = 86_400
WARM_SECONDS_MAX = 1_200
NO_STRIPE = {"STRIPE_API_BASE": f"http://{HOST}:9"}


@dataclass(frozen=True, slots=True)
class Served:
    """A server that is about to know so many keys."""

    count: int
    keys: Path
    port: int
    pid: int

    def figures(self) -> dict[str, float]:
        """What it said of itself once it knew them all."""
        wait_for(f"http://{HOST}:{self.port}/billing/healthz", WARM_SECONDS_MAX)
        found: dict[str, float] = json.loads(self.keys.with_suffix(".json").read_text())
        return found


@contextmanager
def served(shop: Shop, folder: Path, count: int, port: int, after: Sequence[Served]) -> Iterator[Served]:
    """A server on a ledger of its own with so many keys, begun `after` others are ready. It is killed in the end:
    nothing of what it counted is to be reported.
    """
    keys, url = folder / f"{port}.keys", f"sqlite:///{folder}/{port}.db"
    environment = {**shop.environment(port, url), **NO_STRIPE}
    populate(url, load_settings(environ=environment).peppers[0], keys, count)
    for other in after:
        other.figures()
    with listening("bench.scaling_app:hot", port, {**environment, "BENCH_KEYS": str(keys)}, "--factory") as child:
        yield Served(count, keys, port, child.pid)
        child.kill()


def populate(url: str, pepper: Pepper, keys: Path, count: int, accounts: int = ACCOUNTS) -> None:
    """A ledger with buyers as the store writes them, their keys dealt out in turn and kept in clear in a file."""
    store = SqlStore(url, SystemClock(), SystemEntropy())
    store.open()
    now = SystemClock().now_at()
    period = Period(now - DAY_SECONDS, now + 29 * DAY_SECONDS)
    with store.database.write() as connection:
        connection.execute(sa.insert(t.accounts), [_account(n, now) for n in range(accounts)])
        connection.execute(sa.insert(t.subscriptions), [_subscription(n, period) for n in range(accounts)])
    with keys.open("w") as file:
        for first in range(0, count, CHUNK):
            numbers = range(first, min(first + CHUNK, count))
            texts = [mint(random.randbytes(KEY_ENTROPY_BYTES), live=False).reveal() for _ in numbers]
            file.writelines(f"{text}\n" for text in texts)
            rows = [_key(n, n % accounts, text, pepper, now) for n, text in zip(numbers, texts, strict=True)]
            with store.database.write() as connection:
                connection.execute(sa.insert(t.api_keys), rows)
    store.close()


def _account(n: int, now: int) -> dict[str, Any]:
    mail = f"buyer-{n}@example.com"
    return {"id": f"acct_{n:024}", "created_at": now, "email": mail, "reference": "", "customer_id": f"cus_{n:014}"}


def _subscription(n: int, period: Period) -> dict[str, Any]:
    item = SubscriptionItem(f"si_{n:014}", f"price_{n:024}", Price("calls", Decimal("0.01")), "usd", period)
    return {
        "id": f"sub_{n:024}",
        "account_id": f"acct_{n:024}",
        "customer_id": f"cus_{n:014}",
        "plan": "payg",
        "status": "active",
        "created_at": period.start,
        "status_since_at": period.start,
        "cancel_at_period_end": False,
        "collection_paused": False,
        "items": items_text((item,)),
    }


def _key(n: int, account: int, text: str, pepper: Pepper, now: int) -> dict[str, Any]:
    return {
        "id": f"key_{n:024}",
        "account_id": f"acct_{account:024}",
        "digest": digest(text, pepper),
        "pepper_id": pepper.id,
        "prefix": text[:8],
        "last_four": text[-4:],
        "name": "",
        "created_at": now,
    }


def account_a_key(shop: Shop, folder: Path) -> dict[str, Any]:
    """Memory where no two keys share an account, in a fresh process."""
    keys, url = folder / "alone.keys", f"sqlite:///{folder}/alone.db"
    pepper = load_settings(environ=shop.environment(PORT)).peppers[0]
    populate(url, pepper, keys, ACCOUNTS_OF_ONE, ACCOUNTS_OF_ONE)
    with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
        memory = fresh.submit(memory_alone, url, pepper, keys).result()
    return {"memory_bytes_per_hot_key_account_a_key": memory}


def start(stack: ExitStack, shop: Shop, folder: Path) -> list[Served]:
    """A server for each count, the largest last: it goes on learning its keys while other things are measured."""
    servers: list[Served] = []
    for n, count in enumerate(KEYS):
        servers.append(stack.enter_context(served(shop, folder, count, PORT + n, servers)))
    return servers


def compared(servers: list[Served], arguments: Namespace) -> dict[str, Any]:
    """What each said of itself, and the rate of each, in turns."""
    known = {server.count: server.figures() for server in servers}
    sides = [(str(server.count), server, server.count) for server in servers if server.count != FEW]
    sides += [(str(FEW), server, FEW) for server in servers if server.count == FEW]
    sides.append(("few", servers[-1], FEW))
    rounds: list[dict[str, tuple[float, float]]] = []
    with pinned():
        for number in range(arguments.rounds + 1):
            print(f"keys {number} of {arguments.rounds}", end="\r", file=sys.stderr, flush=True)
            due = sides if number <= arguments.rounds // 3 + 1 else sides[-COMPARED:]
            order = due if number % 2 else due[::-1]
            rounds.append({name: measured(server, drawn, arguments) for name, server, drawn in order})
    del rounds[0]

    def middle(n: int, of: int) -> float:
        return median(r[str(n)][of] for r in rounds if str(n) in r)

    figures: dict[str, Any] = {
        "rate_by_keys": {str(n): round(middle(n, 0)) for n in KEYS},
        "cpu_us_by_keys": {str(n): round(middle(n, 1), 1) for n in KEYS},
        "memory_bytes_per_hot_key": known[KEYS[-1]]["memory_bytes"],
    }
    for name in known[KEYS[-1]]:
        figures[f"{name}_by_keys"] = {str(n): known[n][name] for n in KEYS if name in known[n]}
    most, thousand = str(KEYS[-1]), str(FEW)
    figures |= spread("rate_million_keys_over_thousand", [r[most][0] / r[thousand][0] for r in rounds], 3)
    figures |= spread("rate_million_keys_few_active_over_thousand", [r["few"][0] / r[thousand][0] for r in rounds], 3)
    return figures


def measured(server: Served, drawn: int, arguments: Namespace) -> tuple[float, float]:
    """Calls a second, and processor time of a call. Half as long as elsewhere, for there are many sides."""
    cpu = cpu_seconds(server.pid)
    seconds = arguments.seconds / 2
    rate, calls = saturate_with(server.keys, drawn, server.port, connections=arguments.connections, seconds=seconds)
    return rate, (cpu_seconds(server.pid) - cpu) / calls * 1e6
