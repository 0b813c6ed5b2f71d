"""farebox.toml and the environment: what is wrong is said by its place, and nothing starts with a mistake in it."""

import os
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from farebox.config import Settings, load_settings
from farebox.configcheck import CONFIG_BYTES_MAX
from farebox.domain.catalog import Meter, Price, Route
from farebox.domain.changes import ChangeRules
from farebox.domain.keys import pepper_from
from farebox.domain.measures import SUCCESS, Measure, Source, Terms
from farebox.errors import ConfigError

SECRET = "a secret of the tests that is long enough"
OTHER_SECRET = "another secret of the tests that is as long"
WHSEC = "whsec_0123456789abcdef"
FULL = {
    "STRIPE_SECRET_KEY": "sk_test_of_the_config",
    "STRIPE_WEBHOOK_SECRET": WHSEC,
    "FAREBOX_SECRET": SECRET,
    "FAREBOX_PUBLIC_URL": "https://api.example.com",
}
PLAIN = """
[meters.calls]
title = "API calls"
[plans.payg]
title = "Pay as you go"
[[plans.payg.prices]]
meter = "calls"
unit_amount = "1.00"
[[routes]]
match = "GET /api"
meter = "calls"
"""


TOKENS = "[meters.tokens]\ntitle = 'Tokens'\n"
ROUTE = 'match = "GET /api"\nmeter = "calls"\n'


def charged(charges: str, more: str = "") -> tuple[str, str]:
    """PLAIN's route, and what stands in its place."""
    return ROUTE, f'match = "GET /api"\ncharges = [{charges}]\n{more}'


CHARGES_REFUSED = [
    (*charged(""), "routes[0].charges: "),
    (*charged("{ quantity = 1 }"), "routes[0].charges[0].meter: is required"),
    (*charged('{ meter = "x" }'), "routes[0].charges[0].meter: there is no meter 'x' (known: calls)"),
    (
        *charged('{ meter = "calls" }, { meter = "calls", from = "bytes" }'),
        "[1].meter: the route charges 'calls'",
    ),
    (*charged('{ meter = "calls" }', 'meter = "calls"'), "routes[0]: it has charges and a meter"),
    (*charged('{ meter = "calls" }', 'access = "public"'), "routes[0]: a public route cannot have a meter"),
    (
        ROUTE,
        'match = "GET /api"\naccess = "public"\nbilled = ["2xx"]\n',
        "routes[0].billed: a public route bills",
    ),
    (ROUTE, ROUTE + 'billed = ["200-299"]\n', "routes[0].billed: '200-299' is no status to bill"),
    (ROUTE, ROUTE + 'billed = ["1xx"]\n', "routes[0].billed: '1xx' is no status to bill"),
    (ROUTE, ROUTE + "billed = []\n", "routes[0].billed: "),
    (*charged('{ meter = "calls", form = "bytes" }'), "routes[0].charges[0].form: Farebox knows no such setting"),
    *[
        (*charged(f'{{ meter = "calls", from = "{text}" }}'), f"routes[0].charges[0].from: '{text}' is not one of")
        for text in ("", "tokens", "bytes:x", "header", "json", "sse:usage", "Header:x", "seconds:")
    ],
    (*charged('{ meter = "calls", from = "header:X Rows" }'), "'X Rows' cannot be the name of a header"),
    (*charged('{ meter = "calls", from = "header:" }'), "'' cannot be the name of a header"),
    (*charged('{ meter = "calls", from = "json:$.usage" }'), "names with dots between them"),
    (*charged('{ meter = "calls", from = "json:a..b" }'), "names with dots between them"),
    (*charged(f'{{ meter = "calls", from = "json:{"a" * 200}" }}'), "routes[0].charges[0].from: "),
    (*charged('{ meter = "calls", from = "bytes", quantity = 1 }'), "write a minimum instead"),
    (*charged('{ meter = "calls", minimum = 1 }'), "routes[0].charges[0].minimum: a fixed quantity has none"),
    (*charged('{ meter = "calls", from = "bytes", minimum = -1 }'), "routes[0].charges[0].minimum: "),
    (*charged('{ meter = "calls", from = "bytes", minimum = 0.5 }'), "minimum: must be a whole number"),
    (*charged('{ meter = "calls", from = "bytes", minimum = 5, maximum = 4 }'), "maximum: 4 is less than the minimum"),
    (*charged('{ meter = "calls", from = "bytes", strip = true }'), "strip: only a header can be taken out"),
    (*charged('{ meter = "calls", strip = true }'), "strip: only a header can be taken out"),
]


