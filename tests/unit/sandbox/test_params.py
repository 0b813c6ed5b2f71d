"""What the sandbox takes: Stripe's form encoding, and refusals in Stripe's shape that name the parameter."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.sandbox.town import Seller, Town, form

from farebox.sandbox.errors import StripeError
from farebox.sandbox.forms import BODY_BYTES_MAX, DEPTH_MAX, FIELDS_MAX, decode

PRICE = {"currency": "usd", "unit_amount": "1"}


@pytest.mark.parametrize(
    ("text", "means"),
    [
        (b"", {}),
        (b"a=1&b=2", {"a": "1", "b": "2"}),
        (b"a=1&a=2", {"a": "2"}),
        (b"&a=1&&", {"a": "1"}),
        (b"a", {"a": ""}),
        (b"a=b%3Dc=d", {"a": "b=c=d"}),
        (b"a+b=c+d%20e", {"a b": "c d e"}),
        (b"a%5Bb%5D=1", {"a": {"b": "1"}}),
        (b"a[b][c]=1&a[b][d]=2", {"a": {"b": {"c": "1", "d": "2"}}}),
        (b"a[0]=x&a[1]=y", {"a": ["x", "y"]}),
        (b"a[1]=y&a[0]=x", {"a": ["x", "y"]}),
        (b"a[10]=k&a[9]=j", {"a": ["j", "k"]}),
        (b"a[]=x&a[]=y", {"a": ["x", "y"]}),
        (b"a[0][b]=1&a[0][c]=2&a[1][b]=3", {"a": [{"b": "1", "c": "2"}, {"b": "3"}]}),
        (b"a[][b]=1&a[][c]=2&a[][b]=3", {"a": [{"b": "1", "c": "2"}, {"b": "3"}]}),
        (b"a[][m][x]=1&a[][m][y]=2", {"a": [{"m": {"x": "1", "y": "2"}}]}),
        (b"a[][m][x]=1&a[][m][x]=2", {"a": [{"m": {"x": "1"}}, {"m": {"x": "2"}}]}),
        (b"a[][m]=1&a[][m][x]=2", {"a": [{"m": "1"}, {"m": {"x": "2"}}]}),
        (b"a[][b][]=1&a[][b][]=2", {"a": [{"b": ["1", "2"]}]}),
        (b"payload[0]=x&metadata[1]=y", {"payload": {"0": "x"}, "metadata": {"1": "y"}}),
        (b"a=%E2%82%AC", {"a": "€"}),
    ],
)
def test_decoding(text: bytes, means: dict[str, Any]) -> None:
    """Values, objects and lists are read as Stripe's own clients and curl write them."""
    assert decode(text) == means


@pytest.mark.parametrize(
    ("text", "status", "param"),
    [
        (b"a=1&a[b]=2", 400, "a"),
        (b"a[b]=2&a=1", 400, "a"),
        (b"a[b=1", 400, None),
        (b"[a]=1", 400, None),
        (b"metadata[]=1", 400, "metadata"),
        (b"a[metadata][]=1", 400, "a"),
        (b"a]b=1", 400, None),
        (b"a=%FF", 400, None),
        (b"a=%00", 400, None),
        (b"a" + b"[b]" * DEPTH_MAX + b"=1", 400, None),
        (b"&".join([b"a=1"] * (FIELDS_MAX + 1)), 400, None),
        (b"a=" + b"x" * BODY_BYTES_MAX, 413, None),
    ],
)
def test_malformed(text: bytes, status: int, param: str | None) -> None:
    """What cannot be read is refused whole, within stated bounds, and never guessed at (A11, A32)."""
    with pytest.raises(StripeError) as refused:
        decode(text)
    assert (refused.value.status, refused.value.kind, refused.value.param) == (status, "invalid_request_error", param)


