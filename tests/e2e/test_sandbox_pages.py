"""The local Stripe's own pages in a real browser: what a developer debugs with, and what a buyer pays on."""

import json
import os
import re
import threading
from collections.abc import Iterator
from typing import TypeVar

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, expect, sync_playwright
from tests.unit.sandbox.town import DAY, Seller, Town

from farebox.sandbox import create_app

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
AnyTown = TypeVar("AnyTown", bound=Town)
BANNER = "A local stand-in for development. This is not Stripe, and no money moves here."


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = os.environ.get("FAREBOX_CHROMIUM", "")
    assert path, "FAREBOX_CHROMIUM names no Chromium. `make test` sets one up."
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield running
        running.close()


@pytest.fixture(params=["wide", "phone"])
def page(request: pytest.FixtureRequest, browser: Browser) -> Iterator[Page]:
    """A page that fails the test for any error on its console; wide and light, or on a phone in the dark."""
    phone = request.param == "phone"
    size = {"width": 390 if phone else 1280, "height": 800}
    context = browser.new_context(viewport=size, color_scheme="dark" if phone else "light")  # type: ignore[arg-type]
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    opened = context.new_page()
    faults: list[str] = []
    opened.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
    opened.on("pageerror", lambda error: faults.append(str(error)))
    yield opened
    context.close()
    assert [fault for fault in faults if "status of 4" not in fault] == []


@pytest.fixture
def seller() -> Iterator[Seller]:
    """A local Stripe with a price, served over real HTTP. Its time stands still until it is moved."""
    yield from _served(Seller())


@pytest.fixture
def nobody() -> Iterator[Town]:
    """A local Stripe that nobody has asked yet."""
    yield from _served(Town())


def _served(town: AnyTown) -> Iterator[AnyTown]:
    server = uvicorn.Server(uvicorn.Config(create_app(town.sandbox), port=0, log_level="critical", lifespan="off"))
    socket = server.config.bind_socket()
    town.sandbox.base_url = f"http://127.0.0.1:{socket.getsockname()[1]}"
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
    thread.start()
    while not server.started:
        thread.join(0.01)
        assert thread.is_alive()
    yield town
    server.should_exit = True
    thread.join()
    socket.close()


def full(seller: Seller) -> dict[str, str]:
    """Something of everything. Returns each page's path by its name."""
    subscription = seller.subscribe()
    seller.listen()
    seller.use(subscription["customer"], "25")
    seller.ask("POST", "/v1/prices", "currency=usd&colour=red")
    seller.sandbox.faults.add({"path": "/v1/" + "long/" * 12, "status": 500, "rate_millionths": 250_000})
    seller.sandbox.delivery_faults.add({"kind": "reorder", "type": "invoice.*", "count": None})
    seller.move(31 * DAY)
    seller.deliver(500)
    seller.move(4_000)
    features = {name: {"enabled": True} for name in ("subscription_cancel", "payment_method_update", "invoice_history")}
    seller.post("/v1/billing_portal/configurations", features=features)
    portal = seller.post("/v1/billing_portal/sessions", customer=subscription["customer"])
    (state,) = seller.sandbox.accounts.values()
    refused = next(entry for entry in state.requests if entry["status"] == 400)
    event = seller.get("/v1/events", type="invoice.created")["data"][0]
    return {
        "home": "/",
        "kinds": "/objects",
        "kind": "/objects/of/invoice",
        "object": f"/objects/{subscription['id']}",
        "events": "/events",
        "event": f"/events/{event['id']}",
        "requests": "/requests",
        "request": f"/requests/{refused['id']}",
        "search": "/search?q=ada",
        "faults": "/faults",
        "checkout": f"/pay/{seller.checkout(seller.price_id)['id']}",
        "portal": f"/portal/{portal['id']}",
        "invoice": f"/invoice/{seller.invoices(subscription)[0]['id']}",
    }


