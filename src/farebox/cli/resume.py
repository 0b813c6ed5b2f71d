"""`farebox usage resume`: let reporting go on after it was halted, on a person's word."""

from typing import Annotated

import typer

from farebox.cli.context import ActorOption, ConfigOption, JsonOption, audited, ledger
from farebox.errors import InputInvalid
from farebox.terminal import ERR, OUT, print_json

__all__ = ["resume"]

_WORDS = (
    "A restored or copied ledger may then report usage again that Stripe has counted already. "
    "`farebox reconcile --after-restore` settles that and ends the halt as well."
)


def resume(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    actor: ActorOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """End the halt of reporting without settling what caused it. Usage may then count twice at Stripe."""
    with ledger(config) as (_, store, clock, entropy):
        reason = store.ledger().halted_reason
        if reason is not None and not yes:
            _ask(reason, as_json=as_json)
        reason = store.resume_reporting(audit=audited(clock, entropy, "usage.resume", "ledger", actor))
    if as_json:
        print_json({"resumed": reason is not None, "reason": reason})
    else:
        OUT.print("Reporting goes on." if reason is not None else "Reporting was not halted.")


def _ask(reason: str, *, as_json: bool) -> None:
    if as_json:
        raise InputInvalid(f"{reason} {_WORDS} Say --yes if that is meant.")
    ERR.print(f"{reason} {_WORDS}", style="yellow")
    typer.confirm("Resume reporting?", abort=True, err=True)
