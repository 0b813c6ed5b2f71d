"""What a plan grants or asks once per account, its trial and its set-up fee, whichever way the account takes (I17).

The ledger's billing periods are the record: an account that has had a period of a plan was granted the plan's trial, or
came without one, and paid its set-up fee, or was spared it by an operator.
"""

from dataclasses import replace

from farebox.domain.accounts import Account
from farebox.ports import Offer, Store

__all__ = ["terms_for"]


def terms_for(store: Store, account: Account, offer: Offer) -> Offer:
    """The offer as it holds for this account, whose subscriptions must have been fetched: without trial and set-up fee
    if it has had the plan before."""
    if any(period.plan == offer.plan.name for period in store.periods(account.id)):
        return replace(offer, setup_id=None, trial_days=0)
    return offer
