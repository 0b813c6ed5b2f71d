"""The command line: thin. Parse, call a room, print. Errors are words on stderr and a non-zero exit, never a trace."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Final

import typer
import uvicorn
from rich.text import Text
from starlette.applications import Starlette

from farebox.app import open_provider, open_store, system_clock
from farebox.billing.catalog import Change, apply_push, plan_push, push_portal, push_webhook
from farebox.billing.doctor import Finding, diagnose
from farebox.billing.invoices import usage_report
from farebox.billing.keys import OVERLAP_SECONDS, create_key, revoke_key, rotate_key
from farebox.config import Settings, load_settings
from farebox.demo import run_demo
from farebox.domain.accounts import current_subscription
from farebox.domain.catalog import format_minor
from farebox.domain.reports import MeterEvent, ReportState
from farebox.errors import AccountUnknown, ConfigError, FareboxError, InputInvalid, NotFound
from farebox.logs import log_through_logging
from farebox.ports import Clock, Entropy
from farebox.protect import Farebox
from farebox.sandbox.command import sandbox
from farebox.starter import STARTER_CONFIG
from farebox.store.sql import SqlStore
from farebox.system import SystemEntropy
from farebox.terminal import ERR, OUT, moment, print_error, print_findings, print_json, print_key, print_rows

__all__ = ["ACCOUNTS_SHOWN_MAX", "EVENTS_SHOWN_MAX", "app", "main"]

ACCOUNTS_SHOWN_MAX: Final = 1_000
EVENTS_SHOWN_MAX: Final = 1_000

app = typer.Typer(add_completion=False)
keys_app = typer.Typer(help="The API keys of an account.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")

_Config = Annotated[Path | None, typer.Option("--config", help="farebox.toml; else FAREBOX_CONFIG.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Account = Annotated[str, typer.Argument(help="An account's id, acct_…")]


def main() -> None:
    """The entry point."""
    log_through_logging()
    try:
        app()
    except FareboxError as error:
        print_error(error, as_json="--json" in sys.argv)
        sys.exit(1)


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print Farebox's version and exit.")] = False,
) -> None:
    """Charge for an HTTP API through Stripe metered billing."""
    if version:
        OUT.print(f"farebox {metadata.version('farebox')}", highlight=False)
        raise typer.Exit
    if context.invoked_subcommand is None:
        OUT.print(context.get_help())
        raise typer.Exit(2)


@app.command()
def demo(
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Make a buyer's whole journey, print its figures as JSON, and end.")
    ] = False,
    port: Annotated[int, typer.Option(help="Of the fire API.")] = 8000,
    sandbox_port: Annotated[int, typer.Option(help="Of the local Stripe.")] = 8001,
    folder: Annotated[Path, typer.Option(help="Where the demo keeps its ledger and secrets.")] = Path(".farebox-demo"),
) -> None:
    """Sell an API call on this machine: the fire API, Farebox and a local Stripe."""
    run_demo(folder, port=port, sandbox_port=sandbox_port, smoke=smoke)


@app.command()
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


@app.command()
def push(
    config: _Config = None,
    webhook: Annotated[bool, typer.Option("--webhook", help="Also create the webhook endpoint.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done.")] = False,
    as_json: _Json = False,
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

    changes = plan_push(settings.catalog, provider)
    if dry_run:
        for change in changes:
            tell(change)
    else:
        apply_push(changes, tell)
    tell(push_portal(provider, dry_run=dry_run))
    secret = None
    if webhook and not dry_run:
        change, endpoint = push_webhook(provider, settings.webhook_url)
        tell(change)
        secret = endpoint.secret
    if as_json:
        rows = [{"kind": c.kind, "object": c.object, "name": c.name, "detail": c.detail} for c in done]
        print_json({"changes": rows, **({"webhook_secret": secret} if secret else {})})
    elif secret:
        OUT.print("\nPut the endpoint's secret into the environment; Stripe shows it this once:")
        OUT.print(f"STRIPE_WEBHOOK_SECRET={secret}", markup=False, highlight=False, soft_wrap=True)
    elif webhook:
        OUT.print("The endpoint was there already; its secret is in Stripe's dashboard.", style="dim")


@app.command()
def serve(
    config: _Config = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
) -> None:
    """Serve Farebox's routes as a server of its own, with its loops."""
    load_settings(path=config).require_serving()
    own = Starlette()
    Farebox(config).protect(own)
    uvicorn.run(own, host=host, port=port, log_level="info")


