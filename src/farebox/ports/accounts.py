"""The part of the Store that knows accounts: keys, checkouts and claims, and the webhooks that change them."""

from collections.abc import Sequence
from typing import Protocol

from farebox.domain.access import Facts
from farebox.domain.accounts import Account, Checkout, Subscription
from farebox.domain.audit import AuditEntry
from farebox.domain.inbox import InboxEvent, InboxWork
from farebox.domain.keys import ApiKey

__all__ = ["AccountStore"]


class AccountStore(Protocol):
    """Accounts and what they own. Raises StoreUnavailable when the outcome is unknown, else StoreError."""

    # accounts and keys
    def add_account(self, account: Account) -> None: ...
    def set_customer(self, account_id: str, customer_id: str) -> None: ...
    def account(self, account_id: str) -> Account | None: ...
    def account_of_customer(self, customer_id: str) -> Account | None: ...
    def accounts(self, *, limit: int, after: str = "") -> list[Account]: ...
    def subscriptions(self, account_id: str) -> tuple[Subscription, ...]: ...
    def billing_subscriptions(self, *, after: str = "", limit: int) -> dict[str, list[Subscription]]:
        """By account the subscriptions of which invoices are made, of the first so many accounts after `after` that
        have any."""
        ...

    def add_key(self, key: ApiKey, *, audit: AuditEntry | None = None) -> None:
        """`audit`, here and below, is who did it, kept in the same transaction."""
        ...

    def keys(self, account_id: str) -> list[ApiKey]: ...
    def end_key(
        self,
        account_id: str,
        key_id: str,
        *,
        at: int,
        expires_at: int | None = None,
        audit: AuditEntry | None = None,
    ) -> bool:
        """Revoke now, or let expire at a time (never later than it already does). False when the account has no such
        live key. A revocation is sticky. The change is in the feed.
        """
        ...

    def rotate_key(self, old_key_id: str, new: ApiKey, *, expires_at: int, audit: AuditEntry | None = None) -> bool:
        """Add `new` and let the old key of the same account expire, in one transaction.

        False when there is none live.
        """
        ...

    def find_facts(self, digests: Sequence[str]) -> Facts | None:
        """The facts of the key with any of these digests, read at one instant."""
        ...

    def peppers_in_use(self, now: int) -> dict[str, int]:
        """Live keys by pepper id (L19)."""
        ...

    # checkouts and claims
    def add_checkout(self, checkout: Checkout) -> None: ...
    def checkout(self, session_id: str) -> Checkout | None: ...
    def open_checkouts(self, account_id: str) -> list[Checkout]: ...
    def set_checkout_status(self, session_id: str, status: str) -> None: ...
    def claim(self, session_id: str, key: ApiKey, *, at: int, replaceable_seconds: int) -> bool:
        """Take the purchase and add its key in one transaction. A claimed one is replaced (its old key revoked) within
        `replaceable_seconds` of the first claim as long as that key is live and has no usage; else False."""
        ...

    # webhooks
    def add_event(self, event: InboxEvent, *, at: int) -> bool:
        """Store an event once; False when it was there."""
        ...

    def take_inbox(self, holder: str, *, now: int, lease_seconds: int) -> InboxWork | None:
        """Lease the customer whose events are due and oldest, with all its unprocessed events and a new fence."""
        ...

    def finish_inbox(
        self,
        work: InboxWork,
        *,
        at: int,
        account_id: str | None = None,
        subscriptions: tuple[Subscription, ...] | None = None,
    ) -> bool:
        """Apply the fetched subscriptions (None: leave them), mark exactly the work's events done and drop the lease,
        in one transaction, if the work's fence still holds; False otherwise. What a fetch begun later brought is
        newer and stays. Writes the feed when anything changed.
        """
        ...

    def postpone_inbox(self, work: InboxWork, *, until: int, reason: str) -> None: ...
    def take_fence(self, account_id: str) -> int:
        """A fence for fetching the account's subscriptions outside the inbox: they count fetches as they begin."""
        ...

    def put_subscriptions(
        self, account_id: str, subscriptions: tuple[Subscription, ...], *, fence: int, at: int
    ) -> bool:
        """Apply what was fetched under `fence`; False when what a later fetch brought has been applied already.

        Writes the feed when anything changed.
        """
        ...

    def inbox_waiting(self) -> int: ...
