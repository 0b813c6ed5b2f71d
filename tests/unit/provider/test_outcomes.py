"""Stripe's answers over real HTTP, made by hand, and what each of them is taken to mean."""

import json
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import stripe

from farebox.domain.keys import Secret
from farebox.domain.reports import MeterEvent, Outcome, OutcomeKind
from farebox.errors import (
    ProviderError,
    ProviderFailed,
    ProviderForbidden,
    ProviderRejected,
    ProviderThrottled,
    ProviderUnavailable,
)
from farebox.provider import http as adapter
from farebox.provider.outcomes import RETRY_AFTER_SECONDS_MAX
from farebox.provider.stripe import StripeProvider

KEY = Secret("sk_test_unit_outcomes")
EVENT = MeterEvent(
    identifier="fb_1_1_abc",
    account_id="acc",
    customer_id="cus_1",
    meter="calls",
    event_name="farebox_calls",
    bucket_start=1_800_000_000,
    sequence=1,
    value=25,
    timestamp=1_800_000_060,
    idempotency_key="fb_1_1_abc_again",
    created_at=1_800_000_100,
)


@dataclass
class Script:
    """What the server answers, the last answer again and again, and what it was asked."""

    url: str = ""
    answers: list[Any] = field(default_factory=list)
    requests: list[tuple[str, dict[str, str], str]] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)

    def next(self) -> Any:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture
def script() -> Iterator[Script]:
    told = Script()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            told.requests.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            answer = told.next()
            if answer == "reset":
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.close_connection = True
                return
            if answer == "hang":
                told.release.wait(10)
                self.close_connection = True
                return
            status, headers, content = answer
            raw = content.encode() if isinstance(content, str) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(raw)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(raw)
            self.close_connection = True

        do_GET = do_POST

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    told.url = f"http://127.0.0.1:{server.server_port}"
    yield told
    told.release.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def provider(script: Script) -> Iterator[StripeProvider]:
    made = StripeProvider(KEY, (), api_base=script.url)
    yield made
    made.close()


def error(message: str, **more: str) -> dict[str, Any]:
    return {"error": {"type": "invalid_request_error", "message": message, **more}}


ACCEPTED: Any = (200, {}, {"object": "billing.meter_event", "identifier": EVENT.identifier})


def test_an_accepted_event_is_delivered(script: Script, provider: StripeProvider) -> None:
    """A meter event carries its own identifier, time and Idempotency-Key, strings in the payload, and the pinned
    version.
    """
    script.answers = [ACCEPTED]
    assert provider.send_meter_event(EVENT) == Outcome(OutcomeKind.DELIVERED)
    path, headers, body = script.requests[0]
    assert path == "/v1/billing/meter_events"
    assert headers["idempotency-key"] == EVENT.idempotency_key
    assert headers["stripe-version"] == "2026-10-28.endive"
    assert headers["authorization"] == f"Bearer {KEY.reveal()}"
    assert "x-stripe-client-telemetry" not in headers
    assert sorted(body.split("&")) == [
        "event_name=farebox_calls",
        "identifier=fb_1_1_abc",
        "payload[stripe_customer_id]=cus_1",
        "payload[value]=25",
        "timestamp=1800000060",
    ]