app.command()(sandbox)


@app.command()
def migrate(config: _Config = None, as_json: _Json = False) -> None:
    """Create the ledger's schema or bring it up to date."""
    with _ledger(config) as (_, store, _clock, _entropy):
        ledger = store.ledger()
    if as_json:
        print_json(asdict(ledger))
    else:
        OUT.print(f"The ledger {ledger.id} is up to date.")


@app.command()
def doctor(config: _Config = None, as_json: _Json = False) -> None:
    """Check configuration, ledger and Stripe, and say what to do about each fault."""
    findings: list[Finding] = []
    settings = load_settings(path=config)
    missing = _missing(settings)
    findings.append(
        missing or Finding("configuration", "ok", f"{settings.path}, plans: {', '.join(settings.catalog.plans)}")
    )
    provider = open_provider(settings) if settings.stripe_secret_key is not None else None
    try:
        with _ledger(config) as (_, store, clock, _entropy):
            findings += diagnose(
                store,
                provider,
                clock,
                settings.catalog,
                settings.peppers,
                webhook_url=settings.webhook_url,
                webhook_secrets=len(settings.stripe_webhook_secrets),
                live=settings.live,
            )
    except FareboxError as error:
        findings.append(Finding("database", "fail", error.detail, "Change it as said, and run this again."))
    if as_json:
        print_json({"findings": [asdict(finding) for finding in findings]})
    else:
        print_findings(findings)
    if any(finding.status == "fail" for finding in findings):
        raise typer.Exit(1)


@app.command()
def customers(config: _Config = None, as_json: _Json = False) -> None:
    """The accounts, their subscriptions and keys."""
    with _ledger(config) as (settings, store, clock, _entropy):
        rows = []
        for account in store.accounts(limit=ACCOUNTS_SHOWN_MAX):
            found = current_subscription(
                store.subscriptions(account.id), clock.now_at(), settings.past_due_grace_seconds
            )
            rows.append(
                {
                    "account": account.id,
                    "email": account.email,
                    "customer": account.customer_id,
                    "plan": found.plan if found is not None else None,
                    "status": found.status if found is not None else None,
                    "keys": len(store.keys(account.id)),
                    "created_at": account.created_at,
                }
            )
    print_rows(rows, as_json=as_json, empty="Nobody has subscribed yet.")
    _say_if_cut(rows, ACCOUNTS_SHOWN_MAX)


@app.command()
def usage(
    account: Annotated[str, typer.Argument(help="An account's id, acct_…; with --events none means all.")] = "",
    config: _Config = None,
    events: Annotated[bool, typer.Option("--events", help="The meter events on their way to Stripe instead.")] = False,
    state: Annotated[ReportState | None, typer.Option(help="Only meter events in this state.")] = None,
    as_json: _Json = False,
) -> None:
    """What an account has used in its current period, and how far that has got on its way to Stripe."""
    if not account and not events:
        raise InputInvalid("Name an account; `farebox customers` lists them. Or ask for --events of all accounts.")
    with _ledger(config) as (settings, store, clock, _entropy):
        found = store.account(account) if account else None
        if account and found is None:
            raise AccountUnknown(f"There is no account {account!r}. `farebox customers` lists them.")
        if events or found is None:
            _print_events(store.meter_events(account or None, state=state, limit=EVENTS_SHOWN_MAX), as_json=as_json)
            return
        report = usage_report(store, clock, found, settings.past_due_grace_seconds)
        summary = store.report_summary(account)
    if as_json:
        meters = [
            {**asdict(m), "unit_amount": str(m.unit_amount) if m.unit_amount is not None else None}
            for m in report.meters
        ]
        print_json(
            {
                "account": account,
                "period_start": report.period.start,
                "period_end": report.period.end,
                "currency": report.currency,
                "total": report.total,
                "meters": meters,
                "unsealed": summary.unsealed_quantity,
                "reported": {state.value: summary.quantities[state] for state in ReportState},
            }
        )
        return
    rows = [
        {"meter": m.meter, "quantity": m.quantity, "calls": m.calls, "cost": format_minor(m.amount, report.currency)}
        for m in report.meters
    ]
    OUT.print(f"{moment(report.period.start)} to {moment(report.period.end)}", style="dim")
    print_rows(rows, as_json=False, empty="Nothing used yet.")
    delivered = summary.quantities[ReportState.DELIVERED]
    OUT.print(f"{delivered} units are at Stripe, {summary.unsealed_quantity} are not sealed yet.", style="dim")


