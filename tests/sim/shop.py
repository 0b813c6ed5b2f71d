"""The shop of a world: its settings, what it needs to be the same for the same seed, and how buyers come to it."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.sim.hub import Hub

from farebox.billing.catalog import apply_push, plan_push
from farebox.billing.checkout import begin_checkout
from farebox.billing.claim import take_claim
from farebox.config import Settings, load_settings
from farebox.domain.accounts import Account
from farebox.sandbox.clock import ManualClock
from farebox.sandbox.ids import Ids

if TYPE_CHECKING:
    from tests.sim.process import Process
    from tests.sim.world import World

__all__ = ["STRIPE_KEY", "WEBHOOK_SECRET", "Buyer", "HubClock", "SeededEntropy", "SeededIds", "Shop", "settings_in"]

STRIPE_KEY: Final = "sk_test_for_the_simulation"
WEBHOOK_SECRET: Final = "whsec_for_the_simulation"
FAILING_CARD: Final = "4000000000000341"  # is taken, and fails at the first renewal (F29)
CATALOG: Final = """
[http]
credentials = ["x-api-key"]
[meters.calls]
title = "API calls"
[meters.tokens]
title = "Tokens"
[plans.payg]
title = "Pay as you go"
currency = "usd"
interval = "month"
[[plans.payg.prices]]
meter = "calls"
unit_amount = "1.00"
[[plans.payg.prices]]
meter = "tokens"
unit_amount = "0.015"
[[routes]]
match = "GET /api"
meter = "calls"
quantity = 1
"""


class SeededEntropy:
    """Chance that is the same for the same seed."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def token_bytes(self, size: int) -> bytes:
        return self._chance.randbytes(size)

    def token(self) -> str:
        return self._chance.randbytes(12).hex()


class SeededIds(Ids):
    """Stripe's ids, the same for the same seed."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self._chance = chance
        self.seed(chance.randrange(1 << 40))

    def new(self, prefix: str) -> str:
        return f"{prefix}{self._chance.randbytes(12).hex()}"


class HubClock(ManualClock):
    """Stripe's clock, and the database's: the hub's own time."""

    def __init__(self, hub: Hub) -> None:
        super().__init__(0)
        self._hub = hub

    def system_at(self) -> int:
        return self._hub.now_ms // 1000

    def system_ms(self) -> int:
        return self._hub.now_ms

    def monotonic_ms(self) -> int:
        return self._hub.now_ms

    def sleep_ms(self, milliseconds: int) -> None:
        pass


class Buyer:
    """An account with the keys that it believes to work: clear text by id."""

    def __init__(self, account: str, customer: str) -> None:
        self.account = account
        self.customer = customer
        self.keys: dict[str, str] = {}


class Shop:
    """Buying, and what is done at Stripe itself."""

    def __init__(self, world: "World", fails_later: Callable[[], bool] = lambda: False) -> None:
        """`fails_later`: whether the next buyer pays with a card that fails at the first renewal."""
        self._world = world
        self._fails_later = fails_later
        self._asked = 0

    def found(self, founder: "Process", accounts: int) -> list[Buyer]:
        """Catalog, webhook endpoint, and buyers who have subscribed and hold a key."""
        world = self._world
        apply_push(plan_push(world.settings.catalog, founder.provider), lambda change: None)
        made = self.at_stripe("POST", "webhook_endpoints", "url=http://shop.test/hook&enabled_events[]=*")
        world.stripe.objects["webhook_endpoint"][made["id"]]["_signing"] = WEBHOOK_SECRET
        return [self._buyer(founder) for _ in range(accounts)]

    def _buyer(self, founder: "Process") -> Buyer:
        world = self._world
        session = self.checkout(founder, None)
        self.pay(session)
        claimed = take_claim(
            founder.store,
            founder.provider,
            founder.clock,
            world.entropy,
            world.settings.peppers,
            live=False,
            session_id=session,
        )
        account = world.store.account(claimed.account_id)
        assert account is not None
        buyer = Buyer(account.id, str(account.customer_id))
        buyer.keys[claimed.key_id] = claimed.key.reveal()
        return buyer

    def checkout(self, process: "Process", account: Account | None) -> str:
        """Begin a purchase. Returns the session's id. FareboxError as the real thing."""
        world = self._world
        return begin_checkout(
            process.store,
            process.provider,
            process.clock,
            world.entropy,
            world.settings.catalog,
            plan_name="payg",
            account=account,
            claim_url="http://shop.test/claim",
            plans_url="http://shop.test/",
        ).id

    def pay(self, session_id: str) -> None:
        """What the buyer does on Stripe's page."""
        number = FAILING_CARD if self._fails_later() else "4242424242424242"
        self._world.sandbox.pay(session_id, number=number, expiry="12/40", cvc="123", email="buyer@example.test")

    def at_stripe(self, method: str, path: str, body: str = "") -> dict[str, Any]:
        """Done at Stripe itself, past Farebox."""
        headers = {"Authorization": f"Bearer {STRIPE_KEY}"}
        answer = self._world.sandbox.request(method, f"/v1/{path}", headers, body.encode())
        return dict(json.loads(answer.body))


def settings_in(folder: Path) -> Settings:
    """The settings of every world."""
    path = folder / "farebox.toml"
    path.write_text(CATALOG)
    environ = {
        "STRIPE_SECRET_KEY": STRIPE_KEY,
        "STRIPE_WEBHOOK_SECRET": WEBHOOK_SECRET,
        "FAREBOX_SECRET": "a secret of the simulation that is long enough",
        "FAREBOX_PUBLIC_URL": "http://api.example.test",
    }
    return load_settings(environ=environ, path=path)
