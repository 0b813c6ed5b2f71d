"""The buyer's pages in a real browser: plans, payment, claim, key. Chromium is set up by `make test`."""

import os
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from tests.e2e.stack import Stack, stack_in

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with stack_in(tmp_path_factory.mktemp("pages")) as running:
        running.start_api()
        yield running


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
    """A page that fails the test for any error on its console; on a phone too."""
    width = 390 if request.param == "phone" else 1200
    context = browser.new_context(viewport={"width": width, "height": 800})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    opened = context.new_page()
    faults: list[str] = []
    opened.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
    opened.on("pageerror", lambda error: faults.append(str(error)))
    yield opened
    context.close()
    assert [fault for fault in faults if "status of 4" not in fault] == []


def subscribe(stack: Stack, page: Page) -> None:
    page.goto(stack.base + "/billing/")
    page.get_by_label("E-mail").fill("buyer@example.com")
    page.get_by_role("button", name="Subscribe to Pay as you go").click()
    page.get_by_label("Card number").fill("4242424242424242")
    page.get_by_label("Expiry").fill("12/40")
    page.get_by_label("Security code").fill("123")
    page.get_by_role("button", name="Subscribe").click()
    page.wait_for_url("**/billing/claim?**")


def fits(page: Page) -> bool:
    """Whether nothing sticks out at the side."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def test_from_the_plans_to_a_key_that_works(stack: Stack, page: Page) -> None:
    """A buyer subscribes, pays, presses the button and gets a key; the copied key makes a paid call."""
    subscribe(stack, page)
    expect(page.get_by_role("heading", level=1)).to_have_text("You are subscribed")
    assert fits(page)
    assert stack.client.get(page.url).status_code == 200  # looking is free: it mints nothing
    page.get_by_role("button", name="Show my API key").click()
    key = page.locator("#key").inner_text()
    assert fits(page)
    page.get_by_role("button", name="Copy").first.click()
    expect(page.get_by_role("status")).to_have_text("Copied to the clipboard.")
    assert page.evaluate("navigator.clipboard.readText()") == key
    assert page.locator("#try").inner_text() == f'curl -H "Authorization: Bearer {key}" {stack.base}/api'
    answer = stack.client.get(stack.base + "/api", headers={"Authorization": f"Bearer {key}"})
    assert answer.status_code == 200


def test_the_key_is_shown_once(stack: Stack, page: Page) -> None:
    """Opening the claim again offers to replace an unused key; a used one stays, and neither page shows it."""
    subscribe(stack, page)
    claim = page.url
    page.get_by_role("button", name="Show my API key").click()
    first = page.locator("#key").inner_text()
    page.goto(claim)
    assert first not in page.content()
    page.get_by_role("button", name="Show a new API key").click()
    second = page.locator("#key").inner_text()
    assert second != first
    assert stack.client.get(stack.base + "/api", headers={"X-API-Key": first}).status_code == 401
    assert stack.client.get(stack.base + "/api", headers={"X-API-Key": second}).status_code == 200
    page.goto(claim)
    expect(page.get_by_role("heading", level=1)).to_have_text("This purchase has already been claimed")
    assert second not in page.content()
    assert page.get_by_role("button", name="API key").count() == 0
    assert fits(page)


def test_an_unpaid_purchase_shows_no_key(stack: Stack, page: Page) -> None:
    """A claim page opened before the payment says so, and becomes the claim once it is paid."""
    session = stack.checkout()
    page.goto(f"{stack.base}/billing/claim?session_id={session['id']}")
    expect(page.get_by_role("heading", level=1)).to_have_text("This purchase is not completed yet")
    assert page.get_by_role("button", name="API key").count() == 0
    stack.pay(session)
    page.get_by_role("link", name="Try again").click()
    expect(page.get_by_role("button", name="Show my API key")).to_be_visible()


def test_a_declined_card_can_be_mended(stack: Stack, page: Page) -> None:
    """The hosted page says that the card was declined, keeps what was typed, and takes another card."""
    page.goto(stack.checkout()["url"])
    page.get_by_label("E-mail").fill("buyer@example.com")
    page.get_by_label("Card number").fill("4000000000000002")
    page.get_by_label("Expiry").fill("12/40")
    page.get_by_label("Security code").fill("123")
    page.get_by_role("button", name="Subscribe").click()
    expect(page.get_by_role("alert")).to_have_text("Your card was declined.")
    assert fits(page)
    page.get_by_label("Card number").fill("4242424242424242")
    page.get_by_role("button", name="Subscribe").click()
    page.wait_for_url("**/billing/claim?**")


@pytest.mark.parametrize("path", ["/billing/", "/billing/claim?session_id=cs_test_unknown", "/billing/nothing"])
def test_pages_are_readable_by_all(stack: Stack, page: Page, path: str) -> None:
    """Each page has a language, a title, one main heading, labels for its fields, and fits the screen."""
    page.goto(stack.base + path)
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.title()
    assert page.get_by_role("heading", level=1).count() == 1
    unnamed = page.evaluate(
        "[...document.querySelectorAll('input:not([type=hidden])')].filter(i => !i.labels.length).length"
    )
    assert unnamed == 0
    assert fits(page)
