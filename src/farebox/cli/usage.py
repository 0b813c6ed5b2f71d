"""`farebox usage`: what was used, and how far it has got on its way to Stripe."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from farebox.billing.invoices import EarlierPart, MeterCost, UsageReport, usage_report
from farebox.cli.adjust import adjust
from farebox.cli.context import ConfigOption, JsonOption, ledger, say_if_cut
from farebox.cli.lost import lost
from farebox.cli.resume import resume
from farebox.cli.retry import retry
from farebox.domain.catalog import format_minor
from farebox.domain.reports import MeterEvent, ReportState
from farebox.errors import AccountUnknown, InputInvalid
from farebox.terminal import OUT, moment, print_json, print_rows

__all__ = ["EVENTS_SHOWN_MAX", "ShowUnlessNamed", "usage_app"]

EVENTS_SHOWN_MAX: Final = 1_000


class ShowUnlessNamed(TyperGroup):
    """`farebox usage ACCOUNT` is `farebox usage show ACCOUNT`: no account bears a command's name."""

    unnamed = "show"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = [self.unnamed, *args]
        return super().parse_args(ctx, args)


usage_app = typer.Typer(cls=ShowUnlessNamed, help="What was used, and its way to Stripe. ACCOUNT alone shows it.")
usage_app.command(context_settings={"ignore_unknown_options": True})(adjust)
usage_app.command()(retry)
usage_app.command()(resume)
usage_app.command()(lost)


@usage_app.command()
def show(
    account: Annotated[str, typer.Argument(help="An account's id, acct_…; with --events none means all.")] = "",
    config: ConfigOption = None,
    events: Annotated[bool, typer.Option("--events", help="The meter events on their way to Stripe instead.")] = False,
    state: Annotated[ReportState | None, typer.Option(help="Only meter events in this state.")] = None,
    as_json: JsonOption = False,
) -> None:
    """What an account has used in its current period, and how far that has got on its way to Stripe."""
    if not account and not events:
        raise InputInvalid("Name an account; `farebox customers` lists them. Or ask for --events of all accounts.")
    with ledger(config) as (settings, store, clock, _entropy):
        found = store.account(account) if account else None
        if account and found is None:
            raise AccountUnknown(f"There is no account {account!r}. `farebox customers` lists them.")
        if events or found is None:
            _print_events(store.meter_events(account or None, state=state, limit=EVENTS_SHOWN_MAX), as_json=as_json)
            return
        report = usage_report(store, clock, found, settings.past_due_grace_seconds)
        summary = store.report_summary(account)
    if as_json:
        meters = [_meter(cost) for cost in report.meters]
        print_json(
            {
                "account": account,
                "period_start": report.period.start,
                "period_end": report.period.end,
                "currency": report.currency,
                "base": report.base,
                "minimum": report.minimum,
                "total": report.total,
                "projected_total": report.projected_total,
                "meters": meters,
                "earlier": [_earlier(part) for part in report.earlier],
                "unsealed": summary.unsealed_quantity,
                "reported": {state.value: summary.quantities[state] for state in ReportState},
            }
        )
        return
    _print_report(report)
    delivered = summary.quantities[ReportState.DELIVERED]
    OUT.print(f"{delivered} units are at Stripe, {summary.unsealed_quantity} are not sealed yet.", style="dim")


def _print_report(report: UsageReport) -> None:
    for part in report.earlier:
        OUT.print(f"{part.plan}, {moment(part.period.start)} to {moment(part.period.end)}", style="dim")
        _print_meters(part.meters, report.currency)
    plan = report.subscription.plan
    OUT.print(f"{plan}, {moment(report.period.start)} to {moment(report.period.end)}", style="dim")
    _print_meters(report.meters, report.currency)
    said = f"{format_minor(report.total, report.currency)} so far" if report.currency else ""
    if report.base:
        said += f", {format_minor(report.base, report.currency)} of it the base fee"
    if report.projected_total is not None:
        said += f"; {format_minor(report.projected_total, report.currency)} if it goes on like this"
    OUT.print(f"{said}.", highlight=False)


def _print_meters(costs: Sequence[MeterCost], currency: str) -> None:
    rows = [
        {
            "meter": m.meter,
            "quantity": m.quantity,
            "calls": m.calls,
            "price": m.price,
            "cost": format_minor(m.amount, currency),
        }
        for m in costs
    ]
    print_rows(rows, as_json=False, empty="Nothing used yet.")


def _meter(cost: MeterCost) -> dict[str, Any]:
    return {**asdict(cost), "unit_amount": str(cost.unit_amount) if cost.unit_amount is not None else None}


def _earlier(part: EarlierPart) -> dict[str, Any]:
    return {
        "plan": part.plan,
        "period_start": part.period.start,
        "period_end": part.period.end,
        "meters": [_meter(cost) for cost in part.meters],
    }


def _print_events(events: Sequence[MeterEvent], *, as_json: bool) -> None:
    rows: list[dict[str, Any]] = [asdict(event) for event in events]
    shown = ("identifier", "account_id", "meter", "value", "state", "attempts", "reason")
    print_rows(
        rows if as_json else [{name: row[name] for name in shown} for row in rows],
        as_json=as_json,
        empty="There are no such meter events.",
    )
    say_if_cut(rows, EVENTS_SHOWN_MAX)
