"""`farebox customers`: who has subscribed, and what operators have done."""

from typing import Annotated, Final

import typer

from farebox.cli.context import ConfigOption, JsonOption, ledger, require_account, say_if_cut
from farebox.domain.accounts import current_subscription
from farebox.store.sql import SqlStore
from farebox.terminal import print_rows

__all__ = ["ACCOUNTS_SHOWN_MAX", "AUDIT_SHOWN_MAX", "customers"]

ACCOUNTS_SHOWN_MAX: Final = 1_000
AUDIT_SHOWN_MAX: Final = 1_000


def customers(
    config: ConfigOption = None,
    audit: Annotated[bool, typer.Option("--audit", help="What operators have done instead, newest first.")] = False,
    account: Annotated[str, typer.Option(help="With --audit: only what was done to this account.")] = "",
    as_json: JsonOption = False,
) -> None:
    """The accounts, their subscriptions and keys."""
    with ledger(config) as (settings, store, clock, _entropy):
        if audit:
            _print_audit(store, account, as_json=as_json)
            return
        rows = []
        for one in store.accounts(limit=ACCOUNTS_SHOWN_MAX):
            found = current_subscription(store.subscriptions(one.id), clock.now_at(), settings.past_due_grace_seconds)
            rows.append(
                {
                    "account": one.id,
                    "email": one.email,
                    "customer": one.customer_id,
                    "plan": found.plan if found is not None else None,
                    "status": found.status if found is not None else None,
                    "keys": len(store.keys(one.id)),
                    "created_at": one.created_at,
                }
            )
    print_rows(rows, as_json=as_json, empty="Nobody has subscribed yet.")
    say_if_cut(rows, ACCOUNTS_SHOWN_MAX)


def _print_audit(store: SqlStore, account: str, *, as_json: bool) -> None:
    if account:
        require_account(store, account)
    rows = [
        {
            "done_at": entry.at,
            "actor": entry.actor,
            "action": entry.action,
            "subject": entry.subject,
            "detail": dict(entry.detail)
            if as_json
            else ", ".join(f"{name}={value}" for name, value in entry.detail.items()),
        }
        for entry in store.audit(account or None, limit=AUDIT_SHOWN_MAX)
    ]
    print_rows(rows, as_json=as_json, empty="No operator has done anything yet.")
    say_if_cut(rows, AUDIT_SHOWN_MAX)
