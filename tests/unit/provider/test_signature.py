"""The door for webhooks: who may come in, judged by signatures that the official SDK makes."""

import hashlib
import hmac
import json
from typing import Any

import pytest
import stripe
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox.domain.keys import Secret
from farebox.errors import ConfigError, SignatureInvalid
from farebox.provider.signature import SIGNATURE_WINDOW_SECONDS
from farebox.provider.stripe import StripeProvider

NOW = 1_800_000_000
OLD, NEW = "whsec_of_the_time_before_rotation", "whsec_of_the_time_after_rotation"
PAYLOAD: dict[str, Any] = {
    "id": "evt_1",
    "object": "event",
    "type": "customer.subscription.updated",
    "created": NOW - 5,
    "livemode": False,
    "data": {"object": {"id": "sub_1", "object": "subscription", "customer": "cus_1"}},
}
BODY = json.dumps(PAYLOAD).encode()
PROVIDER = StripeProvider(Secret("sk_test_unit_signature"), [Secret(NEW), Secret(OLD)])


def signed(body: bytes = BODY, secret: str = NEW, at: int = NOW) -> str:
    return str(stripe.WebhookSignature.generate_signature_header(body.decode(), secret, timestamp=at))


def test_a_signed_event_is_a_hint() -> None:
    """A signed event gives its id, type, object, customer, time and mode, and nothing else of it is kept."""
    event = PROVIDER.verify_webhook(BODY, signed(), now=NOW)
    assert (event.id, event.type, event.object_id, event.customer_id) == (
        "evt_1",
        "customer.subscription.updated",
        "sub_1",
        "cus_1",
    )
    assert (event.created_at, event.livemode, event.connected_account) == (NOW - 5, False, None)


@pytest.mark.parametrize("secret", [OLD, NEW])
def test_every_configured_secret_is_good(secret: str) -> None:
    """While a secret is rotated, deliveries signed with either of them are taken."""
    assert PROVIDER.verify_webhook(BODY, signed(secret=secret), now=NOW).id == "evt_1"


def test_any_v1_is_enough() -> None:
    """Stripe signs with two secrets during its own rotation: one good v1 among others will do, wherever it stands."""
    good = signed().partition("v1=")[2]
    for header in (f"t={NOW},v1={'0' * 64},v1={good}", f"t={NOW},v1={good},v1={'0' * 64},v0=abc", f"v1={good},t={NOW}"):
        assert PROVIDER.verify_webhook(BODY, header, now=NOW).id == "evt_1"


@pytest.mark.parametrize("off", [-SIGNATURE_WINDOW_SECONDS, 0, SIGNATURE_WINDOW_SECONDS])
def test_the_window_is_open_to_its_edges(off: int) -> None:
    """A signature as old as the window, or as far ahead, is taken."""
    assert PROVIDER.verify_webhook(BODY, signed(at=NOW + off), now=NOW).id == "evt_1"


@pytest.mark.parametrize("off", [-SIGNATURE_WINDOW_SECONDS - 1, SIGNATURE_WINDOW_SECONDS + 1])
def test_the_window_is_closed_beyond(off: int) -> None:
    """A01: a second outside of the window on either side, an otherwise good signature is refused."""
    with pytest.raises(SignatureInvalid, match="clock"):
        PROVIDER.verify_webhook(BODY, signed(at=NOW + off), now=NOW)


def test_an_old_signature_cannot_be_given_a_new_time() -> None:
    """A04: a captured header with a second timestamp added to it is refused, whichever of the two comes first."""
    captured = signed(at=NOW - 10_000)
    for header in (f"{captured},t={NOW}", f"t={NOW},{captured}", captured.replace(str(NOW - 10_000), str(NOW))):
        with pytest.raises(SignatureInvalid):
            PROVIDER.verify_webhook(BODY, header, now=NOW)


