"""`farebox doctor` on a ledger in memory and a local Stripe: each thing that can be wrong is named, with what to do."""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

import pytest
from tests.settling import settle

from farebox.billing.catalog import apply_push, plan_push, push_error_destination, push_portal, push_webhook
from farebox.billing.doctor import OPEN_EVENT_SECONDS_MAX, Finding, diagnose
from farebox.domain.accounts import Account
from farebox.domain.catalog import Catalog, Meter, Plan, Price
from farebox.domain.inbox import InboxEvent
from farebox.domain.keys import ApiKey, Pepper, Secret, pepper_from
from farebox.domain.reports import Outcome, OutcomeKind, ReportState, Unsealed, seal
from farebox.domain.usage import Batch, Increment
from farebox.provider.stripe import StripeProvider
from farebox.sandbox import ManualClock, Sandbox
from farebox.store.sql import MEMORY_URL, SqlStore
from farebox.system import SystemEntropy

START = 1_800_000_000 - 1_800_000_000 % 3600
URL = "https://api.example.com/billing/webhook"
PEPPER = pepper_from("a" * 32)
CATALOG = Catalog(
    {"calls": Meter("calls", "API calls", "calls")},
    {"payg": Plan("payg", "Payg", "usd", "month", (Price("calls", Decimal(100)),))},
)


class StoppedClock:
    """A clock that a test moves by hand."""

    at = START

    def now_at(self) -> int:
        return self.at

    def system_at(self) -> int:
        return self.at

    def monotonic_ms(self) -> int:
        return self.at * 1000


@dataclass
class Patient:
    """A seller's ledger and Stripe account, healthy as far as a test leaves them so."""

    sandbox: Sandbox
    provider: StripeProvider
    store: SqlStore
    clock: StoppedClock

    def examine(self, *, peppers: tuple[Pepper, ...] = (PEPPER,), secrets: int = 1) -> dict[str, Finding]:
        found = diagnose(
            self.store,
            self.provider,
            self.clock,
            CATALOG,
            peppers,
            webhook_url=URL,
            webhook_secrets=secrets,
            live=False,
        )
        return {finding.check: finding for finding in found}

    def push(self) -> None:
        apply_push(plan_push(CATALOG, self.provider), lambda _: None)
        push_portal(self.provider)
        push_webhook(self.provider, URL)
        push_error_destination(self.provider, URL)

    def use(self, quantity: int) -> None:
        """A buyer's usage, sealed into a meter event and taken for sending."""
        self.store.add_account(Account("acc_1", START, customer_id="cus_1"))
        used = Increment("acc_1", "calls", "key_1", "GET /api", START, quantity, 1, START + 30)
        self.store.commit_batch(Batch("w1", 1, "n1", (used,)))
        ledger = self.store.ledger().id

        def plan(found: Unsealed) -> object:
            return seal(ledger, found, "calls", START + 60)

        assert len(self.store.seal(plan, now=START + 60)) == 1  # type: ignore[arg-type]


@pytest.fixture
def patient() -> Iterator[Patient]:
    clock, sandbox = StoppedClock(), Sandbox(ManualClock(START))

    def send(method: str, url: str, headers: object, body: bytes) -> tuple[bytes, int, dict[str, str]]:
        answer = sandbox.request(method, url.removeprefix("http://local"), dict(headers), body)  # type: ignore[call-overload]
        return answer.body, answer.status, answer.headers

    key = Secret("sk_test_doctor_test")
    store = SqlStore(MEMORY_URL, clock, SystemEntropy())
    store.open()
    yield Patient(sandbox, StripeProvider(key, (), api_base="http://local", transport=send), store, clock)
    store.close()


def test_a_healthy_house(patient: Patient) -> None:
    """After a push, with all that serving needs, every check is ok and nothing is advised."""
    patient.push()
    found = patient.examine()
    assert {f.status for f in found.values()} == {"ok"}
    assert not any(f.advice for f in found.values())
    assert set(found) == {
        "subscriptions",
        "database",
        "durability",
        "stripe key",
        "catalog",
        "webhook secret",
        "webhook endpoint",
        "event destination",
        "portal",
        "key peppers",
        "reports",
        "inbox",
    }


def test_nothing_pushed_yet(patient: Patient) -> None:
    """A Stripe account without the catalog, the endpoint and the portal says what to run; looking changes nothing."""
    found = patient.examine(secrets=0)
    lacking = ("catalog", "webhook endpoint", "event destination", "portal")
    assert [found[name].status for name in lacking] == ["warn"] * 4
    assert found["webhook secret"].status == "fail"
    for name in (*lacking, "webhook secret"):
        assert "farebox push" in found[name].advice
    (state,) = patient.sandbox.accounts.values()
    assert {entry["method"] for entry in state.requests} == {"GET"}