ANSWERS: list[tuple[str, Any, Outcome, type[ProviderError]]] = [
    (
        "duplicate in the words of v1",
        (400, {}, error("An event already exists with identifier fb_1_1_abc.")),
        Outcome(OutcomeKind.DUPLICATE, "An event already exists with identifier fb_1_1_abc."),
        ProviderRejected,
    ),
    (
        "duplicate by the code of v2",
        (400, {}, error("Twice.", code="duplicate_meter_event")),
        Outcome(OutcomeKind.DUPLICATE, "Twice."),
        ProviderRejected,
    ),
    (
        "any other 400",
        (400, {}, error("No active meter found.")),
        Outcome(OutcomeKind.REJECTED, "No active meter found.", may_pass=True),
        ProviderRejected,
    ),
    (
        "404",
        (404, {}, error("No such customer", code="resource_missing")),
        Outcome(OutcomeKind.REJECTED, "No such customer"),
        ProviderRejected,
    ),
    ("401", (401, {}, error("Invalid API Key")), Outcome(OutcomeKind.FORBIDDEN, "Invalid API Key"), ProviderForbidden),
    (
        "403",
        (403, {}, error("Lacks rak_meter_event_write")),
        Outcome(OutcomeKind.FORBIDDEN, "Lacks rak_meter_event_write"),
        ProviderForbidden,
    ),
    (
        "409",
        (409, {}, error("Busy", code="idempotency_key_in_use")),
        Outcome(OutcomeKind.THROTTLED, "Busy"),
        ProviderThrottled,
    ),
    (
        "429 with a time to wait",
        (429, {"Retry-After": "7"}, error("Slow down", code="lock_timeout")),
        Outcome(OutcomeKind.THROTTLED, "Slow down", retry_after_seconds=7),
        ProviderThrottled,
    ),
    (
        "429 for one customer and meter",
        (429, {"Stripe-Rate-Limited-Reason": "resource-specific"}, error("Slow down")),
        Outcome(OutcomeKind.THROTTLED, "Slow down"),
        ProviderThrottled,
    ),
    (
        "429 with an absurd time to wait",
        (429, {"retry-after": "99999999"}, error("Slow down")),
        Outcome(OutcomeKind.THROTTLED, "Slow down", retry_after_seconds=RETRY_AFTER_SECONDS_MAX, everyone=True),
        ProviderThrottled,
    ),
    (
        "429 with a date to wait for",
        (429, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, error("Slow down")),
        Outcome(OutcomeKind.THROTTLED, "Slow down", everyone=True),
        ProviderThrottled,
    ),
    (
        "500",
        (500, {}, error("Oops")),
        Outcome(OutcomeKind.UNKNOWN, "Oops", stored_failure=True),
        ProviderFailed,
    ),
    (
        "a key that was used for something else",
        (400, {}, {"error": {"type": "idempotency_error", "message": "Keys for idempotent requests"}}),
        Outcome(OutcomeKind.CONFLICT, "Keys for idempotent requests"),
        ProviderFailed,
    ),
    (
        "503",
        (503, {}, error("Away")),
        Outcome(OutcomeKind.UNKNOWN, "Away", stored_failure=True),
        ProviderFailed,
    ),
]


@pytest.mark.parametrize(
    ("answer", "outcome", "_raised"), [row[1:] for row in ANSWERS], ids=[row[0] for row in ANSWERS]
)
def test_each_answer_means_one_thing(
    script: Script, provider: StripeProvider, answer: Any, outcome: Outcome, _raised: type[ProviderError]
) -> None:
    """Every answer to a meter event becomes its outcome after exactly one attempt: the ledger alone decides on more."""
    script.answers = [answer]
    assert provider.send_meter_event(EVENT) == outcome
    assert len(script.requests) == 1


@pytest.mark.parametrize(
    ("answer", "_outcome", "raised"), [row[1:] for row in ANSWERS], ids=[row[0] for row in ANSWERS]
)
def test_each_refusal_is_one_error(
    script: Script,
    provider: StripeProvider,
    monkeypatch: pytest.MonkeyPatch,
    answer: Any,
    _outcome: Outcome,
    raised: type[ProviderError],
) -> None:
    """Every other call raises the error of the tree, with Stripe's words for the operator and never in the public
    detail.
    """
    monkeypatch.setattr(stripe.HTTPClient, "INITIAL_DELAY", 0)
    script.answers = [answer]
    with pytest.raises(raised) as caught:
        provider.preview_invoice("sub_1")
    assert caught.value.internal == answer[2]["error"]["message"]
    assert caught.value.detail == raised.title
    assert KEY.reveal() not in str(caught.value) + repr(caught.value)


@pytest.mark.parametrize("status", [200, 302, 400, 404])
def test_an_answer_that_is_not_stripes_parks_nothing(script: Script, provider: StripeProvider, status: int) -> None:
    """A page of some proxy, or a cut answer, says nothing about the event: unknown, neither delivered nor rejected."""
    script.answers = [(status, {}, "<html>Welcome to the airport</html>")]
    outcome = provider.send_meter_event(EVENT)
    assert (outcome.kind, outcome.stored_failure) == (OutcomeKind.UNKNOWN, False)
    with pytest.raises(ProviderUnavailable) as caught:
        provider.preview_invoice("sub_1")
    assert not isinstance(caught.value, ProviderFailed)