_NAMES = st.text("abcdefgh_é &=+%/", min_size=1, max_size=5)
_TREES = st.recursive(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, min_size=1, max_size=12) | st.dictionaries(_NAMES, inner, min_size=1, max_size=3),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.dictionaries(_NAMES, _TREES, max_size=4))
def test_whatever_is_encoded_is_decoded(params: dict[str, Any]) -> None:
    """Any nesting of strings, objects and lists survives the form encoding."""
    assert decode(form(params).encode()) == params


@pytest.mark.parametrize(
    ("method", "path", "params", "error"),
    [
        ("POST", "/v1/products", {"name": "x", "colour": "red"}, ("parameter_unknown", "colour")),
        ("GET", "/v1/products", {"colour": "red"}, ("parameter_unknown", "colour")),
        ("GET", "/v1/account", {"a": "1"}, ("parameter_unknown", "a")),
        ("POST", "/v1/prices", PRICE, ("parameter_missing", "product")),
        (
            "POST",
            "/v1/prices",
            {**PRICE, "product": "p", "recurring": {"interval": "month", "aggregate_usage": "sum"}},
            ("parameter_unknown", "recurring[aggregate_usage]"),
        ),
        ("POST", "/v1/products", {}, ("parameter_missing", "name")),
        (
            "POST",
            "/v1/prices",
            {**PRICE, "product": "p", "recurring": {"usage_type": "metered"}},
            ("parameter_missing", "recurring[interval]"),
        ),
        (
            "POST",
            "/v1/subscriptions",
            {"customer": "c", "items": [{"quantity": 1}]},
            ("parameter_missing", "items[0][price]"),
        ),
        ("POST", "/v1/products", {"name": ""}, ("parameter_invalid_empty", "name")),
        ("GET", "/v1/products", {"limit": 0}, ("parameter_invalid_integer", "limit")),
        ("GET", "/v1/products", {"limit": 101}, ("parameter_invalid_integer", "limit")),
        ("GET", "/v1/products", {"limit": "ten"}, ("parameter_invalid_integer", "limit")),
        ("GET", "/v1/products", {"limit": "1.0"}, ("parameter_invalid_integer", "limit")),
        ("POST", "/v1/products", {"name": "x", "active": "yes"}, (None, "active")),
        ("POST", "/v1/products", {"name": "x" * 251}, (None, "name")),
        ("POST", "/v1/products", {"name": ["x"]}, (None, "name")),
        ("POST", "/v1/products", {"name": "x", "metadata": "x"}, (None, "metadata")),
        ("POST", "/v1/products", {"name": "x", "metadata": {"a": {"b": "c"}}}, (None, "metadata")),
        (
            "POST",
            "/v1/products",
            {"name": "x", "metadata": {f"k{i}": "v" for i in range(51)}},
            (None, "metadata"),
        ),
        ("POST", "/v1/products", {"name": "x", "metadata": {"k" * 41: "v"}}, (None, f"metadata[{'k' * 40}]")),
        ("POST", "/v1/products", {"name": "x", "metadata": {"k": "v" * 501}}, (None, "metadata[k]")),
        ("POST", "/v1/prices", {**PRICE, "product": "p", "recurring": "month"}, (None, "recurring")),
        (
            "POST",
            "/v1/prices",
            {**PRICE, "product": "p", "recurring": {"interval": "fortnight"}},
            (None, "recurring[interval]"),
        ),
        ("GET", "/v1/prices", {"lookup_keys": "one"}, (None, "lookup_keys")),
        ("GET", "/v1/prices", {"lookup_keys": [f"k{i}" for i in range(11)]}, (None, "lookup_keys")),
        ("GET", "/v1/products", {"starting_after": "prod_none"}, (None, "starting_after")),
        ("POST", "/v1/customers", {"expand": ["nothing"]}, (None, "expand")),
    ],
)
def test_refusals(
    town: Town, method: str, path: str, params: dict[str, Any], error: tuple[str | None, str | None]
) -> None:
    """An unknown, missing or wrong parameter is a 400 invalid_request_error with the parameter's full name."""
    code, param = error
    expected = {"type": "invalid_request_error", "param": param, **({"code": code} if code is not None else {})}
    assert town.refused(400, method, path, params) == expected


