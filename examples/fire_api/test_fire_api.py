"""How a seller tests a paid API: Farebox's test kit gives the buyers, and says what they used."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from farebox.testing import Kit
from fire_api.app import app, farebox


@pytest.fixture(scope="module")
def kit() -> Iterator[Kit]:
    with Kit(app, farebox, Path(__file__).with_name("farebox.toml")) as kit:
        yield kit


def test_a_call_costs_one(kit: Kit) -> None:
    """A buyer gets a fire and has used one call."""
    buyer = kit.paid_client()
    assert buyer.get("/api").json()["level"] == 3
    assert kit.usage(buyer) == {"calls": 1}


def test_a_report_costs_five_and_knows_its_buyer(kit: Kit) -> None:
    """The price in code counts five calls, and the handler sees the buyer's account."""
    buyer = kit.paid_client()
    assert buyer.get("/report").json()["account"] == buyer.account_id
    assert kit.usage(buyer) == {"calls": 5}


def test_a_burn_costs_what_it_burns(kit: Kit) -> None:
    """A quantity that only the handler knows is charged; a senseless one is parked, and charges nothing."""
    buyer = kit.paid_client()
    assert len(buyer.get("/burn/7").json()) == 7
    assert buyer.get("/burn/-1").status_code == 200
    assert kit.usage(buyer) == {"calls": 7}
    assert kit.parked() == {("calls", "negative"): 1}


def test_who_does_not_pay_gets_no_fire(kit: Kit) -> None:
    """Without a key 401, with an ended subscription 402 and where to pay; neither has used anything."""
    assert kit.client().get("/api").status_code == 401
    buyer = kit.unpaid_client()
    refused = buyer.get("/api")
    assert refused.status_code == 402
    assert refused.json()["pay_url"].endswith("/billing/")
    assert kit.usage(buyer) == {}


def test_health_is_free(kit: Kit) -> None:
    """A public route asks for nothing."""
    assert kit.client().get("/health").json() == {"status": "ok"}


def test_what_is_used_reaches_stripe(kit: Kit) -> None:
    """Stripe counts what the ledger counts, and a month later the new period begins at nothing."""
    buyer = kit.paid_client()
    for _ in range(3):
        buyer.get("/api")
    assert kit.reported(buyer) == {"calls": 3}
    kit.advance(days=32)
    assert buyer.get("/billing/usage").json()["total"] == 0
    assert buyer.get("/api").status_code == 200
