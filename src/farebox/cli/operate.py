"""`farebox migrate` and `doctor`: bringing the ledger up to date, and finding out why something does not run."""

from dataclasses import asdict

import typer

from farebox.app import open_provider, open_spools
from farebox.billing.doctor import Finding, diagnose
from farebox.cli.context import ConfigOption, JsonOption, audited, ledger
from farebox.config import Settings, load_settings
from farebox.errors import ConfigError, FareboxError
from farebox.terminal import OUT, print_findings, print_json

__all__ = ["doctor", "migrate"]


def migrate(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Create the ledger's schema or bring it up to date."""
    with ledger(config, migrate=True) as (_, store, clock, entropy):
        store.add_audit(audited(clock, entropy, "migrate", "ledger"))
        found = store.ledger()
    if as_json:
        print_json(asdict(found))
    else:
        OUT.print(f"The ledger {found.id} is up to date.")


def doctor(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Check configuration, ledger and Stripe, and say what to do about each fault."""
    findings: list[Finding] = []
    settings = load_settings(path=config)
    missing = _missing(settings)
    findings.append(
        missing or Finding("configuration", "ok", f"{settings.path}, plans: {', '.join(settings.catalog.plans)}")
    )
    provider = open_provider(settings) if settings.stripe_secret_key is not None else None
    try:
        with ledger(config) as (_, store, clock, _entropy):
            spools = open_spools(settings, store)
            findings += diagnose(
                store,
                provider,
                clock,
                settings.catalog,
                settings.peppers,
                webhook_url=settings.webhook_url,
                webhook_secrets=len(settings.stripe_webhook_secrets),
                live=settings.live,
                spool=spools.waiting(store.ledger().id) if spools is not None else None,
                other_spools=spools.of_others(store.ledger().id) if spools is not None else None,
            )
    except FareboxError as error:
        findings.append(Finding("database", "fail", error.detail, "Change it as said, and run this again."))
    if as_json:
        print_json({"findings": [asdict(finding) for finding in findings]})
    else:
        print_findings(findings)
    if any(finding.status == "fail" for finding in findings):
        raise typer.Exit(1)


def _missing(settings: Settings) -> Finding | None:
    try:
        settings.require_serving()
    except ConfigError as error:
        return Finding("configuration", "fail", error.detail, "Set what is missing, or change what is said.")
    return None
