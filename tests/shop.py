"""A whole Farebox in one process for tests: its routes over ASGI, a memory ledger, the local Stripe behind the SDK.

Time stands still until it is moved. Nothing here touches the network.
"""

import hashlib
import hmac
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import pytest
import stripe
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from farebox.app import Adapters, Runtime
from farebox.billing.catalog import apply_push, plan_push
from farebox.billing.claim import Claimed, take_claim
from farebox.config import Settings, load_settings
from farebox.domain.accounts import Account
from farebox.domain.catalog import Catalog
from farebox.domain.keys import Secret
from farebox.provider.stripe import StripeProvider
from farebox.sandbox import Sandbox
from farebox.sandbox import checkout as hosted_checkout
from farebox.sandbox.clock import ManualClock
from farebox.sandbox.state import State, StripeObject
from farebox.store.spool import FileSpoolFolder
from farebox.store.sql import MEMORY_URL, SqlStore
from farebox.system import SystemEntropy
from farebox.web.middleware import PaidCalls

__all__ = [
    "ADMIN_TOKEN",
    "CATALOG",
    "PUBLIC_URL",
    "START_AT",
    "WEBHOOK_SECRET",
    "Shop",
    "StillClock",
    "bearer",
    "open_shop",
    "shop",
    "signed",
]

START_AT: Final = 1_800_000_000
PUBLIC_URL: Final = "http://api.example.test"
WEBHOOK_SECRET: Final = "whsec_for_tests_of_the_whole_shop"
ADMIN_TOKEN: Final = "operator-token-for-tests-0123456789abcdef"
STRIPE_KEY: Final = "sk_test_for_tests_of_the_shop"
CATALOG: Final = """
[meters.calls]
title = "API calls"

[plans.payg]
title = "Pay as you go"
currency = "usd"
interval = "month"
[[plans.payg.prices]]
meter = "calls"
unit_amount = "1.00"

[plans.bulk]
title = "Bulk <b>&amp; cheap</b>"
currency = "usd"
interval = "month"
[[plans.bulk.prices]]
meter = "calls"
unit_amount = "0.015"

[[routes]]
match = "GET /api"
meter = "calls"
quantity = 1
"""


class StillClock:
    """Farebox's clock at Stripe's time: both move only when a test moves them."""

    def __init__(self, at: int = START_AT) -> None:
        self.manual = ManualClock(at)

    def now_at(self) -> int:
        return self.manual.now_at()

    def system_at(self) -> int:
        return self.manual.system_at()

    def monotonic_ms(self) -> int:
        return self.manual.system_ms()

    def pass_seconds(self, seconds: int) -> None:
        self.manual.pass_ms(seconds * 1000)


@dataclass(frozen=True, slots=True)
class Shop:
    """The running whole. `asked` lists what was sent to Stripe as "METHOD /path"."""

    settings: Settings
    store: SqlStore
    provider: StripeProvider
    clock: StillClock
    entropy: SystemEntropy
    sandbox: Sandbox
    runtime: Runtime
    client: TestClient
    asked: list[str]

    @property
    def catalog(self) -> Catalog:
        return self.settings.catalog

    @property
    def stripe(self) -> State:
        """The local Stripe's only account."""
        return next(iter(self.sandbox.accounts.values()))

    def objects(self, kind: str) -> list[StripeObject]:
        return self.stripe.all(kind)

    def checkout(self, *, plan: str = "payg", key: str | None = None) -> str:
        """Begin a purchase over HTTP. Returns the session's id."""
        headers = {"X-API-Key": key} if key is not None else {}
        answer = self.client.post("/billing/checkout", json={"plan": plan}, headers=headers)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def pay(self, session_id: str) -> None:
        """What the buyer does on Stripe's page."""
        session = self.stripe.objects["checkout.session"][session_id]
        context = self.sandbox.context(self.stripe)
        hosted_checkout.pay(
            context, session, email="buyer@example.test", number="4242424242424242", expiry="12/40", cvc="123"
        )
        self.sandbox.reschedule()

    def expire(self, session_id: str) -> None:
        hosted_checkout.expire(self.sandbox.context(self.stripe), self.stripe.objects["checkout.session"][session_id])

    def claim(self, session_id: str) -> Claimed:
        return take_claim(
            self.store,
            self.provider,
            self.clock,
            self.entropy,
            self.settings.peppers,
            live=False,
            session_id=session_id,
        )

    def buy(self, *, plan: str = "payg") -> Claimed:
        """From nothing to a key that works."""
        session_id = self.checkout(plan=plan)
        self.pay(session_id)
        claimed = self.claim(session_id)
        self.runtime.gate.poll()
        return claimed

    def account(self, claimed: Claimed) -> Account:
        found = self.store.account(claimed.account_id)
        assert found is not None
        return found

    def call(self, key: Secret, times: int = 1) -> None:
        """Paid calls of the protected endpoint, however much time has been moved since the feed was read."""
        self.runtime.gate.poll()
        for _ in range(times):
            answer = self.client.get("/api", headers=bearer(key))
            assert answer.status_code == 200, answer.text

    def at_stripe(self, method: str, path: str, body: str = "") -> dict[str, Any]:
        """Ask the local Stripe directly, past Farebox."""
        answer = self.sandbox.request(method, path, {"Authorization": f"Bearer {STRIPE_KEY}"}, body.encode())
        document = json.loads(answer.body)
        assert answer.status == 200, document
        return dict(document)