def load(folder: Path, text: str | bytes = PLAIN, **environ: str) -> Settings:
    path = folder / "farebox.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_settings(environ={**FULL, **environ}, path=path)


def refusal(folder: Path, text: str | bytes = PLAIN, **environ: str) -> str:
    """What a start with this configuration is refused with."""
    with pytest.raises(ConfigError) as refused:
        load(folder, text, **environ)
    return refused.value.detail


def named(folder: Path, said: str, detail: str) -> bool:
    """Whether a line of the refusal begins with the file, the line in it, and this."""
    place = re.escape(f"{folder / 'farebox.toml'}:") + r"\d+: " + re.escape(said)
    return any(re.match(place, line) for line in detail.splitlines())


def test_defaults(tmp_path: Path) -> None:
    """A small file gives a whole configuration, with what is not said set as the documentation says."""
    settings = load(tmp_path)
    settings.require_serving()
    assert (settings.prefix, settings.credentials) == ("/billing", ("bearer", "x-api-key"))
    assert (settings.past_due_grace_seconds, settings.seal_seconds) == (3 * 86_400, 300)
    assert (settings.database_url, settings.stripe_api_base) == ("sqlite:///farebox.db", None)
    assert settings.catalog.meters == {"calls": Meter("calls", "API calls", "calls")}
    assert settings.catalog.routes == (Route("GET", "/api", False, "calls", 1),)
    plan = settings.catalog.plans["payg"]
    assert (plan.currency, plan.interval, plan.prices) == ("usd", "month", (Price("calls", Decimal(100)),))
    assert settings.webhook_url == "https://api.example.com/billing/webhook"
    assert not settings.live


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"[meters.calls]\ntitle = \n", ":2: not valid TOML: "),
        (b"[meters.calls]\ntitle = 'a'\ntitle = 'b'\n", ":3: not valid TOML: "),
        (b"[plans\n", ":1: not valid TOML: "),
        (b"a = 1\n\xff\xfe", "byte 6 is not UTF-8"),
        (b"a = " + b"[" * 5_000, "nested too deeply"),
        (b"#" * (CONFIG_BYTES_MAX + 1), f"larger than {CONFIG_BYTES_MAX} bytes"),
    ],
)
def test_no_toml(tmp_path: Path, text: bytes, said: str) -> None:
    """A file that is no TOML is refused with its name and the line."""
    detail = refusal(tmp_path, text)
    assert said in detail
    assert "farebox.toml" in detail


