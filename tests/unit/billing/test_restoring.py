"""A ledger restored from yesterday's backup: what Stripe has since is taken over, and nothing is billed twice (F27)."""

import sqlite3
from dataclasses import replace
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.shop import Shop

from farebox.billing.inbox import refresh_account
from farebox.billing.restoring import Restoration, Restorer
from farebox.domain.audit import AuditEntry
from farebox.domain.balance import Verdict
from farebox.domain.reports import MeterEvent, ReportState
from farebox.domain.restoring import Span, share, spans_of
from farebox.domain.usage import Batch, Increment
from farebox.errors import ProviderUnavailable
from farebox.metering.reporter import Reporter

HOUR: Final = 1_800_000_000
DAY: Final = 86_400
EVENT: Final = MeterEvent("fb_1", "a", "cus_1", "calls", "calls", HOUR, 0, 3, HOUR + 60, "fb_1", HOUR)


def raw(shop: Shop) -> sqlite3.Connection:
    connection = shop.store.database._own_engine().raw_connection().driver_connection
    assert isinstance(connection, sqlite3.Connection)
    return connection


def back_up(shop: Shop) -> sqlite3.Connection:
    copy = sqlite3.connect(":memory:")
    raw(shop).backup(copy)
    return copy


def restore(shop: Shop, copy: sqlite3.Connection) -> None:
    copy.backup(raw(shop))
    shop.runtime.gate.poll()


def settled(shop: Shop, **asked: Any) -> Restoration:
    entry = AuditEntry(shop.entropy.token(), shop.clock.now_at(), "ada", "restore", "ledger")
    restorer = Restorer(shop.store, shop.provider, shop.clock, shop.entropy, shop.catalog)
    return restorer.run(audit=entry, **asked)


def drained(shop: Shop) -> Reporter:
    """What a process started anew on this ledger seals and reports."""
    background = shop.runtime.background
    background.sealer._ledger_id = None
    background.reporter = Reporter(shop.store, shop.provider, shop.clock, shop.entropy)
    background.flush()
    return background.reporter


def at_stripe(shop: Shop) -> int:
    return sum(int(value) for entries in shop.stripe.usage.values() for _, value, _ in entries)


def used(shop: Shop, account_id: str) -> int:
    return sum(line.quantity for line in shop.store.usage(account_id, 0, 1 << 40))


def verdicts(shop: Shop) -> set[Verdict]:
    return {c.verdict for c in shop.runtime.background.reconciler.run(since=0).comparisons}


def test_yesterdays_ledger_bills_each_call_once(shop: Shop) -> None:
    """F27, I3, I4, L6: units that waited in the backup and went out in the lost life, and those used in it, are taken
    over; what comes after is billed as ever, and the invoice has every call once."""
    buyer = shop.buy()
    shop.call(buyer.key, 3)
    shop.runtime.background.flush()
    shop.call(buyer.key, 2)  # in the backup, and not sealed
    copy = back_up(shop)
    shop.runtime.background.flush()
    shop.clock.pass_seconds(7_300)
    shop.call(buyer.key, 4)  # in the lost life
    shop.runtime.background.flush()
    assert at_stripe(shop) == 9
    restore(shop, copy)
    assert used(shop, buyer.account_id) == 5
    before = shop.store.ledger().id
    found = settled(shop)
    assert (found.delivered, found.imported, found.unexplained) == (2, 4, 0)
    assert used(shop, buyer.account_id) == 9
    assert shop.store.ledger().id == found.ledger_id != before
    assert drained(shop).halted is None
    assert at_stripe(shop) == 9
    shop.clock.pass_seconds(60)
    call_anew(shop, buyer.account_id, 2)
    assert drained(shop).halted is None
    assert at_stripe(shop) == used(shop, buyer.account_id) == 11
    assert verdicts(shop) == {Verdict.AGREES}
    shop.clock.pass_seconds(32 * DAY)
    shop.sandbox.tick()
    assert shop.objects("invoice")[0]["total"] == 1_100
    assert [entry.action for entry in shop.store.audit()] == ["restore"]


def test_without_it_reporting_halts_and_goes_on_with_it(shop: Shop) -> None:
    """L6: a restored ledger that is served first halts at the first name that Stripe knows; settled, it goes on."""
    buyer = shop.buy()
    shop.call(buyer.key, 2)
    copy = back_up(shop)
    shop.runtime.background.flush()
    restore(shop, copy)
    call_anew(shop, buyer.account_id, 1)
    assert drained(shop).halted is not None, "an event of 3 under the name of one of 2"
    assert verdicts(shop) == {Verdict.DIFFERS}
    found = settled(shop)
    assert (found.delivered, found.imported) == (2, 0)
    assert drained(shop).halted is None
    assert (at_stripe(shop), used(shop, buyer.account_id)) == (3, 3)
    assert verdicts(shop) == {Verdict.AGREES}


def test_days_later_no_name_protects_any_more(shop: Shop) -> None:
    """I4: Stripe forgets names after a day; then the command alone keeps units from counting twice."""
    buyer = shop.buy()
    shop.call(buyer.key, 2)
    shop.runtime.background.sealer.step(hard=True)  # frozen in the backup
    copy = back_up(shop)
    shop.runtime.background.flush()
    shop.clock.pass_seconds(3 * DAY)
    restore(shop, copy)
    settled(shop)
    drained(shop)
    assert (at_stripe(shop), used(shop, buyer.account_id)) == (2, 2)