def sound(page: Page) -> None:
    """What holds for every page: the banner, a language, a title, one main heading, names for fields; and it fits."""
    expect(page.get_by_role("note").first).to_have_text(BANNER)
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.title().endswith("not Stripe")
    assert page.get_by_role("heading", level=1).count() == 1
    unnamed = "input:not([type=hidden]), select"
    count = f"[...document.querySelectorAll('{unnamed}')].filter(i => !i.labels.length && !i.ariaLabel).length"
    assert page.evaluate(count) == 0
    doubled = "(ids => ids.length - new Set(ids).size)([...document.querySelectorAll('[id]')].map(e => e.id))"
    assert page.evaluate(doubled) == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_every_page_when_there_is_much(seller: Seller, page: Page) -> None:
    """Each page says that it is no Stripe, is readable by all, and fits the screen, on a phone too."""
    for path in full(seller).values():
        answer = page.goto(seller.sandbox.base_url + path)
        assert answer is not None
        assert answer.status == 200, path
        sound(page)


def test_every_page_when_there_is_nothing(nobody: Town, page: Page) -> None:
    """A page without anything to show says so, and the first one says how to begin."""
    for path in ("/", "/objects", "/objects/of/invoice", "/events", "/requests", "/faults", "/search", "/search?q=x"):
        page.goto(nobody.sandbox.base_url + path)
        sound(page)
        assert page.locator(".empty, .faint, main p").count() > 0
    for path in ("/objects/cus_1", "/events/evt_1", "/requests/req_1", "/pay/cs_1", "/portal/bps_1", "/invoice/in_1"):
        answer = page.goto(nobody.sandbox.base_url + path)
        assert answer is not None
        assert answer.status == 404
        sound(page)
    page.goto(nobody.sandbox.base_url + "/")
    expect(page.get_by_text(f"curl {nobody.sandbox.base_url}/v1/customers")).to_be_visible()


def test_from_a_refusal_to_what_caused_it(seller: Seller, page: Page) -> None:
    """A refused request is found on the first page, and shows what was asked and the error that the client got."""
    seller.ask("POST", "/v1/prices", "currency=usd&colour=red")
    page.goto(seller.sandbox.base_url + "/")
    page.get_by_role("link", name="400 POST /v1/prices").click()
    problem = page.locator(".problem")
    expect(problem).to_contain_text("Received unknown parameter: colour")
    expect(problem).to_contain_text("parameter_unknown")
    expect(page.get_by_role("region", name="Asked")).to_contain_text('"colour": "red"')
    expect(page.get_by_role("region", name="Answered")).to_contain_text("invalid_request_error")


def test_ids_lead_both_ways(seller: Seller, page: Page) -> None:
    """From a subscription to its customer by the id, and back by what names the customer; the time is told beside."""
    subscription = seller.subscribe()
    page.goto(f"{seller.sandbox.base_url}/objects/{subscription['id']}")
    expect(page.locator(".json")).to_contain_text("15 Jan 2027 08:00:00 UTC")
    page.get_by_role("link", name=f'"{subscription["customer"]}"').first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(subscription["customer"])
    page.get_by_role("region", name="Named by").get_by_role("link", name=subscription["id"]).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(subscription["id"])
    page.get_by_role("button", name="Copy").click()
    assert page.evaluate("navigator.clipboard.readText()") == subscription["id"]


def test_search(seller: Seller, page: Page) -> None:
    """The key / leads to the field; an id leads to its page at once, other text to the objects that hold it."""
    subscription = seller.subscribe()
    page.goto(seller.sandbox.base_url + "/")
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.type(subscription["id"])
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{seller.sandbox.base_url}/objects/{subscription['id']}")
    page.get_by_role("searchbox").fill("ADA@example.test")
    page.keyboard.press("Enter")
    page.get_by_role("link", name=subscription["customer"]).first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(subscription["customer"])


