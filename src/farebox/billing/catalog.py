"""`farebox push`: what farebox.toml sells, compared with what Stripe has, and made so.

The second time changes nothing.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from farebox.domain.catalog import Catalog, Fee, Meter, Plan, Sold, format_minor
from farebox.domain.inbox import HANDLED_EVENT_TYPES, METER_ERROR_TYPES
from farebox.domain.words import line_title, price_in_words
from farebox.errors import ConfigError
from farebox.ports import Endpoint, Provider, StoredMeter, StoredPrice, StoredProduct

__all__ = ["Change", "apply_push", "plan_push", "push_error_destination", "push_portal", "push_webhook"]


@dataclass(slots=True)
class Change:
    """One thing that push does or finds done. `kind`: create, update, unchanged.

    `differences`: of an update, what changes: its name, what it is, what it becomes.
    """

    kind: str
    object: str
    name: str
    detail: str
    differences: tuple[tuple[str, str, str], ...] = ()
    _do: Callable[[], str] | None = None


@dataclass(slots=True)
class _Made:
    """Ids as they come to be while the changes are made in order."""

    meters: dict[str, str]
    products: dict[tuple[str, str], str]  # by plan and meter, "" for the plan's own


def plan_push(catalog: Catalog, provider: Provider) -> list[Change]:
    """What a push would do, in order. ConfigError when Stripe has what cannot be made to fit."""
    stored = {m.event_name: m for m in sorted(provider.meters(), key=lambda m: m.active)}
    made = _Made({}, {})
    changes = [_meter_change(meter, stored.get(meter.event_name), provider, made) for meter in catalog.meters.values()]
    offers = [offer for plan in catalog.plans.values() for offer in plan.offers]
    keys = [offer.lookup_key(sold) for offer in offers for sold in offer.sold()]
    prices = {p.lookup_key: p for p in (provider.prices(keys) if keys else ())}
    products = provider.products()
    for plan in catalog.plans.values():
        if any(_shows_plan(sold) for offer in plan.offers for sold in offer.sold()):
            changes.append(_product_change(plan, "", plan.title, prices, products, provider, made))
        for meter in dict.fromkeys(price.meter for offer in plan.offers for price in offer.prices):
            title = line_title(plan, catalog.meters[meter])
            changes.append(_product_change(plan, meter, title, prices, products, provider, made))
        for offer in plan.offers:
            for sold in offer.sold():
                changes.append(_price_change(sold, offer, prices.get(offer.lookup_key(sold)), provider, made))
    return changes


def apply_push(changes: Iterable[Change], tell: Callable[[Change], None]) -> None:
    """Make the changes, telling each when it is done."""
    for change in changes:
        if change._do is not None:
            change.detail = change._do()
        tell(change)


def push_portal(provider: Provider, *, dry_run: bool = False) -> Change:
    """See to it that the billing portal cancels at the period's end only and switches no prices (L12)."""
    found = provider.portal()
    good = found is not None and found.cancel_mode == "at_period_end" and not found.price_switch
    kind = "unchanged" if good else ("update" if found is not None else "create")
    detail = "cancels at the period's end, switches no prices"
    if not dry_run and not good:
        detail = f"{provider.ensure_portal().id}: {detail}"
    return Change(kind, "portal", "billing portal", detail)


def push_webhook(provider: Provider, url: str) -> tuple[Change, Endpoint]:
    """See to it that there is an endpoint with this URL. Its secret is known only when it was created just now."""
    for endpoint in provider.endpoints():
        if endpoint.url == url and endpoint.active:
            missing = sorted(set(HANDLED_EVENT_TYPES) - set(endpoint.enabled_events))
            if missing and "*" not in endpoint.enabled_events:
                raise ConfigError(
                    f"The webhook endpoint {endpoint.id} lacks events: {', '.join(missing)}. "
                    "Delete it in Stripe's dashboard and push again, or add them there."
                )
            return Change("unchanged", "webhook endpoint", url, endpoint.id), endpoint
    endpoint = provider.create_endpoint(url)
    return Change("create", "webhook endpoint", url, endpoint.id), endpoint


def push_error_destination(provider: Provider, url: str) -> tuple[Change, Endpoint]:
    """See to it that Stripe tells this URL of usage that it refuses late. Its secret is another one."""
    kind = "event destination"
    for found in provider.error_destinations():
        if found.url == url and found.active and set(METER_ERROR_TYPES) <= set(found.enabled_events):
            return Change("unchanged", kind, url, found.id), found
    made = provider.create_error_destination(url)
    return Change("create", kind, url, made.id), made


def _meter_change(meter: Meter, found: StoredMeter | None, provider: Provider, made: _Made) -> Change:
    if found is None:

        def create() -> str:
            new = provider.create_meter(meter)
            made.meters[meter.name] = new.id
            return f"{new.id} counts {meter.event_name}"

        return Change("create", "meter", meter.name, f"counts {meter.event_name}", (), create)
    if found.formula != "sum":
        raise ConfigError(
            f"Stripe's meter {found.id} for {meter.event_name!r} aggregates by {found.formula}, and Farebox needs sum. "
            f"Set another meters.{meter.name}.event_name."
        )
    if (found.customer_key, found.value_key) != ("stripe_customer_id", "value"):
        raise ConfigError(
            f"Stripe's meter {found.id} for {meter.event_name!r} reads {found.customer_key!r} and {found.value_key!r}, "
            f"and Farebox sends 'stripe_customer_id' and 'value'. Set another meters.{meter.name}.event_name."
        )
    made.meters[meter.name] = found.id
    if not found.active:

        def reactivate() -> str:
            provider.reactivate_meter(found.id)
            if found.display_name != meter.title:
                provider.rename_meter(found.id, meter.title)
            return f"{found.id} reactivated"

        return Change("update", "meter", meter.name, "reactivate", (("status", "inactive", "active"),), reactivate)
    if found.display_name != meter.title:

        def rename() -> str:
            provider.rename_meter(found.id, meter.title)
            return f"{found.id} renamed to {meter.title!r}"

        title = ("title", found.display_name, meter.title)
        return Change("update", "meter", meter.name, f"rename to {meter.title!r}", (title,), rename)
    return Change("unchanged", "meter", meter.name, found.id)


