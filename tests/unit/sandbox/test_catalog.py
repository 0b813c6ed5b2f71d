"""Products, prices and meters: what Stripe keeps, what it refuses, lists, pages and expansion."""

from typing import Any

import pytest
from tests.unit.sandbox.town import START_AT, Seller, Town

METER = {"display_name": "Calls", "event_name": "calls", "default_aggregation": {"formula": "sum"}}


def test_a_product(town: Town) -> None:
    """A product is kept as sent, changed as asked, and each change is an event that says what was there before."""
    made = town.post("/v1/products", name="API calls", metadata={"plan": "payg"}, unit_label="call")
    assert made["id"].startswith("prod_")
    assert (made["object"], made["active"], made["livemode"], made["created"]) == ("product", True, False, START_AT)
    changed = town.post(f"/v1/products/{made['id']}", name="Calls", active=False)
    assert changed == {**made, "name": "Calls", "active": False}
    assert town.get(f"/v1/products/{made['id']}") == changed
    events = town.get("/v1/events", type="product.updated")["data"]
    assert [event["data"]["previous_attributes"] for event in events] == [{"name": "API calls", "active": True}]


def test_products_are_listed(town: Town) -> None:
    """Newest first, by what is asked for: active ones, or some ids."""
    ids = [town.post("/v1/products", name=str(i), active=i != 1)["id"] for i in range(3)]
    listed = town.get("/v1/products")
    assert (listed["object"], listed["url"], listed["has_more"]) == ("list", "/v1/products", False)
    assert [p["id"] for p in listed["data"]] == ids[::-1]
    assert [p["id"] for p in town.get("/v1/products", active=True)["data"]] == [ids[2], ids[0]]
    assert [p["id"] for p in town.get("/v1/products", ids=ids[:2])["data"]] == [ids[1], ids[0]]


def test_pages(town: Town) -> None:
    """Pages of any size, forwards and backwards, show each object once and say whether there is more."""
    ids = [town.post("/v1/products", name=str(i))["id"] for i in range(12)][::-1]
    first = town.get("/v1/products")
    assert ([p["id"] for p in first["data"]], first["has_more"]) == (ids[:10], True)
    second = town.get("/v1/products", starting_after=ids[9])
    assert ([p["id"] for p in second["data"]], second["has_more"]) == (ids[10:], False)
    back = town.get("/v1/products", limit=3, ending_before=ids[5])
    assert ([p["id"] for p in back["data"]], back["has_more"]) == (ids[2:5], True)
    back = town.get("/v1/products", limit=3, ending_before=ids[3])
    assert ([p["id"] for p in back["data"]], back["has_more"]) == (ids[:3], False)


@pytest.mark.parametrize(
    ("sent", "unit_amount", "unit_amount_decimal"),
    [
        ({"unit_amount": "100"}, 100, "100"),
        ({"unit_amount": "0"}, 0, "0"),
        ({"unit_amount_decimal": "100.0"}, 100, "100"),
        ({"unit_amount_decimal": "1.50"}, None, "1.5"),
        ({"unit_amount_decimal": "0.000000000001"}, None, "0.000000000001"),
    ],
)
def test_amounts(town: Town, sent: dict[str, str], unit_amount: int | None, unit_amount_decimal: str) -> None:
    """An amount is exact to 12 places; the whole-number field is empty where it would not be."""
    product = town.post("/v1/products", name="x")["id"]
    made = town.post("/v1/prices", currency="USD", product=product, **sent)
    assert (made["unit_amount"], made["unit_amount_decimal"]) == (unit_amount, unit_amount_decimal)
    assert (made["currency"], made["type"], made["recurring"]) == ("usd", "one_time", None)


@pytest.mark.parametrize(
    ("changes", "status", "error"),
    [
        ({"unit_amount": None}, 400, {"param": "unit_amount"}),
        ({"unit_amount_decimal": "1"}, 400, {"param": "unit_amount"}),
        ({"product": "prod_none"}, 400, {"param": "product", "code": "resource_missing"}),
        ({"recurring[meter]": None}, 400, {"param": "recurring[meter]", "code": "parameter_missing"}),
        ({"recurring[meter]": "mtr_none"}, 400, {"param": "recurring[meter]", "code": "resource_missing"}),
        ({"recurring[usage_type]": "licensed"}, 400, {"param": "recurring[meter]"}),
        ({"recurring[interval_count]": "37"}, 400, {"code": "parameter_invalid_integer"}),
        ({"tiers_mode": "graduated"}, 400, {"param": "tiers_mode"}),
        ({"transform_quantity[divide_by]": "10"}, 400, {"param": "transform_quantity[round]"}),
    ],
)
def test_prices_that_are_refused(
    seller: Seller, changes: dict[str, str | None], status: int, error: dict[str, str]
) -> None:
    """A metered price needs a meter that exists, one amount and a product; what makes no sense together is refused."""
    params: dict[str, str | None] = {
        "currency": "usd",
        "product": seller.get("/v1/products")["data"][0]["id"],
        "unit_amount": "100",
        "recurring[interval]": "month",
        "recurring[usage_type]": "metered",
        "recurring[meter]": seller.meter_id,
        **changes,
    }
    sent = {name: value for name, value in params.items() if value is not None}
    assert error.items() <= seller.refused(status, "POST", "/v1/prices", sent).items()


def test_a_metered_price(seller: Seller) -> None:
    """A metered price names its interval and meter; its amount can never be changed, its label can."""
    path = f"/v1/prices/{seller.price_id}"
    found = seller.get(path)
    assert found["recurring"] == {
        "interval": "month",
        "interval_count": 1,
        "meter": seller.meter_id,
        "trial_period_days": None,
        "usage_type": "metered",
    }
    assert seller.refused(400, "POST", path, {"unit_amount": "1"})["code"] == "parameter_unknown"
    assert seller.post(path, nickname="calls", active=False) == {**found, "nickname": "calls", "active": False}


