"""Which paths are Stripe's. What is Stripe's and not modelled is answered 501, so that it never seems not to exist."""

import re
from typing import Final

__all__ = ["compiled", "is_stripes"]

# The first segments of all paths under /v1 that the SDK of this API version asks.
_SEGMENTS: Final = (
    "account|account_links|account_sessions|accounts|apple_pay|application_fees|apps|balance|balance_settings|"
    "balance_transactions|billing|billing_portal|charges|checkout|climate|confirmation_tokens|country_specs|"
    "coupons|credit_notes|customer_sessions|customers|disputes|entitlements|ephemeral_keys|events|exchange_rates|"
    "file_links|files|financial_connections|forwarding|identity|invoice_payments|invoice_rendering_templates|"
    "invoiceitems|invoices|issuing|mandates|payment_attempt_records|payment_intents|payment_links|"
    "payment_method_configurations|payment_method_domains|payment_methods|payment_records|payouts|plans|prices|"
    "product_catalog|products|promotion_codes|quotes|radar|refunds|reporting|reviews|setup_attempts|"
    "setup_intents|shipping_rates|sigma|sources|subscription_items|subscription_schedules|subscriptions|tax|"
    "tax_codes|tax_ids|tax_rates|terminal|test_helpers|three_d_secure|tokens|topups|transfers|treasury|"
    "webhook_endpoints"
)
_STRIPES: Final = re.compile(rf"(?:GET|POST|DELETE) (?:/v1/(?:{_SEGMENTS})(?:/.*)?|/v2/.*)")


def is_stripes(method: str, path: str) -> bool:
    """Whether Stripe has this path, or one that begins like it."""
    return _STRIPES.fullmatch(f"{method} {path}") is not None


def compiled(template: str) -> re.Pattern[str]:
    """The paths of a template such as /v1/prices/{id}. Stripe's …/search is no id."""
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>(?!search(?:/|$))[^/]+)", template))
