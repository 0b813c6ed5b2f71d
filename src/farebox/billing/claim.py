"""From a finished checkout to the key, shown once.

Looking never mints; taking asks Stripe, so webhooks need not be first.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from farebox.billing.inbox import refresh_account
from farebox.billing.keys import new_key
from farebox.domain.accounts import Checkout
from farebox.domain.keys import Pepper, Secret
from farebox.errors import ClaimExpired, ClaimTaken, ClaimUnknown, ClaimUnpaid
from farebox.ports import Clock, Entropy, Provider, Store

__all__ = ["CLAIM_REPLACE_SECONDS", "Claimed", "look_at_claim", "take_claim"]

CLAIM_REPLACE_SECONDS: Final = 86_400
_SESSION_ID: Final = re.compile(r"cs_[A-Za-z0-9_]{1,120}")
_PAID: Final = ("paid", "no_payment_required")


@dataclass(frozen=True, slots=True)
class Claimed:
    """The key of a purchase. `replaced` says that an earlier one was revoked for it."""

    key: Secret
    key_id: str
    account_id: str
    plan: str
    replaced: bool


def look_at_claim(store: Store, provider: Provider, clock: Clock, session_id: str) -> Checkout:
    """The purchase, if its key can be taken now; otherwise the ClaimRefused that says why. Changes nothing."""
    checkout = store.checkout(session_id) if _SESSION_ID.fullmatch(session_id) else None
    if checkout is None:
        raise ClaimUnknown("We do not know this purchase. Open the link that Checkout sent you back with.")
    if checkout.claimed_at is not None:
        late = clock.now_at() >= checkout.claimed_at + CLAIM_REPLACE_SECONDS
        if late or checkout.key_id is None or store.key_used(checkout.account_id, checkout.key_id):
            raise _taken()
        return checkout
    session = provider.checkout(session_id)
    if session is None:
        raise ClaimUnknown("Stripe does not know this purchase.")
    if session.status == "expired":
        raise ClaimExpired("This checkout has expired, and nothing was charged. Subscribe again.")
    if session.status != "complete" or session.payment_status not in _PAID:
        how = "Finish it on Stripe's page, or wait a moment and reload this page."
        raise ClaimUnpaid(f"The payment is not completed yet. {how}", pay_at=session.url)
    return checkout


def take_claim(
    store: Store,
    provider: Provider,
    clock: Clock,
    entropy: Entropy,
    peppers: Sequence[Pepper],
    *,
    live: bool,
    session_id: str,
    replaces: str | None = None,
) -> Claimed:
    """Mint the purchase's key. Within a day it may be taken again, which replaces the key unless it has been used.

    `replaces` is the id of the key that may be revoked for it, "" for none; None: whichever it is. ClaimTaken when the
    purchase has another key.
    """
    checkout = look_at_claim(store, provider, clock, session_id)
    account = store.account(checkout.account_id)
    if account is None:
        raise ClaimUnknown("We do not know this purchase.")
    refresh_account(store, provider, clock, account)
    secret, row = new_key(clock, entropy, peppers, live=live, account_id=account.id, name="claimed")
    seconds = CLAIM_REPLACE_SECONDS
    if not store.claim(session_id, row, at=clock.now_at(), replaceable_seconds=seconds, replaces=replaces):
        raise _taken()
    return Claimed(secret, row.id, account.id, checkout.plan, replaced=checkout.claimed_at is not None)


def _taken() -> ClaimTaken:
    return ClaimTaken("This key was already shown. Create another one with it, or contact the seller.")