def test_the_words_of_a_refusal(town: Town) -> None:
    """The message is for a person and the link follows from the code, as in Stripe's own errors."""
    reply = town.ask("POST", "/v1/products", {"colour": "red"})
    assert reply.json == {
        "error": {
            "type": "invalid_request_error",
            "message": "Received unknown parameter: colour",
            "code": "parameter_unknown",
            "doc_url": "https://stripe.com/docs/error-codes/parameter-unknown",
            "param": "colour",
        }
    }
    assert reply.headers["Request-Id"].startswith("req_")
    assert reply.headers["Stripe-Version"] == "2026-10-28.endive"


@pytest.mark.parametrize(
    "amount", ["1_0", "abc", "", "NaN", "Infinity", "-1", "1e5000", "1e9999999", "0." + "0" * 12 + "1"]
)
def test_amounts_that_are_none(seller: Seller, amount: str) -> None:
    """A price's amount is a plain decimal of at most 12 places, zero or more: anything else is a 400."""
    product = seller.post("/v1/products", name="x")["id"]
    error = seller.refused(
        400, "POST", "/v1/prices", {"currency": "usd", "product": product, "unit_amount_decimal": amount}
    )
    assert error["param"] == "unit_amount_decimal"


@pytest.mark.parametrize("address", ["nonsense", "@", "a@", "@b", "a@b@c", "a b@example.test", "a@exam\nple"])
def test_addresses_that_are_none(seller: Seller, address: str) -> None:
    """What is no e-mail address is refused with Stripe's code wherever one is set."""
    customer = seller.customer(email="ada+1@example.test")
    session = {"mode": "subscription", "success_url": "https://x.example", "line_items": [{"price": seller.price_id}]}
    for path, name, more in (
        ("/v1/customers", "email", {}),
        (f"/v1/customers/{customer}", "email", {}),
        ("/v1/checkout/sessions", "customer_email", session),
    ):
        error = seller.refused(400, "POST", path, {**more, name: address})
        assert error == {"type": "invalid_request_error", "code": "email_invalid", "param": name}


def test_metadata(town: Town) -> None:
    """Metadata is merged key by key, an empty value removes its key, an empty set removes all."""
    path = f"/v1/products/{town.post('/v1/products', name='x', metadata={'a': '1', 'b': '2'})['id']}"
    assert town.post(path, metadata={"b": "", "c": "3"})["metadata"] == {"a": "1", "c": "3"}
    assert town.post(path, name="y")["metadata"] == {"a": "1", "c": "3"}
    assert town.post(path, metadata="")["metadata"] == {}


def test_metadata_keys_of_digits(town: Town) -> None:
    """A metadata key may consist of digits; it stays a key and makes no list."""
    assert town.post("/v1/products", name="x", metadata={"2026": "y"})["metadata"] == {"2026": "y"}


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        ("/v1/subscriptions/{sub}", {"cancel_at_period_end": True, "default_payment_method": "pm_none"}),
        (
            "/v1/customers/{cus}",
            {"name": "Mallory", "invoice_settings": {"default_payment_method": "pm_none"}},
        ),
        ("/v1/customers", {"expand": ["nothing"]}),
    ],
)
def test_a_refused_request_changes_nothing(seller: Seller, path: str, wrong: dict[str, Any]) -> None:
    """A 400 has no effect and causes no event, whichever of its parameters was wrong."""
    subscription = seller.subscribe()
    customer = seller.get(f"/v1/customers/{subscription['customer']}")
    before = seller.events()
    seller.refused(400, "POST", path.format(sub=subscription["id"], cus=customer["id"]), wrong)
    assert seller.events() == before
    assert seller.subscription(subscription["id"]) == subscription
    assert seller.get("/v1/customers")["data"] == [customer]
