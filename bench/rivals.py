"""`make bench PART=rivals`: a call paid through Farebox beside the same call paid by what people would use instead.

- bare: the endpoint alone, on FastAPI.
- farebox: with Farebox in front of it, as in part hello.
- gringotts: gringotts-api, prepaid credits for FastAPI, as its README sets it up: `Depends(charge(1))`, the key in
  X-API-Key, its own SQLite database, everything at its defaults. It is fetched when this part first runs.
- tutorial: a dict of keys to customers, and one awaited meter event to Stripe in each call, with Stripe's own SDK at
  its defaults. Its Stripe is the local one: once with an answer as soon as it can, and once after 100 ms. That answers
  from this machine without TLS and without Stripe's limits (1,000 events a second, one under way for each customer
  and meter), which is kinder than the real one. At 100 ms no more than ten calls a second fit through a connection.

Each is on uvicorn with one worker on one core; the load and both local Stripes are on the other cores. All take turns
in every round; each figure is the median of the rounds, beside the smallest and largest. The first round warms up and
does not count. In the end each rival must have charged for every call that it let through.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx

from bench.chart import bars
from bench.hello import spread
from bench.load import Measured, generator, saturate
from bench.servers import HOST, listening, pinned, process, wait_for
from bench.shop import Shop, buy

__all__ = ["measure", "run"]

ROOT = Path(__file__).parent.parent
FETCHED = ROOT / ".rivals"
PORTS = {"bare": 8901, "farebox": 8902, "gringotts": 8908, "tutorial": 8909}
STRIPE = f"http://{HOST}:8910"  # the tutorial's, apart from the one that Farebox reports to
STRIPE_KEY = "sk_test_bench0123456789"
TUTORIAL_KEY = "one-of-the-tutorial"
SIDES = ("bare", "farebox", "gringotts", "tutorial_0_ms", "tutorial_100_ms")
RIVALS = SIDES[2:]
LATENCY_MS = {"tutorial_0_ms": 0, "tutorial_100_ms": 100}
GOALS = {"times_faster_than_gringotts": "≥ 15", "times_faster_than_tutorial_100_ms": "≥ 10"}
CREDITS = 1_000_000_000
CUSTOMERS_OF_A_CONNECTION = 16  # so that a customer's next event never meets the one before
TURN_SECONDS_MAX = 2.0  # `wrk` takes an answer after more than that for an error, and gringotts-api gives such
SETTLE_SECONDS = 0.3  # what is under way at the end of a turn ends before the next one begins


def run(arguments: argparse.Namespace) -> None:
    """Measure, print a table, draw, and end with the figures as one JSON object."""
    figures = measure(arguments)
    show(figures)
    draw(figures, Path(arguments.charts))
    print(json.dumps(figures))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures of this part."""
    fetch()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(pinned())
        shop = Shop(stack, folder)
        credits = Credits(folder)
        stripe = TutorialStripe(stack, arguments.connections)
        servers = {}
        for name, app, healthy, environment in (
            ("bare", "bench.apps:bare_fastapi", "api", {}),
            ("farebox", "bench.apps:paid_fastapi", "billing/healthz", shop.environment(PORTS["farebox"])),
            ("gringotts", "bench.rival_apps:gringotts", "calls", credits.environment),
            ("tutorial", "bench.rival_apps:tutorial", "calls", stripe.environment),
        ):
            servers[name] = stack.enter_context(listening(app, PORTS[name], environment, "--factory"))
            wait_for(f"http://{HOST}:{PORTS[name]}/{healthy}")
        keys = {"bare": "", "farebox": buy(PORTS["farebox"]), "gringotts": credits.key, "tutorial": TUTORIAL_KEY}

        def turn(side: str) -> Measured:
            name = side.partition("_")[0]
            with stripe.latency(LATENCY_MS.get(side, 0)):
                measured = saturate(
                    PORTS[name],
                    keys[name],
                    pid=servers[name].pid,
                    connections=arguments.connections,
                    seconds=min(arguments.seconds, TURN_SECONDS_MAX),
                )
                time.sleep(SETTLE_SECONDS)
            return measured

        rounds: list[dict[str, Measured]] = []
        for number in range(arguments.rounds + 1):
            rounds.append({side: turn(side) for side in (SIDES if number % 2 else reversed(SIDES))})
            print(f"rivals {number} of {arguments.rounds}", end="\r", file=sys.stderr, flush=True)
        charged = {
            "gringotts_calls": all_charged("gringotts", credits.charged),
            "tutorial_calls": all_charged("tutorial", stripe.charged),
        }
    about = {"generator": generator(), "rounds": arguments.rounds, "connections": arguments.connections}
    return {**about, **compared(rounds[1:]), **charged}


def compared(rounds: list[dict[str, Measured]]) -> dict[str, Any]:
    """Rates, processor time, each side over bare, and how many times faster Farebox is than each rival."""
    figures: dict[str, Any] = {}
    for rival in RIVALS:
        figures |= spread(f"times_faster_than_{rival}", [r["farebox"].rate / r[rival].rate for r in rounds], 1)
    for side in SIDES[1:]:
        figures |= spread(f"over_bare_{side}", [r[side].rate / r["bare"].rate for r in rounds], 4)
    for side in SIDES:
        figures[f"{side}_rate"] = round(statistics.median(r[side].rate for r in rounds))
        figures[f"{side}_cpu_us"] = round(statistics.median(r[side].cpu_us for r in rounds), 1)
    return figures


