"""One call at the edge: what it is charged, which rule prices it, and which key it carries."""

import contextlib
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox.domain.access import Grant
from farebox.domain.accounts import Account, Subscription
from farebox.domain.catalog import Meter, Route
from farebox.domain.keys import mint
from farebox.domain.usage import QUANTITY_MAX
from farebox.errors import (
    ChargeOutsideCall,
    ChargeTooLate,
    CredentialsConflict,
    FareboxError,
    KeyInvalid,
    KeyMissing,
    MeterUnknown,
    QuantityInvalid,
)
from farebox.web.calls import (
    CREDENTIAL_CHARACTERS_MAX,
    QUERY_FIELDS_MAX,
    ROUTES_REMEMBERED_MAX,
    Call,
    RouteTable,
    credential_of,
    current_call,
)

HOUR = 1_800_000_000
METERS = {name: Meter(name, name, name, free_unpriced=True) for name in ("calls", "tokens")}
KEY = mint(b"k" * 32, live=False).reveal()
OTHER = mint(b"o" * 32, live=False).reveal()
BOTH = ("bearer", "x-api-key")


def call(*, boundaries: tuple[int, ...] = (), **charges: int) -> Call:
    """A call that farebox.toml prices as told."""
    subscription = Subscription("sub_1", "cus_1", "payg", "active", HOUR)
    made = Call(Grant(Account("acct_1", HOUR), subscription, boundaries), "key_1", "GET /api", METERS)
    made.charges.update(charges)
    return made


def test_code_replaces_the_file() -> None:
    """A price in code stands in the place of farebox.toml's for its meter only, and prices in code add up."""
    paid = call(calls=1, tokens=7)
    paid.price("calls", 5)
    assert paid.charges == {"calls": 5, "tokens": 7}
    paid.price("calls", 2)
    assert paid.charges == {"calls": 7, "tokens": 7}


class Slow(dict[str, int]):
    """A call's charges whose reader is overtaken: the second to read comes before the first writes, if it may."""

    def __init__(self) -> None:
        super().__init__()
        self._both = threading.Barrier(2)

    def get(self, meter: str, default: int = 0) -> int:  # type: ignore[override]
        value = super().get(meter, default)
        with contextlib.suppress(threading.BrokenBarrierError):
            self._both.wait(timeout=0.2)
        return value


