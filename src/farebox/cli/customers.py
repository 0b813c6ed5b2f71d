"""`farebox customers`: who has subscribed."""

from typing import Final

from farebox.cli.context import ConfigOption, JsonOption, ledger, say_if_cut
from farebox.domain.accounts import current_subscription
from farebox.terminal import print_rows

__all__ = ["ACCOUNTS_SHOWN_MAX", "customers"]

ACCOUNTS_SHOWN_MAX: Final = 1_000


def customers(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """The accounts, their subscriptions and keys."""
    with ledger(config) as (settings, store, clock, _entropy):
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
    say_if_cut(rows, ACCOUNTS_SHOWN_MAX)
