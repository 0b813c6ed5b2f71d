"""`farebox push` on the local Stripe: what it would do, what it does, and that the second time it does nothing."""

from dataclasses import replace
from decimal import Decimal

import pytest

from farebox.billing.catalog import Change, apply_push, plan_push, push_portal, push_webhook
from farebox.domain.catalog import Catalog, Meter, Plan, Price
from farebox.domain.keys import Secret
from farebox.errors import ConfigError
from farebox.provider.stripe import StripeProvider
from farebox.sandbox import ManualClock, Sandbox
from farebox.sandbox.state import State

URL = "https://api.example.com/billing/webhook"


class Shop:
    """A fresh local Stripe without a network, and pushes to it."""

    def __init__(self) -> None:
        self.sandbox = Sandbox(ManualClock(1_800_000_000))

        def send(method: str, url: str, headers: object, body: bytes) -> tuple[bytes, int, dict[str, str]]:
            answer = self.sandbox.request(method, url.removeprefix("http://local"), dict(headers), body)  # type: ignore[call-overload]
            return answer.body, answer.status, answer.headers

        self.provider = StripeProvider(Secret("sk_test_catalog_push"), (), api_base="http://local", transport=send)
        self.provider.account()

    @property
    def state(self) -> State:
        (state,) = self.sandbox.accounts.values()
        return state

    @property
    def writes(self) -> int:
        return sum(entry["method"] != "GET" for entry in self.state.requests)

    def push(self, catalog: Catalog) -> list[tuple[str, str, str]]:
        told: list[Change] = []
        apply_push(plan_push(catalog, self.provider), told.append)
        return [(change.kind, change.object, change.name) for change in told]


def catalog_of(amount: str = "100", *, currency: str = "usd", interval: str = "month", title: str = "Payg") -> Catalog:
    calls, tokens = Meter("calls", "API calls", "calls"), Meter("tokens", "Tokens", "tokens")
    prices = (
        Price("calls", Decimal(amount)),
        Price("tokens", Decimal("0.0125")),
    )
    return Catalog({"calls": calls, "tokens": tokens}, {"payg": Plan("payg", title, currency, interval, prices)})


@pytest.fixture
def shop() -> Shop:
    return Shop()


def test_the_first_push_creates_and_the_second_changes_nothing(shop: Shop) -> None:
    """Everything missing is created in order; the same push again finds it all and sends no write."""
    assert shop.push(catalog_of()) == [
        ("create", "meter", "calls"),
        ("create", "meter", "tokens"),
        ("create", "product", "payg calls"),
        ("create", "product", "payg tokens"),
        ("create", "price", "farebox_payg_calls"),
        ("create", "price", "farebox_payg_tokens"),
    ]
    assert [p["unit_amount_decimal"] for p in shop.state.all("price")] == [Decimal(100), Decimal("0.0125")]
    before = shop.writes
    assert {kind for kind, _, _ in shop.push(catalog_of())} == {"unchanged"}
    assert shop.writes == before


def test_planning_writes_nothing(shop: Shop) -> None:
    """A dry run only reads, also where everything is missing."""
    changes = plan_push(catalog_of(), shop.provider)
    assert [change.kind for change in changes] == ["create"] * 6
    assert shop.writes == 0


@pytest.mark.parametrize(
    "changed",
    [catalog_of("200"), catalog_of("100.5"), catalog_of(currency="eur"), catalog_of(interval="week")],
    ids=["amount", "a fraction of a cent", "currency", "interval"],
)
def test_a_changed_price_is_a_new_one(shop: Shop, changed: Catalog) -> None:
    """A changed amount, currency or interval makes a new price under the same lookup key; the product stays, and so
    does the old price, which its subscribers keep."""
    shop.push(catalog_of())
    old = shop.provider.prices(["farebox_payg_calls"])[0]
    assert ("update", "price", "farebox_payg_calls") in shop.push(changed)
    new = shop.provider.prices(["farebox_payg_calls"])[0]
    assert (new.id != old.id, new.product) == (True, old.product)
    kept = shop.state.get("price", old.id)
    assert (kept["active"], kept["lookup_key"], len(shop.state.all("product"))) == (True, None, 2)
    assert {kind for kind, _, _ in shop.push(changed)} == {"unchanged"}