def bearer(key: Secret) -> dict[str, str]:
    return {"Authorization": f"Bearer {key.reveal()}"}


def signed(body: bytes, at: int, secret: str = WEBHOOK_SECRET) -> str:
    """A Stripe-Signature header, made here by hand and not by the code under test."""
    digest = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


@contextmanager
def open_shop(
    folder: Path,
    *,
    push: bool = True,
    catalog: str = CATALOG,
    admin: bool = True,
    database: str = MEMORY_URL,
    public_url: str = PUBLIC_URL,
) -> Iterator[Shop]:
    """Start it, with its catalog published at Stripe unless told not to."""
    path = folder / "farebox.toml"
    path.write_text(catalog)
    environ = {
        "STRIPE_SECRET_KEY": STRIPE_KEY,
        "STRIPE_WEBHOOK_SECRET": WEBHOOK_SECRET,
        "FAREBOX_SECRET": "a secret of the tests that is long enough",
        "FAREBOX_PUBLIC_URL": public_url,
        **({"FAREBOX_ADMIN_TOKEN": ADMIN_TOKEN} if admin else {}),
    }
    settings = load_settings(environ=environ, path=path)
    clock, entropy = StillClock(), SystemEntropy()
    sandbox = Sandbox(clock.manual)
    asked: list[str] = []
    secrets = [Secret(WEBHOOK_SECRET)]
    provider = StripeProvider(Secret(STRIPE_KEY), secrets, transport=_transport(sandbox, asked))
    if push:
        apply_push(plan_push(settings.catalog, provider), lambda change: None)
    else:
        provider.account()
    store = SqlStore(database, clock, entropy)
    spools = FileSpoolFolder(settings.spool_path) if settings.spool_path is not None else None
    runtime = Runtime(settings, Adapters(store, provider, clock, entropy, spools=spools), background=False)
    app = PaidCalls(Starlette(routes=[Route("/api", _api)]), runtime)
    asked.clear()
    try:
        with TestClient(app, base_url=PUBLIC_URL, raise_server_exceptions=False, follow_redirects=False) as client:
            yield Shop(settings, store, provider, clock, entropy, sandbox, runtime, client, asked)
    finally:
        provider.close()


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """A shop that is open for one test."""
    with open_shop(tmp_path) as opened:
        yield opened


async def _api(request: Request) -> Response:
    return PlainTextResponse("served")


def _transport(sandbox: Sandbox, asked: list[str]) -> Any:
    def send(method: str, url: str, headers: Mapping[str, str], body: bytes) -> tuple[bytes, int, Mapping[str, str]]:
        parts = urlsplit(url)
        asked.append(f"{method} {parts.path}")
        if "down" in asked:
            raise stripe.APIConnectionError("the local Stripe was taken away", should_retry=False)  # type: ignore[no-untyped-call]
        if "unplugged" in asked:
            unsent = httpx.ConnectError("no route to the local Stripe")
            raise stripe.APIConnectionError("nothing was sent", should_retry=False) from unsent  # type: ignore[no-untyped-call]
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        answer = sandbox.request(method, target, headers, body)
        if "deaf" in asked:
            raise stripe.APIConnectionError("the answer was lost", should_retry=False)  # type: ignore[no-untyped-call]
        return answer.body, answer.status, httpx.Headers(answer.headers)

    return send