def test_it_follows_what_happens(seller: Seller, page: Page) -> None:
    """A request that comes in while one looks appears by itself, and does not while the page is paused."""
    page.goto(seller.sandbox.base_url + "/requests")
    seller.customer(email="first@example.test")
    expect(page.get_by_role("link", name="POST /v1/customers")).to_have_count(1)
    page.get_by_role("button", name="Live").click()
    expect(page.get_by_role("button", name="Paused")).to_have_attribute("aria-pressed", "false")
    seller.customer(email="second@example.test")
    page.wait_for_timeout(2_200)
    assert page.get_by_role("link", name="POST /v1/customers").count() == 1
    page.get_by_role("button", name="Paused").click()
    expect(page.get_by_role("link", name="POST /v1/customers")).to_have_count(2)


def test_time_is_moved(seller: Seller, page: Page) -> None:
    """A button moves time, and so does a span of one's own; what is no span is said."""
    page.goto(seller.sandbox.base_url + "/")
    page.get_by_role("button", name="+ 1 day").click()
    expect(page.locator("#clock")).to_contain_text("16 Jan 2027 08:00:00 UTC")
    page.get_by_label("Another span").fill("90 seconds")
    page.get_by_role("button", name="Move on").click()
    expect(page.locator("#clock")).to_contain_text("16 Jan 2027 08:01:30 UTC")
    page.get_by_label("Another span").fill("soon")
    page.get_by_role("button", name="Move on").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Time was not moved")
    sound(page)


def test_faults_are_added_and_cleared(seller: Seller, page: Page) -> None:
    """A fault added on the page hits as often as was said; a wrong one is refused with what was typed kept."""
    page.goto(seller.sandbox.base_url + "/faults")
    requests = page.get_by_role("region", name="Trouble requests")
    requests.get_by_label("What happens").select_option("503")
    requests.get_by_label("Path, with stars").fill("/v1/prod*")
    requests.get_by_label("How often").select_option("five times")
    requests.get_by_role("button", name="Add").click()
    waiting = page.get_by_role("region", name="Waiting to happen")
    expect(waiting).to_contain_text("* /v1/prod*")
    assert [seller.ask("GET", "/v1/products").status for _ in range(6)] == [503] * 5 + [200]
    webhooks = page.get_by_role("region", name="Trouble webhooks")
    webhooks.get_by_label("What happens").select_option("drop")
    webhooks.get_by_label("Type, with stars").fill("invoice.*")
    webhooks.get_by_role("button", name="Add").click()
    expect(waiting).to_contain_text("invoice.*")
    requests.get_by_label("What happens").select_option("latency")
    requests.get_by_label("Path, with stars").fill("/v1/kept")
    requests.get_by_role("button", name="Add").click()
    expect(page.get_by_role("alert")).to_contain_text("needs some milliseconds")
    expect(requests.get_by_label("Path, with stars")).to_have_value("/v1/kept")
    page.get_by_role("button", name="Clear them all").click()
    expect(waiting).to_contain_text("Nothing.")
    page.get_by_label("Seconds").fill("90")
    page.get_by_role("button", name="Set").click()
    expect(page.get_by_label("Seconds")).to_have_value("90")
    assert seller.sandbox.aggregation_lag_seconds == 90


def test_an_event_is_sent_again(seller: Seller, page: Page) -> None:
    """An event's page shows its payload and its deliveries, and sends it once more."""
    seller.listen("hook", "customer.created")
    seller.customer(email="ada@example.test")
    seller.deliver()
    page.goto(seller.sandbox.base_url + "/events")
    page.get_by_role("link", name=re.compile("customer.created.*delivered")).click()
    deliveries = page.get_by_role("region", name="Deliveries")
    expect(deliveries).to_contain_text("delivered · 200")
    page.get_by_role("button", name="Resend").click()
    expect(deliveries.get_by_role("listitem")).to_have_count(2)
    seller.deliver()
    first, second = (json.loads(body) for _, _, body in seller.received)
    assert first["id"] == second["id"]
    assert first["data"] == second["data"]