def test_charges_of_two_threads_at_once() -> None:
    """Two threads of one call charge at the same moment, and each charge counts (I1)."""
    paid = call()
    paid.charges = Slow()
    threads = [threading.Thread(target=paid.charge, args=("tokens", quantity)) for quantity in (3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert dict(paid.charges) == {"tokens": 7}
    assert paid.from_code == {"tokens": 7}


def test_charges_of_many_threads() -> None:
    """Eight threads that charge as fast as they can lose nothing, however often they take turns."""
    paid, interval = call(), sys.getswitchinterval()

    def work() -> None:
        for _ in range(2_000):
            paid.charge("tokens", 7)

    sys.setswitchinterval(0.000_005)
    try:
        with ThreadPoolExecutor(8) as pool:
            for done in [pool.submit(work) for _ in range(8)]:
                done.result()
    finally:
        sys.setswitchinterval(interval)
    assert paid.charges == {"tokens": 8 * 2_000 * 7}


def test_a_charge_while_the_answer_begins() -> None:
    """A charge that is under way when the answer begins is in what is recorded, or is refused: never taken and lost."""
    paid = call()
    paid.charges = Slow()
    thread = threading.Thread(target=paid.charge, args=("tokens", 3))
    thread.start()
    while not paid._lock.locked():
        pass
    paid.begin()
    assert dict(paid.charges) == {"tokens": 3}
    thread.join()
    with pytest.raises(ChargeTooLate):
        paid.charge("tokens", 1)


class Counted:
    """A whole number of another library's: it has `__index__` and nothing else."""

    def __init__(self, value: int, dtype: str = "int64") -> None:
        self.value = value
        self.dtype = dtype

    def __index__(self) -> int:
        return self.value


def test_numbers_of_other_libraries() -> None:
    """A number that Python itself takes for an index, as numpy's are, is charged as what it is; a bool is refused."""
    paid = call()
    paid.charge("tokens", Counted(120))  # type: ignore[arg-type]
    paid.price("calls", Counted(5))  # type: ignore[arg-type]
    assert paid.charges == {"tokens": 120, "calls": 5}
    assert {type(quantity) for quantity in (*paid.charges.values(), *(paid.from_code or {}).values())} == {int}
    for wrong in (Counted(1, "bool"), Counted(-1), 5.0, True, "5"):
        with pytest.raises(QuantityInvalid):
            paid.charge("tokens", wrong)  # type: ignore[arg-type]
    assert paid.charges == {"tokens": 120, "calls": 5}


def test_charges_add_up() -> None:
    """A charge adds to whatever the call costs already, also where the file or the price says nothing or zero."""
    paid = call(calls=1)
    paid.charge("calls", 3)
    paid.charge("tokens", 120)
    paid.charge("tokens", 0)
    assert paid.charges == {"calls": 4, "tokens": 120}
    free = call(calls=1)
    free.price("calls", 0)
    assert free.charges == {"calls": 0}


def test_a_price_keeps_earlier_charges() -> None:
    """What a dependency charged before the price was read stays charged: only the file's quantity is replaced."""
    paid = call(calls=1)
    paid.charge("calls", 3)
    paid.price("calls", 5)
    assert paid.charges == {"calls": 8}


@pytest.mark.parametrize(
    ("meter", "quantity", "error"),
    [
        ("calls", -1, QuantityInvalid),
        ("calls", 1.0, QuantityInvalid),
        ("calls", True, QuantityInvalid),
        ("calls", "1", QuantityInvalid),
        ("calls", None, QuantityInvalid),
        ("calls", float("nan"), QuantityInvalid),
        ("calls", QUANTITY_MAX + 1, QuantityInvalid),
        ("calls", QUANTITY_MAX, QuantityInvalid),  # beside the one of the file
        ("cals", 1, MeterUnknown),
        ("", 1, MeterUnknown),
    ],
)
def test_a_refused_charge_changes_nothing(meter: str, quantity: Any, error: type[FareboxError]) -> None:
    """A26: a charge that cannot be is refused whole, and the call costs what it did before."""
    paid = call(calls=1)
    with pytest.raises(error, match=meter or "no meter"):
        paid.charge(meter, quantity)
    assert paid.charges == {"calls": 1}


@pytest.mark.parametrize("how", ["charge", "price"])
def test_nothing_after_the_answer(how: str) -> None:
    """Once the answer has begun a charge is refused and says what to use, since nothing could stop the answer."""
    paid = call(calls=1)
    paid.begin()
    with pytest.raises(ChargeTooLate, match=r"farebox\.record"):
        getattr(paid, how)("calls", 1)
    assert paid.charges == {"calls": 1}


def test_no_call_no_charge() -> None:
    """Code that runs outside a paid call is told so."""
    with pytest.raises(ChargeOutsideCall, match=r"farebox\.record"):
        current_call()


def test_usage() -> None:
    """L4: each charged meter adds to the row of the hour, or since the period's start within it."""
    paid = call(boundaries=(HOUR + 60,), calls=2, tokens=0)
    row = ("acct_1", "calls", "key_1", "GET /api")
    assert paid.usage(HOUR + 59) == [((*row, HOUR), 2), (("acct_1", "tokens", "key_1", "GET /api", HOUR), 0)]
    starts = {at: paid.usage(at)[0][0][4] for at in (HOUR + 60, HOUR + 59, HOUR + 3599, HOUR + 3600, HOUR - 1)}
    assert starts == {
        HOUR + 60: HOUR + 60,
        HOUR + 59: HOUR,
        HOUR + 3599: HOUR + 60,
        HOUR + 3600: HOUR + 3600,
        HOUR - 1: HOUR - 3600,
    }


TABLE = RouteTable(
    [
        Route("GET", "/api", False, "calls", 1),
        Route("*", "/files/**", False, "calls", 2),
        Route("GET", "/users/{id}/posts", False, "calls", 3),
        Route("POST", "/a.b", False, "calls", 4),
        Route("GET", "/files/open", True),
    ],
    ["/docs"],
)


@pytest.mark.parametrize(
    ("method", "path", "found"),
    [
        ("GET", "/api", "GET /api"),
        ("HEAD", "/api", "GET /api"),
        ("POST", "/api", None),
        ("OPTIONS", "/api", None),
        ("get", "/api", None),
        ("GET", "/api/", None),
        ("GET", "/apis", None),
        ("GET", "//api", None),
        ("GET", "/API", None),
        ("DELETE", "/files", "* /files/**"),
        ("GET", "/files/", "* /files/**"),
        ("GET", "/files/open", "* /files/**"),  # the first match wins
        ("GET", "/files/a/b\nc", "* /files/**"),
        ("GET", "/filesystem", None),
        ("GET", "/users/7/posts", "GET /users/{id}/posts"),
        ("GET", "/users//posts", None),
        ("GET", "/users/7/8/posts", None),
        ("GET", "/users/{id}/posts", "GET /users/{id}/posts"),
        ("POST", "/a.b", "POST /a.b"),
        ("POST", "/axb", None),
        ("PUT", "/docs", None),
        ("GET", "/docs", "GET /docs"),
    ],
)
def test_which_rule(method: str, path: str, found: str | None) -> None:
    """First match wins, on the whole path; HEAD follows GET's rule; a star takes all below; braces take one segment.

    Asked twice, so that the remembered answer is the same.
    """
    for _ in range(2):
        rule = TABLE.find(method, path)
        assert (rule.match if rule is not None else None) == found


def test_own_pages() -> None:
    """The pages that describe the API stay open under a rule for everything, not under one that names them."""
    everything = Route("*", "/**", False, "calls", 1)
    found = RouteTable([everything], ["/docs"]).find("GET", "/docs")
    assert found is not None
    assert found.public
    assert RouteTable([Route("GET", "/docs", False), everything], ["/docs"]).find("GET", "/docs") == Route(
        "GET", "/docs", False
    )


def test_the_table_stays_small() -> None:
    """However many different paths strangers ask for, so many answers are remembered and no more."""
    table = RouteTable([Route("GET", "/a/{x}", False, "calls", 1)])
    for n in range(ROUTES_REMEMBERED_MAX + 10):
        assert table.find("GET", f"/a/{n}") is not None
    assert len(table._remembered) == 10


def carried(
    *headers: tuple[bytes, str], query: str = "", credentials: tuple[str, ...] = BOTH
) -> str | type[FareboxError]:
    """The key found, or the kind of refusal."""
    fields = [(name, value.encode("latin-1")) for name, value in headers]
    try:
        return credential_of({"headers": fields, "query_string": query.encode()}, credentials)
    except FareboxError as error:
        return type(error)


AUTH, APIKEY = b"authorization", b"x-api-key"


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ([], KeyMissing),
        ([(AUTH, "Basic Zm9vOmJhcg==")], KeyMissing),
        ([(AUTH, "Bearer")], KeyInvalid),
        ([(AUTH, f"Bearer {KEY}")], KEY),
        ([(AUTH, f"bEARER   {KEY} ")], KEY),
        ([(APIKEY, f" {KEY}\t")], KEY),
        ([(APIKEY, "")], KeyInvalid),
        ([(AUTH, "Bearer a.jwt.of-the-seller")], KeyInvalid),
        ([(AUTH, "Bearer a.jwt.of-the-seller"), (APIKEY, KEY)], KEY),
        ([(AUTH, f"Bearer {KEY}"), (APIKEY, KEY)], KEY),
        ([(APIKEY, KEY), (APIKEY, KEY)], KEY),
        ([(AUTH, f"Bearer {KEY}"), (APIKEY, OTHER)], CredentialsConflict),
        ([(APIKEY, KEY), (APIKEY, OTHER)], CredentialsConflict),
        ([(AUTH, f"Bearer {KEY}"), (AUTH, f"Bearer {OTHER}")], CredentialsConflict),
        ([(AUTH, f"Bearer {KEY}"), (APIKEY, "something-else")], CredentialsConflict),
        ([(APIKEY, f"{KEY},{OTHER}")], f"{KEY},{OTHER}"),  # one text, which no checksum will hold for
        ([(APIKEY, "fb_" + "x" * (CREDENTIAL_CHARACTERS_MAX - 3))], "fb_" + "x" * (CREDENTIAL_CHARACTERS_MAX - 3)),
        ([(APIKEY, "fb_" + "x" * (CREDENTIAL_CHARACTERS_MAX - 2))], KeyInvalid),
    ],
)
def test_which_key(headers: list[tuple[bytes, str]], found: object) -> None:
    """A23: one key, wherever it stands; several different ones are refused; the seller's own Bearer is let alone."""
    assert carried(*headers) == found


