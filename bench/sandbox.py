"""`make bench PART=sandbox`: how fast the local Stripe starts, takes meter events, and lets a month pass.

The server keeps to one core where the system allows it, the client to the rest. Over HTTP each connection sends the
meter events of one customer, one after another. A month is measured in one process for growing numbers of customers
with one subscription, a card and some usage: each gets its renewal's invoice, finalized and paid. Processor time stands
beside the clock's, for a machine that has other work.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx

from bench.servers import HOST, cpu_seconds
from farebox.sandbox import ManualClock, Sandbox

KEY = "sk_test_bench0123456789"
AUTH = {"Authorization": f"Bearer {KEY}"}
START_AT = 1_800_000_000
MONTH_SECONDS = 31 * 86_400 + 2 * 3_600
STARTS = 5


def run(arguments: argparse.Namespace) -> None:
    figures: dict[str, Any] = {"start_seconds": start_seconds()}
    seconds = max(arguments.seconds, 5.0)
    figures.update(meter_events(arguments.connections, seconds))
    with tempfile.TemporaryDirectory() as folder:
        kept = meter_events(arguments.connections, seconds, "--state", f"{folder}/stripe.state")
    figures["meter_events_per_second_kept"] = kept["meter_events_per_second"]
    print(f"start            {figures['start_seconds']:>10} s", file=sys.stderr)
    print(f"meter events     {figures['meter_events_per_second']:>10} /s", file=sys.stderr)
    print(f"... with --state {figures['meter_events_per_second_kept']:>10} /s", file=sys.stderr)
    print(f"CPU of one       {figures['meter_event_cpu_us']:>10} µs", file=sys.stderr)
    heads = ("made in", "month in", "CPU made", "CPU month", "µs each", "kB each")
    print(f"\n{'customers':>10}" + "".join(f"{head:>12}" for head in heads), file=sys.stderr)
    curve = []
    for customers in arguments.customers:
        row = measured_apart(customers)
        curve.append(row)
        print(
            f"{row['customers']:>10}{row['made_seconds']:>10} s{row['month_seconds']:>10} s"
            f"{row['made_cpu_seconds']:>10} s{row['month_cpu_seconds']:>10} s"
            f"{row['month_cpu_us_each']:>12}{row['kilobytes_each']:>12}",
            file=sys.stderr,
        )
    print(json.dumps({**figures, **curve[-1], "curve": curve}))


def start_seconds() -> float:
    """From the command to the first answer, the median of a few, after one that fills the caches."""
    took = []
    for _ in range(STARTS + 1):
        began = time.perf_counter()
        with served() as (_, base):
            httpx.get(f"{base}/v1/account", headers=AUTH, trust_env=False).raise_for_status()
            took.append(time.perf_counter() - began)
    return round(statistics.median(took[1:]), 2)


@contextmanager
def served(*options: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    command = [str(Path(sys.executable).with_name("farebox")), "sandbox", "--port", "0", *options]
    child = subprocess.Popen(command, stderr=subprocess.PIPE)
    assert child.stderr is not None
    try:
        line = child.stderr.readline().decode()
        if " is at http" not in line:
            raise SystemExit(f"The local Stripe did not start: {line}")
        yield child, line.split()[5].rstrip(".")
    finally:
        child.kill()
        child.wait(30)
        child.stderr.close()


def meter_events(connections: int, seconds: float, *options: str) -> dict[str, Any]:
    """How many meter events a second are taken, each with an identifier of its own."""
    with served(*options) as (child, base):
        if hasattr(os, "sched_setaffinity") and len(cores := sorted(os.sched_getaffinity(0))) > 1:
            for task in Path(f"/proc/{child.pid}/task").iterdir():
                os.sched_setaffinity(int(task.name), cores[:1])
            os.sched_setaffinity(0, cores[1:])
        with httpx.Client(base_url=base, headers=AUTH, trust_env=False) as client:
            meter = {"display_name": "Calls", "event_name": "calls", "default_aggregation[formula]": "sum"}
            client.post("/v1/billing/meters", data=meter).raise_for_status()
            made = [client.post("/v1/customers").raise_for_status().json()["id"] for _ in range(connections)]
        port = int(base.rpartition(":")[2])
        cpu, began = cpu_seconds(child.pid), time.perf_counter()
        sent = asyncio.run(send_all(port, made, began + seconds))
        took = time.perf_counter() - began
        cost = (cpu_seconds(child.pid) - cpu) / sent * 1e6
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, range(os.cpu_count() or 1))
    return {"meter_events_per_second": round(sent / took), "meter_event_cpu_us": round(cost)}


async def send_all(port: int, customers: list[str], until: float) -> int:
    return sum(await asyncio.gather(*(send(port, customer, until) for customer in customers)))


async def send(port: int, customer: str, until: float) -> int:
    reader, writer = await asyncio.open_connection(HOST, port)
    count = 0
    while time.perf_counter() < until:
        name = f"{customer}_{count}"
        payload = {"payload[stripe_customer_id]": customer, "payload[value]": "1", "identifier": name}
        body = urlencode({"event_name": "calls", **payload}).encode()
        head = (
            f"POST /v1/billing/meter_events HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {KEY}\r\n"
            f"Content-Type: application/x-www-form-urlencoded\r\nIdempotency-Key: {name}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"The local Stripe answered {answer[:80]!r}")
        lower = answer.lower()
        at = lower.index(b"content-length:") + 15
        await reader.readexactly(int(lower[at : lower.index(b"\r\n", at)]))
        count += 1
    writer.close()
    return count


def measured_apart(customers: int) -> dict[str, Any]:
    """A month in a process of its own, so that the memory is its own."""
    command = [sys.executable, "-m", "bench.sandbox", str(customers)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    row: dict[str, Any] = json.loads(done.stdout)
    return row


def month(customers: int) -> dict[str, Any]:
    sandbox = Sandbox(ManualClock(START_AT))

    def post(path: str, **data: str) -> str:
        answer = sandbox.request("POST", f"/v1/{path}", AUTH, urlencode(data).encode())
        assert answer.status == 200, answer.body
        return str(json.loads(answer.body).get("id"))

    meter = post("billing/meters", display_name="x", event_name="calls", **{"default_aggregation[formula]": "sum"})
    product = post("products", name="API calls")
    shape = {"interval": "month", "usage_type": "metered", "meter": meter}
    recurring = {f"recurring[{name}]": value for name, value in shape.items()}
    price = post("prices", currency="usd", product=product, unit_amount_decimal="0.5", **recurring)
    before, began, cpu_began = resident_bytes(), time.perf_counter(), time.process_time()
    for number in range(customers):
        id = post("customers", email=f"{number}@buyer.example")
        card = post("payment_methods/pm_card_visa/attach", customer=id)
        post("subscriptions", customer=id, default_payment_method=card, **{"items[0][price]": price})
        post("billing/meter_events", event_name="calls", **{"payload[stripe_customer_id]": id, "payload[value]": "100"})
    made = time.perf_counter() - began
    made_cpu = time.process_time() - cpu_began
    began, cpu_began = time.perf_counter(), time.process_time()
    sandbox.advance(START_AT + MONTH_SECONDS)
    took, month_cpu = time.perf_counter() - began, time.process_time() - cpu_began
    state = next(iter(sandbox.accounts.values()))
    invoices = [invoice for invoice in state.objects["invoice"].values() if invoice["status"] == "paid"]
    assert len(invoices) == customers
    assert {invoice["total"] for invoice in invoices} == {50}
    return {
        "customers": customers,
        "made_seconds": round(made, 1),
        "month_seconds": round(took, 1),
        "made_cpu_seconds": round(made_cpu, 1),
        "month_cpu_seconds": round(month_cpu, 1),
        "month_cpu_us_each": round(month_cpu / customers * 1e6),
        "kilobytes_each": round((resident_bytes() - before) / customers / 1e3, 1),
    }


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    print(json.dumps(month(int(sys.argv[1]))))
