"""One account's refused, throttled or broken object never delays another account's (I16)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
import stripe
from tests.shop import CATALOG, Shop, bearer, open_shop

from farebox.billing.catalog import apply_push, plan_push
from farebox.billing.claim import Claimed
from farebox.billing.inbox import refresh_account
from farebox.billing.migration import Move, migrate
from farebox.billing.sweep import SWEEP_ACCOUNTS_MAX, sweep
from farebox.cli import migration as cli_migration
from farebox.config import load_catalog
from farebox.domain.accounts import Account
from farebox.domain.balance import Verdict
from farebox.domain.inbox import InboxEvent
from farebox.errors import (
    ChangeRefused,
    CustomerGone,
    ProviderError,
    ProviderForbidden,
    ProviderRejected,
    ProviderThrottled,
    ProviderUnavailable,
    StoreError,
)
from farebox.ports import is_away
from farebox.store import tables as t

DAY = 86_400
MONTH = 31 * DAY + 2 * 3_600
ERRORS = [ProviderRejected, ProviderThrottled, ProviderUnavailable, ProviderForbidden, StoreError, KeyError]
each_error = pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)


@contextmanager
def refused(shop: Shop, name: str, whose: str | None, error: type[Exception]) -> Iterator[list[str]]:
    """A call of the provider that fails whenever its first argument names this customer or subscription (None: any).
    Who was asked for."""
    real, asked = getattr(shop.provider, name), []

    def call(first: str, *rest: Any, **named: Any) -> Any:
        asked.append(first)
        if whose is None or first == whose:
            raise error("refused for this one")
        return real(first, *rest, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shop.provider, name, call)
        yield asked


def news(shop: Shop, account: Account, type: str, object_id: str = "x") -> None:
    at = shop.clock.now_at()
    event = InboxEvent(f"evt_{shop.entropy.token()}", type, object_id, account.customer_id, at, False)
    assert shop.store.add_event(event, at=at)


def statuses(shop: Shop, account: Account) -> list[str]:
    return [s.status for s in shop.store.subscriptions(account.id)]


def end_at_stripe(shop: Shop, account: Account) -> None:
    for subscription in shop.store.subscriptions(account.id):
        shop.at_stripe("DELETE", f"/v1/subscriptions/{subscription.id}")


def two(shop: Shop) -> tuple[Account, Account]:
    """Two buyers: of the first usage came too late for its invoice."""
    first, second = shop.buy(), shop.buy()
    shop.call(first.key, 2)
    shop.runtime.background.flush()
    shop.call(first.key, 3)
    shop.clock.pass_seconds(MONTH)
    shop.sandbox.tick()
    for account in shop.store.accounts(limit=9):
        refresh_account(shop.store, shop.provider, shop.clock, account)
    return shop.account(first), shop.account(second)


def items(shop: Shop) -> list[int]:
    return [item["amount"] for item in shop.objects("invoiceitem")]


@pytest.mark.parametrize("status", [400, 403, 429, 500])
def test_facts_come_before_money(shop: Shop, status: int) -> None:
    """F31: a key without the permission for invoice items, or an item that Stripe refuses, throttles or saves a 500
    for, delays no facts: not another account's, and not its own."""
    first, second = two(shop)
    shop.sandbox.faults.add({"path": "/v1/invoiceitems", "status": status, "count": None})
    end_at_stripe(shop, first)
    end_at_stripe(shop, second)
    for account, type in ((first, "invoice.finalized"), (second, "invoice.finalized")):
        news(shop, account, type)
    worker = shop.runtime.background.worker
    assert [worker.apply_step() for _ in range(3)] == [True, True, False]
    assert (statuses(shop, first), statuses(shop, second)) == (["canceled"], ["canceled"])
    assert shop.store.inbox_waiting() == 0