def test_a_reset_is_unknown(script: Script, provider: StripeProvider) -> None:
    """A connection that breaks after the request was sent leaves the outcome unknown, and is not tried again."""
    script.answers = ["reset"]
    outcome = provider.send_meter_event(EVENT)
    assert (outcome.kind, outcome.stored_failure) == (OutcomeKind.UNKNOWN, False)
    assert len(script.requests) == 1


def test_a_silence_is_unknown(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer within the bound leaves the outcome unknown."""
    monkeypatch.setattr(adapter, "READ_SECONDS_MAX", 0.1)
    script.answers = ["hang"]
    provider = StripeProvider(KEY, (), api_base=script.url)
    assert provider.send_meter_event(EVENT).kind is OutcomeKind.UNKNOWN
    provider.close()
    assert len(script.requests) == 1


def test_no_connection_leaves_nothing_in_doubt() -> None:
    """What could not be sent at all is throttled, not unknown: an outage of days must not park usage for a person."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: refused
        provider = StripeProvider(KEY, (), api_base=f"http://127.0.0.1:{taken.getsockname()[1]}")
        assert provider.send_meter_event(EVENT).kind is OutcomeKind.THROTTLED
        provider.close()


def test_reads_are_tried_again(script: Script, provider: StripeProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read survives a 500 and a reset without the caller's doing; a write is tried again under the same
    Idempotency-Key.
    """
    monkeypatch.setattr(stripe.HTTPClient, "INITIAL_DELAY", 0)
    script.answers = [(500, {}, error("Oops")), "reset", (200, {}, {"id": "acct_1", "object": "account"})]
    assert provider.account().id == "acct_1"
    script.requests.clear()
    script.answers = ["reset", (200, {}, {"id": "mtr_1", "object": "billing.meter"})]
    provider.rename_meter("mtr_1", "New")
    keys = {headers["idempotency-key"] for _, headers, _ in script.requests}
    assert (len(script.requests), len(keys)) == (2, 1)


def test_a_local_stripe_is_reached_past_any_proxy(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy named by the environment is not asked for a Stripe on this machine."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    script.answers = [ACCEPTED]
    provider = StripeProvider(KEY, (), api_base=script.url)
    assert provider.send_meter_event(EVENT).kind is OutcomeKind.DELIVERED
    provider.close()


def test_all_items_of_a_long_subscription_are_read(script: Script, provider: StripeProvider) -> None:
    """A subscription with more items than Stripe shows inside it is read to its end."""

    def item(number: int) -> dict[str, Any]:
        price = {
            "id": f"price_{number}",
            "metadata": {"farebox_meter": f"m{number}", "farebox_plan": "big"},
            "unit_amount_decimal": "1.5",
            "billing_scheme": "per_unit",
            "transform_quantity": None,
            "currency": "usd",
        }
        period = {"created": 10, "current_period_start": 10, "current_period_end": 20}
        return {"id": f"si_{number}", "price": price, **period}

    def listed(data: list[Any], *, more: bool = False) -> dict[str, Any]:
        return {"object": "list", "data": data, "has_more": more, "url": "/v1/x"}

    subscription = {
        "id": "sub_1",
        "object": "subscription",
        "customer": "cus_1",
        "status": "active",
        "created": 5,
        "metadata": {},
        "cancel_at": 20,
        "cancel_at_period_end": False,
        "pause_collection": None,
        "items": listed([item(1)], more=True),
    }
    script.answers = [(200, {}, listed([subscription])), (200, {}, listed([item(1), item(2)]))]
    (found,) = provider.subscriptions("cus_1")
    assert [i.meter for i in found.items] == ["m1", "m2"]
    assert found.plan == "big"
    assert found.cancel_at_period_end  # the date alone says so, as a portal sets it in flexible mode