def test_no_file(tmp_path: Path) -> None:
    """A missing file says how to make one; a folder in its place, that it cannot be read."""
    with pytest.raises(ConfigError, match=r"does not exist.*farebox init"):
        load_settings(environ={}, path=tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(environ={}, path=tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"1.00"', "1.0", 'plans.payg.prices[0].unit_amount: write the amount as a string, "1.0": a float cannot'),
        ('"1.00"', "1", 'plans.payg.prices[0].unit_amount: write the amount as a string, "1.00"'),
        ('"1.00"', '"one"', "plans.payg.prices[0].unit_amount: 'one' is not a decimal number"),
        ('"1.00"', '"-1"', "plans.payg.prices[0].unit_amount: '-1' must be a finite amount"),
        ('"1.00"', '"1e999999999"', "plans.payg.prices[0].unit_amount: "),
        ('unit_amount = "1.00"', "", "plans.payg.prices[0].unit_amount: is required"),
        ('meter = "calls"\nunit', 'meter = "cals"\nunit', "plans.payg.prices[0].meter: there is no meter 'cals'"),
        ('"GET /api"\nmeter = "calls"', '"GET /api"\nmeter = "x"', "routes[0].meter: there is no meter 'x' (known"),
        ('meter = "calls"\n', 'meter = "calls"\nquantity = 1.5\n', "routes[0].quantity: must be a whole number"),
        ('meter = "calls"\n', 'meter = "calls"\nquantity = -1\n', "routes[0].quantity: "),
        ('meter = "calls"\n', 'meter = "calls"\nquantity = true\n', "routes[0].quantity: "),
        ('meter = "calls"\n', 'meter = "calls"\nacces = "public"\n', "routes[0].acces: Farebox knows no such setting"),
        ('meter = "calls"\n', 'meter = "calls"\naccess = "public"\n', "routes[0]: a public route cannot have a meter"),
        ('meter = "calls"\n', 'access = "open"\n', "routes[0].access: "),
        ("GET /api", "HEAD /api", "routes[0].match: HEAD follows GET's rule"),
        ("GET /api", "/api", "routes[0].match: '/api' must be a method and a path"),
        ("GET /api", "GET api", "routes[0].match: 'GET api' must be"),
        ("GET /api", "GET /*/x", "routes[0].match: 'GET /*/x': a star may stand only at the end"),
        ("GET /api", "GET /a**", "routes[0].match: "),
        ("GET /api", "GET /api?x=1", "routes[0].match: 'GET /api?x=1': a path is matched without its query"),
        ("[meters.calls]", "[meters.Calls]", "meters.Calls: a name is lower-case letters"),
        ("[plans.payg]", '[plans.payg]\ninterval = "hour"', "plans.payg.interval: "),
        ("[plans.payg]", '[plans.payg]\ncurrency = "USD"', "plans.payg.currency: "),
        ("[meters.calls]", "[http]\nprefix = 1\n[meters.calls]", "http.prefix: "),
        ("[meters.calls]", '[http]\ncredentials = ["cookie"]\n[meters.calls]', "http.credentials: 'cookie' is not"),
        ("[meters.calls]", "[http]\ncredentials = []\n[meters.calls]", "http.credentials: "),
        ("[meters.calls]", "[access]\npast_due_grace_days = 1.5\n[meters.calls]", "access.past_due_grace_days: "),
        ("[meters.calls]", "[access]\npast_due_grace_days = 91\n[meters.calls]", "access.past_due_grace_days: "),
        ("[meters.calls]", "[reporting]\nseal_seconds = 0\n[meters.calls]", "reporting.seal_seconds: "),
        ("[meters.calls]", "[unknown]\na = 1\n[meters.calls]", "unknown: Farebox knows no such setting"),
        (
            "[plans.payg]",
            '[meters.more]\ntitle = "More"\nevent_name = "calls"\n[plans.payg]',
            "meters.more.event_name: 'calls' is already used by meters.calls",
        ),
    ],
)
def test_mistakes(tmp_path: Path, old: str, new: str, said: str) -> None:
    """A mistake is named by the line and the dotted path at which it stands, in words, with the file's name."""
    detail = refusal(tmp_path, PLAIN[::-1].replace(old[::-1], new[::-1], 1)[::-1])
    assert named(tmp_path, said, detail), detail


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    """Every mistake of a file is said together, one to a line, so that it is mended in one go."""
    text = PLAIN.replace('"1.00"', "1.0").replace("GET /api", "GET api").replace('title = "API calls"', "")
    lines = refusal(tmp_path, text).splitlines()
    assert [line.split(": ")[1] for line in lines] == [
        "meters.calls.title",
        "plans.payg.prices[0].unit_amount",
        "routes[0].match",
    ]


@pytest.mark.parametrize(
    ("prefix", "good"),
    [
        ("/billing", True),
        ("/a/b-c/d.e_f~g", True),
        ("", False),
        ("/", False),
        ("billing", False),
        ("/billing/", False),
        ("//billing", False),
        ("/bil ling", False),
        ("/bil%2Fling", False),
        ("/{x}", False),
        ("/billing\\n", False),
        ("https://evil.example", False),
    ],
)
def test_prefixes(tmp_path: Path, prefix: str, good: bool) -> None:
    """A prefix begins with a slash, ends without one, and holds nothing that a path would have to escape."""
    text = f'[http]\nprefix = "{prefix}"\n{PLAIN}'
    if good:
        assert load(tmp_path, text).prefix == prefix
    else:
        assert "http.prefix: must look like" in refusal(tmp_path, text)


@pytest.mark.parametrize("name", sorted(FULL))
def test_what_serving_needs(tmp_path: Path, name: str) -> None:
    """A02, F28: each thing that serving needs is named when it is missing; set and empty is a mistake of its own."""
    path = tmp_path / "farebox.toml"
    path.write_text(PLAIN)
    settings = load_settings(environ={k: v for k, v in FULL.items() if k != name}, path=path)
    with pytest.raises(ConfigError, match=f"^{name} is not set: ") as refused:
        settings.require_serving()
    assert "\n" not in refused.value.detail
    assert refusal(tmp_path, **{name: "  "}) == f"{name} is set but empty. Give it a value or remove it."


