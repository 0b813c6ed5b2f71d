"""The local Stripe's pages and its log of requests, without a browser: what they show, and what they refuse."""

import json
from typing import Any

import pytest
from starlette.testclient import TestClient
from tests.unit.sandbox.town import DAY, KEY, START_AT, Seller

from farebox.sandbox import Reset, create_app
from farebox.sandbox.markup import counted, gist, json_markup, lasting, money, price_markup
from farebox.sandbox.requestlog import BODY_BYTES_KEPT, REQUESTS_KEPT

CARD = {"card_number": "4242424242424242", "exp": "12/40", "cvc": "123"}
SECURE_CARD = {**CARD, "card_number": "4000002760003184"}


@pytest.fixture
def client(seller: Seller) -> TestClient:
    return TestClient(create_app(seller.sandbox), base_url="http://127.0.0.1:8001", follow_redirects=False)


def log_of(client: TestClient, *, bodies: bool = False) -> list[dict[str, Any]]:
    found = client.get("/_sandbox/requests", params={"bodies": "true"} if bodies else {}).json()["requests"]
    return list(found)


def test_the_log_tells_what_was_asked(seller: Seller, client: TestClient) -> None:
    """The log shows each request with its status and error, and on demand what was sent and answered, word by word."""
    seller.ask("POST", "/v1/customers", "email=ada%40example.test", idempotency_key="key-1")
    seller.ask("GET", "/v1/customers", "limit=2")
    first, second = log_of(client, bodies=True)[-2:]
    assert (first["body"], first["idempotency_key"], first["status"]) == ("email=ada%40example.test", "key-1", 200)
    assert '"email": "ada@example.test"' in first["answer"]
    assert (second["query"], second["body"]) == ("limit=2", "")
    assert log_of(client)[-1].keys() == {"id", "method", "path", "status", "error", "at"}


def test_a_cut_connection_is_in_the_log(seller: Seller, client: TestClient) -> None:
    """A request whose connection a fault broke is in the log too: without a status, and with the reason."""
    seller.sandbox.faults.add({"path": "/v1/customers", "reset": "after"})
    with pytest.raises(Reset):
        seller.ask("POST", "/v1/customers")
    entry = log_of(client)[-1]
    assert (entry["status"], "fault asked for it" in entry["error"]["message"]) == (None, True)
    assert "The connection was broken" in client.get(f"/requests/{entry['id']}").text


def test_the_log_is_bounded(seller: Seller, client: TestClient) -> None:
    """The newest requests are kept, and of each so many bytes."""
    seller.ask("POST", "/v1/customers", "description=" + "x" * BODY_BYTES_KEPT)
    assert len(log_of(client, bodies=True)[-1]["body"]) == BODY_BYTES_KEPT
    for _ in range(REQUESTS_KEPT):
        seller.get("/v1/account")
    assert {entry["path"] for entry in log_of(client)} == {"/v1/account"}
    assert len(log_of(client)) == REQUESTS_KEPT


KNOBS = ["clock", "aggregation", "settings", "faults", "limits", "seed", "deliveries/faults", "deliveries/retries"]


@pytest.mark.parametrize("path", KNOBS)
def test_other_sites_reach_no_control_api(client: TestClient, path: str) -> None:
    """What a page of another site posts to the control API through its visitor's browser is refused; a tool is not."""
    for site, foreign in (("cross-site", True), ("same-site", True), ("same-origin", False), (None, False)):
        headers = {"sec-fetch-site": site} if site is not None else {}
        answer = client.post(f"/_sandbox/{path}", content="{}", headers=headers)
        assert (answer.status_code == 403) == foreign
    assert client.delete("/_sandbox/faults", headers={"sec-fetch-site": "cross-site"}).status_code == 403