def _print_events(events: Sequence[MeterEvent], *, as_json: bool) -> None:
    rows: list[dict[str, Any]] = [asdict(event) for event in events]
    shown = ("identifier", "account_id", "meter", "value", "state", "attempts", "reason")
    print_rows(
        rows if as_json else [{name: row[name] for name in shown} for row in rows],
        as_json=as_json,
        empty="There are no such meter events.",
    )
    _say_if_cut(rows, EVENTS_SHOWN_MAX)


def _say_if_cut(rows: Sequence[object], limit: int) -> None:
    if len(rows) == limit:
        ERR.print(f"Only the first {limit} are shown.", style="dim")


@keys_app.command("list")
def keys_list(account: _Account, config: _Config = None, as_json: _Json = False) -> None:
    """An account's keys: how to recognise them, never the keys themselves."""
    with _ledger(config) as (_, store, _clock, _entropy):
        _require_account(store, account)
        names = ("id", "name", "prefix", "last_four", "created_at", "expires_at", "revoked_at")
        rows = [{name: getattr(key, name) for name in names} for key in store.keys(account)]
    print_rows(rows, as_json=as_json, empty="The account has no keys.")


@keys_app.command("create")
def keys_create(
    account: _Account,
    config: _Config = None,
    name: Annotated[str, typer.Option(help="What the key is for.")] = "",
    as_json: _Json = False,
) -> None:
    """A further key. It is shown this once."""
    with _ledger(config) as (settings, store, clock, entropy):
        _require_account(store, account)
        secret, row = create_key(
            store, clock, entropy, settings.require_peppers(), live=settings.live, account_id=account, name=name
        )
    print_key(secret.reveal(), row.id, as_json=as_json)


@keys_app.command("rotate")
def keys_rotate(
    account: _Account,
    key: Annotated[str, typer.Argument(help="A key's id, key_…")],
    config: _Config = None,
    overlap_seconds: Annotated[int, typer.Option(help="How long the old key works on.")] = OVERLAP_SECONDS,
    as_json: _Json = False,
) -> None:
    """A new key in the place of an old one, which works on for the overlap."""
    with _ledger(config) as (settings, store, clock, entropy):
        secret, row = rotate_key(
            store,
            clock,
            entropy,
            settings.require_peppers(),
            live=settings.live,
            account_id=account,
            key_id=key,
            overlap_seconds=overlap_seconds,
        )
    print_key(secret.reveal(), row.id, as_json=as_json)


@keys_app.command("revoke")
def keys_revoke(
    account: _Account,
    key: Annotated[str, typer.Argument(help="A key's id, key_…")],
    config: _Config = None,
    as_json: _Json = False,
) -> None:
    """End a key at once, in every process that serves this ledger."""
    with _ledger(config) as (_, store, clock, _entropy):
        revoke_key(store, clock, account_id=account, key_id=key)
    if as_json:
        print_json({"revoked": key})
    else:
        OUT.print(f"{key} is revoked.")


@contextmanager
def _ledger(config: Path | None) -> Iterator[tuple[Settings, SqlStore, Clock, Entropy]]:
    settings = load_settings(path=config)
    clock, entropy = system_clock(settings), SystemEntropy()
    store = open_store(settings, clock, entropy)
    store.open()
    try:
        yield settings, store, clock, entropy
    finally:
        store.close()


def _require_account(store: SqlStore, account: str) -> None:
    if store.account(account) is None:
        raise NotFound(f"There is no account {account!r}. `farebox customers` lists them.")


def _missing(settings: Settings) -> Finding | None:
    try:
        settings.require_serving()
    except ConfigError as error:
        return Finding("configuration", "fail", error.detail, "Set what is missing.")
    return None