def test_only_where_configured() -> None:
    """A credential is looked for only where farebox.toml says."""
    assert carried((AUTH, f"Bearer {KEY}"), credentials=("x-api-key",)) is KeyMissing
    assert carried((APIKEY, KEY), credentials=("bearer",)) is KeyMissing
    assert carried(query=f"api_key={KEY}") is KeyMissing


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (f"api_key={KEY}", KEY),
        (f"a=1&api_key={KEY}&api_key={KEY}", KEY),
        (f"api_key={KEY}&api_key={OTHER}", CredentialsConflict),
        (f"API_KEY={KEY}", KeyMissing),
        ("api_key=", KeyMissing),
        ("api_key=%00%ff", KeyInvalid),
        ("&".join(f"a{n}=1" for n in range(QUERY_FIELDS_MAX + 1)), KeyInvalid),
    ],
)
def test_keys_in_the_query(query: str, found: object) -> None:
    """Asked for, a query field carries the key too, under the same rules, and a giant query is not searched."""
    assert carried(query=query, credentials=("bearer", "query:api_key")) == found
    assert carried((AUTH, f"Bearer {KEY}"), query=f"api_key={OTHER}", credentials=("bearer", "query:api_key")) is (
        CredentialsConflict
    )


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([AUTH, APIKEY, b"cookie"]), st.binary(max_size=60)), max_size=6), st.binary())
def test_any_bytes(headers: list[tuple[bytes, bytes]], query: bytes) -> None:
    """A22: whatever bytes a request carries, the answer is a key's text or a refusal."""
    scope = {"headers": headers, "query_string": query}
    with contextlib.suppress(KeyMissing, KeyInvalid, CredentialsConflict):
        assert credential_of(scope, ("bearer", "x-api-key", "query:k")).startswith("fb_")
