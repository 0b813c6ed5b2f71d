"""The public test kit: paid and unpaid clients for a seller's own application, and the usage they caused. No network.

Everything is real but the way: the ledger is in memory, and the local Stripe is called in the same process.
Needs `httpx2`, as Starlette's own test client does.
"""

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar
from urllib.parse import urlencode, urlsplit

from starlette.testclient import TestClient
from starlette.types import ASGIApp

from farebox.app import Adapters, open_provider
from farebox.billing.catalog import apply_push, plan_push
from farebox.config import Settings, load_settings
from farebox.domain.reports import ReportState
from farebox.errors import ConfigError
from farebox.protect import Farebox
from farebox.sandbox import Sandbox
from farebox.store.sql import MEMORY_URL, SqlStore
from farebox.system import FollowingClock, SystemEntropy

__all__ = ["SETTLE_MILLISECONDS_MAX", "BuyerClient", "Kit"]

SETTLE_MILLISECONDS_MAX: Final = 5_000

_PUBLIC_URL: Final = "http://testserver"
_Client = TypeVar("_Client", bound=TestClient)
_CARD: Final = {"number": "4242424242424242", "expiry": "12/40", "cvc": "123"}


class BuyerClient(TestClient):
    """A test client that sends its buyer's key. Ask it for pages as any Starlette test client."""

    account_id: str
    key: str