def test_all_that_is_missing(tmp_path: Path) -> None:
    """All that is missing is said at once; with all of it there, a file that sells nothing is refused."""
    path = tmp_path / "farebox.toml"
    path.write_text("")
    with pytest.raises(ConfigError) as refused:
        load_settings(environ={}, path=path).require_serving()
    assert {line.split()[0] for line in refused.value.detail.splitlines()} == set(FULL)
    with pytest.raises(ConfigError, match="no plan to sell"):
        load_settings(environ=FULL, path=path).require_serving()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("FAREBOX_SECRET", "x" * 31, "has 31 characters; at least 32 are needed"),
        ("FAREBOX_SECRET", SECRET + ",short", "has 5 characters"),
        ("FAREBOX_SECRET", SECRET + ",", "has 0 characters"),
        pytest.param("FAREBOX_SECRET", "\udcff" * 40, "FAREBOX_SECRET", id="FAREBOX_SECRET-no-text"),
        ("FAREBOX_ADMIN_TOKEN", "x" * 31, "has 31 characters"),
        pytest.param("FAREBOX_ADMIN_TOKEN", "\udcff" * 40, "FAREBOX_ADMIN_TOKEN", id="FAREBOX_ADMIN_TOKEN-no-text"),
        ("STRIPE_WEBHOOK_SECRET", "x" * 30, "must begin with whsec_"),
        ("STRIPE_WEBHOOK_SECRET", "whsec_short", "has 11 characters"),
        ("STRIPE_WEBHOOK_SECRET", f"{WHSEC},{WHSEC[6:]}", "must begin with whsec_"),
        ("STRIPE_SECRET_KEY", "pk_test_public", "must begin with sk_test_, rk_test_, sk_live_ or rk_live_"),
        ("STRIPE_SECRET_KEY", "sk_test_a b", "is not a Stripe secret key"),
        ("STRIPE_SECRET_KEY", "sk_test_a\r\nX-Evil: 1", "is not a Stripe secret key"),
        ("STRIPE_SECRET_KEY", "sk_test_ü", "is not a Stripe secret key"),
        ("FAREBOX_DATABASE_URL", "sqlite:///", "FAREBOX_DATABASE_URL"),
        ("FAREBOX_DATABASE_URL", "sqlite:///:memory:", "Name a file"),
        ("FAREBOX_DATABASE_URL", "sqlite://farebox.db", "three slashes before a relative path"),
        ("FAREBOX_DATABASE_URL", "sqlite:farebox.db", "three slashes before a relative path"),
        ("FAREBOX_DATABASE_URL", "/data/farebox.db", "write sqlite:/// before its path"),
        ("FAREBOX_DATABASE_URL", "mysql://user:hunter2@host/db", "'mysql' is not supported"),
        ("FAREBOX_PUBLIC_URL", "api.example.com", "must be a plain address"),
        ("FAREBOX_PUBLIC_URL", "https://", "must be a plain address"),
        ("FAREBOX_PUBLIC_URL", "ftp://api.example.com", "must be a plain address"),
        ("FAREBOX_PUBLIC_URL", "https://user:hunter2@api.example.com", "must be a plain address"),
        ("FAREBOX_PUBLIC_URL", "https://api.example.com?a=1", "must be a plain address"),
        ("FAREBOX_PUBLIC_URL", "https://[bad", "must be a plain address"),
        ("FAREBOX_PUBLIC_URL", "https://api.example.com:port", "must be a plain address"),
        ("FAREBOX_PUBLIC_URL", "https://api.exa mple.com", "must be a plain address"),
        ("FAREBOX_PUBLIC_URL", "https://api.example.com/\nx", "must be a plain address"),
        ("STRIPE_API_BASE", "https://api.stripe.example", "must be a loopback address"),
        ("STRIPE_API_BASE", "http://127.0.0.1.evil.example", "must be a loopback address"),
        ("STRIPE_API_BASE", "http://127.0.0.1@evil.example", "must be a loopback address"),
        ("STRIPE_API_BASE", "file:///etc/passwd", "must be a loopback address"),
        ("STRIPE_API_BASE", "http://[bad", "must be a loopback address"),
        ("STRIPE_API_BASE", "http://127.0.0.1:port", "must be a loopback address"),
    ],
)
def test_bad_values(tmp_path: Path, name: str, value: str, said: str) -> None:
    """A02, A14, F28: a value that cannot be right refuses to start, named, and is not shown when it may be secret."""
    detail = refusal(tmp_path, **{name: value})
    assert name in detail
    assert said in detail
    assert "hunter2" not in detail
    assert "xxxxx" not in detail


