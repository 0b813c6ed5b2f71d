"""`farebox push`: what farebox.toml sells, compared with what Stripe has, and made so.

The second time changes nothing.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from farebox.domain.catalog import Catalog, Meter, Plan, Price, format_minor
from farebox.domain.inbox import HANDLED_EVENT_TYPES, METER_ERROR_TYPES
from farebox.errors import ConfigError
from farebox.ports import Endpoint, Provider, StoredMeter, StoredPrice

__all__ = ["Change", "apply_push", "plan_push", "push_error_destination", "push_portal", "push_webhook"]


@dataclass(slots=True)
class Change:
    """One thing that push does or finds done. `kind`: create, update, unchanged."""

    kind: str
    object: str
    name: str
    detail: str
    _do: Callable[[], str] | None = None


@dataclass(slots=True)
class _Made:
    """Ids as they come to be while the changes are made in order."""

    meters: dict[str, str]
    products: dict[str, str]


def plan_push(catalog: Catalog, provider: Provider) -> list[Change]:
    """What a push would do, in order.

    ConfigError when a plan cannot be sold yet, before anything is asked, or when Stripe has what cannot be made to fit.
    """
    catalog.require_sellable()
    stored = {m.event_name: m for m in sorted(provider.meters(), key=lambda m: m.active)}
    made = _Made({}, {})
    changes = [_meter_change(meter, stored.get(meter.event_name), provider, made) for meter in catalog.meters.values()]
    keys = [price.lookup_key for plan in catalog.plans.values() for price in plan.sellable_prices()]
    prices = {p.lookup_key: p for p in (provider.prices(keys) if keys else ())}
    for plan in catalog.plans.values():
        changes.append(_product_change(plan, prices, provider, made))
        for price in plan.sellable_prices():
            changes.append(_price_change(price, plan, prices.get(price.lookup_key), provider, made))
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

        return Change("create", "meter", meter.name, f"counts {meter.event_name}", create)
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

        return Change("update", "meter", meter.name, "reactivate", reactivate)
    if found.display_name != meter.title:

        def rename() -> str:
            provider.rename_meter(found.id, meter.title)
            return f"{found.id} renamed to {meter.title!r}"

        return Change("update", "meter", meter.name, f"rename to {meter.title!r}", rename)
    return Change("unchanged", "meter", meter.name, found.id)


def _product_change(plan: Plan, prices: dict[str, StoredPrice], provider: Provider, made: _Made) -> Change:
    priced = next((prices[p.lookup_key] for p in plan.sellable_prices() if p.lookup_key in prices), None)
    found = (priced.product_id, priced.product_name) if priced is not None else provider.product_of_plan(plan.name)
    if found is None:

        def create() -> str:
            made.products[plan.name] = provider.create_product(plan)
            return made.products[plan.name]

        return Change("create", "product", plan.name, plan.title, create)
    product_id, title = found
    made.products[plan.name] = product_id
    if title != plan.title:

        def rename() -> str:
            provider.rename_product(product_id, plan.title)
            return f"{product_id} renamed to {plan.title!r}"

        return Change("update", "product", plan.name, f"rename to {plan.title!r}", rename)
    return Change("unchanged", "product", plan.name, product_id)


def _price_change(price: Price, plan: Plan, found: StoredPrice | None, provider: Provider, made: _Made) -> Change:
    shown = f"{format_minor(price.unit_amount, price.currency)} per unit of {price.meter}, each {plan.interval}"
    wanted = (price.currency, plan.interval, price.unit_amount, made.meters.get(price.meter))
    if found is not None and found.active:
        stored = (found.currency, found.interval, found.unit_amount, found.meter_id)
        if stored == wanted:
            return Change("unchanged", "price", price.lookup_key, f"{found.id}, {shown}")

    def create() -> str:
        new = provider.create_price(price, plan, product_id=made.products[plan.name], meter_id=made.meters[price.meter])
        moved = f"; the lookup key moved from {found.id}, whose subscribers keep it" if found is not None else ""
        return f"{new.id}, {shown}{moved}"

    if found is None:
        return Change("create", "price", price.lookup_key, shown, create)
    before = f"{format_minor(found.unit_amount, found.currency)}, each {found.interval}"
    return Change("update", "price", price.lookup_key, f"{shown}, instead of {before}", create)
