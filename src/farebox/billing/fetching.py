"""An account's subscriptions as the provider has them now, also when it has deleted the customer."""

from dataclasses import replace

import structlog

from farebox.domain.accounts import TERMINAL_STATUSES, Account, Subscription
from farebox.errors import CustomerGone
from farebox.ports import Provider, Store

__all__ = ["fetch_subscriptions"]

_log = structlog.get_logger("farebox.inbox")


def fetch_subscriptions(store: Store, provider: Provider, account: Account) -> tuple[Subscription, ...]:
    """The subscriptions to apply; those of a deleted customer are canceled, as the provider did when it deleted it.
    ProviderError."""
    if account.customer_id is None:
        return ()
    try:
        return provider.subscriptions(account.customer_id)
    except CustomerGone:
        known = store.subscriptions(account.id)
        if all(s.status in TERMINAL_STATUSES for s in known):
            return known
    _log.error("customer_deleted", account=account.id, customer=account.customer_id)
    return tuple(s if s.status in TERMINAL_STATUSES else replace(s, status="canceled") for s in known)