@pytest.mark.parametrize("path", ["/move", "/faults", "/lag", "/events/evt_1/resend"])
def test_other_sites_turn_no_knobs(client: TestClient, path: str) -> None:
    """A page of another site cannot press these buttons through its visitor's browser."""
    form = {"advance": "1 day", "action": "request", "what": "500", "lag_seconds": "9"}
    for site in ("cross-site", "same-site"):
        assert client.post(path, data=form, headers={"Sec-Fetch-Site": site}).status_code == 403
    clock = client.get("/_sandbox/clock").json()
    assert (clock["now_at"], client.get("/_sandbox/faults").json()) == (START_AT, {"faults": []})


def test_what_is_sent_again(seller: Seller, client: TestClient) -> None:
    """An event is sent again to an endpoint that is there and on; to no other."""
    endpoint = seller.listen("hook", "customer.created")
    seller.customer()
    seller.deliver()
    event = seller.get("/v1/events", type="customer.created")["data"][0]["id"]
    assert client.post(f"/events/{event}/resend", data={"receiver": endpoint["id"]}).status_code == 303
    assert seller.deliver() == 1
    assert client.post(f"/events/{event}/resend", data={"receiver": "we_other"}).status_code == 400
    seller.post(f"/v1/webhook_endpoints/{endpoint['id']}", disabled=True)
    assert client.post(f"/events/{event}/resend", data={"receiver": endpoint["id"]}).status_code == 400
    assert client.post("/events/evt_none/resend", data={"receiver": endpoint["id"]}).status_code == 404
    assert seller.deliver() == 0


def test_three_d_secure(seller: Seller, client: TestClient) -> None:
    """The card of 3-D Secure buys nothing until its step is completed; the step is there only meanwhile."""
    session = seller.checkout(seller.price_id)["id"]
    step = f"/pay/{session}/authenticate"
    assert client.get(step).headers["location"] == f"/pay/{session}"
    assert client.post(f"/pay/{session}", data=SECURE_CARD).headers["location"] == step
    assert "3-D Secure" in client.get(step).text
    failed = client.post(step, data={"verdict": "fail"})
    assert (failed.status_code, "unable to authenticate" in failed.text) == (402, True)
    assert seller.get(f"/v1/checkout/sessions/{session}")["status"] == "open"
    assert client.post(step, data={"verdict": "complete"}).headers["location"] == f"/pay/{session}"
    client.post(f"/pay/{session}", data=SECURE_CARD)
    done = client.post(step, data={"verdict": "complete"})
    assert done.headers["location"] == f"https://seller.example/done?session_id={session}"
    assert seller.get(f"/v1/checkout/sessions/{session}")["status"] == "complete"
    assert client.get(step).status_code == 410


def test_a_renewal_cannot_ask_the_buyer(seller: Seller, client: TestClient) -> None:
    """A renewal charged to a card of 3-D Secure fails, and tells that its buyer has to act."""
    session = seller.checkout(seller.price_id)["id"]
    client.post(f"/pay/{session}", data=SECURE_CARD)
    client.post(f"/pay/{session}/authenticate", data={"verdict": "complete"})
    subscription = seller.subscription(seller.get(f"/v1/checkout/sessions/{session}")["subscription"])
    seller.use(subscription["customer"], "5")
    seller.move(31 * DAY + 7_200)
    assert seller.subscription(subscription["id"])["status"] == "past_due"
    assert "invoice.payment_action_required" in seller.events()


def test_promotion_codes_are_typed(seller: Seller, client: TestClient) -> None:
    """Where the seller allows them there is a field for a promotion code; a wrong one is said, a right one counts."""
    assert "Promotion code" not in client.get(f"/pay/{seller.checkout(seller.price_id)['id']}").text
    coupon = seller.post("/v1/coupons", percent_off="25", duration="forever")["id"]
    seller.post("/v1/promotion_codes", code="SPRING", promotion={"type": "coupon", "coupon": coupon})
    session = seller.checkout(seller.price_id, allow_promotion_codes=True)["id"]
    assert "Promotion code" in client.get(f"/pay/{session}").text
    wrong = client.post(f"/pay/{session}", data={**CARD, "promotion_code": "WINTER"})
    assert (wrong.status_code, "promotion code" in wrong.text) == (400, True)
    assert client.post(f"/pay/{session}", data={**CARD, "promotion_code": "spring"}).status_code == 303
    bought = seller.get(f"/v1/checkout/sessions/{session}")["subscription"]
    assert len(seller.subscription(bought)["discounts"]) == 1


