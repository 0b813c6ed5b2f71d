"""Who may call: cached facts that a change, a race or a silent feed can never make stale."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any, Final

import pytest
import sqlalchemy as sa
from tests.shop import StillClock

from farebox.domain.access import Facts, Grant
from farebox.domain.accounts import Account, Subscription, SubscriptionItem
from farebox.domain.catalog import Price
from farebox.domain.keys import ApiKey, Pepper, digest, mint, pepper_from
from farebox.domain.usage import Period
from farebox.errors import FactsStale, KeyExpired, KeyInvalid, KeyRevoked, StoreUnavailable, SubscriptionMissing
from farebox.metering import gate as module
from farebox.metering.gate import CLOCK_SAMPLE_MILLISECONDS_MAX, STALENESS_MILLISECONDS, Gate
from farebox.ports import Changes
from farebox.store import tables as t
from farebox.store.sql import MEMORY_URL, SqlStore
from farebox.system import SystemEntropy

AT: Final = 1_800_000_000
OLD, NEW = pepper_from("the first secret of the tests"), pepper_from("the second secret of the tests")


class Watched(SqlStore):
    """The real ledger, which counts look-ups, and lets something happen while one is under way."""

    def __init__(self) -> None:
        super().__init__(MEMORY_URL, StillClock(AT), SystemEntropy())
        self.looked_up: list[tuple[str, ...]] = []
        self.meanwhile: Callable[[], object] = lambda: None
        self.lost = False
        self.open()

    def find_facts(self, digests: Sequence[str]) -> Facts | None:
        self.looked_up.append(tuple(digests))
        found = super().find_facts(digests)
        self.meanwhile()
        return found

    def changes(self, epoch: str, after: int) -> Changes:
        if self.lost:
            raise StoreUnavailable
        return super().changes(epoch, after)


class House:
    """A ledger, a gate on it, and the keys of its buyers."""

    def __init__(self) -> None:
        self.store = Watched()
        self.clock = StillClock(AT)
        self.gate = self.new_gate()
        self.gate.poll()

    def new_gate(self) -> Gate:
        return Gate(self.store, self.clock, (NEW, OLD), 60)

    def sell(self, n: int = 1, pepper: Pepper = NEW) -> str:
        """A buyer's account and key; the key in clear."""
        text = mint(SystemEntropy().token_bytes(32), live=False).reveal()
        self.store.add_account(Account(f"acc_{n}", AT, customer_id=f"cus_{n}"))
        self.add_key(text, n, pepper)
        return text

    def add_key(self, text: str, n: int = 1, pepper: Pepper = NEW) -> None:
        made = ApiKey(f"key_{n}", f"acc_{n}", digest(text, pepper), pepper.id, text[:8], text[-4:], "", AT)
        self.store.add_key(made)

    def enter(self, text: str, gate: Gate | None = None) -> Facts:
        """What the edge does with a key: memory first, then the ledger."""
        gate = gate or self.gate
        return gate.known(text) or gate.fill(text)


@pytest.fixture
def house() -> Iterator[House]:
    made = House()
    yield made
    made.store.close()


def test_facts_are_asked_for_once(house: House) -> None:
    """The ledger is asked once for each key, with the digests of all peppers, newest first; memory answers after."""
    text = house.sell(pepper=OLD)
    house.gate.poll()
    found = [house.enter(text) for _ in range(3)]
    assert house.store.looked_up == [(digest(text, NEW), digest(text, OLD))]
    assert found == [house.store.find_facts([digest(text, OLD)])] * 3


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[:-1] + ("0" if text[-1] != "0" else "1"),
        lambda text: text[:20] + ("0" if text[20] != "0" else "1") + text[21:],
        lambda text: text.replace("fb_test_", "fb_live_"),
        lambda text: text + "0",
        lambda text: text[:-1],
        lambda text: " " + text,
        lambda text: text[:-1] + "\u0660",
        lambda text: "",
    ],
)
def test_a_bad_checksum(house: House, spoil: Callable[[str], str]) -> None:
    """A key that was guessed, cut or mistyped is refused by its own checksum and never reaches the ledger (A05)."""
    with pytest.raises(KeyInvalid, match="Check that it was copied whole"):
        house.enter(spoil(house.sell()))
    assert house.store.looked_up == []