@each_error
def test_money_that_failed_waits_alone(shop: Shop, error: type[Exception]) -> None:
    """F31: the billing of one account backs off by itself and in the ledger; the other's is done, and a new process
    does the rest."""
    first, second = two(shop)
    real, tried = shop.runtime.background.late.invoice_finalized, []

    def finalized(account: Account) -> None:
        tried.append(account.id)
        if account.id == first.id:
            raise error("refused for this one")
        real(account)

    for account in (first, second):
        news(shop, account, "invoice.finalized")
    worker = shop.runtime.background.worker
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shop.runtime.background.late, "invoice_finalized", finalized)
        while worker.step():
            pass
        assert sorted(tried) == sorted([first.id, second.id])
        for pause in (2, 4, 8):
            shop.clock.pass_seconds(pause - 1)
            assert not worker.step()
            shop.clock.pass_seconds(1)
            assert worker.step()
    assert (shop.store.inbox_waiting(), tried.count(first.id), tried.count(second.id)) == (0, 4, 1)
    shop.clock.pass_seconds(16)
    while worker.step():
        pass
    assert shop.store.bill(shop.store.periods(first.id)[0]) is not None


def test_money_asked_for_meanwhile(shop: Shop) -> None:
    """A final invoice that is told while the one before is being billed is billed too: the work is taken again."""
    first, _ = two(shop)
    background = shop.runtime.background
    news(shop, first, "invoice.finalized")
    assert background.worker.apply_step()
    seen = []

    def finalized(account: Account) -> None:
        seen.append(account.id)
        if len(seen) == 1:
            news(shop, first, "invoice.finalized")
            assert background.worker.apply_step()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(background.late, "invoice_finalized", finalized)
        assert background.worker.bill_step()
        shop.clock.pass_seconds(60)
        while background.worker.step():
            pass
    assert seen == [first.id, first.id]


@each_error
def test_an_event_that_cannot_be_looked_up(shop: Shop, error: type[Exception]) -> None:
    """F31: a checkout that cannot be read delays neither its customer's facts nor its other events, and is tried again
    by itself."""
    claimed = shop.buy()
    account = shop.account(claimed)
    end_at_stripe(shop, account)
    news(shop, account, "checkout.session.completed", "cs_test_broken")
    news(shop, account, "customer.subscription.deleted")
    worker = shop.runtime.background.worker

    def broken(session_id: str) -> None:
        raise error("refused for this one")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shop.store, "checkout", broken)
        assert worker.step()
        assert (statuses(shop, account), shop.store.inbox_waiting()) == (["canceled"], 1)
        for pause in (2, 4, 8):
            assert not worker.step()
            shop.clock.pass_seconds(pause)
            assert worker.step()
    shop.clock.pass_seconds(16)
    assert worker.step()
    assert shop.store.inbox_waiting() == 0


@each_error
def test_facts_that_cannot_be_read(shop: Shop, error: type[Exception]) -> None:
    """F31: a customer whose subscriptions Stripe does not tell, or tells in a way that cannot be read, backs off
    alone."""
    first, second = shop.account(shop.buy()), shop.account(shop.buy())
    end_at_stripe(shop, second)
    for account in (first, second):
        news(shop, account, "customer.subscription.deleted")
    worker = shop.runtime.background.worker
    with refused(shop, "subscriptions", first.customer_id, error) as asked:
        while worker.step():
            pass
    assert (statuses(shop, second), shop.store.inbox_waiting()) == (["canceled"], 1)
    assert asked.count(str(first.customer_id)) == 1


@each_error
def test_the_sweep_passes_an_account(tmp_path: Path, error: type[Exception]) -> None:
    """F31: an account that fails is passed over, and the round comes to its end."""
    with open_shop(tmp_path) as shop:
        accounts = []
        for n in range(SWEEP_ACCOUNTS_MAX + 2):
            customer = shop.at_stripe("POST", "/v1/customers", "email=a@example.test")["id"]
            accounts.append(Account(f"acct_{n:04}", shop.clock.now_at(), customer_id=customer))
            shop.store.add_account(accounts[-1])
        with refused(shop, "subscriptions", accounts[0].customer_id, error) as asked:
            while sweep(shop.store, shop.provider, shop.clock):
                pass
        assert asked == [account.customer_id for account in accounts]


