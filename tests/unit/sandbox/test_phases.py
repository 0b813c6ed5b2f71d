"""What a schedule's phases say of a subscription: settings, discounts and trials, and when the next one begins."""

from typing import Any

from tests.unit.sandbox.test_licensed import MONTH, lines, seats
from tests.unit.sandbox.test_schedules import SCHEDULES, planned
from tests.unit.sandbox.town import DAY, HOUR, START_AT, Seller

TRIAL: Any = {"trial_period_days": 7}


def trialing(seller: Seller, *prices: str, **params: Any) -> Any:
    """A subscription on trial for a week, bought at Checkout."""
    session = seller.checkout(*prices, subscription_data=TRIAL, **params)
    seller.pay(session["id"])
    return seller.subscription(seller.get(f"/v1/checkout/sessions/{session['id']}")["subscription"])


def prices_of(subscription: Any) -> list[str]:
    return [item["price"]["id"] for item in subscription["items"]["data"]]


def scheduled(seller: Seller, subscription: Any, first: dict[str, Any], *later: dict[str, Any]) -> Any:
    """The subscription under a schedule whose running phase keeps its items and dates, with these settings."""
    made = seller.post(SCHEDULES, from_subscription=subscription["id"])
    running = made["phases"][0]
    kept = {
        "items": [{"price": id} for id in prices_of(subscription)],
        "start_date": running["start_date"],
        "end_date": running["end_date"],
    }
    return seller.post(f"{SCHEDULES}/{made['id']}", phases=[{**kept, **first}, *later])


def test_the_next_phase_begins_when_the_trial_ends(seller: Seller) -> None:
    """A change planned during a trial happens at its end: the new items are billed from there on."""
    subscription = trialing(seller, seller.price_id)
    other = seller.price(seller.meter_id, "300")
    planned(seller, subscription, {"price": other})
    seller.move(7 * DAY)
    after = seller.subscription(subscription["id"])
    assert (after["status"], prices_of(after)) == ("active", [other])
    seller.use(subscription["customer"], "2")
    seller.move(31 * DAY + 2 * HOUR)
    assert [invoice["total"] for invoice in seller.invoices(subscription)] == [0, 600]
    assert seller.subscription(subscription["id"])["schedule"] is None


def test_a_fee_that_was_planned_in_a_trial_is_the_first_to_be_billed(seller: Seller) -> None:
    """At the trial's end the next phase's licensed items are billed, and those of the trial are not."""
    fee = seats(seller)
    subscription = trialing(seller, fee, line_items=[{"price": fee, "quantity": 1}])
    product = seller.post("/v1/products", name="Large")["id"]
    monthly = {"recurring": {"interval": "month"}, "currency": "usd"}
    large = seller.post("/v1/prices", product=product, unit_amount=2_500, **monthly)["id"]
    planned(seller, subscription, {"price": large})
    seller.move(7 * DAY + HOUR)
    first = seller.invoices(subscription)[-1]
    assert [amount for _, amount in lines(first)] == [2_500]
    assert (first["status"], first["amount_paid"]) == ("paid", 2_500)


def test_a_subscription_hands_all_of_itself_to_its_schedule(seller: Seller) -> None:
    """The first phase has the subscription's payment method, discounts, thresholds, tax and trial."""
    half = seller.post("/v1/coupons", percent_off=50, duration="forever")["id"]
    subscription = trialing(seller, seller.price_id, discounts=[{"coupon": half}])
    seller.post(f"/v1/subscriptions/{subscription['id']}", billing_thresholds={"amount_gte": 5_000})
    made = seller.post(SCHEDULES, from_subscription=subscription["id"])
    (phase,) = made["phases"]
    assert phase["trial_end"] == phase["end_date"] == START_AT + 7 * DAY
    assert phase["default_payment_method"] == subscription["default_payment_method"]
    expected = [{"coupon": None, "discount": subscription["discounts"][0], "promotion_code": None}]
    assert phase["discounts"] == expected
    assert phase["billing_thresholds"] == {"amount_gte": 5_000, "reset_billing_cycle_anchor": False}
    assert (phase["automatic_tax"]["enabled"], phase["collection_method"]) == (False, "charge_automatically")


def test_what_a_running_phase_leaves_out_is_unset(seller: Seller) -> None:
    """Discounts, payment method and thresholds that the running phase no longer names are gone at once."""
    half = seller.post("/v1/coupons", percent_off=50, duration="forever")["id"]
    session = seller.checkout(seller.price_id, discounts=[{"coupon": half}])
    seller.pay(session["id"])
    subscription = seller.subscription(seller.get(f"/v1/checkout/sessions/{session['id']}")["subscription"])
    seller.post(f"/v1/subscriptions/{subscription['id']}", billing_thresholds={"amount_gte": 5_000})
    scheduled(seller, subscription, {})
    bare = seller.subscription(subscription["id"])
    assert (bare["discounts"], bare["default_payment_method"], bare["billing_thresholds"]) == ([], None, None)
    assert "customer.discount.deleted" in seller.events()


