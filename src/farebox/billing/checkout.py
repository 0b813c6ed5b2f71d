"""From a plan to a Checkout page. Prices come from the catalog only, and an e-mail never selects an account."""

import threading
import zlib
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Final

import structlog

from farebox.billing.inbox import refresh_account
from farebox.domain.accounts import TERMINAL_STATUSES, Account, Checkout
from farebox.domain.catalog import Catalog, Fee, FeeKind, Plan, Sold
from farebox.errors import AlreadySubscribed, InputInvalid, PlanUnknown, ProviderRejected
from farebox.ports import CheckoutSession, Clock, Entropy, Offer, Provider, Store

__all__ = [
    "EMAIL_CHARACTERS_MAX",
    "REFERENCE_CHARACTERS_MAX",
    "begin_checkout",
    "chosen_offer",
    "offer_of",
]

EMAIL_CHARACTERS_MAX: Final = 320
REFERENCE_CHARACTERS_MAX: Final = 200

# Two purchases of one account at the same time would each see that the other has not happened yet.
_ONE_AT_A_TIME: Final = tuple(threading.Lock() for _ in range(64))

_log = structlog.get_logger("farebox.checkout")


def begin_checkout(
    store: Store,
    provider: Provider,
    clock: Clock,
    entropy: Entropy,
    catalog: Catalog,
    *,
    plan_name: str,
    currency: str = "",
    email: str = "",
    reference: str = "",
    account: Account | None = None,
    claim_url: str,
    plans_url: str,
) -> CheckoutSession:
    """Begin a purchase of a plan for a new account, or for the account of a valid key.

    PlanUnknown names the plans; AlreadySubscribed; InputInvalid, of a currency too; ProviderError.
    """
    with (
        _ONE_AT_A_TIME[zlib.crc32(account.id.encode()) % len(_ONE_AT_A_TIME)] if account is not None else nullcontext()
    ):
        plan = chosen_offer(catalog, plan_name, currency)
        return _begin(store, provider, clock, entropy, plan, email, reference, account, claim_url, plans_url)


def _begin(
    store: Store,
    provider: Provider,
    clock: Clock,
    entropy: Entropy,
    plan: Plan,
    email: str,
    reference: str,
    account: Account | None,
    claim_url: str,
    plans_url: str,
) -> CheckoutSession:
    _check_texts(email, reference)
    offer = offer_of(provider, plan)  # first, so that a plan that cannot be bought leaves nothing behind
    if account is None:
        account = Account("acct_" + entropy.token(), clock.now_at(), email, reference)
        store.add_account(account)
    else:
        known = _refuse_second_subscription(store, provider, clock, account)
        if known:  # set up before, and tried
            offer = replace(offer, setup_id=None, trial_days=0)
    if account.customer_id is None:
        customer_id = provider.create_customer(account)
        store.set_customer(account.id, customer_id)
        account = Account(account.id, account.created_at, account.email, account.reference, customer_id)
    session = provider.create_checkout(
        account,
        offer,
        success_url=claim_url + "?session_id={CHECKOUT_SESSION_ID}",
        cancel_url=plans_url,
    )
    store.add_checkout(Checkout(session.id, account.id, plan.name, clock.now_at()))
    return session


def _chosen_plan(catalog: Catalog, name: str) -> Plan:
    """The plan of the catalog, or PlanUnknown that names those there are."""
    plan = catalog.plans.get(name)
    if plan is None:
        raise PlanUnknown(
            f"There is no plan {name[:40]!r}. The plans are: {', '.join(sorted(catalog.plans)) or 'none'}."
        )
    return plan


def chosen_offer(catalog: Catalog, name: str, currency: str) -> Plan:
    """The plan in a currency; without one in its main currency. PlanUnknown, or InputInvalid that names those."""
    plan = _chosen_plan(catalog, name)
    offer = plan.offer_in(currency.lower()) if currency else plan
    if offer is None:
        sold = ", ".join(one.currency for one in plan.offers)
        raise InputInvalid(f"Plan {name} is not sold in {currency[:10]!r}. Its currencies are: {sold}.")
    return offer


def _refuse_second_subscription(store: Store, provider: Provider, clock: Clock, account: Account) -> bool:
    """Two subscriptions of one customer to one meter would bill each call twice. Whether there was one before.

    Webhooks may be late: Stripe is asked.
    """
    known = refresh_account(store, provider, clock, account)
    if any(s.status not in TERMINAL_STATUSES for s in known):
        raise AlreadySubscribed("This account already has a subscription. Change its card or cancel it in the portal.")
    for checkout in store.open_checkouts(account.id):
        provider.expire_checkout(checkout.session_id)
        session = provider.checkout(checkout.session_id)
        status = session.status if session is not None else "expired"
        store.set_checkout_status(checkout.session_id, status)
        if status == "complete":
            raise AlreadySubscribed("This account has just been subscribed. Claim its key.")
    return any(s.status != "incomplete_expired" for s in known)


def offer_of(provider: Provider, plan: Plan) -> Offer:
    """What a new buyer gets, with the newest prices. ProviderRejected when Stripe lacks one."""
    ids = _price_ids(provider, plan, plan.sold())
    setup = [ids[plan.lookup_key(sold)] for sold in plan.sold() if _is_setup(sold)]
    recurring = tuple((ids[plan.lookup_key(sold)], not isinstance(sold, Fee)) for sold in plan.recurring())
    return Offer(plan, recurring, setup[0] if setup else None, plan.trial_days)


def _is_setup(sold: Sold) -> bool:
    return isinstance(sold, Fee) and sold.kind is FeeKind.SETUP


def _price_ids(provider: Provider, plan: Plan, sold: Sequence[Sold]) -> dict[str, str]:
    """The ids of the newest prices by lookup key. ProviderRejected when Stripe lacks one."""
    keys = [plan.lookup_key(one) for one in sold]
    stored = {price.lookup_key: price for price in provider.prices(keys)}
    missing = [key for key in keys if key not in stored or not stored[key].active]
    if missing:
        _log.error("price_missing_at_stripe", lookup_keys=missing, advice="run `farebox push`")
        raise ProviderRejected(
            "This plan cannot be bought yet: the seller has not published its price.",
            internal=f"Stripe has no active price {', '.join(missing)}. Run `farebox push`.",
        )
    return {key: stored[key].id for key in keys}


def _check_texts(email: str, reference: str) -> None:
    if len(email) > EMAIL_CHARACTERS_MAX or len(reference) > REFERENCE_CHARACTERS_MAX:
        raise InputInvalid(
            f"email has at most {EMAIL_CHARACTERS_MAX} characters, reference at most {REFERENCE_CHARACTERS_MAX}."
        )
    if email and (email.count("@") != 1 or email.startswith("@") or email.endswith("@") or " " in email):
        raise InputInvalid("email is not an e-mail address. Leave it out, or write it as name@example.com.")
    if not (email + reference).isprintable():
        raise InputInvalid("email and reference must be plain text without control characters.")