def test_the_sweep_goes_on_in_another_process(tmp_path: Path) -> None:
    """How far the round has come stands in the ledger: a deploy does not begin it anew."""
    with open_shop(tmp_path) as shop:
        for n in range(SWEEP_ACCOUNTS_MAX + 2):
            shop.store.add_account(Account(f"acct_{n:04}", shop.clock.now_at()))
        background = shop.runtime.background
        background._roles.renew()
        background._sweep_step()
        assert shop.store.take_turn("sweep", now=shop.clock.now_at(), seconds=0) == f"acct_{SWEEP_ACCOUNTS_MAX - 1:04}"
        background._sweep_step()
        assert shop.store.take_turn("sweep", now=shop.clock.now_at(), seconds=0) == ""


def test_a_turn_is_taken_once(shop: Shop) -> None:
    """Of two processes one takes the turn; one that a wrong clock took in the future binds nobody."""
    take, now = shop.store.take_turn, shop.clock.now_at()
    assert [take("x", now=now, seconds=60), take("x", now=now, seconds=60)] == ["", None]
    shop.store.keep_place("x", "acct_1")
    assert [take("x", now=now + 59, seconds=60), take("x", now=now + 60, seconds=60)] == [None, "acct_1"]
    assert take("x", now=now + 40 * DAY, seconds=60) == "acct_1"
    assert take("x", now=now + 61, seconds=60) == "acct_1"


@pytest.mark.parametrize("call", ["summary", "billed_invoices"])
@each_error
def test_reconcile_names_what_it_cannot_read(shop: Shop, call: str, error: type[Exception]) -> None:
    """F31: an account that Stripe does not let be read is a named difference, and the others are compared."""
    first, second = (shop.buy() for _ in range(2))
    for buyer in (first, second):
        shop.call(buyer.key, 2)
    shop.runtime.background.flush()
    shop.clock.pass_seconds(MONTH)
    shop.sandbox.tick()
    left = min(first.account_id, second.account_id)
    real = getattr(shop.provider, call)
    theirs = {shop.store.account(left).customer_id, *(s.id for s in shop.store.subscriptions(left))}  # type: ignore[union-attr]

    def broken(*values: Any, **named: Any) -> Any:
        if theirs & set(values):
            raise error("refused for this one")
        return real(*values, **named)

    reconciler = shop.runtime.background.reconciler
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shop.provider, call, broken)
        run = reconciler.run(since=0)
    named = {c.account_id for c in run.comparisons if any(r.code == "unreadable" for r in c.reasons)}
    assert (run.complete, run.accounts, named) == (True, 2, {left})
    assert {c.verdict for c in run.comparisons if c.account_id == left} == {Verdict.DIFFERS}
    assert {c.verdict for c in run.comparisons if c.account_id != left} == {Verdict.AGREES}
    differences = shop.store.difference_count()
    assert differences >= 1
    assert {c.verdict for c in reconciler.run(since=0).comparisons} == {Verdict.AGREES}
    assert shop.store.difference_count() == 0


def test_reconcile_ends_with_what_it_has(shop: Shop) -> None:
    """With Stripe away for everybody the run ends, calls nobody unreadable, and says where to go on."""
    for _ in range(3):
        shop.call(shop.buy().key)
    shop.runtime.background.flush()
    real, asked = shop.provider.summary, []

    def summary(*values: Any) -> int:
        asked.append(values)
        if len(asked) > 1:
            shop.asked.append("down")
        return real(*values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shop.provider, "summary", summary)
        run = shop.runtime.background.reconciler.run()
    assert (run.complete, run.away, run.accounts) == (False, True, 1)
    assert {c.verdict for c in run.comparisons} == {Verdict.AGREES}
    shop.asked.clear()
    rest = shop.runtime.background.reconciler.run(after=run.last_account)
    assert (rest.complete, rest.accounts, shop.store.difference_count()) == (True, 2, 0)


