"""What is sold, in words, as pages and commands show it."""

from farebox.domain.catalog import Fee, Meter, PackagePrice, Plan, Sold, Tier, TieredPrice, format_minor

__all__ = ["line_title", "price_in_words"]


def line_title(plan: Plan, meter: Meter) -> str:
    """What a line of usage is called in Checkout and on the invoice: Pro – Tokens."""
    return f"{plan.title} – {meter.title}"


def price_in_words(price: Sold, currency: str) -> str:
    """A price for a table or a page: 0.02 USD per 1000 units, a begun 1000 counts whole. A fee is its amount."""
    if isinstance(price, Fee):
        return format_minor(price.amount, currency)
    if isinstance(price, TieredPrice):
        return "; ".join(_tiers_in_words(price, currency))
    amount = format_minor(price.unit_amount, currency)
    if isinstance(price, PackagePrice):
        return f"{amount} per {price.size} units, a begun {price.size} counts {'whole' if price.rounds_up else 'not'}"
    return f"{amount} per unit"


def _tiers_in_words(price: TieredPrice, currency: str) -> list[str]:
    words = []
    below = 0
    for tier in price.tiers:
        if price.graduated:
            units = f"units {below + 1} to {tier.up_to}" if tier.up_to is not None else f"units from {below + 1}"
        else:
            units = f"all units, up to {tier.up_to}" if tier.up_to is not None else f"all units, above {below}"
        words.append(f"{units}: {_tier_in_words(tier, currency)}")
        below = tier.up_to or 0
    return words


def _tier_in_words(tier: Tier, currency: str) -> str:
    unit = f"{format_minor(tier.unit_amount, currency)} each" if tier.unit_amount else ""
    flat = f"{format_minor(tier.flat_amount, currency)} flat" if tier.flat_amount is not None else ""
    return " and ".join(part for part in (unit, flat) if part) or "free"
