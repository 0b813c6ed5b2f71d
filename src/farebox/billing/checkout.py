"""From a plan to a Checkout page. Prices come from the catalog only, and an e-mail never selects an account."""

import hashlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Final

import structlog

from farebox.billing.inbox import refresh_account
from farebox.billing.terms import terms_for
from farebox.domain.accounts import TERMINAL_STATUSES, Account, Checkout
from farebox.domain.catalog import Catalog, Fee, FeeKind, Plan, Sold
from farebox.errors import (
    AlreadySubscribed,
    CheckoutUnderWay,
    InputInvalid,
    PlanUnknown,
    ProviderRejected,
    StoreError,
)
from farebox.ports import CheckoutSession, Clock, Entropy, Offer, Provider, Store

__all__ = [
    "CHECKOUT_POLL_MILLISECONDS",
    "CHECKOUT_TURN_SECONDS",
    "CHECKOUT_WAIT_MILLISECONDS_MAX",
    "EMAIL_CHARACTERS_MAX",
    "REFERENCE_CHARACTERS_MAX",
    "begin_checkout",
    "chosen_offer",
    "offer_of",
]

EMAIL_CHARACTERS_MAX: Final = 320
REFERENCE_CHARACTERS_MAX: Final = 200
CHECKOUT_TURN_SECONDS: Final = 60  # what a process that died in the middle keeps the account's next purchase waiting
CHECKOUT_WAIT_MILLISECONDS_MAX: Final = 10_000
CHECKOUT_POLL_MILLISECONDS: Final = 100

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

    PlanUnknown names the plans; AlreadySubscribed; CheckoutUnderWay; InputInvalid, of a currency too; ProviderError.
    """
    plan = chosen_offer(catalog, plan_name, currency)
    _check_texts(email, reference)
    offer = offer_of(provider, plan)  # first, so that a plan that cannot be bought leaves nothing behind
    urls = claim_url + "?session_id={CHECKOUT_SESSION_ID}", plans_url
    if account is None:
        account = Account("acct_" + entropy.token(), clock.now_at(), email, reference)
        store.add_account(account)
        return _create(store, provider, clock, account, offer, urls, lease=None)
    with _turn(store, clock, entropy, account) as lease:
        _refuse_second_subscription(store, provider, clock, account)
        offer = terms_for(store, account, offer)
        return _create(store, provider, clock, account, offer, urls, lease=lease)


_Lease = tuple[str, str]


@contextmanager
def _turn(store: Store, clock: Clock, entropy: Entropy, account: Account) -> Iterator[_Lease]:
    """Let the account's purchases pass one after another, whichever process serves them: two at once would each see
    that the other has not happened yet.

    The lease only spares work. What proves it is `add_checkout`, which keeps no session of a lease that was lost.
    """
    name = "checkout/" + hashlib.sha256(account.id.encode()).hexdigest()[:40]
    lease, never = (name, entropy.token()), threading.Event()
    for _ in range(CHECKOUT_WAIT_MILLISECONDS_MAX // CHECKOUT_POLL_MILLISECONDS):
        if store.take_lease(*lease, now=clock.now_at(), seconds=CHECKOUT_TURN_SECONDS) is not None:
            break
        never.wait(CHECKOUT_POLL_MILLISECONDS / 1000)
    else:
        raise _under_way()
    try:
        yield lease
    finally:
        with suppress(StoreError):  # then it ends by itself
            store.release_lease(*lease)


def _create(
    store: Store,
    provider: Provider,
    clock: Clock,
    account: Account,
    offer: Offer,
    urls: tuple[str, str],
    *,
    lease: _Lease | None,
) -> CheckoutSession:
    if account.customer_id is None:  # of two processes that make a customer, one names it
        customer_id = store.set_customer(account.id, provider.create_customer(account))
        account = replace(account, customer_id=customer_id)
    success_url, cancel_url = urls
    session = provider.create_checkout(account, offer, success_url=success_url, cancel_url=cancel_url)
    if not store.add_checkout(Checkout(session.id, account.id, offer.plan.name, clock.now_at()), lease=lease):
        provider.expire_checkout(session.id)  # nobody has seen its address
        raise _under_way()
    return session


def _under_way() -> CheckoutUnderWay:
    return CheckoutUnderWay("Another purchase for this account has just begun. Finish it, or try again in a minute.")


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


def _refuse_second_subscription(store: Store, provider: Provider, clock: Clock, account: Account) -> None:
    """Two subscriptions of one customer to one meter would bill each call twice.

    First the open sessions are closed, then Stripe is asked for subscriptions, since webhooks may be late: a session
    that is paid in between is seen either way.
    """
    has_paid = False
    for checkout in store.open_checkouts(account.id):
        provider.expire_checkout(checkout.session_id)
        session = provider.checkout(checkout.session_id)
        status = session.status if session is not None else "expired"
        store.set_checkout_status(checkout.session_id, status)
        has_paid = has_paid or status == "complete"
    known = refresh_account(store, provider, clock, account)
    if has_paid:
        raise AlreadySubscribed("This account has just been subscribed. Claim its key.")
    if any(s.status not in TERMINAL_STATUSES for s in known):
        raise AlreadySubscribed("This account already has a subscription. Change its card or cancel it in the portal.")


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