@pytest.mark.parametrize("enabled", [True, False])
def test_the_portal_does_what_it_is_configured_for(seller: Seller, client: TestClient, enabled: bool) -> None:
    """What the portal's configuration does not allow is neither shown nor done."""
    subscription = seller.subscribe()
    names = ("subscription_cancel", "payment_method_update", "invoice_history")
    seller.post("/v1/billing_portal/configurations", features={name: {"enabled": enabled} for name in names})
    portal = seller.post("/v1/billing_portal/sessions", customer=subscription["customer"])["id"]
    shown = client.get(f"/portal/{portal}").text
    assert [text in shown for text in ("Cancel", "Use another card", "Invoices")] == [enabled] * 3
    asked = {"action": "cancel", "subscription": subscription["id"]}
    assert client.post(f"/portal/{portal}", data=asked).status_code == (303 if enabled else 400)
    assert seller.subscription(subscription["id"])["cancel_at_period_end"] is enabled
    card = {**CARD, "card_number": "5555555555554444", "action": "card"}
    assert client.post(f"/portal/{portal}", data=card).status_code in ((303,) if enabled else (400, 404))
    other = seller.subscribe()["id"]
    assert client.post(f"/portal/{portal}", data={**asked, "subscription": other}).status_code == 400


def test_nothing_that_was_sent_becomes_markup(seller: Seller, client: TestClient) -> None:
    """Names, metadata, paths and search terms are text on every page, whatever they look like (A29)."""
    evil = "</pre><script>alert(1)</script>"
    customer = seller.customer(name=evil, metadata={evil[:40]: evil})
    event = seller.get("/v1/events", type="customer.created")["data"][0]["id"]
    seller.ask("GET", "/v1/%3Cscript%3E", f"q={evil}")
    request = log_of(client)[-1]["id"]
    paths = ("/", f"/objects/{customer}", f"/events/{event}", "/requests", f"/requests/{request}", f"/search?q={evil}")
    for path in (*paths, f"/events?type={evil}", f"/requests?path={evil}", "/objects/of/<script>alert(1)"):
        page = client.get(path)
        assert page.status_code == 200, path
        assert "<script>alert" not in page.text, path


def test_accounts_are_told_apart(seller: Seller, client: TestClient) -> None:
    """With several accounts each list can be narrowed to one; with one there is nothing to choose."""
    assert '<select name="account"' not in client.get("/requests").text
    other = "sk_test_somebody_else_0123456789"
    seller.ask("POST", "/v1/customers", "email=other@example.test", key=other)
    first, second = seller.sandbox.accounts
    assert f"<option>{second}</option>" in client.get("/requests").text
    mine, theirs = (client.get("/objects/of/customer", params={"account": id}).text for id in (first, second))
    assert ("other@example.test" in mine, "other@example.test" in theirs) == (False, True)
    assert KEY not in client.get("/").text


def test_both_kinds_of_event_stand_in_their_order(seller: Seller, client: TestClient) -> None:
    """A thin event stands among the snapshots by when it came to be, and its time is told alike."""
    seller.customer()
    seller.move(60)
    event = {"event_name": "calls", "payload": {"stripe_customer_id": "cus_none", "value": "1"}}
    assert seller.ask("POST", "/v2/billing/meter_events", json.dumps(event)).status == 200
    seller.move(60)
    seller.post("/v1/products", name="later")
    shown = client.get("/events").text
    thin = "v1.billing.meter.error_report_triggered"
    assert shown.index("product.created") < shown.index(thin) < shown.index("customer.created")
    assert shown.index(thin) < shown.index("15 Jan 2027 08:01:00") < shown.index("customer.created")
    assert "15 Jan 2027 08:01:00" in client.get("/objects/of/v2.core.event").text