class Kit:
    """A seller's application with Farebox, started for a test.

    with Kit(app, farebox, "farebox.toml") as kit:
        buyer = kit.paid_client()
        assert buyer.get("/api").status_code == 200
        assert kit.usage(buyer) == {"calls": 1}
    """

    def __init__(self, app: ASGIApp, farebox: Farebox, config: str | Path = "farebox.toml") -> None:
        self.sandbox = Sandbox()
        self._app = app
        self._farebox = farebox
        entropy = SystemEntropy()
        stripe_key = f"sk_test_{entropy.token()}"
        self._stripe_headers = {"Authorization": f"Bearer {stripe_key}"}
        endpoint = self._stripe("POST", "webhook_endpoints", {"url": _PUBLIC_URL, "enabled_events[]": "*"})
        self.settings: Settings = load_settings(
            path=config,
            environ={
                "STRIPE_SECRET_KEY": stripe_key,
                "STRIPE_WEBHOOK_SECRET": endpoint["secret"],
                "FAREBOX_PUBLIC_URL": _PUBLIC_URL,
                "FAREBOX_SECRET": entropy.token() + entropy.token(),
                "FAREBOX_ADMIN_TOKEN": entropy.token() + entropy.token(),
            },
        )
        self.clock = FollowingClock(lambda: self.sandbox.clock.offset_seconds)
        provider = open_provider(self.settings, self._transport)
        self.adapters = Adapters(SqlStore(MEMORY_URL, self.clock, entropy), provider, self.clock, entropy)
        self._base = TestClient(app, base_url=_PUBLIC_URL)

    def __enter__(self) -> "Kit":
        apply_push(plan_push(self.settings.catalog, self.adapters.provider), lambda change: None)
        self._farebox.override(self.settings, self.adapters)
        self._base.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._base.__exit__(kind, error, trace)

    def client(self) -> TestClient:
        """A client without a key."""
        return self._share(TestClient(self._app, base_url=_PUBLIC_URL))

    def paid_client(self, plan: str | None = None) -> BuyerClient:
        """A buyer who subscribed to the plan (the first one when none is named), paid and claimed a key."""
        stranger = self.client()
        asked = {"plan": plan or next(iter(self.settings.catalog.plans)), "email": "buyer@example.com"}
        begun = stranger.post(f"{self.settings.prefix}/checkout", json=asked)
        if begun.status_code != 201:
            raise ConfigError(f"The checkout failed: {begun.text}")
        self._pay(begun.json()["id"])
        claimed = stranger.post(f"{self.settings.prefix}/claim", json={"session_id": begun.json()["id"]}).json()
        buyer = BuyerClient(self._app, base_url=_PUBLIC_URL, headers={"X-API-Key": claimed["key"]})
        buyer.account_id, buyer.key = claimed["account"], claimed["key"]
        self._share(buyer)
        self.settle()
        return buyer

    def unpaid_client(self, plan: str | None = None) -> BuyerClient:
        """A buyer with a good key whose subscription has ended."""
        buyer = self.paid_client(plan)
        account = self.adapters.store.account(buyer.account_id)
        customer_id = account.customer_id if account is not None else None
        for subscription in self._stripe("GET", f"subscriptions?customer={customer_id}")["data"]:
            self._stripe("DELETE", f"subscriptions/{subscription['id']}")
        self.settle()
        return buyer

    def usage(self, buyer: BuyerClient) -> dict[str, int]:
        """What this buyer has used so far, by meter."""
        lines = self.adapters.store.usage(buyer.account_id, 0, self.clock.now_at() + 86_400)
        return {line.meter: line.quantity for line in lines}

    def parked(self) -> dict[tuple[str, str], int]:
        """The quantities that were not believed since the start, by meter and reason: an empty dict if all is well."""
        return self._farebox.runtime.metering.parking.counts()

    def reported(self, buyer: BuyerClient) -> dict[str, int]:
        """What the local Stripe has counted for this buyer, by meter event name, once all of it is reported."""
        self.settle()
        account = self.adapters.store.account(buyer.account_id)
        counted: dict[str, int] = {}
        for meter in self._stripe("GET", "billing/meters")["data"]:
            end = -(-self.clock.now_at() // 60) * 60 + 60
            asked = {"customer": account.customer_id if account is not None else "", "start_time": 0, "end_time": end}
            found = self._stripe("GET", f"billing/meters/{meter['id']}/event_summaries?{urlencode(asked)}")["data"]
            counted[meter["event_name"]] = sum(int(entry["aggregated_value"]) for entry in found)
        return counted

    def settle(self) -> None:
        """Let everything arrive: usage is reported, webhooks are delivered and worked off."""
        runtime = self._farebox.runtime
        runtime.background.flush()
        while self.sandbox.deliver_due(self._receive):
            pass
        until_ms = self.clock.monotonic_ms() + SETTLE_MILLISECONDS_MAX
        while runtime.background.worker.step() or (self._under_way() and self.clock.monotonic_ms() < until_ms):
            threading.Event().wait(0.001)
        runtime.gate.poll()

    def _under_way(self) -> bool:
        """Whether the application's own loops have taken what has not arrived yet."""
        store = self.adapters.store
        return store.inbox_waiting() > 0 or store.report_summary().counts[ReportState.SENDING] > 0

    def advance(self, *, days: int = 0, seconds: int = 0) -> None:
        """Move the time of the local Stripe and of Farebox forward, stopping at each end of a billing period."""
        to_at = self.sandbox.now_at + days * 86_400 + seconds
        while (draft_at := self.sandbox.next_draft_at(to_at)) is not None:
            self._move(draft_at)
        self._move(to_at)

    def _move(self, to_at: int) -> None:
        self.sandbox.advance(to_at)
        self.clock.refresh()
        self.settle()

    def _pay(self, session_id: str) -> None:
        self.sandbox.pay(session_id, **_CARD)

    def _share(self, client: _Client) -> _Client:
        """Let the client run on the event loop on which the application was started, with its lifespan's state."""
        client.portal = self._base.portal
        client.app_state.update(self._base.app_state)
        return client

    def _receive(self, _url: str, headers: dict[str, str], body: bytes) -> int | None:
        self._farebox.runtime.receive(body, headers["Stripe-Signature"])
        return 200

    def _stripe(self, method: str, path: str, form: Mapping[str, str] | None = None) -> Any:
        body = urlencode(form or {}).encode()
        return json.loads(self.sandbox.request(method, f"/v1/{path}", self._stripe_headers, body).body)

    def _transport(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[bytes, int, Mapping[str, str]]:
        parts = urlsplit(url)
        answer = self.sandbox.request(method, parts.path + (f"?{parts.query}" if parts.query else ""), headers, body)
        return answer.body, answer.status, answer.headers
