"""Schemathesis over the OpenAPI of our routes, on a real loopback server: what is described holds, with any input.

A clock that stands still is moved after each request, so that neither rate limits nor staleness answer instead.
"""

import copy
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import load_all_checks, not_a_server_error
from schemathesis.openapi.checks import IgnoredAuth
from schemathesis.specs.openapi import checks
from tests.e2e.stack import HOST, free_port, until
from tests.shop import CATALOG, Shop, bearer, open_shop

from farebox.billing.claim import Claimed
from farebox.domain.access import Facts
from farebox.web.answers import REFUSALS

EXAMPLES_MAX = 30
SECONDS_MAX = 20
load_all_checks()
CHECKS: list[Any] = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.missing_required_header,
    checks.unsupported_method,
    checks.ignored_auth,
]
OPERATIONS = sorted(REFUSALS)
WITHOUT_KEY = {("post", "/checkout"), ("post", "/claim"), ("post", "/webhook")}
NOTHING_TO_GET_WRONG = {
    ("get", "/usage"),
    ("get", "/invoices/upcoming"),
    ("get", "/subscription"),
    ("delete", "/subscription/change"),
    ("post", "/portal"),
    ("get", "/keys"),
}
RUNS = [
    pytest.param(operation, mode, keyed, id=f"{' '.join(operation)}, {mode.value}, {'a' if keyed else 'no'} key")
    for operation in OPERATIONS
    for mode in GenerationMode
    for keyed in (True, False)
    if not (keyed and mode is GenerationMode.NEGATIVE and operation in NOTHING_TO_GET_WRONG)
]


@dataclass
class Served:
    """The shop over HTTP, and what its OpenAPI page says."""

    shop: Shop
    claimed: Claimed
    base: str
    document: dict[str, Any]

    def tick(self) -> None:
        """A minute passes, and the buyer has a key that works, whatever the last request has done to it."""
        self.shop.clock.pass_seconds(60)
        self.shop.runtime.gate.poll()
        keys = [k for k in self.shop.store.keys(self.claimed.account_id) if k.revoked_at is None]
        if self.claimed.key_id not in [k.id for k in keys] or len(keys) > 40:
            self.claimed = self.shop.buy()

    def teach(self, *, keyed: bool = True) -> Any:
        """The schema with names that mean something here: plans, a purchase that is paid, keys of two buyers.

        Without a key of ours, keys are made up too.
        """
        document = copy.deepcopy(self.document)
        session_id = self.shop.checkout()
        self.shop.pay(session_id)
        for operations in document["paths"].values():
            for operation in operations.values():
                for parameter in operation.get("parameters", []):
                    if parameter["name"] == "id":
                        parameter["schema"] = {"enum": [self.claimed.key_id, self.shop.buy().key_id, "key_nobody"]}
                for content in operation.get("requestBody", {}).get("content", {}).values():
                    known = content["schema"].get("properties", {})
                    known.get("plan", {})["enum"] = sorted(self.shop.catalog.plans)
                    known.get("when", {})["enum"] = ["period_end"]  # to settle, time would have to pass
                    known.get("session_id", {})["enum"] = [session_id, "cs_test_nobody"]
        schema = schemathesis.openapi.from_dict(document)
        schema.config.generation.update(with_security_parameters=not keyed)
        return schema


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    catalog = CATALOG + '[events]\nfrom = ["operator", "key"]\n'
    with open_shop(tmp_path_factory.mktemp("openapi"), catalog=catalog) as shop:
        port = free_port()
        server = uvicorn.Server(
            uvicorn.Config(shop.client.app, host=HOST, port=port, lifespan="off", log_level="critical")
        )
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            until(lambda: server.started, "the server starts")
            claimed = shop.buy()
            document = shop.client.get("/billing/openapi.json").json()
            yield Served(shop, claimed, f"http://{HOST}:{port}/billing", document)
        finally:
            server.should_exit = True
            thread.join(20)


def test_every_route_is_described(served: Served) -> None:
    """Every operation is on the page with its refusals, and every refusal is a problem document."""
    described = {(method, path): op for path, item in served.document["paths"].items() for method, op in item.items()}
    assert sorted(described) == OPERATIONS
    for operation in described.values():
        assert "default" not in operation["responses"]
        for status, response in operation["responses"].items():
            if int(status) >= 400:
                assert "application/problem+json" in response["content"]


@pytest.mark.parametrize(("operation", "mode", "keyed"), RUNS)
def test_what_is_described_holds(served: Served, operation: tuple[str, str], mode: GenerationMode, keyed: bool) -> None:
    """A34, A32: for any input, good or bad, with a key or without: no server error, no answer but those that are
    described, no input accepted that the description forbids, and no authentication ignored."""
    method, path = operation
    served.tick()
    strategy = served.teach(keyed=keyed)[path][method].as_strategy(generation_mode=mode)

    @settings(
        max_examples=EXAMPLES_MAX,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
        deadline=None,
        derandomize=True,
    )
    @given(case=strategy)
    def holds(case: Any) -> None:
        headers = bearer(served.claimed.key) if keyed else {}
        case.call_and_validate(
            base_url=served.base, headers=headers, checks=CHECKS, timeout=SECONDS_MAX, allow_redirects=False
        )
        served.tick()

    holds()


def test_no_key_no_answer(served: Served) -> None:
    """A34: each operation that is described to need a key answers 401 without one or with a bad one, whatever else is
    wrong with the request, and says how to send it."""
    needing = {(m, p) for m, p in OPERATIONS if {} not in served.document["paths"][p][m].get("security", [{}])}
    assert needing == set(OPERATIONS) - WITHOUT_KEY
    for method, path in needing:
        for headers in ({}, {"X-API-Key": "x"}, {"Authorization": "Basic eDp4"}, {"Authorization": "Bearer fb_test_x"}):
            url = "/billing" + path.replace("{id}", served.claimed.key_id)
            answer = served.shop.client.request(method, url, headers=headers, content=b"{")
            assert (answer.status_code, answer.headers["content-type"]) == (401, "application/problem+json")
            assert answer.headers["www-authenticate"].startswith("Bearer ")


def test_an_ignored_key_would_be_found(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check can fail: with routes that take anyone for the buyer, Schemathesis says that they ignore the key."""
    gate = served.shop.runtime.gate
    facts = gate.fill(served.claimed.key.reveal())

    case = served.teach()["/keys"]["get"].Case()

    async def anyone(self: Any, scope: Any) -> Facts:
        return facts

    monkeypatch.setattr(type(served.shop.runtime.edge), "identify_holder", anyone)
    with pytest.RaisesGroup(IgnoredAuth):
        case.call_and_validate(
            base_url=served.base, headers=bearer(served.claimed.key), checks=CHECKS, timeout=SECONDS_MAX
        )
