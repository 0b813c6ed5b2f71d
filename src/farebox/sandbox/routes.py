"""Every route of Stripe's that the local Stripe models, gathered from the modules that know them."""

from typing import Final

from farebox.sandbox import (
    balances,
    byhand,
    catalog,
    checkout,
    coupons,
    creditnotes,
    credits,
    customers,
    disputes,
    invoiceitems,
    invoices,
    meters,
    payment_methods,
    payment_pages,
    portal,
    previews,
    prices,
    schedules,
    stripecli,
    subscriptions,
    testclocks,
    thin,
    usage_v2,
    webhooks,
)
from farebox.sandbox.core import Route

__all__ = ["ROUTES"]

_MODULES: Final = (
    catalog,
    prices,
    meters,
    payment_methods,
    payment_pages,
    usage_v2,
    customers,
    checkout,
    schedules,
    subscriptions,
    previews,
    invoices,
    byhand,
    invoiceitems,
    coupons,
    balances,
    credits,
    creditnotes,
    disputes,
    portal,
    webhooks,
    thin,
    testclocks,
    stripecli,
)
ROUTES: Final[list[Route]] = [route for module in _MODULES for route in module.ROUTES]
