"""What one Stripe account holds. Objects are dicts in Stripe's own shape; names that begin with _ never leave."""

import copy
import hashlib
from collections import deque
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from farebox.sandbox.errors import missing_object

__all__ = ["API_VERSION", "REMEMBERED_SECONDS", "State", "StripeObject", "visible"]

API_VERSION: Final = "2026-10-28.endive"
REMEMBERED_SECONDS: Final = 86_400  # Stripe promises no more, so nobody may build on more
_KINDS: Final = {
    "prod_": "product",
    "price_": "price",
    "mtr_": "billing.meter",
    "cus_": "customer",
    "pm_": "payment_method",
    "cs_": "checkout.session",
    "sub_": "subscription",
    "in_": "invoice",
    "evt_": "event",
    "we_": "webhook_endpoint",
    "bpc_": "billing_portal.configuration",
    "bps_": "billing_portal.session",
}
_TITLES: Final = {"billing.meter": "billing meter", "payment_method": "PaymentMethod"}

StripeObject = dict[str, Any]


@dataclass(slots=True)
class State:
    """One account: its objects by kind and id, and the usage that its meters have seen."""

    account_id: str
    objects: dict[str, dict[str, StripeObject]] = field(default_factory=lambda: {k: {} for k in _KINDS.values()})
    meter_names: dict[str, str] = field(default_factory=dict)  # event_name → id of the active meter
    identifiers: dict[str, set[str]] = field(default_factory=dict)  # by meter id
    usage: dict[tuple[str, str], list[tuple[int, Decimal, int]]] = field(default_factory=dict)
    saved_answers: dict[str, tuple[str, int, bytes]] = field(default_factory=dict)
    deliveries: list[StripeObject] = field(default_factory=list)
    requests: list[StripeObject] = field(default_factory=list)
    remembered: deque[tuple[int, str | None, str]] = field(default_factory=deque)  # since when, meter id or None, name
    invoice_number: int = 0

    @classmethod
    def of_key(cls, key: str) -> "State":
        """The account that a test key opens; sk_test_x and rk_test_x open the same one."""
        return cls("acct_" + hashlib.sha256(key[8:].encode()).hexdigest()[:16])

    def add(self, thing: StripeObject) -> StripeObject:
        self.objects[thing["object"]][thing["id"]] = thing
        return thing

    def save_answer(self, key: str, answer: tuple[str, int, bytes], at: int) -> None:
        """Keep what an idempotency key was answered: the request's fingerprint, status and body."""
        self.saved_answers[key] = answer
        self.remembered.append((at, None, key))

    def add_identifier(self, meter_id: str, identifier: str, at: int) -> bool:
        """Remember a meter event's identifier. False if the meter had it already."""
        seen = self.identifiers.setdefault(meter_id, set())
        if identifier in seen:
            return False
        seen.add(identifier)
        self.remembered.append((at, meter_id, identifier))
        return True

    def forget(self, now_at: int) -> None:
        """Forget the identifiers and idempotency keys that are older than a day."""
        while self.remembered and now_at - self.remembered[0][0] > REMEMBERED_SECONDS:
            _, meter_id, name = self.remembered.popleft()
            if meter_id is None:
                self.saved_answers.pop(name, None)
            else:
                self.identifiers[meter_id].discard(name)

    def all(self, kind: str) -> list[StripeObject]:
        return list(self.objects[kind].values())

    def get(self, kind: str, id: str, *, param: str = "id", status: int = 404) -> StripeObject:
        """The object with this id, or Stripe's answer that there is none."""
        found = self.objects[kind].get(id)
        if found is None:
            raise missing_object(_TITLES.get(kind, kind.replace("_", " ")), id, param, status=status)
        return found

    def find(self, id: str) -> StripeObject | None:
        """Any object by the prefix of its id."""
        kind = next((kind for prefix, kind in _KINDS.items() if id.startswith(prefix)), None)
        return self.objects[kind].get(id) if kind is not None else None


def visible(thing: Any) -> Any:
    """A copy without inner names, safe to keep or to send."""
    if isinstance(thing, dict):
        return {name: visible(value) for name, value in thing.items() if not name.startswith("_")}
    if isinstance(thing, list):
        return [visible(entry) for entry in thing]
    return copy.copy(thing)