def _shows_plan(sold: Sold) -> bool:
    """Whether the price is of the plan's own product. The set-up fee has another, and each meter its own."""
    return isinstance(sold, Fee) and sold.kind == "base"


def _meter_of(sold: Sold) -> str:
    return "" if isinstance(sold, Fee) else sold.meter


def _product_change(
    plan: Plan,
    meter: str,
    title: str,
    prices: dict[str, StoredPrice],
    products: dict[tuple[str, str], StoredProduct],
    provider: Provider,
    made: _Made,
) -> Change:
    """The product that an invoice and Checkout name: "Pro" for the base fee, "Pro – Tokens" for a meter."""
    name = f"{plan.name} {meter}".strip()
    offered = [(offer, sold) for offer in plan.offers for sold in offer.sold() if _meter_of(sold) == meter]
    keys = [offer.lookup_key(sold) for offer, sold in offered if meter or _shows_plan(sold)]
    priced = next((prices[key].product for key in keys if key in prices and prices[key].product.meter == meter), None)
    stored = priced if priced is not None else products.get((plan.name, meter))
    if stored is None:

        def create() -> str:
            made.products[plan.name, meter] = provider.create_product(plan, title, meter=meter)
            return made.products[plan.name, meter]

        return Change("create", "product", name, title, (), create)
    made.products[plan.name, meter] = product_id = stored.id
    differences = _product_differences(plan, title, stored)
    if not differences:
        return Change("unchanged", "product", name, product_id)

    def update() -> str:
        stale = sorted(set(stored.metadata) - set(plan.metadata))
        provider.update_product(product_id, plan, title, meter=meter, stale=stale)
        return f"{product_id} is now {title!r}"

    return Change("update", "product", name, product_id, differences, update)


def _product_differences(plan: Plan, title: str, stored: StoredProduct) -> tuple[tuple[str, str, str], ...]:
    differences = [("title", stored.title, title)] if stored.title != title else []
    names = sorted(set(stored.metadata) | set(plan.metadata))
    changed = [name for name in names if stored.metadata.get(name) != plan.metadata.get(name)]
    differences += [(f"metadata.{n}", stored.metadata.get(n, ""), plan.metadata.get(n, "")) for n in changed]
    if not stored.active:
        differences.append(("active", "no", "yes"))
    return tuple(differences)


def _price_change(sold: Sold, plan: Plan, found: StoredPrice | None, provider: Provider, made: _Made) -> Change:
    key, shown = plan.lookup_key(sold), _shown(sold, plan)
    differences = _price_differences(sold, plan, found, made) if found is not None else ()
    if found is not None and found.active and not differences:
        return Change("unchanged", "price", key, f"{found.id}, {shown}")

    def create() -> str:
        meter_id = None if isinstance(sold, Fee) else made.meters[sold.meter]
        product_id = made.products.get((plan.name, _meter_of(sold)), "")  # the set-up fee makes its own
        new = provider.create_price(sold, plan, product_id=product_id, meter_id=meter_id)
        moved = f"; subscribers of {found.id} keep it" if found is not None else ""
        return f"{new.id}, {shown}{moved}"

    if found is None:
        return Change("create", "price", key, shown, (), create)
    return Change("update", "price", key, f"a new version: {shown}; subscribers keep theirs", differences, create)


def _shown(sold: Sold, plan: Plan) -> str:
    text = price_in_words(sold, plan.currency)
    if isinstance(sold, Fee):
        return f"{text}, once" if sold.kind == "setup" else f"{text} / {plan.interval}"
    return f"{sold.meter}: {text} / {plan.interval}"


def _price_differences(sold: Sold, plan: Plan, found: StoredPrice, made: _Made) -> tuple[tuple[str, str, str], ...]:
    """What of a price is not as the file has it. What cannot be read as one of ours differs as a whole."""
    once = isinstance(sold, Fee) and sold.kind == "setup"
    pairs = [("currency", found.currency, plan.currency)]
    pairs.append(("interval", found.interval or "once", "once" if once else plan.interval))
    if found.sold is None:
        pairs.append(("price", "bills in another way", price_in_words(sold, plan.currency)))
    elif found.sold != sold:
        before = price_in_words(found.sold, found.currency)
        pairs.append(("price", before, price_in_words(sold, plan.currency)))
    product_id = made.products.get((plan.name, _meter_of(sold)), "")
    if once and not found.product.active:
        pairs.append(("product", "archived", "a new one"))
    if not once and found.product.id != product_id:
        pairs.append(("product", found.product.id, product_id or "a new one"))
    if not isinstance(sold, Fee):
        least = [format_minor(m, plan.currency) if m else "none" for m in (found.minimum, plan.minimum)]
        pairs.append(("minimum", least[0], least[1]))
        pairs.append(("meter", found.meter_id or "none", made.meters.get(sold.meter, "a new one")))
    if plan.tax and not found.taxed:
        pairs.append(("tax_behavior", "unspecified", "exclusive"))
    if not found.active:
        pairs.append(("active", "no", "yes"))
    return tuple((name, before, after) for name, before, after in pairs if before != after)
