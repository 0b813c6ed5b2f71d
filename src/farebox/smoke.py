"""The demo's smoke journey: a buyer from checkout to a cancelled key, over real HTTP, each step checked as it is made.

Acts only as a buyer's browser and client would, and asks the local Stripe as its dashboard would.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import httpx
import stamina
from rich.console import Console

from farebox.domain.catalog import format_minor
from farebox.errors import SmokeFailed
from farebox.system import SystemClock

__all__ = ["CALLS", "SETTLE_SECONDS_MAX", "run_smoke"]

CALLS: Final = 25
SETTLE_SECONDS_MAX: Final = 30
_PRICE_MINOR: Final = 100


class _NotYet(Exception):
    """Looked at again until the time is up."""


def run_smoke(base: str, stripe: str, stripe_key: str, say: Console) -> None:
    """Make the journey; the last line on stdout is its figures as JSON.

    SmokeFailed names the step that did not hold.
    """
    clock = SystemClock()
    began_ms = clock.monotonic_ms()
    with httpx.Client(timeout=60, trust_env=False) as client:
        figures = _Journey(client, base, stripe, stripe_key, say).run()
    figures["seconds"] = (clock.monotonic_ms() - began_ms) / 1000
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()


class _Journey:
    def __init__(self, client: httpx.Client, base: str, stripe: str, stripe_key: str, say: Console) -> None:
        self._client = client
        self._base = base
        self._billing = base + "/billing"
        self._stripe = stripe
        self._stripe_headers = {"Authorization": f"Bearer {stripe_key}"}
        self._say = say
        self._key_headers: dict[str, str] = {}

    def run(self) -> dict[str, Any]:
        with self._step("checkout") as tell:
            session = self._post("/checkout", {"plan": "payg", "email": "buyer@example.com"}, 201)
            tell(session["id"])
        with self._step("pay on the hosted page"):
            card = {"card_number": "4242424242424242", "exp": "12/34", "cvc": "123"}
            paid = self._client.post(session["url"], data=card)
            _expect(paid.status_code == 303, f"the page answered {paid.status_code}")
        with self._step("claim the key") as tell:
            page = self._client.get(paid.headers["location"])
            _expect(page.status_code == 200, f"the claim page answered {page.status_code}")
            claimed = self._post("/claim", {"session_id": session["id"]}, 201)
            self._key_headers = {"Authorization": f"Bearer {claimed['key']}"}
            tell(claimed["key"][:8] + "…" + claimed["key"][-4:])
        with self._step("webhook"):
            self._until(self._webhook_delivered, "checkout.session.completed was not delivered")
        with self._step(f"{CALLS} calls"):
            for _ in range(CALLS):
                answer = self._client.get(self._base + "/api", headers=self._key_headers)
                _expect(answer.status_code == 200, f"a call answered {answer.status_code}")
        with self._step("usage from the ledger") as tell:
            usage = self._get("/usage")
            quantity = usage["meters"][0]["quantity"]
            _expect(quantity == CALLS, f"the ledger says {quantity}")
            tell(f"{quantity} calls, {usage['total_text']}")
        return self._to_the_invoice(usage, quantity)

    def _to_the_invoice(self, usage: dict[str, Any], quantity: int) -> dict[str, Any]:
        with self._step("meter events at Stripe") as tell:
            self._until(lambda: self._reported(usage) == CALLS, "Stripe has not counted every call")
            reported = self._reported(usage)
            tell(str(reported))
        with self._step("upcoming invoice") as tell:
            upcoming = self._get("/invoices/upcoming")["total"]
            _expect(upcoming == CALLS * _PRICE_MINOR, f"the preview says {upcoming}")
            tell(format_minor(upcoming, "usd"))
        with self._step("time forward past the period and its grace"):
            self._move(usage["period_end"] + 2 * 3600)
        with self._step("invoice paid") as tell:
            self._until(lambda: self._paid_total() == CALLS * _PRICE_MINOR, "the invoice is not paid in full")
            paid_total = self._paid_total()
            tell(format_minor(paid_total, "usd"))
        with self._step("cancel in the portal"):
            url = self._post("/portal", {}, 200)["url"]
            cancelled = self._client.post(url, data={"action": "cancel", "subscription": self._subscription_id()})
            _expect(cancelled.status_code == 303, f"the portal answered {cancelled.status_code}")
        with self._step("the key after the last paid period") as tell:
            self._until(lambda: self._get("/usage")["cancel_at_period_end"], "the cancellation did not arrive")
            self._move(self._get("/usage")["period_end"] + 2 * 3600)
            self._until(lambda: self._call_status() == 402, "the key still works")
            status = self._call_status()
            tell(str(status))
        return {
            "calls": CALLS,
            "usage": quantity,
            "reported": reported,
            "upcoming_total": upcoming,
            "paid_total": paid_total,
            "after_cancel_status": status,
        }

    @contextmanager
    def _step(self, name: str) -> Iterator[Callable[[str], None]]:
        told: list[str] = []
        self._say.print(f"[dim]·[/] {name} …", end="")
        try:
            yield told.append
        except SmokeFailed as error:
            self._say.print(" [red]failed[/]")
            raise SmokeFailed(f"{name}: {error.detail}") from None
        except (httpx.HTTPError, KeyError, IndexError, ValueError) as error:
            self._say.print(" [red]failed[/]")
            raise SmokeFailed(f"{name}: {error!r}") from error
        self._say.print(f" [green]{' '.join(told) or 'done'}[/]")

    def _post(self, path: str, body: dict[str, Any], status: int) -> Any:
        answer = self._client.post(self._billing + path, json=body, headers=self._key_headers)
        _expect(answer.status_code == status, f"{path} answered {answer.status_code}: {answer.text[:200]}")
        return answer.json()

    def _get(self, path: str) -> Any:
        answer = self._client.get(self._billing + path, headers=self._key_headers)
        _expect(answer.status_code == 200, f"{path} answered {answer.status_code}: {answer.text[:200]}")
        return answer.json()

    def _at_stripe(self, path: str, **params: Any) -> Any:
        answer = self._client.get(f"{self._stripe}/v1/{path}", params=params, headers=self._stripe_headers)
        _expect(answer.status_code == 200, f"Stripe answered {answer.status_code}: {answer.text[:200]}")
        return answer.json()["data"]

    def _customer_id(self) -> str:
        return str(self._at_stripe("customers", email="buyer@example.com")[0]["id"])

    def _subscription_id(self) -> str:
        return str(self._at_stripe("subscriptions", customer=self._customer_id())[0]["id"])

    def _webhook_delivered(self) -> bool:
        found = self._client.get(self._stripe + "/_sandbox/deliveries").json()["deliveries"]
        return any(d["type"] == "checkout.session.completed" and d["state"] == "delivered" for d in found)

    def _reported(self, usage: dict[str, Any]) -> int:
        meter = self._at_stripe("billing/meters")[0]["id"]
        start, end = usage["period_start"] // 60 * 60, -(-usage["period_end"] // 60) * 60
        summaries = self._at_stripe(
            f"billing/meters/{meter}/event_summaries", customer=self._customer_id(), start_time=start, end_time=end
        )
        return sum(int(summary["aggregated_value"]) for summary in summaries)

    def _paid_total(self) -> int:
        return sum(int(i["total"]) for i in self._at_stripe("invoices", customer=self._customer_id(), status="paid"))

    def _call_status(self) -> int:
        return self._client.get(self._base + "/api", headers=self._key_headers).status_code

    def _move(self, to_at: int) -> None:
        moved = self._client.post(f"{self._stripe}/_sandbox/clock", json={"to_at": to_at, "wait": True})
        _expect(moved.status_code == 200, f"time did not move: {moved.text[:200]}")

    def _until(self, holds: Callable[[], bool], otherwise: str) -> None:
        try:
            for attempt in stamina.retry_context(
                on=_NotYet, attempts=None, timeout=SETTLE_SECONDS_MAX, wait_initial=0.1, wait_max=0.5, wait_jitter=0.1
            ):
                with attempt:
                    if not holds():
                        raise _NotYet
        except _NotYet:
            raise SmokeFailed(otherwise) from None


def _expect(held: bool, otherwise: str) -> None:
    if not held:
        raise SmokeFailed(otherwise)
