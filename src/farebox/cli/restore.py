"""`farebox reconcile --after-restore`: a ledger that came from a backup learns what Stripe has had since."""

import threading
from dataclasses import asdict
from pathlib import Path
from typing import Final

from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from farebox.app import open_provider, open_spools
from farebox.billing.restoring import Restoration, Restorer
from farebox.cli.context import audited, ledger
from farebox.errors import StoreBusy
from farebox.metering.spool import Spooler
from farebox.ports import Clock
from farebox.roles import REPORTING, ROLE_LEASE_SECONDS
from farebox.store.sql import SqlStore
from farebox.terminal import ERR, OUT, moment, print_json, print_rows

__all__ = ["RESTORE_LEASE_SECONDS", "WATCH_SECONDS", "settle_restored"]

WATCH_SECONDS: Final = 3
RESTORE_LEASE_SECONDS: Final = 3_600
_HOLDER: Final = "restore"


def settle_restored(
    config: Path | None,
    since: int | None,
    backup_at: int | None,
    *,
    dry_run: bool,
    settle_seconds: int,
    actor: str,
    as_json: bool,
) -> None:
    """Import, or only say what would be. StoreBusy while the ledger is served."""
    with ledger(config) as (settings, store, clock, entropy):
        folder = open_spools(settings, store)
        spools = Spooler(store, folder, clock, entropy, seconds_max=None) if folder is not None else None
        restorer = Restorer(store, open_provider(settings), clock, entropy, settings.catalog, spools)
        columns = (SpinnerColumn(), TextColumn("{task.description}: {task.completed} accounts"), TimeElapsedColumn())
        with Progress(*columns, console=ERR, transient=True) as progress:
            task = progress.add_task("Comparing", total=None)

            def advance(account_id: str) -> None:
                progress.advance(task)

            def settle() -> None:
                progress.update(task, description=f"Waiting {settle_seconds} s for Stripe's sums to stand still")
                threading.Event().wait(settle_seconds)

            if dry_run:
                found = restorer.rehearse(since=since, backup_at=backup_at, progress=advance)
            else:
                _take_reporting(store, clock)
                try:
                    audit = audited(clock, entropy, "restore", "ledger", actor)
                    found = restorer.run(audit=audit, since=since, backup_at=backup_at, settle=settle, progress=advance)
                finally:
                    store.release_lease(REPORTING, _HOLDER)
    _print(found, dry_run=dry_run, as_json=as_json)


def _take_reporting(store: SqlStore, clock: Clock) -> None:
    """The role of who reports, so that a process which starts meanwhile seals and sends nothing.

    A backup holds the rows of the processes that served when it was made: only those that still beat are there.
    """
    before = {process.id: process.beats for process in store.processes()}
    if before:
        threading.Event().wait(WATCH_SECONDS)
    if any(process.beats != before.get(process.id) for process in store.processes()):
        raise StoreBusy("A process serves this ledger. Stop all of them, and run this again.")
    for pause_seconds in (ROLE_LEASE_SECONDS + 1, 0):  # the role of a process that is gone runs out by itself
        if store.take_lease(REPORTING, _HOLDER, now=clock.now_at(), seconds=RESTORE_LEASE_SECONDS) is not None:
            return
        threading.Event().wait(pause_seconds)
    raise StoreBusy("A process reports this ledger's usage. Stop it, and run this again.")


def _print(found: Restoration, *, dry_run: bool, as_json: bool) -> None:
    rows = [
        {
            "account": one.account_id,
            "meter": one.meter,
            "bucket_at": one.found.span.bucket_start,
            "delivered": sum(event.value for event in one.found.delivered) + one.found.covered,
            "imported": one.found.imported,
            "unexplained": -one.found.unexplained,
        }
        for one in found.buckets
    ]
    if as_json:
        totals = {"delivered": found.delivered, "imported": found.imported, "unexplained": found.unexplained}
        print_json({"dry_run": dry_run, **totals, **asdict(found), "buckets": rows})
        return
    print_rows(rows, as_json=False, empty="Stripe has nothing that this ledger lacks.")
    OUT.print(
        f"{found.delivered} units that waited here are at Stripe; {found.imported} were lost here and are taken over; "
        f"{len(found.adopted_accounts)} lost accounts; {len(found.adopted_items)} lost late items."
    )
    if found.spooled_batches:
        OUT.print(f"{found.spooled_batches} batches of the outage {'wait' if dry_run else 'came in'} from spool files.")
    if found.unexplained:
        OUT.print(f"Stripe lacks {found.unexplained} units that this ledger delivered; they were left as they are.")
    _print_lost(found)
    if dry_run:
        ERR.print("Nothing was changed.")
    else:
        OUT.print(f"The ledger is now {found.ledger_id}. It may be served again.")


def _print_lost(found: Restoration) -> None:
    if found.lost is not None:
        OUT.print(
            f"Usage recorded with a time from {moment(found.lost.start)} to {moment(found.lost.end)} is refused unless "
            "its id is known: what was recorded then is lost here and may be billed. `farebox usage lost` lifts it.",
            highlight=False,
        )