def test_changed_titles_are_renamed(shop: Shop) -> None:
    """A changed title of a plan or a meter renames; no price is touched."""
    shop.push(catalog_of())
    changed = catalog_of(title="Pay as you go")
    changed.meters["calls"] = replace(changed.meters["calls"], title="Calls")
    updates = [entry for entry in shop.push(changed) if entry[0] != "unchanged"]
    assert updates == [
        ("update", "meter", "calls"),
        ("update", "product", "payg calls"),
        ("update", "product", "payg tokens"),
    ]
    assert [p["name"] for p in shop.state.all("product")] == ["Pay as you go – Calls", "Pay as you go – Tokens"]
    assert {kind for kind, _, _ in shop.push(changed)} == {"unchanged"}


def test_an_inactive_meter_is_reactivated(shop: Shop) -> None:
    """A deactivated meter of ours is taken up again, with the title it should have, and not made a second time."""
    shop.push(catalog_of())
    changed = catalog_of()
    changed.meters["calls"] = replace(changed.meters["calls"], title="Calls")
    meter = shop.state.all("billing.meter")[0]
    shop.provider._api.billing.meters.deactivate(meter["id"])
    assert shop.push(changed)[0] == ("update", "meter", "calls")
    assert (meter["status"], meter["display_name"], len(shop.state.all("billing.meter"))) == ("active", "Calls", 2)
    assert {kind for kind, _, _ in shop.push(changed)} == {"unchanged"}


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"default_aggregation": {"formula": "count"}}, "aggregates by count"),
        ({"default_aggregation": {"formula": "last"}}, "aggregates by last"),
        ({"value_settings": {"event_payload_key": "n"}}, "reads 'stripe_customer_id' and 'n'"),
        ({"customer_mapping": {"event_payload_key": "who", "type": "by_id"}}, "reads 'who' and 'value'"),
    ],
)
def test_a_meter_that_cannot_fit_is_refused(shop: Shop, params: dict[str, object], said: str) -> None:
    """Somebody else's meter of the same name that would count wrongly stops the push, before anything is written."""
    base = {"display_name": "x", "event_name": "calls", "default_aggregation": {"formula": "sum"}}
    shop.provider._api.billing.meters.create(params={**base, **params})
    before = shop.writes
    with pytest.raises(ConfigError, match=said):
        shop.push(catalog_of())
    assert shop.writes == before


def test_a_push_that_broke_off_goes_on(shop: Shop) -> None:
    """After a push that died behind the product, the next one finds the product and makes what is missing."""
    changes = plan_push(catalog_of(), shop.provider)
    apply_push(changes[:3], lambda _: None)
    assert shop.push(catalog_of())[:5] == [
        ("unchanged", "meter", "calls"),
        ("unchanged", "meter", "tokens"),
        ("unchanged", "product", "payg calls"),
        ("create", "product", "payg tokens"),
        ("create", "price", "farebox_payg_calls"),
    ]
    assert len(shop.state.all("product")) == 2


def test_a_retired_price_is_made_again(shop: Shop) -> None:
    """A price that somebody archived at Stripe is replaced, under the same product."""
    shop.push(catalog_of())
    shop.state.all("price")[0]["active"] = False
    assert ("update", "price", "farebox_payg_calls") in shop.push(catalog_of())
    assert {kind for kind, _, _ in shop.push(catalog_of())} == {"unchanged"}


def test_an_archived_product_is_sold_again(shop: Shop) -> None:
    """A product that somebody archived at Stripe is made active again: Stripe sells no price of an archived one."""
    shop.push(catalog_of())
    product = shop.state.all("product")[0]
    product["active"] = False
    (change,) = [change for change in plan_push(catalog_of(), shop.provider) if change.kind != "unchanged"]
    assert (change.kind, change.object, change.differences) == ("update", "product", (("active", "no", "yes"),))
    shop.push(catalog_of())
    assert product["active"] is True
    assert {kind for kind, _, _ in shop.push(catalog_of())} == {"unchanged"}


