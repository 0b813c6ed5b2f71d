"""The farebox.toml that `farebox init` writes."""

from typing import Final

__all__ = ["STARTER_CONFIG"]

STARTER_CONFIG: Final = """\
# What this API sells. `farebox push` creates it in Stripe.

[meters.calls]
title = "API calls"

[plans.payg]
title = "Pay as you go"
currency = "usd"
interval = "month"
[[plans.payg.prices]]
meter = "calls"
unit_amount = "0.01"          # a decimal string in major units: one cent a call

# The first match wins. A path that nothing matches needs a key and costs nothing.
[[routes]]
match = "GET /health"
access = "public"
[[routes]]
match = "* /**"
meter = "calls"
quantity = 1
"""
