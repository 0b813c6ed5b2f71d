"""Facts commute: Stripe's six words about one customer, in every order, one of them twice."""

import itertools
from dataclasses import replace
from decimal import Decimal
from typing import Any, Final

import pytest
from tests.shop import START_AT, StillClock

from farebox.billing.inbox import InboxWorker
from farebox.domain.accounts import Account, Subscription, SubscriptionItem
from farebox.domain.catalog import Price
from farebox.domain.inbox import InboxEvent
from farebox.domain.usage import Period
from farebox.store.sql import MEMORY_URL, SqlStore
from farebox.system import SystemEntropy

FACTS: Final = ("created", "updated", "deleted", "created", "updated", "paused")
TWICE: Final = 2  # the end of the old subscription, which must not end the new one


class Said:
    """A provider that says the same of every customer: an old subscription that ended, and a new one past due."""

    def subscriptions(self, customer_id: str) -> tuple[Subscription, ...]:
        item = SubscriptionItem("si", "price", Price("calls", Decimal(1)), "usd", Period(START_AT, START_AT + 86_400))
        old = Subscription(f"old_{customer_id}", customer_id, "payg", "canceled", START_AT, (item,))
        return replace(old, id=f"new_{customer_id}", status="past_due", created_at=START_AT + 1), old


@pytest.mark.timeout(300)
def test_every_order_of_six_facts() -> None:
    """F12, I10: all 2,520 orders of six facts with a duplicate, worked off at the end or on the way, end in what
    Stripe says, with nothing waiting and each copy told from its original."""
    clock, entropy = StillClock(), SystemEntropy()
    store = SqlStore(MEMORY_URL, clock, entropy)
    store.open(migrate=True)
    said: Any = Said()
    worker = InboxWorker(store, said, clock, entropy)
    for number, order in enumerate(sorted(set(itertools.permutations([*range(len(FACTS)), TWICE])))):
        customer = f"cus_{number}"
        store.add_account(Account(f"acct_{number}", START_AT, customer_id=customer))
        seen: set[int] = set()
        for place, fact in enumerate(order):
            type = f"customer.subscription.{FACTS[fact]}"
            event = InboxEvent(f"evt_{number}_{fact}", type, f"sub_{fact}", customer, START_AT, livemode=False)
            assert store.add_event(event, at=clock.now_at()) == (fact not in seen), order
            seen.add(fact)
            if number % 2 and place % 3 == 2:
                worker.step()
        while worker.step():
            pass
        found = {s.id: s.status for s in store.subscriptions(f"acct_{number}")}
        assert found == {f"old_{customer}": "canceled", f"new_{customer}": "past_due"}, order
    assert store.inbox_waiting() == 0
    store.close()