def test_what_somebody_changed_at_stripe(patient: Patient) -> None:
    """Drift of the catalog, an endpoint that lacks events, and a portal that cancels at once are each found."""
    patient.push()
    (state,) = patient.sandbox.accounts.values()
    state.all("product")[0]["name"] = "Renamed by hand"
    state.all("webhook_endpoint")[0]["enabled_events"] = ["invoice.paid"]
    state.all("billing_portal.configuration")[0]["features"]["subscription_cancel"]["mode"] = "immediately"
    found = patient.examine()
    assert (found["catalog"].status, "update product payg" in found["catalog"].detail) == ("warn", True)
    assert "lacks" in found["webhook endpoint"].detail
    assert (found["portal"].status, "at once" in found["portal"].detail) == ("fail", True)


def test_another_accounts_ledger(patient: Patient) -> None:
    """F28: a key of another account, or of the other mode, than the ledger is bound to fails."""
    patient.store.bind_ledger("acct_of_another", False)
    assert patient.examine()["stripe key"].status == "fail"


def test_a_ledger_of_the_other_mode(patient: Patient) -> None:
    """F28: a test key on a live ledger fails even when the account is the same."""
    patient.store.bind_ledger(patient.provider.account().id, True)
    assert patient.examine()["stripe key"].status == "fail"


@pytest.mark.parametrize(("status", "words"), [(403, "refuses the key"), (500, "cannot be reached")])
def test_a_stripe_that_does_not_answer(
    patient: Patient, monkeypatch: pytest.MonkeyPatch, status: int, words: str
) -> None:
    """With Stripe refusing or down, its checks fail in words, and the ledger's own checks are still made."""
    monkeypatch.setattr("stripe.HTTPClient.INITIAL_DELAY", 0)
    patient.sandbox.faults.add({"status": status, "count": None})
    found = patient.examine()
    assert (found["stripe key"].status, words in found["stripe key"].detail) == ("fail", True)
    assert found.keys().isdisjoint({"catalog", "webhook endpoint", "portal"})  # once is enough
    assert [found[name].status for name in ("database", "key peppers", "reports", "inbox")] == ["ok"] * 4


@pytest.mark.parametrize(
    ("path", "check"), [("/v1/prices*", "catalog"), ("/v1/webhook*", "webhook endpoint"), ("/v1/billing_p*", "portal")]
)
def test_a_key_that_may_not_do_everything(patient: Patient, path: str, check: str) -> None:
    """A restricted key that lacks one permission fails that check alone, and says where the permissions are listed."""
    patient.sandbox.faults.add({"status": 403, "path": path, "count": None})
    found = patient.examine()
    assert (found[check].status, "go-live.md" in found[check].advice) == ("fail", True)
    assert [name for name, finding in found.items() if finding.status == "fail"] == [check]


def test_live_keys_with_a_missing_secret(patient: Patient) -> None:
    """L19: live keys whose pepper is gone are counted; ended ones are not."""
    patient.store.add_account(Account("acc_1", START))
    for name, pepper, revoked in (("a", PEPPER.id, None), ("b", "gone", None), ("c", "gone", START)):
        patient.store.add_key(
            ApiKey(name, "acc_1", f"digest {name}", pepper, "fb_test_", "abcd", "", START, revoked_at=revoked)
        )
    found = patient.examine()["key peppers"]
    assert (found.status, found.detail.startswith("1 live keys")) == ("fail", True)
    assert patient.examine(peppers=(PEPPER, Pepper("gone", b"x")))["key peppers"].status == "ok"


def test_usage_that_waits_too_long(patient: Patient) -> None:
    """Unreported usage is no news until it is older than the alarm's age, to the second."""
    patient.use(5)
    patient.clock.at = START + 60 + OPEN_EVENT_SECONDS_MAX
    assert patient.examine()["reports"].status == "ok"
    patient.clock.at += 1
    assert patient.examine()["reports"].status == "warn"


def test_parked_meter_events(patient: Patient) -> None:
    """A meter event that Stripe rejected fails the check until a person has dealt with it."""
    patient.use(5)
    (event,) = patient.store.take_meter_events("h", now=START + 60, lease_seconds=60, limit=5)
    outcome = Outcome(OutcomeKind.REJECTED, "No such customer")
    assert settle(patient.store, "h", event, outcome, state=ReportState.REJECTED, now=START + 61)
    found = patient.examine()["reports"]
    assert (found.status, "1 meter events are parked" in found.detail) == ("fail", True)


def test_waiting_webhooks_are_counted(patient: Patient) -> None:
    """Events that are stored and not worked off yet are counted."""
    hint = InboxEvent("evt_1", "invoice.paid", "in_1", "cus_1", START, False)
    patient.store.add_event(hint, at=START)
    assert patient.examine()["inbox"].detail.startswith("1 ")
