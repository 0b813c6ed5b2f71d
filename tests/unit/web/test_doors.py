"""The doors that people go through: links behind a proxy's path, where to pay, trying the key, forms, reloads."""

import re
from pathlib import Path

import pytest
from tests.shop import CATALOG, PUBLIC_URL, Shop, bearer, open_shop

from farebox.billing.inbox import refresh_account

HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
BEHIND = "http://api.example.test/v1"


def targets(page: str) -> list[str]:
    """Every address that a page leads to."""
    return re.findall(r'(?:href|src|action)="([^"]+)"', page)


def past_due(shop: Shop) -> dict[str, str]:
    """The headers of a key whose subscription is past due for longer than the grace."""
    buyer = shop.buy()
    (subscription,) = shop.store.subscriptions(buyer.account_id)
    shop.stripe.objects["subscription"][subscription.id]["status"] = "unpaid"
    refresh_account(shop.store, shop.provider, shop.clock, shop.account(buyer))
    shop.runtime.gate.poll()
    return bearer(buyer.key)


def test_every_link_names_the_public_path(tmp_path: Path) -> None:
    """Behind a proxy that serves the app below a path, every link and form of every page begins with that path."""
    with open_shop(tmp_path, public_url=BEHIND) as shop:
        session_id = shop.checkout()
        shop.pay(session_id)
        form = {"session_id": session_id, "replaces": ""}
        pages = [
            shop.client.get("/billing/", headers=HTML),
            shop.client.get(f"/billing/claim?session_id={session_id}", headers=HTML),
            shop.client.post("/billing/claim", data=form, headers=HTML),
            shop.client.get("/billing/claim?session_id=cs_none", headers=HTML),
            shop.client.get("/billing/pay", headers=HTML),
        ]
        found = [target for page in pages for target in targets(page.text)]
        assert len(found) >= 10
        assert [target for target in found if not target.startswith(("/v1/billing/", "data:"))] == []


def test_an_unpaid_buyer_is_led_to_payment(shop: Shop) -> None:
    """The 402 of an unpaid subscription names a page on which the key alone opens Stripe's billing portal."""
    mine = past_due(shop)
    refused = shop.client.get("/api", headers=mine)
    assert (refused.status_code, refused.json()["pay_url"]) == (402, f"{PUBLIC_URL}/billing/pay")
    page = shop.client.get("/billing/pay", headers=HTML)
    assert page.status_code == 200
    assert 'action="/billing/pay"' in page.text
    key = mine["Authorization"].removeprefix("Bearer ")
    sent_on = shop.client.post("/billing/pay", data={"key": f" {key} "}, headers=HTML)
    assert sent_on.status_code == 303
    assert "/_sandbox/portal/" in sent_on.headers["location"] or "portal" in sent_on.headers["location"]


@pytest.mark.parametrize("key", ["", "fb_test_wrong", "sk_test_something"])
def test_the_payment_page_needs_a_key(shop: Shop, key: str) -> None:
    """Without a good key the payment page leads nowhere and says so in words."""
    page = shop.client.post("/billing/pay", data={"key": key}, headers=HTML)
    assert page.status_code in (401, 422)
    assert "location" not in page.headers
    assert page.headers["content-type"].startswith("text/html")


def test_an_ended_subscription_leads_to_the_plans(shop: Shop) -> None:
    """A subscription that has ended cannot be paid: its 402 leads to the plans."""
    buyer = shop.buy()
    (subscription,) = shop.store.subscriptions(buyer.account_id)
    shop.at_stripe("DELETE", f"/v1/subscriptions/{subscription.id}")
    refresh_account(shop.store, shop.provider, shop.clock, shop.account(buyer))
    shop.runtime.gate.poll()
    refused = shop.client.get("/api", headers=bearer(buyer.key))
    assert (refused.status_code, refused.json()["pay_url"]) == (402, f"{PUBLIC_URL}/billing/")


def test_an_unfinished_purchase_leads_back_to_checkout(shop: Shop) -> None:
    """Who claims before paying is led back to the Checkout page of the same purchase."""
    session_id = shop.checkout()
    url = shop.objects("checkout.session")[0]["url"]
    refused = shop.client.post("/billing/claim", json={"session_id": session_id})
    assert (refused.status_code, refused.json()["pay_url"]) == (402, url)
    page = shop.client.get(f"/billing/claim?session_id={session_id}", headers=HTML)
    assert f'href="{url}"' in page.text


ANY_PATH = CATALOG.replace('match = "GET /api"', 'match = "* /**"')


@pytest.mark.parametrize("catalog", [CATALOG, ANY_PATH])
def test_the_try_it_line_works(tmp_path: Path, catalog: str) -> None:
    """The command on the key page answers 200, whether or not the rules name a plain GET path."""
    with open_shop(tmp_path, catalog=catalog) as shop:
        session_id = shop.checkout()
        shop.pay(session_id)
        page = shop.client.post("/billing/claim", data={"session_id": session_id}, headers=HTML)
        key, url = re.findall(r"Authorization: Bearer (\S+?)(?:&#34;|\") (http\S+?)</code>", page.text)[0]
        shop.runtime.gate.poll()
        assert shop.client.get(url, headers={"Authorization": f"Bearer {key}"}).status_code == 200


def test_a_reload_revokes_nothing(shop: Shop) -> None:
    """A browser that posts the claim form again shows the claim page; the key that it showed before stays good."""
    session_id = shop.checkout()
    shop.pay(session_id)
    claim = shop.client.get(f"/billing/claim?session_id={session_id}", headers=HTML)
    form = {"session_id": session_id, "replaces": re.findall(r'name="replaces" value="([^"]*)"', claim.text)[0]}
    first = shop.client.post("/billing/claim", data=form, headers=HTML)
    key = re.findall(r"(fb_test_\w+)", first.text)[0]
    reloaded = shop.client.post("/billing/claim", data=form, headers=HTML)
    assert reloaded.status_code == 200
    assert "fb_test_" not in reloaded.text
    assert shop.client.get("/billing/usage", headers={"X-API-Key": key}).status_code == 200
    replaces = re.findall(r'name="replaces" value="([^"]+)"', reloaded.text)[0]
    replaced = shop.client.post("/billing/claim", data={**form, "replaces": replaces}, headers=HTML)
    assert replaced.status_code == 201
    assert shop.client.get("/billing/usage", headers={"X-API-Key": key}).status_code == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-site", "Origin": "http://www.example.test"}, 303),
        ({"Sec-Fetch-Site": "cross-site", "Origin": PUBLIC_URL}, 422),
        ({"Origin": PUBLIC_URL}, 303),
        ({"Origin": "https://evil.example"}, 422),
        ({"Origin": "null"}, 422),
        ({}, 303),
    ],
)
def test_forms_from_the_sellers_own_site(shop: Shop, headers: dict[str, str], status: int) -> None:
    """A form on the seller's own site may begin a purchase; one on another site may not, in old browsers either."""
    answer = shop.client.post("/billing/checkout", data={"plan": "payg"}, headers={**HTML, **headers})
    assert answer.status_code == status
