"""What one Stripe account holds. Objects are dicts in Stripe's own shape; names that begin with _ never leave."""

import copy
import hashlib
from collections import deque
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from farebox.sandbox.errors import missing_object
from farebox.sandbox.schedule import ACCOUNT, Schedule
from farebox.sandbox.snapshots import Snapshot

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
    "ii_": "invoiceitem",
    "cn_": "credit_note",
    "coupon_": "coupon",
    "promo_": "promotion_code",
    "di_": "discount",
    "du_": "dispute",
    "credgr_": "billing.credit_grant",
    "cbtxn_": "customer_balance_transaction",
    "cbtxn_test_": "billing.credit_balance_transaction",
    "ed_": "v2.core.event_destination",
    "evt_test_": "v2.core.event",
    "0_": "usage_queue",
    "mes_": "v2.billing.meter_event_session",
    "clock_": "test_helpers.test_clock",
    "sub_sched_": "subscription_schedule",
}
_TITLES: Final = {
    "billing.meter": "billing meter",
    "payment_method": "PaymentMethod",
    "test_helpers.test_clock": "test clock",
}

_ATOMS: Final = (str, int, bool, type(None))

StripeObject = dict[str, Any]


@dataclass(slots=True)
class State:
    """One account: its objects by kind and id, and the usage that its meters have seen."""

    account_id: str
    objects: dict[str, dict[str, StripeObject]] = field(default_factory=lambda: {k: {} for k in _KINDS.values()})
    meter_names: dict[str, str] = field(default_factory=dict)  # event_name → id of the active meter
    identifiers: dict[str, dict[str, Any]] = field(default_factory=dict)  # by meter id: whose event, and what it counts
    usage: dict[tuple[str, str], list[tuple[int, Decimal, int]]] = field(default_factory=dict)
    saved_answers: dict[str, tuple[str, int, bytes]] = field(default_factory=dict)
    unsettled: deque[StripeObject] = field(default_factory=deque)  # usage that is accepted and not looked at yet
    deliveries: deque[StripeObject] = field(default_factory=deque)  # the log, the newest last
    pending: dict[int, StripeObject] = field(default_factory=dict)  # of the deliveries: not settled, by number
    awaited: dict[str, int] = field(default_factory=dict)  # how many are pending for a type of event and an object
    held: dict[str, StripeObject] = field(default_factory=dict)  # by endpoint: the delivery that the next overtakes
    delivery_number: int = 0
    requests: list[StripeObject] = field(default_factory=list)
    remembered: deque[tuple[int, str | None, str]] = field(default_factory=deque)  # since when, meter id or None, name
    forgotten: int = 0  # how many were remembered before these
    invoice_number: int = 0
    by_customer: dict[str, list[str]] = field(default_factory=dict)  # the ids of all that names the customer
    due: Schedule = field(default_factory=Schedule)  # what happens by itself, and when

    @staticmethod
    def id_of(key: str) -> str:
        """The account that a test key opens; sk_test_x and rk_test_x open the same one."""
        return "acct_" + hashlib.sha256(key[8:].encode()).hexdigest()[:16]

    def add(self, thing: StripeObject) -> StripeObject:
        """Keep a new object. One that can belong to a test clock belongs to its customer's."""
        if "test_clock" in thing and thing["test_clock"] is None:
            thing["test_clock"] = self.timeline(thing) or None
        self.objects[thing["object"]][thing["id"]] = thing
        self.touch(thing)
        return thing

    def touch(self, thing: StripeObject) -> None:
        """The object has changed: when it falls due is worked out again. `add` and every event do this by themselves.

        Needs calling only for a change that no event tells of, and that moves when something happens by itself.
        """
        id, customer = thing.get("id"), thing.get("customer")
        if not isinstance(id, str):
            return
        self.due.touch(id)
        for name in ("subscription", "invoice"):  # parts such as items, and what was made of an object
            if isinstance(thing.get(name), str):
                self.due.touch(thing[name])
        if isinstance(customer, str) and id in self.objects.get(thing.get("object", ""), ()):
            own = self.by_customer.setdefault(customer, [])
            if id not in own:
                own.append(id)

    def timeline(self, thing: StripeObject) -> str:
        """Whose time an object lives in: a test clock's id, or "" for the account's own time."""
        own = thing.get("test_clock")
        if own is None and isinstance(thing.get("customer"), str):
            own = self.objects["customer"].get(thing["customer"], {}).get("test_clock")
        return own or ACCOUNT

    def save_answer(self, key: str, answer: tuple[str, int, bytes], at: int) -> None:
        """Keep what an idempotency key was answered: the request's fingerprint, status and body."""
        self.saved_answers[key] = answer
        self.remembered.append((at, None, key))

    def add_identifier(self, meter_id: str, identifier: str, at: int, event: Any = None) -> bool:
        """Remember a meter event's identifier, and what it counts. False if the meter had it already."""
        seen = self.identifiers.setdefault(meter_id, {})
        if identifier in seen:
            return False
        seen[identifier] = event
        self.remembered.append((at, meter_id, identifier))
        return True

    def forget(self, now_at: int) -> None:
        """Forget the identifiers and idempotency keys that are older than a day."""
        while self.remembered and now_at - self.remembered[0][0] > REMEMBERED_SECONDS:
            _, meter_id, name = self.remembered.popleft()
            self.forgotten += 1
            if meter_id is None:
                self.saved_answers.pop(name, None)
            else:
                self.identifiers[meter_id].pop(name, None)

    def all(self, kind: str, customer: str | None = None) -> list[StripeObject]:
        """Every object of a kind, oldest first; of this customer's only, where one is named."""
        return list(self.objects[kind].values()) if customer is None else self.of_customer(kind, customer)

    def of_customer(self, kind: str, customer_id: str) -> list[StripeObject]:
        """This customer's objects of a kind, oldest first, without a look at anybody else's."""
        things = self.objects[kind]
        found = (things[id] for id in self.by_customer.get(customer_id, ()) if id in things)
        return [thing for thing in found if thing.get("customer") == customer_id]

    def listed(self, kind: str, params: dict[str, Any]) -> list[StripeObject]:
        """What a list begins from: what is a customer's; else what lives by the test clock asked for; else by none.

        A subscription names its customer, too.
        """
        customer = params.get("customer")
        if customer is None and params.get("subscription") is not None:
            customer = self.objects["subscription"].get(params["subscription"], {}).get("customer", "")
        if customer is not None:
            return self.of_customer(kind, customer)
        clock = params.get("test_clock")
        return [thing for thing in self.objects[kind].values() if thing["test_clock"] == clock]

    def get(self, kind: str, id: str, *, param: str = "id", status: int = 404) -> StripeObject:
        """The object with this id, or Stripe's answer that there is none."""
        found = self.objects[kind].get(id)
        if found is None:
            raise missing_object(_TITLES.get(kind, kind.replace("_", " ")), id, param, status=status)
        return found

    def find(self, id: str) -> StripeObject | None:
        """Any object by the prefix of its id."""
        kind = _KINDS.get(id[: id.rfind("_") + 1]) or _KINDS.get(id[: id.find("_") + 1])  # evt_test_… and evt_…
        return self.objects[kind].get(id) if kind is not None else self.objects["coupon"].get(id)


def visible(thing: Any) -> Any:
    """A copy without inner names, safe to keep or to send."""
    if isinstance(thing, dict):
        if thing.get("deleted") is True and thing.get("object") != "discount":
            return {name: thing[name] for name in ("id", "object", "deleted")}  # all that Stripe shows of it
        return {
            name: value if type(value) in _ATOMS else dict(value) if _is_free(name, value) else visible(value)
            for name, value in thing.items()
            if not name.startswith("_")
        }
    if isinstance(thing, list):
        return [visible(entry) for entry in thing]
    return thing.document() if isinstance(thing, Snapshot) else copy.copy(thing)


def _is_free(name: str, value: Any) -> bool:
    """Whether the names in it are the sender's own, and none is an inner one."""
    return name in ("metadata", "payload") and isinstance(value, dict)
