"""Random walks of a buyer through every plan, trial and change: what is invoiced is what the walk owes (F32, I17)."""

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from tests.buyers import PLANS, WEEK, Account, catalog_text
from tests.shop import Shop, open_shop
from tests.unit.billing.test_change import deliver
from tests.unit.billing.test_purchase import DECLINED, give_card
from tests.unit.metering.test_settlement import settlement

from farebox.billing.cancel import cancel_subscriptions
from farebox.billing.change import change_plan, drop_change
from farebox.billing.claim import Claimed
from farebox.billing.inbox import refresh_account, refresh_checkout
from farebox.errors import ChangeRefused, FareboxError, PaymentRequired

WALKS: Final = int(os.environ.get("FAREBOX_WALKS", "6"))
STEPS: Final = 14


class Walk:
    """One buyer, driven by chance; the oracle hears of what was done, and says what must be refused."""

    def __init__(self, shop: Shop, seed: int) -> None:
        self.shop, self.random, self.oracle = shop, random.Random(seed), Account()
        self.said: list[str] = []
        self.card = "good"
        plan = self.random.choice(sorted(PLANS))
        self.claimed: Claimed = shop.buy(plan=plan)
        self.said.append(f"buy {plan}")
        self.oracle.subscribe(plan, self._started())
        self.shop.clock.pass_seconds(60)

    def step(self) -> None:
        if not self.oracle.plan:
            self.subscribe()
            return
        acts: list[Callable[[], None]] = [self.call, self.call, self.wait, self.now, self.now, self.later]
        self.random.choice([*acts, self.drop, self.cancel, self.other_card])()
        self.shop.clock.pass_seconds(60)

    def finish(self) -> None:
        """End it, let everything be invoiced, and compare."""
        while self.oracle.plan:
            if not self.oracle.ends:
                self.cancel()
            self.pass_seconds(self.oracle.end - self.shop.clock.now_at())
        for _ in range(12):
            self.shop.clock.pass_seconds(2 * 3_600)
            self._settle()
        invoices = self.shop.objects("invoice")
        unpaid = [(i["status"], i["total"]) for i in invoices if i["status"] != "paid"]
        assert unpaid == [], self.said
        total = sum(invoice["total"] for invoice in invoices)
        assert abs(total - self.oracle.owed) <= self.oracle.cuts, (total, self.oracle.owed, self.said)

    def subscribe(self) -> None:
        plan = self.random.choice(sorted(PLANS))
        self.said.append(f"subscribe {plan}")
        self._refresh()
        session_id = self.shop.checkout(plan=plan, key=self.claimed.key.reveal())
        self.shop.pay(session_id)
        refresh_checkout(self.shop.store, self.shop.provider, session_id)
        self.card = "good"
        self._refresh()
        self.oracle.subscribe(plan, self._started())

    def call(self) -> None:
        times = self.random.choice([1, 4, 12, 30])
        self.said.append(f"call {times}")
        self._refresh()
        self.shop.call(self.claimed.key, times)
        self.oracle.used += times

    def wait(self) -> None:
        self.pass_seconds(self.random.choice([3_600, 86_400, 3 * 86_400, WEEK]))

    def now(self) -> None:
        plan = self.random.choice(sorted(PLANS))
        expected = self._refusal(plan, now=True)
        self.said.append(f"now {plan} {expected.__name__ if expected else ''}")
        if self._change(plan, expected, settle=settlement(self.shop).run):
            self.oracle.change_now(plan, self._started())

    def later(self) -> None:
        plan = self.random.choice(sorted(PLANS))
        expected = self._refusal(plan, now=False)
        self.said.append(f"later {plan} {expected.__name__ if expected else ''}")
        if self._change(plan, expected, settle=None):
            self.oracle.next_plan = plan

    def drop(self) -> None:
        self.said.append("drop")
        try:
            drop_change(self.shop.store, self.shop.provider, self.shop.clock, self._account)
        except ChangeRefused:
            assert not self.oracle.next_plan, self.said
        self.oracle.next_plan = ""

    def cancel(self) -> None:
        self.said.append("cancel")
        cancel_subscriptions(self.shop.store, self.shop.provider, self.shop.clock, self._account, at_period_end=True)
        self.oracle.ends, self.oracle.next_plan = True, ""

    def other_card(self) -> None:
        if self.oracle.next_plan:  # a schedule's phase keeps the card of when it was planned
            self.drop()
        self.card = "bad" if self.card == "good" else "good"
        self.said.append(f"card {self.card}")
        give_card(self.shop, self.claimed, DECLINED if self.card == "bad" else "pm_card_visa")

    def pass_seconds(self, seconds: int) -> None:
        """Time goes on, with a working card at each period's end and all usage delivered."""
        self.said.append(f"pass {seconds}")
        until = self.shop.clock.now_at() + seconds
        while self.oracle.plan and until >= self.oracle.end:
            if self.card == "bad":
                self.other_card()
            deliver(self.shop)
            self.shop.clock.pass_seconds(self.oracle.end - self.shop.clock.now_at())
            deliver(self.shop)
            self.oracle.pass_end()
            for _ in range(3):
                self.shop.clock.pass_seconds(3_600)
                self._settle()
        self.shop.clock.pass_seconds(max(until - self.shop.clock.now_at(), 0))
        self._settle()

    @property
    def _account(self) -> Any:
        return self.shop.account(self.claimed)

    def _refusal(self, plan: str, *, now: bool) -> type[FareboxError] | None:
        oracle = self.oracle
        if oracle.ends or plan == oracle.plan or (now and not oracle.is_upgrade(plan)):
            return ChangeRefused
        return PaymentRequired if now and self.card == "bad" and self._costs_now(plan) else None

    def _costs_now(self, plan: str) -> bool:
        """Whether the change's own invoice asks for anything: a dearer base always does."""
        after = self.oracle
        free = PLANS[after.plan].included >= after.used or after.trial
        return PLANS[plan].base > 0 or not free

    def _change(self, plan: str, expected: type[FareboxError] | None, settle: Any) -> bool:
        shop, refused = self.shop, None
        try:
            change_plan(shop.store, shop.provider, shop.clock, shop.catalog, self._account, plan, settle=settle)
        except (ChangeRefused, PaymentRequired) as error:
            refused = error
        assert (type(refused) if refused is not None else None) is expected, (refused, self.said)
        if refused is not None:
            self._refresh()
            (running,) = self._running()
            assert (running.plan, running.next_plan) == (self.oracle.plan, self.oracle.next_plan), self.said
        return refused is None

    def _running(self) -> list[Any]:
        return [s for s in self.shop.store.subscriptions(self.claimed.account_id) if s.status != "canceled"]

    def _started(self) -> int:
        self._refresh()
        (running,) = self._running()
        return int(running.period.start)

    def _refresh(self) -> None:
        self.shop.at_stripe("GET", "/v1/account")
        refresh_account(self.shop.store, self.shop.provider, self.shop.clock, self._account)
        self.shop.runtime.gate.poll()

    def _settle(self) -> None:
        self._refresh()
        for _ in range(2):
            self.shop.runtime.background.late.step()


@pytest.mark.parametrize("seed", range(WALKS))
def test_a_walk_costs_what_it_owes(seed: int, tmp_path: Path) -> None:
    """F32: no walk of a buyer's own acts costs less than its periods, set-ups and minimums add up to, and none more."""
    with open_shop(tmp_path, catalog=catalog_text()) as shop:
        walk = Walk(shop, seed)
        for _ in range(STEPS):
            walk.step()
        walk.finish()