def test_a_running_phase_that_names_no_trial_ends_it(seller: Seller) -> None:
    """A trial that the running phase leaves out ends at once, and paying begins; the next phase begins as planned."""
    subscription = trialing(seller, seller.price_id)
    other = seller.price(seller.meter_id, "300")
    method = {"default_payment_method": subscription["default_payment_method"]}
    seller.move(DAY)
    coming = {"items": [{"price": other}], "duration": {"interval": "month"}, **method}
    made = scheduled(seller, subscription, method, coming)
    began = seller.subscription(subscription["id"])
    assert (began["status"], began["trial_end"]) == ("active", START_AT + DAY)
    assert prices_of(began) == [seller.price_id]
    seller.move(6 * DAY)  # within the paid period
    after = seller.subscription(subscription["id"])
    assert prices_of(after) == [other]
    seller.move(31 * DAY)
    assert seller.get(f"{SCHEDULES}/{made['id']}")["status"] == "released"


def test_a_running_phase_keeps_and_moves_its_trial(seller: Seller) -> None:
    """A phase that names the trial's end keeps the trial; another end within the phase moves it."""
    subscription = trialing(seller, seller.price_id)
    end = subscription["trial_end"]
    made = scheduled(seller, subscription, {"trial_end": end})
    assert seller.subscription(subscription["id"])["status"] == "trialing"
    seller.post(f"{SCHEDULES}/{made['id']}/release")
    made = scheduled(seller, subscription, {"trial": True})
    assert seller.subscription(subscription["id"])["trial_end"] == end
    seller.post(f"{SCHEDULES}/{made['id']}/release")
    scheduled(seller, subscription, {"trial_end": end - DAY})
    assert seller.subscription(subscription["id"])["trial_end"] == end - DAY


def test_what_a_phase_cannot_say(seller: Seller) -> None:
    """A trial beyond its phase, one for a running subscription, another's card: refused, or said to be not modelled."""
    subscription = trialing(seller, seller.price_id)
    made = seller.post(SCHEDULES, from_subscription=subscription["id"])
    path, end = f"{SCHEDULES}/{made['id']}", subscription["trial_end"]
    items = {"items": [{"price": seller.price_id}]}
    first = {**items, "start_date": START_AT, "end_date": end, "trial_end": end}

    def refused(status: int, *phases: dict[str, Any]) -> str | None:
        return seller.refused(status, "POST", path, {"phases": list(phases)}).get("param")

    assert refused(400, {**first, "trial_end": end + 1}) == "phases[0][trial_end]"
    assert refused(400, {**first, "trial": True, "trial_end": end - 1}) == "phases[0][trial_end]"
    others = seller.post("/v1/payment_methods/pm_card_visa/attach", customer=seller.customer())["id"]
    assert refused(400, {**first, "default_payment_method": others}) == "phases[0][default_payment_method]"
    assert refused(400, {**first, "discounts": [{"coupon": "none"}]}) == "phases[0][discounts][0][coupon]"
    assert refused(400, {**first, "automatic_tax": {"enabled": True}}) is None
    assert refused(501, first, {**items, "duration": {"interval": "month"}, "trial": True}) is None
    seller.post(f"{path}/release")
    seller.move(8 * DAY)
    running = seller.post(SCHEDULES, from_subscription=subscription["id"])["phases"][0]
    path = f"{SCHEDULES}/{seller.subscription(subscription['id'])['schedule']}"
    dates = {"start_date": running["start_date"], "end_date": running["end_date"]}
    assert refused(501, {**items, **dates, "trial_end": running["end_date"]}) is None


def test_a_phase_brings_its_settings(seller: Seller) -> None:
    """Discounts, payment method, thresholds and tax of the next phase hold from its first second on."""
    subscription = seller.subscribe()
    customer = subscription["customer"]
    seller.post(f"/v1/customers/{customer}", address={"country": "US"})
    half = seller.post("/v1/coupons", percent_off=50, duration="forever")["id"]
    card = seller.post("/v1/payment_methods/pm_card_mastercard/attach", customer=customer)["id"]
    planned(
        seller,
        subscription,
        {"price": seats(seller)},
        discounts=[{"coupon": half}],
        default_payment_method=card,
        billing_thresholds={"amount_gte": 9_000},
        automatic_tax={"enabled": True},
        description="the second",
    )
    assert seller.subscription(subscription["id"])["discounts"] == []
    seller.move(MONTH + 2 * HOUR)
    after = seller.subscription(subscription["id"])
    assert (after["default_payment_method"], after["description"]) == (card, "the second")
    assert (after["billing_thresholds"]["amount_gte"], after["automatic_tax"]["enabled"]) == (9_000, True)
    (invoice,) = seller.invoices(subscription)
    assert (invoice["status"], invoice["subtotal"], invoice["total"]) == ("paid", 1_000, 500)
    assert invoice["automatic_tax"]["enabled"] is True


def test_a_phase_within_a_period_is_prorated(seller: Seller) -> None:
    """A phase that begins in mid-period changes licensed items with prorations, and another interval begins anew."""
    fee = seats(seller)
    subscription = trialing(seller, fee, line_items=[{"price": fee, "quantity": 1}])
    method = {"default_payment_method": subscription["default_payment_method"]}
    yearly = seller.price(seller.meter_id, "100", interval="year")
    seller.move(DAY)
    coming = {"items": [{"price": yearly}], "duration": {"interval": "year"}, **method}
    scheduled(seller, subscription, method, coming)
    assert [line[1] for line in lines(seller.invoices(subscription)[-1])] == [1_000]
    seller.move(6 * DAY + HOUR)
    after = seller.subscription(subscription["id"])
    (item,) = after["items"]["data"]
    assert (item["price"]["id"], item["current_period_start"]) == (yearly, START_AT + 7 * DAY)
    credit = seller.invoices(subscription)[-1]
    assert (credit["status"], credit["total"] < 0) == ("paid", True)
