"""`farebox push --migrate`: subscribers of older prices move to the newest ones, each as it is done."""

from rich.text import Text

from farebox.billing.migration import Move, migrate
from farebox.cli.context import ledger
from farebox.config import Settings
from farebox.errors import FareboxError
from farebox.ports import Provider
from farebox.terminal import ERR, OUT, moment

__all__ = ["Migrated", "migrate_subscribers"]


class Migrated:
    """Who moves, who does not and why, and what `cut_off` the migration, if anything did."""

    def __init__(self) -> None:
        self.moved: list[dict[str, str | None]] = []
        self.refused: list[dict[str, str | None]] = []
        self.cut_off = ""

    @property
    def failed(self) -> bool:
        return bool(self.refused or self.cut_off)

    def add(self, move: Move) -> None:
        known = move.subscription
        row = {
            "account": move.account_id,
            "subscription": known.id if known is not None else None,
            "plan": known.plan if known is not None else None,
        }
        if move.refused:
            self.refused.append({**row, "reason": move.refused})
        else:
            self.moved.append(row)


def migrate_subscribers(settings: Settings, provider: Provider, *, dry_run: bool, as_json: bool) -> Migrated:
    """Plan the change of each subscription with older prices. Without the new ones at Stripe there is nothing to do."""
    done = Migrated()
    with ledger(settings.path) as (_, store, clock, _entropy):
        try:
            for move in migrate(store, provider, clock, settings.catalog, dry_run=dry_run):
                done.add(move)
                if not as_json:
                    _print(move, dry_run=dry_run)
        except FareboxError as error:
            done.cut_off = str(error)
    if as_json:
        return done
    if done.cut_off:
        ERR.print(f"The migration stopped: {done.cut_off} Run it again for the rest.", style="red")
    elif not done.moved and not done.refused:
        OUT.print("Nobody has older prices.", style="dim")
    if done.refused:
        said = f"{'Would move' if dry_run else 'Moved'}: {len(done.moved)}. Not moved: {len(done.refused)}."
        OUT.print(said, style="bold", highlight=False)
        for one in done.refused:
            OUT.print(f"  {one['account']}: {one['reason']}", highlight=False, soft_wrap=True)
    return done


def _print(move: Move, *, dry_run: bool) -> None:
    """Each as it is done, so that a long migration shows how far it is."""
    known = move.subscription
    who = f"{known.id} of {move.account_id}" if known is not None else move.account_id
    if move.refused:
        OUT.print(Text.assemble((f"{'refused':<10} ", "red"), f"{who}: {move.refused}"), soft_wrap=True)
    elif known is not None:
        end = moment(known.period.end) if known.period is not None else "the end of its period"
        verb = "would move" if dry_run else "moves"
        line = f"{'migrate':<10} {who} {verb} to the newest {known.plan} at {end}"
        OUT.print(line, highlight=False, soft_wrap=True)
