"""`farebox usage lost`: the time that a restore lost, in which recorded usage is refused, and lifting it."""

from dataclasses import asdict
from typing import Annotated

import typer

from farebox.cli.context import ActorOption, ConfigOption, JsonOption, audited, ledger
from farebox.terminal import OUT, print_json, print_rows

__all__ = ["lost"]


def lost(
    lift: Annotated[bool, typer.Option("--lift", help="Take usage of these times again; unknown ids count.")] = False,
    actor: ActorOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """The times that a restore lost: usage recorded with a time in them is refused until they are lifted."""
    with ledger(config) as (_, store, clock, entropy):
        if lift:
            entry = audited(clock, entropy, "usage.lost.lift", "ledger", actor)
            lifted = store.lift_lost_spans(at=clock.now_at(), audit=entry)
        spans = store.lost_spans(lifted=True)
    if as_json:
        print_json({"lifted": len(lifted) if lift else 0, "lost": [asdict(span) for span in spans]})
        return
    if lift:
        OUT.print(f"{len(lifted)} lost times are lifted; usage of them is taken again.")
    rows = [
        {"from_at": span.start, "to_at": span.end, "found_at": span.found_at, "lifted_at": span.lifted_at}
        for span in spans
    ]
    print_rows(rows, as_json=False, empty="No restore has lost any time.")