def test_lookup_keys(town: Town) -> None:
    """One price bears a lookup key at a time; a second one takes it over only when told to."""
    product = town.post("/v1/products", name="x")["id"]
    price = {"currency": "usd", "product": product, "unit_amount": "1"}
    old = town.post("/v1/prices", **price, lookup_key="payg")["id"]
    assert town.refused(400, "POST", "/v1/prices", {**price, "lookup_key": "payg"})["param"] == "lookup_key"
    new = town.post("/v1/prices", **price, lookup_key="payg", transfer_lookup_key=True)["id"]
    found = town.get("/v1/prices", lookup_keys=["payg", "none"])["data"]
    assert [p["id"] for p in found] == [new]
    assert town.get(f"/v1/prices/{old}")["lookup_key"] is None
    assert town.refused(400, "POST", f"/v1/prices/{old}", {"lookup_key": "payg"})["param"] == "lookup_key"
    town.post(f"/v1/prices/{old}", lookup_key="payg", transfer_lookup_key=True)
    assert [p["id"] for p in town.get("/v1/prices", lookup_keys=["payg"])["data"]] == [old]


@pytest.mark.parametrize(
    ("wanted", "count"),
    [
        ({}, 2),
        ({"active": False}, 1),
        ({"type": "recurring"}, 1),
        ({"type": "one_time"}, 1),
        ({"currency": "eur"}, 1),
        ({"product": "prod_none"}, 0),
    ],
)
def test_prices_are_listed(seller: Seller, wanted: dict[str, Any], count: int) -> None:
    """Prices are found by state, kind, currency and product."""
    product = seller.post("/v1/products", name="x")["id"]
    seller.post("/v1/prices", currency="eur", product=product, unit_amount=1, active=False)
    assert len(seller.get("/v1/prices", **wanted)["data"]) == count


def test_a_meter(town: Town) -> None:
    """A meter has Stripe's defaults; only its display name can change."""
    made = town.post("/v1/billing/meters", **METER)
    assert made["id"].startswith("mtr_")
    assert made["customer_mapping"] == {"event_payload_key": "stripe_customer_id", "type": "by_id"}
    assert made["value_settings"] == {"event_payload_key": "value"}
    assert (made["status"], made["default_aggregation"]) == ("active", {"formula": "sum"})
    path = f"/v1/billing/meters/{made['id']}"
    assert town.refused(400, "POST", path, {"event_name": "other"})["code"] == "parameter_unknown"
    assert town.post(path, display_name="All calls") == {**made, "display_name": "All calls"}
    assert town.events() == ["billing.meter.created", "billing.meter.updated"]


def test_one_active_meter_for_each_name(town: Town) -> None:
    """An event name belongs to one active meter; a retired one comes back only while its name is free."""
    first = town.post("/v1/billing/meters", **METER)["id"]
    assert town.refused(400, "POST", "/v1/billing/meters", METER)["param"] == "event_name"
    retired = town.post(f"/v1/billing/meters/{first}/deactivate")
    assert (retired["status"], retired["status_transitions"]) == ("inactive", {"deactivated_at": START_AT})
    town.refused(400, "POST", f"/v1/billing/meters/{first}/deactivate")
    second = town.post("/v1/billing/meters", **METER)["id"]
    town.refused(400, "POST", f"/v1/billing/meters/{first}/reactivate")
    town.post(f"/v1/billing/meters/{second}/deactivate")
    back = town.post(f"/v1/billing/meters/{first}/reactivate")
    assert (back["status"], back["status_transitions"]) == ("active", {"deactivated_at": None})
    town.refused(400, "POST", f"/v1/billing/meters/{first}/reactivate")
    assert [m["id"] for m in town.get("/v1/billing/meters", status="active")["data"]] == [first]
    assert [m["id"] for m in town.get("/v1/billing/meters", status="inactive")["data"]] == [second]


def test_no_price_on_a_retired_meter(seller: Seller) -> None:
    """A price cannot be made on a meter that counts nothing."""
    seller.post(f"/v1/billing/meters/{seller.meter_id}/deactivate")
    product = seller.post("/v1/products", name="x")["id"]
    recurring = {"interval": "month", "usage_type": "metered", "meter": seller.meter_id}
    price = {"currency": "usd", "product": product, "unit_amount": 1, "recurring": recurring}
    assert seller.refused(400, "POST", "/v1/prices", price)["param"] == "recurring[meter]"


def test_expansion(seller: Seller) -> None:
    """An id is replaced by its object where asked: in one object, through lists, and several steps deep."""
    product = seller.get("/v1/products")["data"][0]
    assert seller.get(f"/v1/prices/{seller.price_id}")["product"] == product["id"]
    assert seller.get(f"/v1/prices/{seller.price_id}", expand=["product"])["product"] == product
    assert seller.get("/v1/prices", expand=["data.product"])["data"][0]["product"] == product
    subscription = seller.subscribe()
    path = f"/v1/subscriptions/{subscription['id']}"
    found = seller.get(path, expand=["customer", "items.data.price.product", "default_payment_method"])
    assert found["customer"]["email"] == "ada@example.test"
    assert found["items"]["data"][0]["price"]["product"] == product
    assert found["default_payment_method"]["card"]["last4"] == "4242"
    assert seller.get(path) == subscription
    session = f"/v1/checkout/sessions/{seller.session_id}"
    assert "line_items" not in seller.get(session)
    lines = seller.get(session, expand=["line_items"])["line_items"]["data"]
    assert lines == seller.get(f"{session}/line_items")["data"]
    assert [line["price"]["id"] for line in lines] == [seller.price_id]