def test_twice_is_as_once(shop: Shop) -> None:
    """A run that was broken off is run again, and imports nothing twice."""
    buyer = shop.buy()
    copy = back_up(shop)
    shop.call(buyer.key, 4)
    shop.runtime.background.flush()
    restore(shop, copy)
    assert settled(shop).imported == 4
    assert settled(shop).imported == 0
    assert used(shop, buyer.account_id) == 4


def test_a_rehearsal_changes_nothing(shop: Shop) -> None:
    """--dry-run says what would be done."""
    buyer = shop.buy()
    copy = back_up(shop)
    shop.call(buyer.key, 4)
    shop.runtime.background.flush()
    restore(shop, copy)
    before = shop.store.ledger()
    found = Restorer(shop.store, shop.provider, shop.clock, shop.entropy, shop.catalog).rehearse()
    assert (found.imported, found.ledger_id) == (4, None)
    assert shop.store.ledger() == before
    assert used(shop, buyer.account_id) == 0
    assert shop.store.audit() == []


def test_who_bought_in_the_lost_life(shop: Shop) -> None:
    """A buyer whose account is lost here still pays at Stripe: account, subscription and usage are taken over."""
    copy = back_up(shop)
    buyer = shop.buy()
    shop.call(buyer.key, 4)
    shop.runtime.background.flush()
    restore(shop, copy)
    found = settled(shop)
    assert (found.adopted_accounts, found.imported) == ([buyer.account_id], 4)
    assert [s.status for s in shop.store.subscriptions(buyer.account_id)] == ["active"]
    assert verdicts(shop) == {Verdict.AGREES}


def test_late_items_of_the_lost_life(shop: Shop) -> None:
    """L10: what was billed late in the lost life is not billed late again."""
    buyer = shop.buy()
    shop.call(buyer.key, 2)
    shop.clock.pass_seconds(31 * DAY + 7_200)
    shop.sandbox.tick()
    refresh_account(shop.store, shop.provider, shop.clock, shop.account(buyer))
    copy = back_up(shop)
    assert shop.runtime.background.late.step() == 1
    restore(shop, copy)
    assert len(settled(shop).adopted_items) == 1
    assert shop.runtime.background.late.step() == 0
    drained(shop)
    assert [item["amount"] for item in shop.objects("invoiceitem")] == [200]
    assert at_stripe(shop) == 0


def test_sums_that_still_change_are_waited_for(shop: Shop) -> None:
    """Stripe sums up with a lag: nothing is imported while its sums move, and nothing is renamed."""
    buyer = shop.buy()
    copy = back_up(shop)
    shop.call(buyer.key, 4)
    shop.sandbox.aggregation_lag_seconds = 90
    shop.runtime.background.flush()
    restore(shop, copy)
    before = shop.store.ledger()
    with pytest.raises(ProviderUnavailable):
        settled(shop, settle=lambda: shop.clock.pass_seconds(120))
    assert shop.store.ledger() == before
    assert settled(shop).imported == 4


def test_an_hour_is_split_where_a_period_begins() -> None:
    """I6: usage of the lost life lands in its own period; a minute that two share goes to the later one."""
    assert spans_of(HOUR, []) == [Span(HOUR, HOUR + 3600, HOUR)]
    assert spans_of(HOUR, [HOUR, HOUR + 90, HOUR + 3600]) == [
        Span(HOUR, HOUR + 60, HOUR),
        Span(HOUR + 60, HOUR + 3600, HOUR + 90),
    ]
    assert spans_of(HOUR, [HOUR + 30]) == [Span(HOUR, HOUR + 3600, HOUR + 30)]


SPAN: Final = Span(HOUR, HOUR + 3600, HOUR)


@given(
    stripe=st.integers(0, 30),
    delivered=st.integers(0, 10),
    values=st.lists(st.integers(-3, 5).filter(bool), max_size=4),
    shown=st.lists(st.integers(0, 6), max_size=4),
    unsealed=st.integers(0, 9),
)
def test_shares_add_up(stripe: int, delivered: int, values: list[int], shown: list[int], unsealed: int) -> None:
    """I3, I4: whatever the figures, what is taken over is what Stripe has beyond the ledger, no more and no less, and
    what was not sealed is never imported beside being reported."""
    waiting = [
        replace(EVENT, identifier=f"fb_{n}", value=value, timestamp=HOUR + 60 * n) for n, value in enumerate(values)
    ]
    cells = {(HOUR + 60 * n) // 60: value for n, value in enumerate(shown)}
    found = share(SPAN, stripe=stripe, delivered=delivered, waiting=waiting, cells=cells, unsealed=unsealed)
    taken = sum(event.value for event in found.delivered) + found.covered + found.imported + found.unexplained
    assert delivered + taken == stripe
    assert found.covered <= unsealed
    assert found.imported == 0 or found.covered == unsealed
    assert found.imported >= 0 >= found.unexplained


def test_a_name_that_stripe_knows_is_not_sent_again() -> None:
    """L6: what an event held whose name is taken is covered by what Stripe has, and the rest sealed anew."""
    event = replace(EVENT, state=ReportState.DOUBTFUL)
    found = share(SPAN, stripe=2, delivered=0, waiting=[event], cells={}, unsealed=1)
    assert (found.delivered, found.void, found.covered, found.imported) == ((), (event,), 2, 0)


def call_anew(shop: Shop, account_id: str, quantity: int) -> None:
    """Usage that a process writes which was started after the restore."""
    now = shop.clock.now_at()
    increment = Increment(account_id, "calls", "", "GET /api", now - now % 3600, quantity, quantity, now)
    shop.store.commit_batch(Batch(shop.entropy.token(), 1, shop.entropy.token(), (increment,)))