def test_unknown_keys(house: House) -> None:
    """An unknown key is asked for once and remembered; the next change in the ledger may have made it known."""
    text = mint(bytes(32), live=False).reveal()
    for _ in range(3):
        with pytest.raises(KeyInvalid, match="The API key is not known"):
            house.enter(text)
    assert len(house.store.looked_up) == 1
    house.store.add_account(Account("acc_1", AT))
    house.add_key(text)
    with pytest.raises(KeyInvalid):
        house.enter(text)
    house.gate.poll()
    assert house.enter(text).key_id == "key_1"


def test_unknown_keys_take_bounded_memory(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guesses with a good checksum fill only so much memory, and push out no known key (A05)."""
    monkeypatch.setattr(module, "UNKNOWN_CACHED_MAX", 4)
    text = house.sell()
    house.gate.poll()
    house.enter(text)
    for n in range(9):
        with pytest.raises(KeyInvalid):
            house.enter(mint(n.to_bytes(32, "big"), live=False).reveal())
        assert len(house.gate._unknown) <= 4 + 1  # the last guess comes with a digest for each of the two peppers
    asked = len(house.store.looked_up)
    house.enter(text)
    assert len(house.store.looked_up) == asked


def test_facts_take_bounded_memory(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """With more keys than fit, the oldest is forgotten and asked for again; a change still finds all of the rest."""
    monkeypatch.setattr(module, "FACTS_CACHED_MAX", 2)
    texts = [house.sell(n) for n in (1, 2, 3)]
    house.gate.poll()
    for text in texts:
        house.enter(text)
    house.enter(texts[2])
    assert len(house.store.looked_up) == 3
    house.enter(texts[0])
    assert len(house.store.looked_up) == 4
    for n in (1, 2, 3):
        house.store.end_key(f"acc_{n}", f"key_{n}", at=AT)
    house.gate.poll()
    assert [type(house.gate.refusal_of_key(house.enter(text))) for text in texts] == [KeyRevoked] * 3


def test_staleness(house: House) -> None:
    """For 2 s after the feed was last read memory is trusted, then nobody passes until it is read again (L14, I9)."""
    text = house.sell()
    house.gate.poll()
    house.enter(text)
    assert STALENESS_MILLISECONDS == 2_000
    house.store.lost = True
    house.clock.manual.pass_ms(2_000)
    with pytest.raises(StoreUnavailable):
        house.gate.poll()
    assert house.enter(text).key_id == "key_1"
    assert house.gate.ready()
    house.clock.manual.pass_ms(1)
    assert not house.gate.ready()
    for asked in (text, mint(bytes(32), live=False).reveal()):
        with pytest.raises(FactsStale):
            house.enter(asked)
    house.store.lost = False
    house.gate.poll()
    assert house.enter(text).key_id == "key_1"
    assert len(house.store.looked_up) == 1


def test_staleness_with_a_spool(house: House) -> None:
    """Only while the store itself is away are facts trusted longer, for the stated time; unknown keys not (L16, I9)."""
    text = house.sell()
    gate = Gate(house.store, house.clock, (NEW, OLD), 60, spool_seconds=30)
    gate.poll()
    house.enter(text, gate)
    house.clock.manual.pass_ms(2_001)
    with pytest.raises(FactsStale):  # nobody asked: the store is not known to be away
        house.enter(text, gate)
    house.store.lost = True
    with pytest.raises(StoreUnavailable):
        gate.poll()
    house.clock.manual.pass_ms(27_999)
    assert house.enter(text, gate).key_id == "key_1"
    assert gate.known(mint(bytes(32), live=False).reveal()) is None
    house.clock.manual.pass_ms(1)
    with pytest.raises(FactsStale):
        house.enter(text, gate)
    house.store.lost = False
    gate.poll()
    house.clock.manual.pass_ms(2_001)
    with pytest.raises(FactsStale):
        house.enter(text, gate)


def test_nobody_passes_before_the_feed_was_read(house: House) -> None:
    """A new process trusts nothing until it has read the feed (L14)."""
    fresh = house.new_gate()
    with pytest.raises(FactsStale):
        fresh.known(house.sell())
    assert not fresh.ready()


def test_freshness_counts_from_before_the_read(house: House) -> None:
    """A read of the feed that took long is as old as its beginning, for what changed meanwhile is not in it (L14)."""

    def slow(epoch: str, after: int) -> Changes:
        changes = SqlStore.changes(house.store, epoch, after)
        house.clock.manual.pass_ms(2_001)
        return changes

    house.store.changes = slow  # type: ignore[method-assign]
    house.gate.poll()
    assert not house.gate.ready()


@pytest.mark.parametrize("other_first", [False, True])
def test_revocation(house: House, other_first: bool) -> None:
    """A revoked key is refused after the next read of the feed, in every process, also long after (I9)."""
    text, other = house.sell(1), house.sell(2)
    gates = [house.gate, house.new_gate()]
    for gate in gates:
        gate.poll()
        for known in (text, other):
            house.enter(known, gate)
    if other_first:
        house.store.end_key("acc_2", "key_2", at=AT)
    assert house.store.end_key("acc_1", "key_1", at=AT)
    asked = len(house.store.looked_up)
    for gate in gates:
        gate.poll()
        assert isinstance(gate.refusal_of_key(house.enter(text, gate)), KeyRevoked)
        assert isinstance(gate.decide(house.enter(text, gate)), KeyRevoked)
        house.enter(other, gate)
    assert len(house.store.looked_up) == asked + 2 * (1 + other_first)


def test_a_fill_that_raced_with_a_change(house: House) -> None:
    """Facts read before a change and brought after it are not kept: the next request asks again (L13, F18)."""
    text = house.sell()
    house.gate.poll()

    def revoke() -> None:
        house.store.meanwhile = lambda: None
        house.store.end_key("acc_1", "key_1", at=AT)
        house.gate.poll()

    house.store.meanwhile = revoke
    assert house.gate.refusal_of_key(house.enter(text)) is None
    assert isinstance(house.gate.refusal_of_key(house.enter(text)), KeyRevoked)
    house.enter(text)
    assert len(house.store.looked_up) == 2


def test_an_unknown_answer_that_raced_with_a_change(house: House) -> None:
    """A key that was made while it was looked up is not remembered as unknown (L13)."""
    text = mint(bytes(32), live=False).reveal()
    house.store.add_account(Account("acc_1", AT))

    def made() -> None:
        house.store.meanwhile = lambda: None
        house.add_key(text)
        house.gate.poll()

    house.store.meanwhile = made
    with pytest.raises(KeyInvalid):
        house.enter(text)
    assert house.enter(text).key_id == "key_1"


def test_a_fill_before_a_change_that_is_not_read_yet(house: House) -> None:
    """Facts that were kept just before a change is read are dropped by that very read (L13)."""
    text = house.sell()
    house.gate.poll()

    def revoke() -> None:
        house.store.meanwhile = lambda: None
        house.store.end_key("acc_1", "key_1", at=AT)

    house.store.meanwhile = revoke
    house.enter(text)
    house.gate.poll()
    assert isinstance(house.gate.refusal_of_key(house.enter(text)), KeyRevoked)


@pytest.mark.parametrize("change", [{"epoch": "another"}, {"n": 0}])
def test_another_ledger_behind_the_feed(house: House, change: dict[str, object]) -> None:
    """A feed of another epoch, or one that is behind, belongs to a restored ledger: everything is asked again (L13)."""
    texts = [house.sell(n) for n in (1, 2)]
    house.gate.poll()
    for text in texts:
        house.enter(text)
    with house.store.database.write() as connection:
        connection.execute(sa.update(t.feed_head).values(**change))
        connection.execute(sa.update(t.api_keys).values(revoked_at=AT))
    house.gate.poll()
    assert [type(house.gate.refusal_of_key(house.enter(text))) for text in texts] == [KeyRevoked] * 2
    assert len(house.store.looked_up) == 4


def test_decisions_follow_the_clock(house: House) -> None:
    """Cached facts are judged at the time of each request: an overlap ends without any change in the feed."""
    text = house.sell()
    assert house.store.end_key("acc_1", "key_1", at=AT, expires_at=AT + 1)
    house.gate.poll()
    facts = house.enter(text)
    assert isinstance(house.gate.decide(facts), SubscriptionMissing)
    house.store.put_subscriptions(
        "acc_1",
        (Subscription("sub_1", "cus_1", "payg", "active", AT),),
        fence=house.store.take_fence("acc_1"),
        at=AT,
    )
    house.gate.poll()
    assert isinstance(house.gate.decide(house.enter(text)), Grant)
    house.clock.pass_seconds(1)
    assert isinstance(house.gate.decide(house.enter(text)), KeyExpired)
    assert len(house.store.looked_up) == 2


def subscribe(house: House, n: int = 1, **changes: object) -> None:
    """The account's only subscription, as a fetch brings it, heard of."""
    subscription = replace(Subscription(f"sub_{n}", f"cus_{n}", "payg", "active", AT), **changes)  # type: ignore[arg-type]
    fence = house.store.take_fence(f"acc_{n}")
    house.store.put_subscriptions(f"acc_{n}", (subscription,), fence=fence, at=house.clock.now_at())
    house.gate.poll()


def let_in(house: House, text: str) -> bool:
    """What the edge does with a paid call: whether it is let in. Memory alone says what a second look would say."""
    try:
        at_once = house.gate.admit(text)
        facts = house.enter(text)
    except (KeyInvalid, FactsStale):
        assert house.gate.admit(text) is None
        return False
    decision = house.gate.decide(facts)
    if at_once is not None:
        assert (at_once[0], type(decision)) == (facts.key_id, Grant)
    return isinstance(decision, Grant)


def test_admitted_at_once(house: House) -> None:
    """After the first call memory alone lets a key's calls in, and keys of one account share what is known of it."""
    text, second = house.sell(), mint(b"s" * 32, live=False).reveal()
    made = ApiKey("key_2", "acc_1", digest(second, NEW), NEW.id, second[:8], second[-4:], "", AT)
    house.store.add_key(made)
    subscribe(house)
    assert house.gate.admit(text) is None
    assert let_in(house, text)
    first = house.gate.admit(text)
    assert first is not None
    assert (first[0], first[1].account.id) == ("key_1", "acc_1")
    assert house.gate.admit(second) is None
    assert let_in(house, second)
    other = house.gate.admit(second)
    assert other is not None
    assert (other[0], other[1].account) == ("key_2", first[1].account)
    assert house.gate.admit(mint(b"x" * 32, live=False).reveal()) is None


@pytest.mark.parametrize(
    "end",
    [
        lambda house: house.store.end_key("acc_1", "key_1", at=AT),
        lambda house: house.store.hold_account("acc_1", now=AT, until=AT + 60),
        lambda house: subscribe(house, status="canceled"),
    ],
    ids=["revoked", "held", "canceled"],
)
def test_nobody_is_admitted_by_what_was(house: House, end: Callable[[House], object]) -> None:
    """What ends access ends it in memory as well, with the next read of the feed (I9, L12)."""
    text = house.sell()
    subscribe(house)
    assert let_in(house, text)
    assert let_in(house, text)
    end(house)
    house.gate.poll()
    assert house.gate.admit(text) is None
    assert not let_in(house, text)


def test_a_key_is_not_revived_by_another(house: House) -> None:
    """An account that is read anew for one of its keys says nothing about another key that was read before."""
    text, second = house.sell(), mint(b"s" * 32, live=False).reveal()
    house.store.add_key(ApiKey("key_2", "acc_1", digest(second, NEW), NEW.id, second[:8], second[-4:], "", AT))
    subscribe(house)
    assert let_in(house, text)
    assert let_in(house, second)
    house.store.end_key("acc_1", "key_1", at=AT)
    house.gate.poll()
    assert let_in(house, second)
    assert house.gate.admit(second) is not None
    assert house.gate.admit(text) is None
    assert not let_in(house, text)


@pytest.mark.parametrize(
    "changes",
    [
        {"cancel_at_period_end": True},
        {"status": "past_due"},  # with the gate's grace of 60 seconds
    ],
)
def test_an_end_that_was_foreseen(house: House, changes: dict[str, Any]) -> None:
    """A subscription that ends by itself lets calls in until that second and not beyond, with nothing new heard."""
    text = house.sell()
    price = SubscriptionItem("si_1", "price_1", Price("calls", Decimal(1)), "usd", Period(AT - 60, AT + 60))
    subscribe(house, items=(price,), **changes)
    seen = []
    for _ in range(62):
        house.gate.poll()
        seen.append((let_in(house, text), let_in(house, text)))
        house.clock.pass_seconds(1)
    assert seen == [(True, True)] * 60 + [(False, False)] * 2


def test_memory_is_not_trusted_for_long(house: House) -> None:
    """Who has not read the feed for longer than the bound admits nobody, however often somebody was (L14)."""
    text = house.sell()
    subscribe(house)
    for _ in range(STALENESS_MILLISECONDS // 500):
        assert let_in(house, text)
        house.clock.manual.pass_ms(500)
    assert let_in(house, text)
    house.clock.manual.pass_ms(1)
    assert house.gate.admit(text) is None
    assert not let_in(house, text)


def test_what_is_remembered_is_bounded(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more keys than are kept the oldest are asked for again, and every one is let in."""
    monkeypatch.setattr(module, "FACTS_CACHED_MAX", 20)
    texts = [house.sell(n) for n in range(50)]
    for n in range(50):
        subscribe(house, n)
    assert all(let_in(house, text) for text in texts)
    known = [text for text in texts if house.gate.admit(text) is not None]
    assert 15 <= len(known) <= 20
    assert known == texts[-len(known) :]
    assert all(let_in(house, text) for text in texts)


def test_only_a_quick_answer_tells_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """L4: the store's time is taken from an answer that came soon, since a slow one says it too vaguely; only the first
    is better than none."""
    store, clock, told = SqlStore(MEMORY_URL, StillClock(AT), SystemEntropy()), StillClock(AT), list[int]()
    store.open()
    gate = Gate(store, clock, (), 0, told_time=lambda at_ms, monotonic_ms: told.append(at_ms))
    read = store.changes

    def changes(epoch: str, after: int) -> Changes:
        took_ms = spans.pop(0)
        clock.manual.pass_ms(took_ms)
        return replace(read(epoch, after), at_ms=took_ms)

    monkeypatch.setattr(store, "changes", changes)
    spans = [3_000, 2_000, CLOCK_SAMPLE_MILLISECONDS_MAX + 1, CLOCK_SAMPLE_MILLISECONDS_MAX, 5, 4_000]
    for _ in range(len(spans)):
        gate.poll()
    assert told == [3_000, CLOCK_SAMPLE_MILLISECONDS_MAX, 5]
    store.close()