def test_a_price_of_another_archived_product_is_made_again(shop: Shop) -> None:
    """A price that hangs on an archived product of its own, such as a set-up fee's, is replaced."""
    fee = catalog_of()
    fee.plans["payg"] = replace(fee.plans["payg"], setup_fee=Decimal(500))
    shop.push(fee)
    product = next(p for p in shop.state.all("product") if p["name"].endswith("set-up"))
    product["active"] = False
    changed = [entry for entry in shop.push(fee) if entry[0] != "unchanged"]
    assert changed == [("update", "price", "farebox_payg:setup")]
    assert {kind for kind, _, _ in shop.push(fee)} == {"unchanged"}


def test_a_second_plan_leaves_the_first_alone(shop: Shop) -> None:
    """Another plan on the same meters gets a product and prices of its own."""
    shop.push(catalog_of())
    both = catalog_of()
    pro = Price("calls", Decimal(50))
    both.plans["pro"] = Plan("pro", "Pro", "usd", "month", (pro,))
    assert [entry for entry in shop.push(both) if entry[0] != "unchanged"] == [
        ("create", "product", "pro calls"),
        ("create", "price", "farebox_pro_calls"),
    ]


def test_the_webhook_endpoint_is_made_once(shop: Shop) -> None:
    """The endpoint is created once, its secret told once; one that lacks events is refused, not doubled."""
    change, endpoint = push_webhook(shop.provider, URL)
    assert (change.kind, endpoint.secret is not None) == ("create", True)
    change, again = push_webhook(shop.provider, URL)
    assert (change.kind, again.id, again.secret) == ("unchanged", endpoint.id, None)
    shop.state.get("webhook_endpoint", endpoint.id)["enabled_events"] = ["invoice.paid"]
    with pytest.raises(ConfigError, match=r"lacks events: .*checkout\.session\.completed"):
        push_webhook(shop.provider, URL)
    shop.state.get("webhook_endpoint", endpoint.id)["enabled_events"] = ["*"]
    assert push_webhook(shop.provider, URL)[0].kind == "unchanged"


def test_the_portal_is_made_once_and_mended(shop: Shop) -> None:
    """The portal configuration is created, then left alone, then mended when it lets buyers cancel at once (L12)."""
    assert push_portal(shop.provider, dry_run=True).kind == "create"
    assert shop.writes == 0
    assert [push_portal(shop.provider).kind for _ in range(2)] == ["create", "unchanged"]
    (configuration,) = shop.state.all("billing_portal.configuration")
    configuration["features"]["subscription_cancel"]["mode"] = "immediately"
    assert [push_portal(shop.provider).kind for _ in range(2)] == ["update", "unchanged"]
    assert configuration["features"]["subscription_cancel"]["mode"] == "at_period_end"


def test_one_product_for_a_plan_becomes_one_for_each_meter(shop: Shop) -> None:
    """A catalog whose prices share the plan's product is moved as changed prices are: new versions on products that
    name the meter, shown before it is done; subscribers keep theirs."""
    shop.push(catalog_of())
    shared = shop.provider.create_product(catalog_of().plans["payg"], "Payg")
    old = shop.provider.prices(["farebox_payg_calls"])[0]
    for price in shop.state.all("price"):
        price["product"] = shared
    for product in shop.state.all("product"):
        product["active"] = product["id"] == shared
    planned = [one for one in plan_push(catalog_of(), shop.provider) if one.kind != "unchanged"]
    assert [(one.kind, one.object, one.name) for one in planned] == [
        ("create", "product", "payg calls"),
        ("create", "product", "payg tokens"),
        ("update", "price", "farebox_payg_calls"),
        ("update", "price", "farebox_payg_tokens"),
    ]
    assert planned[2].differences == (("product", shared, "a new one"),)
    shop.push(catalog_of())
    new = shop.provider.prices(["farebox_payg_calls"])[0]
    assert (new.id != old.id, new.product.title, new.product.meter) == (True, "Payg – API calls", "calls")
    assert shop.state.get("price", old.id)["active"] is True
    assert {kind for kind, _, _ in shop.push(catalog_of())} == {"unchanged"}
