"""What grows behind the calls: the ledger, and what is said to Stripe for a million calls.

1,000 customers make a million calls in an hour, sealed every five minutes as by default, on a ledger in a file and on
virtual time; each request that the reporter makes of a local Stripe in this process is counted. How fast a worker of
its own reports over the network is PART=reporter.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import httpx
from tests.reporting import AT, CALLS, HOUR, KEY, Town, Wire
from tests.shop import StillClock

from bench.ledger import KEYS, growth
from farebox.domain.keys import Secret
from farebox.metering.pace import Rates
from farebox.provider.stripe import StripeProvider

__all__ = ["ledger_bytes", "stripe_calls"]

CUSTOMERS = 1_000
SEALS = 12  # in an hour: every five minutes, as by default
CALLS_OF_ONE = 84  # of a customer between two seals: a million calls in all, and a few
WAYS = {"v1": Rates(stream_requests_per_second=0), "stream": Rates()}
SEALED_AT_ONCE = 10_000  # customers


class _Counted:
    """The way to a local Stripe in this process. Counts what goes over it."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.requests = 0

    def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[bytes, int, Mapping[str, str]]:
        self.requests += 1
        parts = urlsplit(url)
        path = f"{parts.path}?{parts.query}" if parts.query else parts.path
        answer = self._wire.sandbox.request(method, path, headers, body)
        return answer.body, answer.status, httpx.Headers(answer.headers)


def ledger_bytes(folder: Path) -> dict[str, Any]:
    """As PART=ledger counts them."""
    return {
        "ledger_bytes_per_million_calls": growth(folder / "one.db", accounts=1),
        "ledger_bytes_per_million_calls_account_a_key": growth(folder / "each.db", accounts=KEYS),
    }


def stripe_calls(folder: Path) -> dict[str, Any]:
    """Both ways, and how long one seal of many customers takes."""
    figures: dict[str, Any] = {}
    for way, rates in WAYS.items():
        figures |= {f"{name}_{way}": value for name, value in an_hour(folder / f"{way}.db", rates).items()}
    town = _town(folder / "seal.db", WAYS["v1"], SEALED_AT_ONCE)[0]
    town.use_all(SEALED_AT_ONCE)
    began = time.perf_counter()
    town.sealer.step()
    figures["seal_seconds_ten_thousand_customers"] = round(time.perf_counter() - began, 3)
    town.close()
    return figures


def an_hour(path: Path, rates: Rates) -> dict[str, Any]:
    """Calls, seals and reports of an hour. Processor time of a report includes the local Stripe's."""
    town, counted = _town(path, rates, CUSTOMERS)
    before, seals, reports, paced_ms = counted.requests, list[float](), list[float](), list[int]()
    for _ in range(SEALS):
        town.use_all(CUSTOMERS, CALLS_OF_ONE)
        town.clock.manual.pass_ms(HOUR // SEALS * 1000 - sum(paced_ms[-1:]))
        began = time.perf_counter()
        town.sealer.step()
        sealed = time.perf_counter()
        paced_ms.append(town.drain())
        seals.append(sealed - began)
        reports.append(time.perf_counter() - sealed)
    if town.wire.total != town.used:
        raise SystemExit(f"Stripe counted {town.wire.total} calls of {town.used}")
    requests = counted.requests - before
    town.close()
    return {
        "stripe_calls_per_million": round(requests * 1_000_000 / town.used),
        "seal_seconds_thousand_customers": round(median(seals), 3),
        "report_seconds_thousand_customers": round(median(paced_ms) / 1000, 2),
        "report_cpu_us_an_event": round(median(reports) / CUSTOMERS * 1e6),
    }


def _town(path: Path, rates: Rates, customers: int) -> tuple[Town, _Counted]:
    wire = Wire(StillClock(AT))
    counted = _Counted(wire)
    provider = StripeProvider(Secret(KEY), (), transport=counted.send)
    provider.create_meter(CALLS)
    town = Town(f"sqlite:///{path}", wire=wire, provider=provider, rates=rates)
    town.settle_in(customers)
    return town, counted