@each_error
def test_the_hourly_run_goes_on(shop: Shop, error: type[Exception]) -> None:
    """F31: what late billing meets does not keep the hourly comparison from running."""
    shop.buy()
    background = shop.runtime.background
    background._bind()
    background._roles.renew()

    def broken() -> int:
        raise error("refused for this one")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(background.late, "step", broken)
        background._reconcile_step()
    assert background.reconciler.last_run_at == shop.clock.now_at()


def test_the_hourly_run_keeps_its_place(shop: Shop) -> None:
    """A new process goes on where the last one stopped, and when its hour comes, not an hour after its own start."""
    for _ in range(4):
        shop.call(shop.buy().key)
    background, runs = shop.runtime.background, []
    background._bind()
    background._roles.renew()
    real = background.reconciler.run

    def run(**asked: Any) -> Any:
        runs.append(real(**{**asked, "reads_max": 3}))
        return runs[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(background.reconciler, "run", run)
        background._reconcile_step()
        shop.asked.append("down")
        for _ in range(2):
            shop.clock.pass_seconds(3_600)
            background._roles.renew()
            background._reconcile_step()
        shop.asked.clear()
        shop.clock.pass_seconds(3_600)
        background._roles.renew()
        background._reconcile_step()
    assert [(r.accounts, r.complete) for r in runs] == [(2, False), (2, True)]
    with shop.store.database.read() as connection:
        kept = connection.execute(sa.select(t.rounds.c.after, t.rounds.c.turn_at)).all()
    assert kept == [("", shop.clock.now_at())]


def test_the_way_out(shop: Shop) -> None:
    """What is sealed is sent although the sealer fails."""
    claimed = shop.buy()
    shop.call(claimed.key, 2)
    background = shop.runtime.background
    background.sealer.step(hard=True)

    def broken(**_: Any) -> int:
        raise StoreError("one bucket cannot be sealed")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(background.sealer, "step", broken)
        background.flush()
    assert background.reporter.counts.delivered_quantity == 2


def test_a_role_that_cannot_be_renewed(shop: Shop) -> None:
    """One role's lease that cannot be taken does not cost the process the others."""
    background, real = shop.runtime.background, shop.store.take_lease

    def take(name: str, *rest: Any, **named: Any) -> int | None:
        if name == "reporter":
            raise StoreError("its row is locked")
        return real(name, *rest, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shop.store, "take_lease", take)
        with pytest.raises(StoreError):
            background._roles.renew()
    assert (background._reporting.held, background._sweeping.held) == (False, True)


def older(shop: Shop, folder: Path) -> tuple[list[Claimed], Any]:
    """Subscribers of an older price, and the catalog with the newer one."""
    claimed = [shop.buy() for _ in range(3)]
    (folder / "farebox.toml").write_text(CATALOG.replace('unit_amount = "1.00"', 'unit_amount = "2.00"', 1))
    dearer = load_catalog(folder / "farebox.toml")
    apply_push(plan_push(dearer, shop.provider), lambda _: None)
    return claimed, dearer


@pytest.mark.parametrize("error", [ChangeRefused, ProviderRejected, ProviderThrottled, ProviderUnavailable, StoreError])
def test_a_migration_passes_who_is_refused(tmp_path: Path, error: Callable[[str], Exception]) -> None:
    """F31: one subscriber whose change Stripe refuses is named with the reason; all others move."""
    with open_shop(tmp_path) as shop:
        claimed, dearer = older(shop, tmp_path)
        first = min(one.account_id for one in claimed)
        (left,) = (s.id for s in shop.store.subscriptions(first))
        with refused(shop, "plan_subscription_change", left, error):  # type: ignore[arg-type]
            moves = list(migrate(shop.store, shop.provider, shop.clock, dearer, dry_run=False))
        assert [(move.account_id == first, bool(move.refused)) for move in moves] == [
            (True, True),
            (False, False),
            (False, False),
        ]
        assert [s.next_plan for s in shop.store.subscriptions(first)] == [""]
        again = list(migrate(shop.store, shop.provider, shop.clock, dearer, dry_run=False))
        assert [(move.account_id, move.refused) for move in again] == [(first, "")]


@pytest.mark.parametrize("as_json", [False, True])
def test_who_stays_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    """`push --migrate` shows each move as it is done, names who stays and why, and says by its exit code that somebody
    does."""
    with open_shop(tmp_path) as shop:
        claimed, dearer = older(shop, tmp_path)
        first = min(one.account_id for one in claimed)
        (left,) = (s.id for s in shop.store.subscriptions(first))

        @contextmanager
        def ledger(_path: object) -> Iterator[Any]:
            yield shop.settings, shop.store, shop.clock, shop.entropy

        with pytest.MonkeyPatch.context() as patch, refused(shop, "plan_subscription_change", left, ChangeRefused):
            patch.setattr(cli_migration, "ledger", ledger)
            newer: Any = SimpleNamespace(path=shop.settings.path, catalog=dearer)
            capsys.readouterr()
            done = cli_migration.migrate_subscribers(newer, shop.provider, dry_run=False, as_json=as_json)
        shown = capsys.readouterr().out
        assert (done.failed, len(done.moved), [one["account"] for one in done.refused]) == (True, 2, [first])
        assert done.refused[0]["reason"] == "refused for this one"
        assert ("Moved: 2. Not moved: 1." in shown and shown.count("moves to the newest payg") == 2) != as_json
        again = cli_migration.Migrated()
        assert not again.failed


def test_a_migration_ends_when_stripe_is_away(tmp_path: Path) -> None:
    """With Stripe away nobody is called refused: the migration ends with the error, after those that were moved."""
    with open_shop(tmp_path) as shop:
        _, dearer = older(shop, tmp_path)
        moves: list[Move] = []
        with pytest.raises(ProviderError):  # noqa: PT012 -- those moved before are what is looked at
            for move in migrate(shop.store, shop.provider, shop.clock, dearer, dry_run=False):
                moves.append(move)
                shop.asked.append("down")
        assert [move.refused for move in moves] == [""]


@pytest.mark.parametrize("deleted", [True, False], ids=["deleted", "another key's"])
def test_a_deleted_customer(shop: Shop, deleted: bool) -> None:
    """F29: when Stripe knows no subscriptions of a customer that was deleted, they have ended, webhooks are worked off
    and calls are refused. A key that cannot see the customer ends nothing."""
    claimed = shop.buy()
    account = shop.account(claimed)
    shop.call(claimed.key)
    shop.at_stripe("DELETE", f"/v1/customers/{account.customer_id}")

    def unknown(_self: object, params: Any) -> Any:  # as the real Stripe may answer, and the local one does not
        raise stripe.InvalidRequestError("No such customer", "customer", code="resource_missing", http_status=404)  # type: ignore[no-untyped-call]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(shop.provider._client.v1.subscriptions), "list", unknown)
        if not deleted:
            shop.objects("customer")[0].pop("deleted")
        if deleted:
            with pytest.raises(CustomerGone):
                shop.provider.subscriptions(str(account.customer_id))
        news(shop, account, "customer.deleted")
        while shop.runtime.background.worker.step():
            pass
    shop.runtime.gate.poll()
    expected = ("canceled", 402, 0) if deleted else ("active", 200, 1)
    answer = shop.client.get("/api", headers=bearer(claimed.key))
    assert (*statuses(shop, account), answer.status_code, shop.store.inbox_waiting()) == expected


@pytest.mark.parametrize(
    ("error", "everybody"),
    [(ProviderRejected, False), (ProviderForbidden, False), (KeyError, False), (ProviderThrottled, True)],
)
def test_who_is_away(shop: Shop, error: type[Exception], everybody: bool) -> None:
    """A refusal is one account's, whatever Stripe does; an outage is everybody's when a neutral read fails as well."""
    assert not is_away(shop.provider, error("x"))
    shop.asked.append("down")
    assert is_away(shop.provider, error("x")) == everybody