@pytest.mark.parametrize(
    "body",
    [
        BODY + b" ",
        BODY[:-1],
        BODY.replace(b"sub_1", b"sub_2"),
        json.dumps(PAYLOAD, separators=(",", ":")).encode(),
        b"",
    ],
    ids=["longer", "shorter", "another object", "serialised again", "empty"],
)
def test_an_altered_body_is_refused(body: bytes) -> None:
    """A01: only the very bytes that were signed are taken, not the same JSON written otherwise."""
    with pytest.raises(SignatureInvalid):
        PROVIDER.verify_webhook(body, signed(), now=NOW)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "t",
        "t=,v1=",
        f"t={NOW}",
        f"t={NOW},v1=",
        f"t={NOW},v0=" + signed().partition("v1=")[2],
        "v1=" + signed().partition("v1=")[2],
        signed().replace(f"t={NOW}", f"t=+{NOW}"),
        signed().replace(f"t={NOW}", f"t={NOW}.0"),
        signed().replace(f"t={NOW}", "t=٣"),
        f"t={NOW},v1=ü",
        f"t={NOW},v1=\udcff",
        f"t={NOW}," + "v1=0," * 100_000 + "v1=" + signed().partition("v1=")[2],
        signed(secret="whsec_of_somebody_else_entirely"),
    ],
)
def test_a_malformed_or_foreign_header_is_refused(header: str) -> None:
    """A01: no header, however odd, is anything but refused in words."""
    with pytest.raises(SignatureInvalid) as caught:
        PROVIDER.verify_webhook(BODY, header, now=NOW)
    assert NEW not in str(caught.value)


@settings(max_examples=200)
@given(st.text(max_size=200))
def test_no_text_breaks_the_door(header: str) -> None:
    """A01: whatever a header holds, the answer is a refusal."""
    with pytest.raises(SignatureInvalid):
        PROVIDER.verify_webhook(BODY, header, now=NOW)


@pytest.mark.parametrize(
    "body",
    [b"", b"no json", b"[]", b"null", b"{}", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"id": "evt_1", "type": "x"}'],
    ids=["empty", "text", "list", "null", "no fields", "string", "not utf-8", "deep", "half an event"],
)
def test_a_signed_body_that_is_no_event_is_refused(body: bytes) -> None:
    """A32: a body that is signed and still no event is refused in words, however deep it nests."""
    digest = hmac.new(NEW.encode(), f"{NOW}.".encode() + body, hashlib.sha256).hexdigest()
    with pytest.raises(SignatureInvalid, match="not an event"):
        PROVIDER.verify_webhook(body, f"t={NOW},v1={digest}", now=NOW)


@pytest.mark.parametrize(
    ("thing", "object_id", "customer_id"),
    [
        ({"id": "cus_9", "object": "customer"}, "cus_9", "cus_9"),
        ({"id": "cs_9", "object": "checkout.session", "customer": None}, "cs_9", None),
        ({"id": "in_9", "object": "invoice", "customer": {"id": "cus_9", "object": "customer"}}, "in_9", "cus_9"),
        ({"object": "invoice", "customer": "cus_9"}, "", "cus_9"),
    ],
    ids=["customer", "nobody yet", "expanded", "preview without an id"],
)
def test_whose_event_it_is(thing: dict[str, Any], object_id: str, customer_id: str | None) -> None:
    """The customer is found whether the event is about it, names it, shows it whole, or has none."""
    body = json.dumps({**PAYLOAD, "data": {"object": thing}}).encode()
    event = PROVIDER.verify_webhook(body, signed(body), now=NOW)
    assert (event.object_id, event.customer_id) == (object_id, customer_id)


def test_events_of_others_are_told_apart() -> None:
    """A28: the other mode and a connected account can be seen in the event, so that it is not taken for one of ours."""
    body = json.dumps({**PAYLOAD, "livemode": True, "account": "acct_other"}).encode()
    event = PROVIDER.verify_webhook(body, signed(body), now=NOW)
    assert (event.livemode, event.connected_account) == (True, "acct_other")


def test_without_a_secret_nothing_comes_in() -> None:
    """A02: with no secret configured every delivery is refused, and an empty secret refuses to start."""
    closed = StripeProvider(Secret("sk_test_unit_signature"), ())
    with pytest.raises(SignatureInvalid):
        closed.verify_webhook(BODY, signed(), now=NOW)
    for empty in ("", "  "):
        with pytest.raises(ConfigError):
            StripeProvider(Secret("sk_test_unit_signature"), [Secret(NEW), Secret(empty)])
