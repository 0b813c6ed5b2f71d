"""What every part that calls a paid endpoint needs: a local Stripe, a pushed catalog, and a buyer who has paid."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import httpx

from bench.servers import HOST, process, wait_for
from farebox.app import open_provider
from farebox.billing.catalog import apply_push, plan_push
from farebox.config import load_settings

__all__ = ["ADMIN_TOKEN", "CONFIG", "Shop", "buy", "metric"]

STRIPE_PORT = 8903
ADMIN_TOKEN = "bench-" * 8
CONFIG = """
[meters.calls]
title = "API calls"
[plans.payg]
title = "Pay as you go"
[[plans.payg.prices]]
meter = "calls"
unit_amount = "0.01"
[[routes]]
match = "GET /api"
meter = "calls"
"""


class Shop:
    """A seller's settings in a folder, beside a local Stripe that knows the catalog. Its environment serves it."""

    def __init__(self, stack: ExitStack, folder: Path, config: str = CONFIG) -> None:
        path = folder / "farebox.toml"
        path.write_text(config)
        self._folder = folder
        self._environment = {
            "STRIPE_SECRET_KEY": "sk_test_bench0123456789",
            "STRIPE_WEBHOOK_SECRET": "whsec_bench0123456789abcdef",
            "STRIPE_API_BASE": f"http://{HOST}:{STRIPE_PORT}",
            "FAREBOX_SECRET": "bench-" * 8,
            "FAREBOX_ADMIN_TOKEN": ADMIN_TOKEN,
            "FAREBOX_CONFIG": str(path),
        }
        stack.enter_context(process(["-m", "farebox", "sandbox", "--port", str(STRIPE_PORT)], {}))
        wait_for(f"http://{HOST}:{STRIPE_PORT}/_sandbox/clock")
        settings = load_settings(environ=self.environment(STRIPE_PORT))
        apply_push(plan_push(settings.catalog, open_provider(settings)), lambda change: None)

    def environment(self, port: int, database_url: str = "") -> Mapping[str, str]:
        """Of a server on this port, with a ledger of its own unless one is named."""
        url = database_url or f"sqlite:///{self._folder}/{port}.db"
        return {
            **self._environment,
            "FAREBOX_PUBLIC_URL": f"http://{HOST}:{port}",
            "FAREBOX_DATABASE_URL": url,
        }


def buy(port: int) -> str:
    """The key of a new buyer who has paid."""
    with httpx.Client(base_url=f"http://{HOST}:{port}/billing", trust_env=False, timeout=30) as client:
        session = client.post("/checkout", json={"plan": "payg"}).raise_for_status().json()
        client.post(session["url"], data={"card_number": "4242424242424242", "exp": "12/40", "cvc": "123"})
        key: str = client.post("/claim", json={"session_id": session["id"]}).raise_for_status().json()["key"]
    return key


def metric(port: int, name: str) -> float:
    """A figure from a protected server's own /metrics."""
    headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    text = httpx.get(f"http://{HOST}:{port}/billing/metrics", headers=headers, trust_env=False).text
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith(name + " ")))
