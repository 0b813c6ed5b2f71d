"""A database that is lost while calls go into the outage spool, and restored from a backup: what was answered is in the
ledger once (F27, L16)."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.shop import Shop
from tests.unit.billing.test_restoring import at_stripe, back_up, drained, restore, used, verdicts

from farebox.billing.doctor import diagnose
from farebox.billing.restoring import Restoration, Restorer
from farebox.domain.audit import AuditEntry
from farebox.domain.balance import Verdict
from farebox.domain.usage import Batch, Increment, bucket_start
from farebox.errors import StoreBusy, StoreUnavailable
from farebox.metering import spool as module
from farebox.metering.spool import Spooler, replay
from farebox.store.spool import FileSpoolFolder


def spooler(shop: Shop, folder: Path) -> Spooler:
    made = Spooler(shop.store, FileSpoolFolder(folder), shop.clock, shop.entropy, seconds_max=900)
    made.learn()
    return made


def of_outage(shop: Shop, account_id: str, quantity: int) -> tuple[Increment, ...]:
    now = shop.clock.now_at()
    return (Increment(account_id, "calls", "key", "GET /api", bucket_start(now, ()), quantity, quantity, now),)


def settled(shop: Shop, spools: Spooler) -> Restoration:
    entry = AuditEntry(shop.entropy.token(), shop.clock.now_at(), "ada", "restore", "ledger")
    restorer = Restorer(shop.store, shop.provider, shop.clock, shop.entropy, shop.catalog, spools)
    return restorer.run(audit=entry)


def test_what_was_spooled_comes_in(shop: Shop, tmp_path: Path) -> None:
    """F27, I1, I4, L16: before the ledger gets its new id its spools are brought in, after what Stripe had was taken
    over: neither covers the other, and each unit is at Stripe once."""
    buyer = shop.buy()
    copy = back_up(shop)
    shop.call(buyer.key, 4)  # in the lost life
    shop.runtime.background.flush()
    spool = spooler(shop, tmp_path)
    for _ in range(5):
        spool.append(of_outage(shop, buyer.account_id, 100))
    spool.close()
    restore(shop, copy)
    found = settled(shop, spooler(shop, tmp_path))
    assert (found.imported, found.spooled_batches) == (4, 5)
    assert used(shop, buyer.account_id) == 504
    assert not list(tmp_path.glob("*.spool"))
    assert drained(shop).halted is None
    assert at_stripe(shop) == 504
    assert verdicts(shop) == {Verdict.AGREES}


@pytest.mark.parametrize("reported", [True, False])
def test_a_ledger_that_came_back_before_it_was_lost(shop: Shop, tmp_path: Path, reported: bool) -> None:
    """I4, L16: what had come into the lost ledger out of the spool, and from there to Stripe, counts once."""
    buyer = shop.buy()
    copy = back_up(shop)
    spool = spooler(shop, tmp_path)
    for _ in range(5):
        spool.append(of_outage(shop, buyer.account_id, 100))
    replay(shop.store, spool._require(), 2)  # it was back for a moment
    if reported:
        shop.runtime.background.flush()
    spool.close()
    restore(shop, copy)
    settled(shop, spooler(shop, tmp_path))
    assert used(shop, buyer.account_id) == 500
    assert drained(shop).halted is None
    assert at_stripe(shop) == 500
    assert verdicts(shop) == {Verdict.AGREES}


@pytest.mark.parametrize("at", ["import_share", "renew_ledger", "commit_batch 1", "commit_batch 2", "commit_batch 4"])
def test_broken_off_and_run_again(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    """F01, L6: broken off at any step, the next run ends it, and each unit is in the ledger and at Stripe once."""
    monkeypatch.setattr(module, "SPOOL_ROUND_BATCHES_MAX", 1)
    buyer = shop.buy()
    copy = back_up(shop)
    shop.call(buyer.key, 4)
    spool = spooler(shop, tmp_path)
    spool.append(of_outage(shop, buyer.account_id, 100), Batch("lost", 7, "n", ()))
    for _ in range(3):
        spool.append(of_outage(shop, buyer.account_id, 100))
    replay(shop.store, spool._require(), 1)
    shop.runtime.background.flush()
    spool.close()
    restore(shop, copy)
    name, _, count = at.partition(" ")
    left = int(count or 1)
    call = getattr(shop.store, name)

    def breaks(*arguments: object, **named: object) -> object:
        nonlocal left
        left -= 1
        if left == 0:
            raise StoreUnavailable(internal="broken off")
        return call(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(shop.store, name, breaks)
        with pytest.raises(StoreUnavailable):
            settled(shop, spooler(shop, tmp_path))
    settled(shop, spooler(shop, tmp_path))
    assert used(shop, buyer.account_id) == 404
    assert drained(shop).halted is None
    assert at_stripe(shop) == 404
    assert verdicts(shop) == {Verdict.AGREES}


def test_a_spool_that_is_held(shop: Shop, tmp_path: Path) -> None:
    """L6, L16: while a living process holds a spool of the ledger, it gets no new id."""
    buyer = shop.buy()
    spool = spooler(shop, tmp_path)
    spool.append(of_outage(shop, buyer.account_id, 100))
    before = shop.store.ledger().id
    with pytest.raises(StoreBusy, match="holds an outage spool"):
        settled(shop, spooler(shop, tmp_path))
    assert shop.store.ledger().id == before
    spool.close()
    settled(shop, spooler(shop, tmp_path))
    assert used(shop, buyer.account_id) == 100


def test_a_spool_that_was_forgotten(shop: Shop, tmp_path: Path) -> None:
    """I15, L16: a spool of another machine that turns up later is named by the doctor and the metrics, and a further
    run brings it in; a stranger's is named and left alone."""
    buyer = shop.buy()
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    spool = spooler(shop, there)
    spool.append(of_outage(shop, buyer.account_id, 100))
    spool.close()
    settled(shop, spooler(shop, here))
    FileSpoolFolder(here).create("stranger", "spool_1", 0).close()
    (left,) = there.iterdir()
    left.rename(here / left.name)
    said = findings(shop, FileSpoolFolder(here).of_others(shop.store.ledger().id))
    assert said == [("fail", "1 spool files"), ("warn", "1 spool files")]
    assert sum(spooler(shop, here).of_others().values()) == 2
    settled(shop, spooler(shop, here))
    assert used(shop, buyer.account_id) == 100
    said = findings(shop, FileSpoolFolder(here).of_others(shop.store.ledger().id))
    assert said == [("warn", "1 spool files")]


