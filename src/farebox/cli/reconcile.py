"""`farebox reconcile`: do ledger, meter events, Stripe's sums and invoices agree, and if not, where and why."""

from dataclasses import asdict
from typing import Annotated, Any, Final

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from farebox.app import open_provider
from farebox.billing.restoring import SETTLE_SECONDS
from farebox.cli.adjust import instant
from farebox.cli.context import ActorOption, ConfigOption, JsonOption, ledger
from farebox.cli.restore import settle_restored
from farebox.domain.balance import Verdict
from farebox.errors import AccountUnknown
from farebox.metering.reconciler import READS_MAX, Comparison, Reconciler, Reconciliation
from farebox.terminal import ERR, OUT, moment, print_json, print_rows

__all__ = ["reconcile"]

RestoreOption = Annotated[
    bool, typer.Option("--after-restore", help="Instead: tell a restored ledger what Stripe has.")
]
BackupOption = Annotated[
    str, typer.Option(help="With --after-restore: when the backup was made; else the newest time in it.")
]
SettleOption = Annotated[
    int, typer.Option(min=0, help="With --after-restore: how long Stripe's sums must stand still.")
]
_DIFFER: Final = 2
_UNFINISHED: Final = 1
_MINIMUM: Final = "(minimum)"  # in the place of a meter


def reconcile(
    config: ConfigOption = None,
    account: Annotated[str, typer.Option(help="Only this account, acct_…")] = "",
    since: Annotated[str, typer.Option(help="Periods that end after this time; else the last 40 days.")] = "",
    after: Annotated[str, typer.Option(help="Go on after this account, where an earlier run stopped.")] = "",
    reads: Annotated[int, typer.Option(min=1, help="Ask Stripe at most so often.")] = READS_MAX,
    show_all: Annotated[bool, typer.Option("--all", help="Show also what agrees.")] = False,
    after_restore: RestoreOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With --after-restore: only show it.")] = False,
    backup_at: BackupOption = "",
    settle_seconds: SettleOption = SETTLE_SECONDS,
    actor: ActorOption = "",
    as_json: JsonOption = False,
) -> None:
    """Compare the ledger with Stripe. Exit code 0: all agree; 2: some differ; 1: an error, or not finished."""
    since_at = instant(since) if since else None
    if after_restore:
        times = since_at, instant(backup_at) if backup_at else None
        settle_restored(config, *times, dry_run=dry_run, settle_seconds=settle_seconds, actor=actor, as_json=as_json)
        return
    with ledger(config) as (settings, store, clock, _entropy):
        one = store.account(account) if account else None
        if account and one is None:
            raise AccountUnknown(f"There is no account {account!r}. `farebox customers` lists them.")
        reconciler = Reconciler(
            store, open_provider(settings), clock, settings.catalog, bills_late=settings.bills_late_usage
        )
        columns = (SpinnerColumn(), TextColumn("{task.completed} accounts compared"), TimeElapsedColumn())
        with Progress(*columns, console=ERR, transient=True) as progress:
            task = progress.add_task("", total=None)
            found = reconciler.run(
                account=one,
                since=since_at,
                after=after,
                reads_max=reads,
                progress=lambda account_id: progress.advance(task),
            )
    if as_json:
        print_json(_document(found))
    else:
        _print(found, show_all=show_all)
    if found.differing:
        raise typer.Exit(_DIFFER)
    if not found.complete:
        raise typer.Exit(_UNFINISHED)


def _document(found: Reconciliation) -> dict[str, Any]:
    counts = {verdict.value: sum(c.verdict is verdict for c in found.comparisons) for verdict in Verdict}
    return {
        "started_at": found.started_at,
        "accounts": found.accounts,
        "reads": found.reads,
        "complete": found.complete,
        "last_account": found.last_account or None,
        **counts,
        "comparisons": [{**asdict(c), "ledger": c.balance.ledger} for c in found.comparisons],
    }


def _print(found: Reconciliation, *, show_all: bool) -> None:
    shown = [c for c in found.comparisons if show_all or c.verdict is not Verdict.AGREES]
    print_rows([_row(c) for c in shown], as_json=False, empty="Everything agrees.")
    for one in found.differing:
        for reason in one.reasons:
            where = f"{one.account_id} {one.meter or _MINIMUM}"
            OUT.print(f"{where}: {reason.quantity} {reason.text} ({reason.code})", style="yellow", highlight=False)
    counts = [f"{sum(c.verdict is v for c in found.comparisons)} {v.value}" for v in Verdict]
    ERR.print(f"Accounts: {found.accounts}. Reads of Stripe: {found.reads}. Periods: {', '.join(counts)}.", style="dim")
    if not found.complete:
        why = "Stripe does not answer any more" if found.away else "Stopped at the bound of reads"
        ERR.print(f"{why}. Go on with --after {found.last_account}." if found.last_account else f"{why}.")


def _row(one: Comparison) -> dict[str, Any]:
    return {
        "account": one.account_id,
        "meter": one.meter or _MINIMUM,
        "from_at": one.period_start,
        "to_at": one.period_end,
        "ledger": one.balance.ledger,
        "stripe": one.stripe,
        "invoiced": one.bill.quantity if one.bill is not None else None,
        "late": one.balance.late,
        "verdict": one.verdict.value,
        "since": moment(one.since_at) if one.since_at is not None else None,
        "why": ", ".join(reason.code for reason in one.reasons) or None,
    }
