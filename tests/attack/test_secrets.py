"""Attacks on secrets: weak ones, wrong ones, and what a comparison or a refusal might tell about a good one."""

import hmac
import traceback
from pathlib import Path
from typing import Any

import pytest
from tests.shop import ADMIN_TOKEN, CATALOG, PUBLIC_URL, Shop, bearer

from farebox.cli import main
from farebox.config import load_settings
from farebox.domain.accounts import Account
from farebox.domain.keys import Secret, digest, mint
from farebox.errors import ConfigError, StoreError
from farebox.provider.stripe import StripeProvider

GOOD = {
    "STRIPE_SECRET_KEY": "sk_test_canaryOfTheStripeKey0123456789",
    "STRIPE_WEBHOOK_SECRET": "whsec_canary_of_the_webhook",
    "FAREBOX_SECRET": "canary-of-the-farebox-secret-0123456789-abcdef",
    "FAREBOX_PUBLIC_URL": PUBLIC_URL,
    "FAREBOX_ADMIN_TOKEN": "canary-of-the-operators-token-0123456789-abcdef",
}
EMPTY = ["", " ", "\t\n", ",", ",,,", "  ,  "]
WEAK = {
    "STRIPE_SECRET_KEY": [
        "sk_",
        "secret",
        "pk_test_canaryOfAPublicKey0123",
        "sk_test_canary key",
        "sk_test_canary\u00e9",
    ],
    "STRIPE_WEBHOOK_SECRET": ["whsec_canary", "sec_canaryOfAWebhookSecret0123", "whsec_canary_of_the_webhook,"],
    "FAREBOX_SECRET": [
        "canary",
        "c" * 31,
        " " * 40 + "c" * 31,
        f"{GOOD['FAREBOX_SECRET']},canary",
        "canary" * 6 + "\x07",
    ],
    "FAREBOX_ADMIN_TOKEN": ["canary", "c" * 31, ",".join(["canary"] * 9)],
}
CASES = [(name, value) for name, values in WEAK.items() for value in [*EMPTY, *values]]


@pytest.mark.parametrize(("name", "value"), CASES)
def test_weak_secrets_refuse_to_start(tmp_path: Path, name: str, value: str) -> None:
    """A02: an empty, short or malformed secret refuses to start, and says which and not what."""
    (tmp_path / "farebox.toml").write_text(CATALOG)
    with pytest.raises(ConfigError) as refused:
        load_settings(environ={**GOOD, name: value}, path=tmp_path / "farebox.toml").require_serving()
    assert name in refused.value.detail
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize("name", ["STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET", "FAREBOX_SECRET"])
def test_no_secret_has_a_default(tmp_path: Path, name: str) -> None:
    """A02: a secret that is not there refuses to start: nothing stands in for it."""
    (tmp_path / "farebox.toml").write_text(CATALOG)
    rest = {other: value for other, value in GOOD.items() if other != name}
    with pytest.raises(ConfigError, match=name):
        load_settings(environ=rest, path=tmp_path / "farebox.toml").require_serving()


@pytest.mark.parametrize("secrets", [["", "whsec_canary_of_the_webhook"], [" "], ["whsec_canary_of_the_webhook", "\n"]])
def test_no_empty_webhook_secret(secrets: list[str]) -> None:
    """A02: whoever makes a provider by hand cannot give it a webhook secret with which anybody could sign."""
    with pytest.raises(ConfigError):
        StripeProvider(Secret("sk_test_unit"), [Secret(text) for text in secrets])


PASSWORD = "canaryOfThePassword"
WRONG = {
    "STRIPE_API_BASE": [f"http://u:{PASSWORD}@127.0.0.9:1", f"https://{PASSWORD}.example"],
    "FAREBOX_PUBLIC_URL": [f"http://u:{PASSWORD}@api.example", f"ftp://{PASSWORD}/"],
    "FAREBOX_DATABASE_URL": [
        f"mysql://u:{PASSWORD}@127.0.0.1/x",
        f"postgresql://u:{PASSWORD}@127.0.0.1:1/x",
        f"postgresql+psycopg://u:{PASSWORD}@127.0.0.1:1/x",
        f"postgresql://127.0.0.1:1/x?password={PASSWORD}",
        f"sqlite:////nowhere/x.db?key={PASSWORD}",
        PASSWORD,
    ],
}
UNSAID = [(name, value) for name, values in (WEAK | WRONG).items() for value in values if "canary" in value]