@pytest.mark.parametrize(
    ("environ", "stripe", "said"),
    [
        ({"STRIPE_SECRET_KEY": "sk_live_x", "STRIPE_API_BASE": "http://127.0.0.1:8001"}, "", "is a live key"),
        ({"STRIPE_SECRET_KEY": "rk_live_x", "STRIPE_API_BASE": "http://localhost"}, "", "is a live key"),
        ({"STRIPE_SECRET_KEY": "sk_live_x", "FAREBOX_PUBLIC_URL": "http://api.example.com"}, "", "with https://"),
        ({"STRIPE_SECRET_KEY": "sk_live_x"}, '[stripe]\nmode = "test"', "stripe.mode is 'test', but"),
        ({"STRIPE_SECRET_KEY": "rk_test_x"}, '[stripe]\nmode = "live"', "stripe.mode is 'live', but"),
        ({}, '[stripe]\nmode = "both"', "stripe.mode: "),
    ],
)
def test_modes_agree(tmp_path: Path, environ: dict[str, str], stripe: str, said: str) -> None:
    """F28: live money never meets a local Stripe, a plain-text address, or a file that means the other mode."""
    assert said in refusal(tmp_path, f"{stripe}\n{PLAIN}", **environ)


def test_live(tmp_path: Path) -> None:
    """A restricted live key is a live key, and its address may stand with or without a slash at the end."""
    settings = load(tmp_path, STRIPE_SECRET_KEY="rk_live_x", FAREBOX_PUBLIC_URL="https://api.example.com/")
    assert (settings.live, settings.public_url) == (True, "https://api.example.com")


def test_several_secrets(tmp_path: Path) -> None:
    """L19: the first secret makes new keys and the others keep the older ones alive; webhook secrets likewise."""
    settings = load(tmp_path, FAREBOX_SECRET=f"{SECRET} , {OTHER_SECRET}", STRIPE_WEBHOOK_SECRET=f"{WHSEC},{WHSEC}b")
    assert settings.require_peppers() == (pepper_from(SECRET), pepper_from(OTHER_SECRET))
    assert [secret.reveal() for secret in settings.stripe_webhook_secrets] == [WHSEC, WHSEC + "b"]


def test_settings_hide_secrets(tmp_path: Path) -> None:
    """A07: settings that are printed show no secret."""
    shown = repr(load(tmp_path, FAREBOX_ADMIN_TOKEN=OTHER_SECRET))
    for secret in (SECRET, OTHER_SECRET, WHSEC, FULL["STRIPE_SECRET_KEY"]):
        assert secret not in shown


def in_folder(folder: Path, patch: pytest.MonkeyPatch, dotenv: bytes, **environ: str) -> Settings:
    """Load as a process in this folder would."""
    patch.chdir(folder)
    for name in (*FULL, "FAREBOX_CONFIG", "FAREBOX_DATABASE_URL", "FAREBOX_ADMIN_TOKEN", "STRIPE_API_BASE"):
        patch.delenv(name, raising=False)
    for name, value in environ.items():
        patch.setenv(name, value)
    (folder / "farebox.toml").write_text(PLAIN)
    (folder / ".env").write_bytes(dotenv)
    return load_settings()


def test_dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A .env file in the working folder lies beneath the environment: it gives what the environment does not."""
    dotenv = f'FAREBOX_SECRET="{SECRET}"\nFAREBOX_PUBLIC_URL=https://dotenv.example\n# a comment\nUNKNOWN\n'.encode()
    settings = in_folder(tmp_path, monkeypatch, dotenv, FAREBOX_PUBLIC_URL="https://environment.example")
    assert settings.public_url == "https://environment.example"
    assert settings.secrets[0].reveal() == SECRET
    assert "FAREBOX_SECRET" not in os.environ


def test_a_broken_dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A .env file that cannot be read as text is a mistake in the configuration, said in words."""
    with pytest.raises(ConfigError, match=r"\.env"):
        in_folder(tmp_path, monkeypatch, b"FAREBOX_SECRET=\xff\xfe\n")


