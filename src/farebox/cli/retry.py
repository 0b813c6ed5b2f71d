"""`farebox usage retry`: take parked meter events up again, on a person's word."""

from pathlib import Path
from typing import Annotated, Final

import typer

from farebox.cli.context import ActorOption, ConfigOption, JsonOption, audited, ledger
from farebox.domain.reports import MeterEvent, ReportState
from farebox.errors import InputInvalid, NotFound
from farebox.store.sql import SqlStore
from farebox.terminal import ERR, OUT, print_json

__all__ = ["RETRIED_MAX", "retry"]

RETRIED_MAX: Final = 10_000
_PARKED: Final = (ReportState.REJECTED, ReportState.DOUBTFUL)


def retry(
    identifiers: Annotated[
        list[str] | None, typer.Argument(help="Of meter events; none means all in --state. With --late of late items.")
    ] = None,
    state: Annotated[ReportState | None, typer.Option(help="All that are rejected, or doubtful.")] = None,
    account: Annotated[str, typer.Option(help="Only an account's.")] = "",
    late: Annotated[
        bool,
        typer.Option("--late", help="Instead: late invoice items that Stripe refused or lost."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask about doubtful ones.")] = False,
    actor: ActorOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send parked meter events again. A doubtful one may then count twice at Stripe: look there first."""
    if late:
        _retry_late(config, identifiers or [], account, actor, as_json=as_json)
        return
    if not identifiers and state not in _PARKED:
        raise InputInvalid("Name meter events by their identifiers, or --state rejected or doubtful.")
    with ledger(config) as (_, store, clock, entropy):
        parked = _parked(store, identifiers or [], state, account)
        doubtful = sum(event.state is ReportState.DOUBTFUL for event in parked)
        if doubtful and not yes:
            _ask(doubtful, as_json=as_json)
        entry = audited(clock, entropy, "usage.retry", account or "ledger", actor)
        names = [event.identifier for event in parked]
        moved = store.retry_meter_events(names, suffix=entropy.token(), now=clock.now_at(), audit=entry)
    if as_json:
        print_json({"retried": [{"identifier": e.identifier, "was": e.state, "value": e.value} for e in moved]})
    else:
        OUT.print(f"{len(moved)} meter events are pending again; what reports usage sends them.")


def _retry_late(config: Path | None, ids: list[str], account: str, actor: str, *, as_json: bool) -> None:
    """Make late items due now that wait for a person, or for tomorrow's attempt."""
    with ledger(config) as (_, store, clock, entropy):
        entry = audited(clock, entropy, "usage.retry_late", account or "ledger", actor)
        items = store.retry_late_items(ids, account or None, limit=RETRIED_MAX, now=clock.now_at(), audit=entry)
    missing = sorted(set(ids) - {item.id for item in items})
    if missing:
        raise NotFound(f"There is no such refused or deleted late item: {', '.join(missing)}.")
    if as_json:
        print_json({"retried": [{"id": i.id, "was": i.state, "amount": i.amount, "error": i.error} for i in items]})
    else:
        OUT.print(f"{len(items)} late invoice items are due again; what bills late usage sends them.")


def _parked(store: SqlStore, identifiers: list[str], state: ReportState | None, account: str) -> list[MeterEvent]:
    states = _PARKED if state is None else (state,)
    found = [e for s in states for e in store.meter_events(account or None, state=s, limit=RETRIED_MAX)]
    if not identifiers:
        return found
    by_name = {event.identifier: event for event in found}
    missing = [name for name in identifiers if name not in by_name]
    if missing:
        raise NotFound(f"There is no such parked meter event: {', '.join(missing)}.")
    return [by_name[name] for name in identifiers]


def _ask(doubtful: int, *, as_json: bool) -> None:
    words = f"{doubtful} of them are doubtful: Stripe may have counted them, and would then count them twice."
    if as_json:
        raise InputInvalid(f"{words} Say --yes if that is meant.")
    ERR.print(words, style="yellow")
    typer.confirm("Send them again?", abort=True, err=True)