def test_test_cards_are_a_click_away(seller: Seller, page: Page) -> None:
    """A card of the list is put into the form by a click; a declined one is said, and the next one pays."""
    session = seller.checkout(seller.price_id, success_url=seller.sandbox.base_url + "/?paid={CHECKOUT_SESSION_ID}")
    page.goto(session["url"])
    page.get_by_role("button", name="4000 0000 0000 9995").click()
    expect(page.get_by_label("Card number")).to_have_value("4000 0000 0000 9995")
    page.get_by_role("button", name="Subscribe").click()
    expect(page.get_by_role("alert")).to_have_text("Your card has insufficient funds.")
    page.get_by_role("button", name="4242 4242 4242 4242").click()
    page.get_by_role("button", name="Subscribe").click()
    page.wait_for_url(f"**/?paid={session['id']}")
    assert seller.get(f"/v1/checkout/sessions/{session['id']}")["status"] == "complete"


def test_three_d_secure(seller: Seller, page: Page) -> None:
    """The card that asks for 3-D Secure leads to a step that can fail, and then nothing is bought; or be completed."""
    session = seller.checkout(seller.price_id, success_url=seller.sandbox.base_url + "/?paid={CHECKOUT_SESSION_ID}")
    page.goto(session["url"])
    page.get_by_role("button", name="4000 0027 6000 3184").click()
    page.get_by_role("button", name="Subscribe").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Is it you?")
    sound(page)
    page.get_by_role("button", name="Fail authentication").click()
    expect(page.get_by_role("alert")).to_contain_text("unable to authenticate")
    assert seller.get(f"/v1/checkout/sessions/{session['id']}")["status"] == "open"
    assert "checkout.session.completed" not in seller.events()
    page.get_by_role("button", name="Subscribe").click()
    page.get_by_role("button", name="Complete authentication").click()
    page.wait_for_url(f"**/?paid={session['id']}")
    done = seller.get(f"/v1/checkout/sessions/{session['id']}")
    assert (done["status"], done["payment_status"]) == ("complete", "no_payment_required")
    assert seller.events().count("checkout.session.completed") == 1


def test_the_portal(seller: Seller, page: Page) -> None:
    """A buyer cancels and thinks better of it, takes another card, and reads an invoice."""
    base = seller.sandbox.base_url
    page.goto(base + full(seller)["portal"])
    page.get_by_role("button", name="Cancel at the end of the period").click()
    expect(page.get_by_text(re.compile("^Ends on 15 Mar 2027"))).to_be_visible()
    page.get_by_role("button", name="Keep the subscription").click()
    expect(page.get_by_role("button", name="Cancel at the end of the period")).to_be_visible()
    page.get_by_text("Use another card").click()
    page.get_by_label("Card number").fill("5555 5555 5555 4444")
    page.get_by_role("button", name="Save the card").click()
    expect(page.get_by_text("Mastercard ending in 4444")).to_be_visible()
    page.get_by_role("link", name=re.compile("LOCAL-0001")).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("LOCAL-0001")
    expect(page.get_by_text("25.00 USD").first).to_be_visible()


def test_without_scripts(seller: Seller, browser: Browser) -> None:
    """Everything can be done without JavaScript: time, faults, search, payment."""
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(seller.sandbox.base_url + "/")
    page.get_by_role("button", name="+ 1 hour").click()
    assert "15 Jan 2027 09:00:00 UTC" in page.content()
    session = seller.checkout(seller.price_id, success_url=seller.sandbox.base_url + "/?paid=1")
    page.goto(session["url"])
    page.get_by_role("button", name="Subscribe").click()
    page.wait_for_url("**/?paid=1")
    page.get_by_role("searchbox").fill(session["id"])
    page.get_by_role("searchbox").press("Enter")
    assert session["id"] in page.url
    context.close()