def test_test_clocks_are_on_the_first_page(seller: Seller, client: TestClient) -> None:
    """Where each test clock stands is told beside the account's own time."""
    assert "Test clocks" not in client.get("/").text
    seller.post("/v1/test_helpers/test_clocks", frozen_time=START_AT + DAY, name="leap years")
    shown = client.get("/").text
    assert shown.index("leap years") < shown.index("16 Jan 2027 08:00:00")


def test_who_only_pays_does_not_subscribe(seller: Seller, client: TestClient) -> None:
    """The page of a one-time payment says what its button does."""
    shirt = seller.post("/v1/prices", currency="usd", unit_amount=1_500, product_data={"name": "Shirt"})["id"]
    items = [{"price": shirt, "quantity": 2}]
    once = seller.post("/v1/checkout/sessions", mode="payment", line_items=items, success_url="https://x.example")
    for session, does, other in ((once, "Pay", "Subscribe"), (seller.checkout(seller.price_id), "Subscribe", "Pay")):
        shown = client.get(f"/pay/{session['id']}").text
        assert (f"<h1>{does}</h1>" in shown, f">{does}</button>" in shown, f">{other}<" in shown) == (True, True, False)


def test_an_invoice_has_its_page(seller: Seller, client: TestClient) -> None:
    """A finalized invoice names its page, which shows its lines and total."""
    subscription = seller.subscribe()
    seller.use(subscription["customer"], "25")
    seller.move(31 * DAY)
    assert seller.invoices(subscription)[0]["hosted_invoice_url"] is None
    seller.move(7_200)
    url = seller.invoices(subscription)[0]["hosted_invoice_url"]
    assert url.startswith(seller.sandbox.base_url)
    page = client.get(url).text
    assert ("LOCAL-0001" in page, "25.00 USD" in page) == (True, True)


def test_search_looks_at_values(seller: Seller, client: TestClient) -> None:
    """Search finds values in any case, parts of objects by their ids, and is not led astray by names of fields."""
    subscription = seller.subscribe()
    other = seller.customer(email="grace@example.test")
    found = client.get("/search?q=ADA@example").text
    assert (subscription["customer"] in found, other in found) == (True, False)
    assert subscription["id"] in client.get(f"/search?q={subscription['items']['data'][0]['id']}").text
    assert "no object holds that text" in client.get("/search?q=current_period").text
    assert client.get(f"/search?q={other}").headers["location"] == f"/objects/{other}"


def test_json_is_linked_and_dated() -> None:
    """Known ids become links, Unix times say when they are, and other numbers stay numbers."""
    value = {"id": "cus_1", "other": "cus_2", "created": START_AT, "amount": START_AT, "on": True, "n": 1}
    shown = str(json_markup(value, lambda id: f"/objects/{id}" if id == "cus_1" else None))
    assert '<a class="id" href="/objects/cus_1">&#34;cus_1&#34;</a>' in shown
    assert "cus_2&#34;</a>" not in shown
    assert shown.count("15 Jan 2027 08:00:00 UTC") == 1
    assert '<span class="word">true</span>' in shown
    assert '<span class="digits">1</span>' in shown


def test_words_for_people() -> None:
    """Money, prices, spans and counts read as people write them."""
    assert (money(1_999, "usd"), money(500, "jpy"), money(-5, "eur")) == ("19.99 USD", "500 JPY", "-0.05 EUR")
    assert (lasting(0), lasting(61), lasting(3 * DAY)) == ("0 seconds", "1 minute and 1 second", "3 days")
    assert (counted(1, "customer"), counted(1_200, "billing.meter")) == ("1 customer", "1,200 meters")
    price = {"object": "price", "currency": "usd", "unit_amount_decimal": "1.5", "active": False}
    metered = {"interval": "month", "interval_count": 3, "usage_type": "metered"}
    assert gist({**price, "recurring": metered}) == "0.015 USD a unit, every 3 months · retired"
    package = {**price, "transform_quantity": {"divide_by": 1_000, "round": "up"}}
    assert price_markup(package) == "0.015 USD per 1000 units"
    tiers = {**price, "billing_scheme": "tiered", "tiers_mode": "graduated"}
    assert price_markup(tiers) == "graduated prices in USD"