@pytest.mark.parametrize(("name", "value"), UNSAID)
@pytest.mark.parametrize("more", [[], ["--json"]], ids=["words", "json"])
def test_wrong_configuration_is_not_repeated(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    name: str,
    value: str,
    more: list[str],
) -> None:
    """A07: what is wrong with a variable is said without any of what stands in it, and without the other secrets."""
    (tmp_path / "farebox.toml").write_text(CATALOG)
    monkeypatch.chdir(tmp_path)
    for other in ("FAREBOX_CONFIG", "STRIPE_API_BASE", "FAREBOX_DATABASE_URL"):
        monkeypatch.delenv(other, raising=False)
    for variable, text in {**GOOD, name: value}.items():
        monkeypatch.setenv(variable, text)
    monkeypatch.setattr("sys.argv", ["farebox", "customers", *more])
    with pytest.raises(SystemExit) as ended:
        main()
    said = "".join(capfd.readouterr())
    assert (ended.value.code, "canary" in said, "Traceback" in said) == (1, False, False), said
    assert said


def test_a_trace_has_no_parameters(shop: Shop) -> None:
    """A07: the trace of an error of the store, which logs may show whole, has nothing of what was to be stored."""
    account = Account("acct_twice", 0, email="canary@private.example", reference="canary")
    shop.store.add_account(account)
    with pytest.raises(StoreError) as caught:
        shop.store.add_account(account)
    trace = "".join(traceback.format_exception(caught.value))
    assert "INSERT INTO accounts" in trace
    assert "canary" not in trace


def test_keys_are_found_by_their_digest(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A06: no key is compared with another: the store is asked for a keyed digest, good key or bad, and never sees a
    text; a text whose checksum is wrong is refused before."""
    asked: list[tuple[str, ...]] = []
    find = shop.store.find_facts

    def spied(digests: Any) -> Any:
        asked.append(tuple(digests))
        return find(digests)

    monkeypatch.setattr(shop.store, "find_facts", spied)
    claimed, stranger = shop.buy(), mint(b"\x01" * 32, live=False)
    near = [claimed.key.reveal()[:place] + "!" + claimed.key.reveal()[place + 1 :] for place in (8, 30, 50)]
    assert [shop.client.get("/api", headers={"X-API-Key": text}).status_code for text in near] == [401] * 3
    assert asked == []
    assert shop.client.get("/api", headers=bearer(claimed.key)).status_code == 200
    assert shop.client.get("/api", headers=bearer(stranger)).status_code == 401
    keyed = [tuple(digest(key.reveal(), pepper) for pepper in shop.settings.peppers) for key in (claimed.key, stranger)]
    assert asked == keyed


@pytest.mark.parametrize("equal", [True, False])
def test_the_operators_token_is_compared_in_constant_time(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, equal: bool
) -> None:
    """A06: hmac.compare_digest alone decides about the operator's token, of which it sees all."""
    asked: list[tuple[bytes, bytes]] = []

    def says(given: bytes, token: bytes) -> bool:
        asked.append((given, token))
        return equal

    monkeypatch.setattr(hmac, "compare_digest", says)
    for given in (ADMIN_TOKEN, "x", ADMIN_TOKEN[:-1]):
        answer = shop.client.get("/billing/metrics", headers={"Authorization": f"Bearer {given}"})
        assert answer.status_code == (200 if equal else 403)
    assert asked == [(given.encode(), ADMIN_TOKEN.encode()) for given in (ADMIN_TOKEN, "x", ADMIN_TOKEN[:-1])]


def test_secrets_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A06: Secrets are never compared letter by letter, wherever the code says ==."""
    asked: list[Any] = []

    def says(*both: Any) -> bool:
        asked.append(both)
        return True

    monkeypatch.setattr(hmac, "compare_digest", says)
    assert Secret("one") == Secret("another")
    assert asked == [(b"one", b"another")]
