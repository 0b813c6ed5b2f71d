"""`farebox init` and `farebox push`: what is sold, in a file and at Stripe."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.text import Text

from farebox.app import open_provider
from farebox.billing.catalog import Change, apply_push, plan_push, push_error_destination, push_portal, push_webhook
from farebox.cli.context import ConfigOption, JsonOption
from farebox.cli.migration import Migrated, migrate_subscribers
from farebox.config import load_settings
from farebox.errors import ConfigError
from farebox.starter import STARTER_CONFIG
from farebox.terminal import OUT, print_json

__all__ = ["init", "push"]

_REFUSED: Final = 1


def init(path: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("farebox.toml")) -> None:
    """Write a farebox.toml to begin with."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(STARTER_CONFIG)
    except FileExistsError:
        raise ConfigError(f"{path} exists already and is left as it is.") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}.") from error
    OUT.print(f"Wrote {path}. Set your prices in it, then run `farebox push`.")


def push(
    config: ConfigOption = None,
    webhook: Annotated[bool, typer.Option("--webhook", help="Also create the webhook endpoints.")] = False,
    migrate: Annotated[
        bool,
        typer.Option(
            "--migrate", help="Also move subscribers of older versions to the newest prices when their periods end."
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Create in Stripe what farebox.toml sells and Stripe lacks. The second time changes nothing.

    With --migrate the exit code is 1 when a subscriber could not be moved; the others are.
    """
    settings = load_settings(path=config)
    settings.require_stripe()
    if webhook and settings.public_url is None:
        raise ConfigError(
            "FAREBOX_PUBLIC_URL is not set: the webhook endpoint needs the address where Stripe finds you."
        )
    provider = open_provider(settings)
    done: list[Change] = []

    def tell(change: Change) -> None:
        done.append(change)
        if not as_json:
            _print(change)

    _apply(plan_push(settings.catalog, provider), tell, dry_run=dry_run)
    tell(push_portal(provider, dry_run=dry_run))
    migrated = migrate_subscribers(settings, provider, dry_run=dry_run, as_json=as_json) if migrate else Migrated()
    secret = None
    if webhook and not dry_run:
        made: list[str] = []
        for see_to in (push_webhook, push_error_destination):
            change, endpoint = see_to(provider, settings.webhook_url)
            tell(change)
            made += [endpoint.secret] if endpoint.secret else []
        secret = ",".join(made)
    if as_json:
        moves = {"migrated": migrated.moved, "refused": migrated.refused} if migrate else {}
        print_json({"changes": [_row(c) for c in done], **moves, **({"webhook_secret": secret} if secret else {})})
    else:
        _print_counts(done, dry_run=dry_run)
        _print_secret(secret, webhook=webhook)
    if migrated.failed:
        raise typer.Exit(_REFUSED)


def _apply(changes: list[Change], tell: Callable[[Change], None], *, dry_run: bool) -> None:
    if not dry_run:
        apply_push(changes, tell)
        return
    for change in changes:
        tell(change)


def _print_secret(secret: str | None, *, webhook: bool) -> None:
    if secret:
        OUT.print("\nPut what Stripe signs with into the environment, beside any secret there; it is shown this once:")
        OUT.print(f"STRIPE_WEBHOOK_SECRET={secret}", markup=False, highlight=False, soft_wrap=True)
    elif webhook:
        OUT.print("The endpoint was there already; its secret is in Stripe's dashboard.", style="dim")


def _print(change: Change) -> None:
    style = {"create": "green", "update": "yellow"}.get(change.kind, "dim")
    line = Text.assemble((f"{change.kind:<10} ", style), f"{change.object} {change.name}: {change.detail}")
    OUT.print(line, soft_wrap=True)
    for name, before, after in change.differences:
        OUT.print(Text.assemble(" " * 13, f"{name}: ", (before, "red"), " → ", (after, "green")), soft_wrap=True)


def _print_counts(changes: list[Change], *, dry_run: bool) -> None:
    counts, would = Counter(change.kind for change in changes), "would be " if dry_run else ""
    said = f"{counts['create']} {would}created, {counts['update']} {would}updated, {counts['unchanged']} unchanged."
    OUT.print(said, style="bold", highlight=False)


def _row(change: Change) -> dict[str, object]:
    differences = [{"name": name, "before": before, "after": after} for name, before, after in change.differences]
    shown = {"kind": change.kind, "object": change.object, "name": change.name, "detail": change.detail}
    return {**shown, "differences": differences}
