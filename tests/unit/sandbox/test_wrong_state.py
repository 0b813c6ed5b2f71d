"""Objects asked for what their state does not allow: Stripe's status, type, code and param, and what to do about it."""

import copy
from collections.abc import Callable
from typing import Any, Final

import pytest
from tests.unit.sandbox.town import BAD_CARD_LATER, DAY, HOUR, Seller

WRONG: Final = {"type": "invalid_request_error"}
GONE: Final = {**WRONG, "code": "resource_missing", "param": "id"}


def everything(seller: Seller) -> Any:
    """All that the account holds."""
    (state,) = seller.sandbox.accounts.values()
    return copy.deepcopy(state.objects)


def paid(seller: Seller) -> str:
    """The id of an invoice that is paid."""
    subscription = seller.subscribe()
    seller.use(subscription["customer"], "5")
    seller.move(31 * DAY + 2 * HOUR)
    return str(seller.invoices(subscription)[0]["id"])


def unpaid(seller: Seller) -> str:
    """The id of an invoice that is open, because its card fails."""
    subscription = seller.subscribe(BAD_CARD_LATER)
    seller.use(subscription["customer"], "5")
    seller.move(31 * DAY + 2 * HOUR)
    return str(seller.invoices(subscription)[0]["id"])


def draft(seller: Seller) -> str:
    subscription = seller.subscribe()
    seller.move(31 * DAY)
    return str(seller.invoices(subscription)[0]["id"])


def void(seller: Seller) -> str:
    id = unpaid(seller)
    seller.post(f"/v1/invoices/{id}/void")
    return id


def canceled(seller: Seller) -> str:
    id = str(seller.subscribe()["id"])
    seller.delete(f"/v1/subscriptions/{id}")
    return id


def completed(seller: Seller) -> str:
    seller.subscribe()
    return seller.session_id


def expired(seller: Seller) -> str:
    id = str(seller.checkout(seller.price_id)["id"])
    seller.post(f"/v1/checkout/sessions/{id}/expire")
    return id


def inactive(seller: Seller) -> str:
    seller.post(f"/v1/billing/meters/{seller.meter_id}/deactivate")
    return seller.meter_id


def active(seller: Seller) -> str:
    return seller.meter_id


def deleted(seller: Seller) -> str:
    id = seller.customer()
    seller.delete(f"/v1/customers/{id}")
    return id


def unhooked(seller: Seller) -> str:
    id = str(seller.listen()["id"])
    seller.delete(f"/v1/webhook_endpoints/{id}")
    return id


@pytest.mark.parametrize(
    ("given", "asked", "status", "error", "says"),
    [
        (paid, "POST /v1/invoices/{}/pay", 400, WRONG, "already paid"),
        (paid, "POST /v1/invoices/{}/finalize", 400, WRONG, "already finalized"),
        (paid, "POST /v1/invoices/{}/void", 400, WRONG, "open"),
        (unpaid, "POST /v1/invoices/{}/finalize", 400, WRONG, "already finalized"),
        (unpaid, "POST /v1/invoices/{}/pay", 402, {"type": "card_error", "code": "card_declined"}, "declined"),
        (draft, "POST /v1/invoices/{}/void", 400, WRONG, "open"),
        (void, "POST /v1/invoices/{}/pay", 400, WRONG, "void"),
        (void, "POST /v1/invoices/{}/void", 400, WRONG, "open"),
        (void, "POST /v1/invoices/{}/finalize", 400, WRONG, "already finalized"),
        (canceled, "DELETE /v1/subscriptions/{}", 404, GONE, "No such"),
        (canceled, "POST /v1/subscriptions/{} cancel_at_period_end=true", 400, WRONG, "canceled subscription"),
        (completed, "POST /v1/checkout/sessions/{}/expire", 400, WRONG, "complete"),
        (expired, "POST /v1/checkout/sessions/{}/expire", 400, WRONG, "expired"),
        (inactive, "POST /v1/billing/meters/{}/deactivate", 400, WRONG, "already inactive"),
        (active, "POST /v1/billing/meters/{}/reactivate", 400, WRONG, "already active"),
        (deleted, "POST /v1/customers/{} name=Ada", 404, GONE, "No such customer"),
        (deleted, "DELETE /v1/customers/{}", 404, GONE, "No such customer"),
        (unhooked, "DELETE /v1/webhook_endpoints/{}", 404, GONE, "No such"),
    ],
)
def test_wrong_states(
    seller: Seller, given: Callable[[Seller], str], asked: str, status: int, error: dict[str, str], says: str
) -> None:
    """An object that is not in a state for what is asked stays as it is, and the refusal is Stripe's."""
    id = given(seller)
    method, path, *params = asked.format(id).split(" ")
    before = everything(seller)
    reply = seller.ask(method, path, params[0] if params else "")
    assert (reply.status, reply.error) == (status, error), reply.json
    assert says in reply.json["error"]["message"]
    assert status == 402 or everything(seller) == before
