"""`farebox usage adjust`: a signed correction of what was counted, with its reason."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from farebox.cli.context import AccountArgument, ActorOption, ConfigOption, JsonOption, audited, ledger
from farebox.errors import InputInvalid
from farebox.metering.corrections import adjust_usage
from farebox.terminal import OUT, moment, print_json

__all__ = ["adjust", "instant"]


def adjust(
    account: AccountArgument,
    meter: Annotated[str, typer.Argument(help="A meter of farebox.toml.")],
    quantity: Annotated[int, typer.Argument(help="Whole units; negative ones are taken off.")],
    reason: Annotated[str, typer.Option(help="Why. Kept for ever.")],
    config: ConfigOption = None,
    at: Annotated[str, typer.Option(help="When it was used: 2026-11-03T10:00Z or Unix seconds; else now.")] = "",
    id: Annotated[str, typer.Option("--id", help="Makes a repetition harmless: the same id counts once.")] = "",
    actor: ActorOption = "",
    as_json: JsonOption = False,
) -> None:
    """Correct an account's usage: a signed quantity, reported to Stripe as a meter event of its own."""
    when = instant(at) if at else None
    with ledger(config) as (settings, store, clock, entropy):
        made = adjust_usage(
            store,
            clock,
            settings.catalog,
            id=id or "adj_" + entropy.token(),
            account_id=account,
            meter=meter,
            quantity=quantity,
            reason=reason,
            at=when,
            audit=audited(clock, entropy, "adjust", account, actor),
        )
    if as_json:
        print_json(asdict(made))
    else:
        OUT.print(f"{made.id}: {made.quantity:+} {made.meter} at {moment(made.used_at)}.", highlight=False)


def instant(text: str) -> int:
    """Unix seconds of an ISO 8601 time (UTC unless it says otherwise), a date, or Unix seconds. InputInvalid."""
    if text.isascii() and text.isdecimal() and len(text) <= 12:
        return int(text)
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise InputInvalid(f"{text!r} is no time. Write it like 2026-11-03T10:00Z, or in Unix seconds.") from error
    return int((found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp())
