"""Idempotency keys: the same request once, however often it is sent, and never another one under the same key."""

import threading

import pytest
from tests.unit.sandbox.town import DAY, HeldClock, Reply, Town

from farebox.sandbox import Reset

PATH = "/v1/customers"


def customers(town: Town) -> int:
    return len(town.get(PATH)["data"])


def send(town: Town, name: str = "Ada", key: str = "key-1", path: str = PATH) -> Reply:
    return town.ask("POST", path, {"name": name}, idempotency_key=key)


def test_same_key_same_answer(town: Town) -> None:
    """The same request under the same key has one effect and one answer, which says that it is a replay (F07)."""
    first, second = send(town), send(town)
    assert (first.status, second.status, customers(town)) == (200, 200, 1)
    assert first.body == second.body
    assert "Idempotent-Replayed" not in first.headers
    assert second.headers["Idempotent-Replayed"] == "true"
    assert first.headers["Request-Id"] != second.headers["Request-Id"]
    town.post(f"{PATH}/{first.json['id']}", name="Grace")
    assert send(town).body == first.body  # the answer of then, not the object of now
    assert send(town, key="key-2").json["id"] != first.json["id"]


def test_same_key_other_request(town: Town) -> None:
    """Other parameters or another path under a used key are a 400 idempotency_error without effect (A24)."""
    send(town)
    for reply in (send(town, name="Grace"), send(town, path="/v1/products")):
        assert (reply.status, reply.error) == (400, {"type": "idempotency_error"})
    assert customers(town) == 1
    assert town.get("/v1/products")["data"] == []


def test_keys_belong_to_their_account(town: Town) -> None:
    """A key used in one account means nothing in another."""
    first = send(town)
    other = town.ask("POST", PATH, {"name": "Grace"}, idempotency_key="key-1", key="sk_test_somebody_else")
    assert (first.json["name"], other.json["name"]) == ("Ada", "Grace")


def test_a_refusal_is_kept(town: Town) -> None:
    """A refusal by the work itself is replayed, even when it would succeed by now."""
    product = town.post("/v1/products", name="x")["id"]
    price = {"currency": "usd", "product": product, "unit_amount": 1, "lookup_key": "payg"}
    holder = town.post("/v1/prices", **price)["id"]
    first = town.ask("POST", "/v1/prices", price, idempotency_key="key-1")
    town.post(f"/v1/prices/{holder}", lookup_key="other")
    again = town.ask("POST", "/v1/prices", price, idempotency_key="key-1")
    assert (first.status, again.status, again.body) == (400, 400, again.body)
    assert again.json == first.json
    assert again.headers["Idempotent-Replayed"] == "true"
    assert town.ask("POST", "/v1/prices", price, idempotency_key="key-2").status == 200


@pytest.mark.parametrize(
    "wrong", [{"colour": "red"}, {"name": "x" * 251}, {"active": "yes"}, {"name": ""}, {"metadata": "x"}]
)
def test_bad_parameters_are_not_kept(town: Town, wrong: dict[str, str]) -> None:
    """A request that never began, its parameters being wrong, leaves its key free for the mended one."""
    sent = {"name": "x", **wrong}
    assert town.ask("POST", "/v1/products", sent, idempotency_key="key-1").status == 400
    assert town.ask("POST", "/v1/products", {"name": "x"}, idempotency_key="key-1").status == 200


def test_a_500_is_kept(town: Town) -> None:
    """A saved 500 is replayed to its key after the trouble is over; a new key works (F06, L8)."""
    town.sandbox.faults.add({"path": PATH, "status": 500})
    first, again = send(town), send(town)
    assert (first.status, again.status) == (500, 500)
    assert first.json["error"]["type"] == "api_error"
    assert again.headers["Idempotent-Replayed"] == "true"
    assert send(town, key="key-2").status == 200
    assert customers(town) == 1


def test_a_429_is_not_kept(town: Town) -> None:
    """A throttled request never began: the same key succeeds later (F04)."""
    town.sandbox.faults.add({"path": PATH, "status": 429})
    assert [send(town).status, send(town).status, customers(town)] == [429, 200, 1]


def test_a_success_outlives_later_trouble(town: Town) -> None:
    """A 500 on a retry does not overwrite the answer that the key had got before."""
    first = send(town)
    town.sandbox.faults.add({"path": PATH, "status": 500})
    send(town)
    last = send(town)
    assert (last.status, last.body, customers(town)) == (200, first.body, 1)


def test_a_replay_can_be_lost_too(town: Town) -> None:
    """A connection that breaks three times in a row loses three answers to one effect; the fourth arrives (F07)."""
    town.sandbox.faults.add({"path": PATH, "method": "POST", "reset": "after", "count": 3})
    for _ in range(3):
        with pytest.raises(Reset):
            send(town)
    last = send(town)
    assert (last.status, last.headers["Idempotent-Replayed"], customers(town)) == (200, "true", 1)


def test_in_flight() -> None:
    """While a request is being served, its key answers 409 to a second one, which has no effect."""
    clock = HeldClock()
    town = Town(clock=clock)
    town.sandbox.faults.add({"path": PATH, "latency_ms": 1})
    replies: list[Reply] = []
    held = threading.Thread(target=lambda: replies.append(send(town)))
    held.start()
    assert clock.entered.wait(10)
    refused = send(town)
    clock.released.set()
    held.join(10)
    assert (refused.status, refused.json["error"]["type"]) == (409, "idempotency_error")
    assert refused.error["code"] == "idempotency_key_in_use"
    assert [reply.status for reply in replies] == [200]
    assert send(town).body == replies[0].body
    assert customers(town) == 1


def test_keys_are_forgotten(town: Town) -> None:
    """A key is remembered for 24 hours; after that the same request is a new one (L9)."""
    first = send(town)
    town.move(DAY - 1)
    assert send(town).body == first.body
    town.move(2)
    assert send(town).json["id"] != first.json["id"]
    assert customers(town) == 2


def test_reading_takes_no_key(town: Town) -> None:
    """A key on a GET is ignored: it shows what is there now."""
    for count in (0, 1):
        reply = town.ask("GET", PATH, idempotency_key="key-1")
        assert len(reply.json["data"]) == count
        town.customer()


def test_long_keys(town: Town) -> None:
    """255 characters are a key, 256 are not."""
    assert send(town, key="k" * 255).status == 200
    assert (send(town, key="k" * 256).status, customers(town)) == (400, 1)