def test_a_named_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FAREBOX_CONFIG names the file, and the argument goes before it."""
    other = tmp_path / "other.toml"
    other.write_text(PLAIN.replace("calls", "rides"))
    named = in_folder(tmp_path, monkeypatch, b"", FAREBOX_CONFIG=str(other))
    assert list(named.catalog.meters) == ["rides"]
    assert list(load_settings(path=tmp_path / "farebox.toml").catalog.meters) == ["calls"]


def test_rules_for_changes(tmp_path: Path) -> None:
    """Upgrades now and the rest at the period's end unless the file says otherwise; the order names plans."""
    assert load(tmp_path).catalog.changes == ChangeRules("now", "period_end", ())
    rules = '[changes]\nupgrade = "operator"\ndowngrade = "now"\norder = ["payg"]\n'
    assert load(tmp_path, PLAIN + rules).catalog.changes == ChangeRules("operator", "now", ("payg",))


@pytest.mark.parametrize(
    ("rules", "place", "said"),
    [
        ('order = ["payg", "pro"]', "changes.order[1]", "there is no plan 'pro' (known: payg)"),
        ('order = ["pyg"]', "changes.order[0]", 'did you mean "payg"?'),
        ('order = ["payg", "payg"]', "changes.order[1]", "'payg' stands in the order already"),
        ('upgrade = "later"', "changes.upgrade", "is not one of"),
        ('sidegrade = "now"', "changes.sidegrade", "Farebox knows no such setting"),
    ],
)
def test_mistakes_in_rules_for_changes(tmp_path: Path, rules: str, place: str, said: str) -> None:
    """A mistake in [changes] is named by its line and place."""
    detail = refusal(tmp_path, PLAIN + f"[changes]\n{rules}\n")
    assert named(tmp_path, place, detail), detail
    assert said in detail
    assert f"farebox.toml:{PLAIN.count(chr(10)) + 2}: " in detail


def test_a_broken_plan_is_not_missed_in_the_order(tmp_path: Path) -> None:
    """A plan with a fault of its own is told by that fault alone."""
    detail = refusal(tmp_path, PLAIN.replace('title = "Pay as you go"', "") + '[changes]\norder = ["payg"]\n')
    assert "changes.order" not in detail
    assert "plans.payg.title" in detail


@pytest.mark.parametrize("change", [{"prefix": "/x"}, {"secrets": ()}])
def test_settings_are_frozen(tmp_path: Path, change: dict[str, Any]) -> None:
    """What was read once stays as it was."""
    settings = load(tmp_path)
    (name, value) = next(iter(change.items()))
    with pytest.raises(AttributeError):
        setattr(settings, name, value)


@pytest.mark.parametrize(("old", "new", "said"), CHARGES_REFUSED)
def test_mistakes_in_charges(tmp_path: Path, old: str, new: str, said: str) -> None:
    """A mistake in what a route charges is named by its place, with what to write instead."""
    detail = refusal(tmp_path, PLAIN.replace(old, new))
    assert named(tmp_path, "routes[0]", detail), detail
    assert said in detail


def test_charges(tmp_path: Path) -> None:
    """Several charges of a route, fixed ones and those that the answer tells; and which statuses are billed."""
    charges = """
        { meter = "calls" },
        { meter = "tokens", from = "json:usage.total_tokens", minimum = 1, maximum = 100000 },
    """
    (route,) = load(tmp_path, TOKENS + PLAIN.replace(*charged(charges, 'billed = ["2xx", "404"]'))).catalog.routes
    assert (route.meter, route.terms) == (
        None,
        Terms(
            fixed=(("calls", 1),),
            measures=(Measure("tokens", Source.JSON, ("usage", "total_tokens"), minimum=1, maximum=100_000),),
            billed=SUCCESS | {404},
        ),
    )
    (route,) = load(
        tmp_path, PLAIN.replace(*charged('{ meter = "calls", from = "header:X-A", strip = true }'))
    ).catalog.routes
    assert route.terms == Terms(measures=(Measure("calls", Source.HEADER, ("x-a",), strips=True),))
    (route,) = load(tmp_path, PLAIN.replace(ROUTE, ROUTE + 'billed = ["5xx"]\n')).catalog.routes
    assert (route.meter, route.quantity, route.terms) == ("calls", 1, Terms(billed=frozenset(range(500, 600))))