def fetch() -> None:
    """Install gringotts-api from its lock into a folder of its own, unless that is there."""
    lock, stamp = ROOT / "requirements" / "rivals.txt", FETCHED / "rivals.txt"
    if stamp.exists() and stamp.read_bytes() == lock.read_bytes():
        return
    print("Fetching gringotts-api from the package index …", file=sys.stderr)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes"]
    if subprocess.run([*pip, "--upgrade", "--no-deps", "--target", str(FETCHED), "-r", str(lock)]).returncode:
        raise SystemExit("gringotts-api is not here and could not be fetched: this part cannot run.")
    stamp.write_bytes(lock.read_bytes())


class Credits:
    """A user of gringotts-api with plenty of credits, made by its own command line."""

    def __init__(self, folder: Path) -> None:
        self.environment = {"PYTHONPATH": str(FETCHED), "DATABASE_URL": f"sqlite:///{folder}/gringotts.db"}
        self._command("init-db")
        self.key = self._command("create-user", "alice", "--credits", str(CREDITS)).split()[-1]

    def charged(self) -> int:
        """The credits that are gone."""
        url = f"http://{HOST}:{PORTS['gringotts']}/gringotts/balance"
        return CREDITS - int(asked(url, headers={"X-API-Key": self.key})["balance"])

    def _command(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "gringotts.cli", *arguments]
        environment = {**os.environ, **self.environment}
        return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout


class TutorialStripe:
    """A local Stripe with a meter and customers enough that no two events of one are under way together."""

    def __init__(self, stack: ExitStack, connections: int) -> None:
        port = STRIPE.rpartition(":")[2]
        stack.enter_context(process(["-m", "farebox", "sandbox", "--port", port], {}))
        wait_for(f"{STRIPE}/_sandbox/clock")
        headers = {"Authorization": f"Bearer {STRIPE_KEY}"}
        self._client = stack.enter_context(httpx.Client(base_url=STRIPE, headers=headers, trust_env=False))
        meter = {"display_name": "API calls", "event_name": "calls", "default_aggregation[formula]": "count"}
        self._meter = self._post("/v1/billing/meters", meter)
        self._customers = [self._post("/v1/customers", {}) for _ in range(connections * CUSTOMERS_OF_A_CONNECTION)]
        self._since = int(time.time()) // 60 * 60
        self.environment = {
            "STRIPE_SECRET_KEY": STRIPE_KEY,
            "STRIPE_API_BASE": STRIPE,
            "TUTORIAL_KEY": TUTORIAL_KEY,
            "TUTORIAL_CUSTOMERS": " ".join(self._customers),
            "NO_PROXY": HOST,  # the SDK's own client would send even this through a proxy
        }

    @contextmanager
    def latency(self, milliseconds: int) -> Iterator[None]:
        """Inside the block each meter event is answered so much later."""
        if milliseconds:
            fault = {"path": "/v1/billing/meter_events", "latency_ms": milliseconds, "count": None}
            self._client.post("/_sandbox/faults", json=fault).raise_for_status()
        yield
        self._client.delete("/_sandbox/faults").raise_for_status()

    def charged(self) -> int:
        """The meter events that Stripe has counted."""
        window = {"start_time": self._since, "end_time": int(time.time()) // 60 * 60 + 60}
        return sum(self._counted(customer, window) for customer in self._customers)

    def _counted(self, customer: str, window: dict[str, int]) -> int:
        url = f"/v1/billing/meters/{self._meter}/event_summaries"
        answer = self._client.get(url, params={"customer": customer, **window}).raise_for_status().json()
        return sum(int(summary["aggregated_value"]) for summary in answer["data"])

    def _post(self, path: str, form: dict[str, str]) -> str:
        return str(self._client.post(path, data=form).raise_for_status().json()["id"])


def all_charged(name: str, charged: Callable[[], int]) -> int:
    """The calls that a rival let through, each of which it must have charged for."""
    calls, taken = int(asked(f"http://{HOST}:{PORTS[name]}/calls")), charged()
    if not calls or calls != taken:
        raise SystemExit(f"{name} let {calls} calls through and charged for {taken}: the comparison does not hold.")
    return calls


def asked(url: str, headers: dict[str, str] | None = None) -> Any:
    return httpx.get(url, headers=headers, trust_env=False, timeout=30).raise_for_status().json()


def show(figures: dict[str, Any]) -> None:
    """The table, for people."""
    print(f"Load by {figures['generator']}, {figures['connections']} connections.\n", file=sys.stderr)
    print(f"{'':18}{'calls/s':>10}{'CPU µs a call':>16}{'over bare':>12}", file=sys.stderr)
    for side in SIDES:
        over = figures.get(f"over_bare_{side}", 1.0)
        print(f"{side:18}{figures[f'{side}_rate']:>10}{figures[f'{side}_cpu_us']:>16}{over:>12.3f}", file=sys.stderr)
    print(f"\n{'':34}{'median':>10}{'min':>10}{'max':>10}{'goal':>10}", file=sys.stderr)
    for rival in RIVALS:
        name = f"times_faster_than_{rival}"
        row = "".join(f"{figures[f'{name}{end}']:>10}" for end in ("", "_min", "_max"))
        print(f"{name:34}{row}{GOALS.get(name, ''):>10}", file=sys.stderr)


def draw(figures: dict[str, Any], folder: Path) -> None:
    """The chart of this part."""
    labels = ["bare", "Farebox", "gringotts-api", "a Stripe call, 0 ms", "a Stripe call, 100 ms"]
    values = [figures[f"{side}_rate"] for side in SIDES]
    bars(folder / "rivals-rate.svg", "Calls a second, one worker", labels, values)
