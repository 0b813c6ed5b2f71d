"""`farebox init` and `farebox push`: what is sold, in a file and at Stripe."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from farebox.app import open_provider
from farebox.billing.catalog import Change, apply_push, plan_push, push_error_destination, push_portal, push_webhook
from farebox.cli.context import ConfigOption, JsonOption
from farebox.config import load_settings
from farebox.errors import ConfigError
from farebox.starter import STARTER_CONFIG
from farebox.terminal import OUT, print_json

__all__ = ["init", "push"]


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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Create in Stripe what farebox.toml sells and Stripe lacks. The second time changes nothing."""
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
            style = {"create": "green", "update": "yellow"}.get(change.kind, "dim")
            line = Text.assemble((f"{change.kind:<10} ", style), f"{change.object} {change.name}: {change.detail}")
            OUT.print(line, soft_wrap=True)
            for name, before, after in change.differences:
                OUT.print(
                    Text.assemble(" " * 13, f"{name}: ", (before, "red"), " → ", (after, "green")), soft_wrap=True
                )

    changes = plan_push(settings.catalog, provider)
    if dry_run:
        for change in changes:
            tell(change)
    else:
        apply_push(changes, tell)
    tell(push_portal(provider, dry_run=dry_run))
    secret = None
    if webhook and not dry_run:
        made: list[str] = []
        for see_to in (push_webhook, push_error_destination):
            change, endpoint = see_to(provider, settings.webhook_url)
            tell(change)
            made += [endpoint.secret] if endpoint.secret else []
        secret = ",".join(made)
    if not as_json:
        counts = Counter(change.kind for change in done)
        would = "would be " if dry_run else ""
        said = f"{counts['create']} {would}created, {counts['update']} {would}updated, {counts['unchanged']} unchanged."
        OUT.print(said, style="bold", highlight=False)
    if as_json:
        rows = [
            {
                "kind": c.kind,
                "object": c.object,
                "name": c.name,
                "detail": c.detail,
                "differences": [{"name": n, "before": b, "after": a} for n, b, a in c.differences],
            }
            for c in done
        ]
        print_json({"changes": rows, **({"webhook_secret": secret} if secret else {})})
    elif secret:
        OUT.print("\nPut what Stripe signs with into the environment, beside any secret there; it is shown this once:")
        OUT.print(f"STRIPE_WEBHOOK_SECRET={secret}", markup=False, highlight=False, soft_wrap=True)
    elif webhook:
        OUT.print("The endpoint was there already; its secret is in Stripe's dashboard.", style="dim")