@pytest.mark.parametrize("tried", [False, True])
def test_a_process_finds_one_of_a_former_life(shop: Shop, tmp_path: Path, tried: bool) -> None:
    """I1, I4, L16: a process brings in what was spooled under an id that its ledger had before it was restored, unless
    the lost ledger may have had some of it: that waits for the command."""
    buyer = shop.buy()
    copy = back_up(shop)
    spool = spooler(shop, tmp_path)
    for _ in range(2):
        spool.append(of_outage(shop, buyer.account_id, 100))
    if tried:
        replay(shop.store, spool._require(), 1)
    spool.close()
    restore(shop, copy)
    entry = AuditEntry(shop.entropy.token(), shop.clock.now_at(), "ada", "restore", "ledger")
    shop.store.renew_ledger(shop.entropy.token(), shop.entropy.token(), audit=entry)
    assert spooler(shop, tmp_path).adopt() is not tried
    assert used(shop, buyer.account_id) == (0 if tried else 200)
    assert len(list(tmp_path.glob("*.spool"))) == tried


def findings(shop: Shop, others: dict[str, int]) -> Sequence[tuple[str, str]]:
    found = diagnose(
        shop.store,
        None,
        shop.clock,
        shop.catalog,
        shop.settings.peppers,
        webhook_url="",
        webhook_secrets=1,
        live=False,
        other_spools=others,
    )
    return [(one.status, one.detail[:13]) for one in found if one.check == "spools of others"]
