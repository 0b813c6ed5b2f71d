"""Prorations as Stripe's flexible billing mode makes them, held to the worked examples of Stripe's page on them."""

from typing import Any

import pytest
from tests.unit.sandbox.test_licensed import lines, payer, seats
from tests.unit.sandbox.town import DAY, HOUR, Seller

MONTH = 31 * DAY


def begin(seller: Seller, *prices: str, **params: Any) -> Any:
    """A paid subscription to one of each price."""
    return seller.post("/v1/subscriptions", customer=payer(seller), items=[{"price": p} for p in prices], **params)


def item_of(subscription: Any, number: int = 0) -> str:
    return str(subscription["items"]["data"][number]["id"])


def turn(seller: Seller, subscription: Any, price: str, **params: Any) -> Any:
    """Give its first item another price."""
    items = [{"id": item_of(subscription), "price": price}]
    return seller.post(f"/v1/subscriptions/{subscription['id']}", items=items, **params)


def waiting(seller: Seller) -> list[int]:
    """The amounts that wait for the next invoice, in the order in which they were made."""
    return [item["amount"] for item in reversed(seller.get("/v1/invoiceitems", pending=True)["data"])]


def test_an_upgrade_halfway(seller: Seller) -> None:
    """From 10 to 20 dollars halfway costs 5: 5 back for the unused time, 10 for the remaining, with the renewal."""
    made = begin(seller, seats(seller, 1_000))
    seller.move(MONTH // 2)
    turn(seller, made, seats(seller, 2_000))
    assert waiting(seller) == [-500, 1_000]
    seller.move(MONTH // 2 + HOUR)
    assert seller.invoices(made)[-1]["total"] == 2_500


def test_a_credit_is_of_what_was_billed(seller: Seller) -> None:
    """Up without proration and down again with it credits the price that was paid, not the dearer one."""
    cheap, dear = seats(seller, 1_000), seats(seller, 2_000)
    seller.move(76 * DAY)  # to the first of a month of thirty days
    made = begin(seller, cheap)
    seller.move(10 * DAY)
    turn(seller, made, dear, proration_behavior="none")
    assert (waiting(seller), len(seller.invoices(made))) == ([], 1)
    seller.move(10 * DAY)
    turn(seller, made, cheap, proration_behavior="always_invoice")
    invoice = seller.invoices(made)[-1]
    assert ([amount for _, amount in lines(invoice)], invoice["total"]) == ([-333, 333], 0)
    described = [description for description, _ in lines(invoice)]
    assert described == ["Unused time on 1 × Seats after 21 Apr 2027", "Remaining time on 1 × Seats after 21 Apr 2027"]


def test_a_credit_knows_its_discount(seller: Seller) -> None:
    """Of 5 off two items the cheaper one had its part: taken off halfway, half of what was paid for it comes back."""
    seller.post("/v1/coupons", id="five", amount_off=500, currency="usd", duration="forever")
    made = begin(seller, seats(seller, 1_000), seats(seller, 2_000), discounts=[{"coupon": "five"}])
    (first,) = seller.invoices(made)
    assert first["total"] == 2_500
    assert [line["discount_amounts"][0]["amount"] for line in first["lines"]["data"]] == [166, 334]
    seller.move(MONTH // 2)
    seller.post(f"/v1/subscriptions/{made['id']}", items=[{"id": item_of(made), "deleted": True}])
    assert waiting(seller) == [-417]


@pytest.mark.parametrize(
    ("duration", "change", "amounts"),
    [
        ("forever", {}, [-400, 800]),
        ("once", {}, [-400, 1_000]),  # the first invoice has used it up
        ("forever", {"discounts": [{"coupon": "little"}]}, [-400, 995]),  # by the same request
        ("forever", {"proration_behavior": "none"}, []),
    ],
)
def test_a_charge_knows_the_discounts_that_hold_now(
    seller: Seller, duration: str, change: dict[str, Any], amounts: list[int]
) -> None:
    """The credit has the discount that was given, the charge the one that holds once the request is done."""
    seller.post("/v1/coupons", id="fifth", percent_off="20", duration=duration)
    seller.post("/v1/coupons", id="little", percent_off="0.5", duration="once")
    made = begin(seller, seats(seller, 1_000), discounts=[{"coupon": "fifth"}])
    seller.move(MONTH // 2)
    turn(seller, made, seats(seller, 2_000), **change)
    assert waiting(seller) == amounts


def test_every_change_credits_the_one_before(seller: Seller) -> None:
    """Changed three times, an item has cost each price for its time; cancelled, the rest of the last one comes back."""
    made = begin(seller, seats(seller, 3_100))
    for amount in (6_200, 9_300, 3_100):
        seller.move(DAY)
        turn(seller, made, seats(seller, amount))
    assert waiting(seller) == [-3_000, 6_000, -5_800, 8_700, -8_400, 2_800]
    seller.move(DAY)
    seller.delete(f"/v1/subscriptions/{made['id']}", prorate=True)
    assert waiting(seller)[-1] == -2_700


def test_what_was_added_for_nothing_is_not_credited(seller: Seller) -> None:
    """An item added without proration was not billed in its first period, and gives nothing back in it."""
    made = begin(seller, seats(seller, 1_000))
    path, extra = f"/v1/subscriptions/{made['id']}", seats(seller, 2_000)
    changed = seller.post(path, items=[{"price": extra}], proration_behavior="none")
    seller.move(DAY)
    seller.post(path, items=[{"id": item_of(changed, 1), "deleted": True}])
    assert waiting(seller) == []
