"""Moves subscribers of older versions of their plan to its newest prices. One refusal stops nobody else."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import structlog

from farebox.billing.change import change_plan, outdated
from farebox.domain.accounts import Account, Subscription
from farebox.domain.catalog import Catalog
from farebox.errors import FareboxError, StoreUnavailable
from farebox.ports import Clock, Provider, Store, is_away

__all__ = ["MIGRATION_PAGE_ACCOUNTS_MAX", "Move", "migrate"]

MIGRATION_PAGE_ACCOUNTS_MAX: Final = 100

_log = structlog.get_logger("farebox.migration")


@dataclass(frozen=True, slots=True)
class Move:
    """What became of an account with older prices. `refused` says why it stays as it is, and is empty when it moves.
    `subscription` is None when not even its subscriptions could be compared."""

    account_id: str
    subscription: Subscription | None
    refused: str = ""


def migrate(store: Store, provider: Provider, clock: Clock, catalog: Catalog, *, dry_run: bool) -> Iterator[Move]:
    """Plan the change of each subscription with older prices when its period ends; `dry_run` only names it.

    ProviderError when Stripe answers nobody any more, StoreUnavailable when the ledger is away: those told by then are
    done, and a second run does the rest.
    """
    after = ""
    while page := store.accounts(limit=MIGRATION_PAGE_ACCOUNTS_MAX, after=after):
        for account in page:
            yield from _moves(store, provider, clock, catalog, account, dry_run=dry_run)
        after = page[-1].id


def _seller_decides(_refusal: str) -> None:
    """The move is the seller's own: rules for buyers do not bind it."""


def _moves(
    store: Store, provider: Provider, clock: Clock, catalog: Catalog, account: Account, *, dry_run: bool
) -> Iterator[Move]:
    old: Subscription | None = None
    try:
        for old in outdated(provider, catalog, store.subscriptions(account.id)):
            if not dry_run:
                change_plan(store, provider, clock, catalog, account, old.plan, overrule=_seller_decides)
            yield Move(account.id, old)
    except StoreUnavailable:
        raise
    except FareboxError as error:
        if is_away(provider, error):
            raise
        _log.warning("migration_refused", account=account.id, reason=str(error))
        yield Move(account.id, old, str(error))
