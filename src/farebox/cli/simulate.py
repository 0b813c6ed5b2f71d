"""`farebox simulate`: what the ledger's real usage would come to under another catalog."""

import csv
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final, TextIO

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from farebox.cli.adjust import instant
from farebox.cli.chart import chart_of
from farebox.cli.context import ConfigOption, JsonOption, ledger
from farebox.config import load_catalog
from farebox.domain.catalog import format_minor
from farebox.domain.simulation import Change, Compared, CurrencySum, Simulation, Tally, WhatIf
from farebox.errors import AccountUnknown, ConfigError, InputInvalid
from farebox.ports import Store
from farebox.terminal import ERR, OUT, moment, print_json, print_rows

__all__ = ["ACCOUNTS_AT_ONCE_MAX", "simulate"]

ACCOUNTS_AT_ONCE_MAX: Final = 500
_EVER: Final = 1 << 40
_COLUMNS: Final = (
    "account",
    "subscription",
    "plan",
    "plan_after",
    "period_start",
    "period_end",
    "so_far",
    "currency",
    "before",
    "after",
    "change",
)


def simulate(
    plan: Annotated[Path, typer.Option("--plan", help="A farebox.toml with the new prices.")],
    since: Annotated[str, typer.Option(help="Periods that begin at or after it: 2026-10, or a date.")] = "",
    until: Annotated[str, typer.Option(help="Periods that begin before it.")] = "",
    account: Annotated[str, typer.Option(help="Only this account, acct_…")] = "",
    renamed: Annotated[list[str] | None, typer.Option("--map", metavar="OLD=NEW", help="A plan's new name.")] = None,
    top: Annotated[int, typer.Option(min=0, max=1_000, help="How many of those who pay most more to name.")] = 10,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write every period into this file.")] = None,
    svg_file: Annotated[Path | None, typer.Option("--svg", help="Write a chart into this file.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """What real usage would have come to at other prices: revenue before and after, and who would pay more."""
    span = _begin(since) if since else 0, _begin(until) if until else _EVER
    after = load_catalog(plan)
    with ledger(config) as (settings, store, clock, _entropy), ExitStack() as files:
        what_if = WhatIf(settings.catalog, after, _renamed(renamed or (), after.plans))
        if account and store.account(account) is None:
            raise AccountUnknown(f"There is no account {account!r}. `farebox customers` lists them.")
        rows = csv.writer(files.enter_context(_new(csv_file))) if csv_file is not None else None
        picture = files.enter_context(_new(svg_file)) if svg_file is not None else None
        if rows is not None:
            rows.writerow(_COLUMNS)
        tally, now = Tally(top), clock.now_at()
        for one in _compared(store, what_if, span, account, now):
            tally.add(one)
            if rows is not None:
                rows.writerow(_csv_row(one))
        found = tally.result()
        if picture is not None:
            picture.write(chart_of(found, f"Real usage at {plan.name}"))
    if as_json:
        print_json(_document(found))
    else:
        _print(found)


def _compared(store: Store, what_if: WhatIf, span: tuple[int, int], account: str, now: int) -> Iterator[Compared]:
    """A page of accounts after another, so that memory holds no more than one."""
    plans = [*what_if.before.plans.values(), *what_if.after.plans.values()]
    meters = sorted({price.meter for plan in plans for price in plan.prices})
    columns = (SpinnerColumn(), TextColumn("{task.completed} accounts compared"), TimeElapsedColumn())
    last = ""
    with Progress(*columns, console=ERR, transient=True) as progress:
        task = progress.add_task("", total=None)
        while page := store.used_periods(
            meters=meters,
            since=span[0],
            until=span[1],
            account_id=account or None,
            after=last,
            accounts=ACCOUNTS_AT_ONCE_MAX,
        ):
            yield from (what_if.compare(period, now) for period in page)
            last = page[-1].account_id
            progress.advance(task, len({period.account_id for period in page}))


def _new(path: Path) -> TextIO:
    """Opened before the work begins: what cannot be written is said at once."""
    try:
        return path.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}.") from error


def _begin(text: str) -> int:
    """When a year, a month, a day or a moment begins."""
    if re.fullmatch(r"[0-9]{4}(-[0-9]{2})?", text):
        text = f"{text}-01" if "-" in text else f"{text}-01-01"
    return instant(text)


def _renamed(told: Sequence[str], known: Sequence[str] | Any) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in told:
        old, sign, new = text.partition("=")
        if not sign or not old or old in found:
            raise InputInvalid(f"--map {text[:60]!r}: write OLD=NEW, each old plan once.")
        if new not in known:
            raise InputInvalid(f"--map {text[:60]!r}: the new file has no plan {new!r}; it has {', '.join(known)}.")
        found[old] = new
    return found


def _csv_row(one: Compared) -> list[object]:
    period, known = one.period, one.before is not None and one.after is not None
    amounts = (one.before, one.after, (one.after or 0) - (one.before or 0) if known else None)
    return [
        period.account_id,
        period.subscription_id,
        period.plan,
        one.plan_after if one.after is not None else "",
        moment(period.start),
        moment(period.end),
        "yes" if one.runs else "no",
        one.currency,
        *("" if amount is None else _major(amount, one.currency) for amount in amounts),
    ]


def _major(amount: int, currency: str) -> str:
    return format_minor(amount, currency).rpartition(" ")[0]


def _document(found: Simulation) -> dict[str, Any]:
    return {
        "accounts": found.accounts,
        "periods": found.periods,
        "running": found.running,
        "currencies": [
            {
                "currency": one.currency,
                "before": one.before,
                "after": one.after,
                "change": one.after - one.before,
                **_counts(one),
                "most_more": [asdict(account) for account in one.most_more],
            }
            for one in found.sums
        ],
        "not_compared": [asdict(one) for one in found.left],
    }


def _counts(one: CurrencySum) -> dict[str, int]:
    return {
        "pay_more": one.count(Change.LITTLE_MORE, Change.MUCH_MORE),
        "pay_less": one.count(Change.HALF, Change.LITTLE_LESS),
        "pay_the_same": one.count(Change.SAME, Change.SAME),
    }


def _print(found: Simulation) -> None:
    if not found.periods:
        OUT.print("The ledger has no billing period that begins then: there is nothing to compare.", style="dim")
        return
    sums = [
        {
            "before": format_minor(one.before, one.currency),
            "after": format_minor(one.after, one.currency),
            "change": _signed(one.after - one.before, one.currency),
            **_counts(one),
        }
        for one in found.sums
    ]
    print_rows(sums, as_json=False, empty="No period could be compared.")
    most = [
        {
            "account": account.account_id,
            "plan": account.plan,
            "before": format_minor(account.before, account.currency),
            "after": format_minor(account.after, account.currency),
            "change": _signed(account.change, account.currency),
        }
        for one in found.sums
        for account in one.most_more
    ]
    OUT.print()
    print_rows(most, as_json=False, empty="No account would pay more.")
    if found.left:
        OUT.print("\nNot compared:", style="yellow")
        print_rows([_left_row(one) for one in found.left], as_json=False, empty="")
    so_far = f"; {found.running} of them run, and count so far" if found.running else ""
    ERR.print(f"Accounts: {found.accounts}. Periods: {found.periods}{so_far}.", style="dim")


def _left_row(one: Any) -> dict[str, Any]:
    missing = "the new file" if one.before is not None else "the current farebox.toml"
    return {
        "plan": one.plan or "unknown",
        "why": f"{missing} has no plan {(one.plan_after if one.before is not None else one.plan) or 'of that name'}",
        "accounts": one.accounts,
        "periods": one.periods,
        "before": format_minor(one.before, one.currency) if one.before is not None and one.currency else None,
        "first": " ".join(one.first_accounts[:3]),
    }


def _signed(amount: int, currency: str) -> str:
    return ("+" if amount > 0 else "") + format_minor(amount, currency)
