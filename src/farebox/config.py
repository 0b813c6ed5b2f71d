"""Settings: farebox.toml and the environment, read once, checked whole, frozen. Secrets have no default.

The only module that reads the environment. Every refusal is a ConfigError that says where and what to do.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

from dotenv import dotenv_values
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from farebox.configcheck import check_file
from farebox.domain.catalog import Catalog
from farebox.domain.keys import Pepper, Secret, pepper_from
from farebox.errors import ConfigError

__all__ = [
    "FAREBOX_SECRET_CHARACTERS_MIN",
    "WEBHOOK_SECRET_CHARACTERS_MIN",
    "Settings",
    "child_environment",
    "config_path",
    "load_catalog",
    "load_settings",
    "name_config",
]

FAREBOX_SECRET_CHARACTERS_MIN: Final = 32
WEBHOOK_SECRET_CHARACTERS_MIN: Final = 20
_VARIABLES: Final = (
    "STRIPE_SECRET_KEY",
    "STRIPE_WEBHOOK_SECRET",
    "STRIPE_API_BASE",
    "FAREBOX_PUBLIC_URL",
    "FAREBOX_DATABASE_URL",
    "FAREBOX_SECRET",
    "FAREBOX_CONFIG",
    "FAREBOX_ADMIN_TOKEN",
)
_KEY_PREFIXES: Final = ("sk_test_", "rk_test_", "sk_live_", "rk_live_")
_POSTGRES_SCHEMES: Final = frozenset({"postgresql", "postgres", "postgresql+psycopg"})
_LOOPBACK_HOSTS: Final = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that configuration decides. What only some commands need may be None; `require_*` refuses then."""

    path: Path
    catalog: Catalog
    prefix: str
    credentials: tuple[str, ...]
    preflight_to_app: bool
    past_due_grace_seconds: int
    seal_seconds: int
    bills_late_usage: bool
    reconcile_reads_per_hour: int
    meter_events_per_second: int
    stream_requests_per_second: int
    database_url: str = field(repr=False)  # it may hold a password
    allow_weak_durability: bool
    stripe_secret_key: Secret | None
    stripe_webhook_secrets: tuple[Secret, ...]
    stripe_api_base: str | None
    public_url: str | None
    secrets: tuple[Secret, ...]
    admin_token: Secret | None
    on_store_loss: str = "refuse"
    spool_seconds_max: int = 900
    spool_path: Path | None = None
    events_from: tuple[str, ...] = ("operator",)

    @property
    def spool_seconds(self) -> int:
        """How long calls go on while the ledger cannot be reached; 0 when they are refused at once."""
        return self.spool_seconds_max if self.on_store_loss == "spool" else 0

    @property
    def live(self) -> bool:
        """Whether the Stripe key is a live one."""
        key = self.stripe_secret_key
        return key is not None and key.reveal()[3:7] == "live"

    @property
    def peppers(self) -> tuple[Pepper, ...]:
        """Key peppers, the one for new keys first."""
        return tuple(pepper_from(secret.reveal()) for secret in self.secrets)

    @property
    def webhook_url(self) -> str:
        return f"{self.public_url or ''}{self.prefix}/webhook"

    def require_stripe(self) -> Secret:
        """The Stripe key, or ConfigError."""
        if self.stripe_secret_key is None:
            raise ConfigError("STRIPE_SECRET_KEY is not set. Take a secret or restricted key from Stripe's dashboard.")
        return self.stripe_secret_key

    def require_peppers(self) -> tuple[Pepper, ...]:
        """The key peppers, or ConfigError."""
        if not self.secrets:
            raise ConfigError(_missing("FAREBOX_SECRET"))
        return self.peppers

    def require_serving(self) -> None:
        """Refuse unless everything that serving needs is there, naming all that is missing at once, and every plan can
        be sold.
        """
        absent = {
            "STRIPE_SECRET_KEY": self.stripe_secret_key is None,
            "STRIPE_WEBHOOK_SECRET": not self.stripe_webhook_secrets,
            "FAREBOX_SECRET": not self.secrets,
            "FAREBOX_PUBLIC_URL": self.public_url is None,
        }
        missing = [_missing(name) for name, gone in absent.items() if gone]
        if missing:
            raise ConfigError("\n".join(missing))
        if not self.catalog.plans:
            raise ConfigError(f"{self.path}: there is no plan to sell. Add a [plans.NAME] table.")


_EMPTY: Final = "{} is set but empty. Give it a value or remove it."
_HINTS: Final = {
    "STRIPE_SECRET_KEY": "a secret or restricted key from Stripe's dashboard",
    "STRIPE_WEBHOOK_SECRET": "the whsec_ secret printed by `farebox push --webhook` or `stripe listen`",
    "FAREBOX_SECRET": f"at least {FAREBOX_SECRET_CHARACTERS_MIN} random characters, as `openssl rand -hex 32` gives",
    "FAREBOX_PUBLIC_URL": "where buyers reach this API, for example https://api.example.com",
}


def _missing(name: str) -> str:
    return f"{name} is not set: {_HINTS[name]}."


def load_settings(*, environ: Mapping[str, str] | None = None, path: str | Path | None = None) -> Settings:
    """Read and check farebox.toml and the environment (the process's own, with a .env file in the working folder
    beneath it, unless `environ` is given). Raises ConfigError.
    """
    source = dict(environ) if environ is not None else _environment()
    values = {name: source[name] for name in _VARIABLES if name in source}
    for name, value in values.items():
        if not value.strip():
            raise ConfigError(_EMPTY.format(name))
    file = Path(path or values.get("FAREBOX_CONFIG", "farebox.toml"))
    model, catalog = check_file(file).require()
    key = _stripe_key(values.get("STRIPE_SECRET_KEY"), model.stripe.mode)
    base = _api_base(values.get("STRIPE_API_BASE"), key)
    return Settings(
        path=file,
        catalog=catalog,
        prefix=model.http.prefix,
        credentials=tuple(model.http.credentials),
        preflight_to_app=model.http.preflight == "app",
        past_due_grace_seconds=model.access.past_due_grace_days * 86_400,
        seal_seconds=model.reporting.seal_seconds,
        bills_late_usage=model.reporting.late_usage == "bill",
        reconcile_reads_per_hour=model.reporting.reconcile_reads_per_hour,
        meter_events_per_second=_rate(model.stripe.meter_events_per_second, key, live=800, test=20),
        stream_requests_per_second=_rate(model.stripe.stream_requests_per_second, key, live=40, test=5),
        database_url=_database_url(values.get("FAREBOX_DATABASE_URL", "sqlite:///farebox.db")),
        allow_weak_durability=model.ledger.allow_weak_durability,
        stripe_secret_key=key,
        stripe_webhook_secrets=_secrets(
            values.get("STRIPE_WEBHOOK_SECRET"), "STRIPE_WEBHOOK_SECRET", WEBHOOK_SECRET_CHARACTERS_MIN, "whsec_"
        ),
        stripe_api_base=base,
        public_url=_public_url(values.get("FAREBOX_PUBLIC_URL"), key),
        secrets=_secrets(values.get("FAREBOX_SECRET"), "FAREBOX_SECRET", FAREBOX_SECRET_CHARACTERS_MIN),
        admin_token=next(
            iter(_secrets(values.get("FAREBOX_ADMIN_TOKEN"), "FAREBOX_ADMIN_TOKEN", FAREBOX_SECRET_CHARACTERS_MIN)),
            None,
        ),
        on_store_loss=model.ledger.on_store_loss,
        spool_seconds_max=model.ledger.spool_seconds_max,
        spool_path=Path(model.ledger.spool_path) if model.ledger.spool_path is not None else None,
        events_from=tuple(model.events.senders),
    )


def load_catalog(path: str | Path | None = None) -> Catalog:
    """What farebox.toml sells. Of the environment only FAREBOX_CONFIG counts, when no path is given. ConfigError."""
    return check_file(config_path(path)).require()[1]


def config_path(path: str | Path | None = None) -> Path:
    """Which farebox.toml is meant: the one given, or that of FAREBOX_CONFIG, or the one in the working folder."""
    named = path or _environment().get("FAREBOX_CONFIG", "farebox.toml").strip()
    if not named:
        raise ConfigError(_EMPTY.format("FAREBOX_CONFIG"))
    return Path(named)


def name_config(path: Path) -> None:
    """Let this process and its children read this farebox.toml."""
    os.environ["FAREBOX_CONFIG"] = str(path)


def child_environment(changes: Mapping[str, str]) -> dict[str, str]:
    """This process's environment for a child, with Farebox's and Stripe's variables replaced by `changes`."""
    kept = {name: value for name, value in os.environ.items() if name not in _VARIABLES}
    return {**kept, **changes}


def _environment() -> dict[str, str]:
    try:
        beneath = {k: v for k, v in dotenv_values(".env").items() if v is not None}
    except (UnicodeDecodeError, OSError) as error:
        raise ConfigError(f".env cannot be read as UTF-8 text: {error}.") from error
    return {**beneath, **os.environ}


def _stripe_key(value: str | None, mode: str | None) -> Secret | None:
    if value is None:
        return None
    if not value.startswith(_KEY_PREFIXES) or not value.isascii() or not value.isprintable() or " " in value:
        raise ConfigError(
            "STRIPE_SECRET_KEY is not a Stripe secret key: it must begin with sk_test_, rk_test_, sk_live_ or rk_live_."
        )
    if mode is not None and value[3:7] != mode:
        raise ConfigError(
            f"stripe.mode is {mode!r}, but STRIPE_SECRET_KEY is a {value[3:7]} key. Change one so that they agree."
        )
    return Secret(value)


def _rate(value: int | None, key: Secret | None, *, live: int, test: int) -> int:
    """What the file says, or what stays below Stripe's limit in the key's mode: 1,000 meter events a second, or 25."""
    if value is not None:
        return value
    return live if key is not None and key.reveal()[3:7] == "live" else test


def _api_base(value: str | None, key: Secret | None) -> str | None:
    if value is None:
        return None
    if key is not None and key.reveal()[3:7] == "live":
        raise ConfigError(
            "STRIPE_API_BASE points at a local Stripe, but STRIPE_SECRET_KEY is a live key. "
            "Remove STRIPE_API_BASE to go live, or use a test key."
        )
    parts = _address(value)
    if parts is None or parts.hostname not in _LOOPBACK_HOSTS:
        raise ConfigError("STRIPE_API_BASE must be a loopback address such as http://127.0.0.1:8001.")
    return value.rstrip("/")


def _database_url(value: str) -> str:
    if value.startswith("sqlite:///:memory:"):
        raise ConfigError("FAREBOX_DATABASE_URL: a ledger in memory would be gone with the process. Name a file.")
    if value.startswith("sqlite:///") and len(value) > len("sqlite:///"):
        return value
    scheme = value.partition(":")[0]
    if scheme in _POSTGRES_SCHEMES:
        try:
            url = make_url(value).set(drivername="postgresql")
        except (ArgumentError, ValueError):  # what they say may hold the password
            raise ConfigError(
                "FAREBOX_DATABASE_URL cannot be read. Write postgresql://user:password@host:5432/name, and letters of "
                "the password that have a meaning in addresses as %-escapes."
            ) from None
        if not url.database:
            raise ConfigError("FAREBOX_DATABASE_URL names no database: postgresql://user:password@host:5432/name.")
        return url.render_as_string(hide_password=False)
    use = "Use sqlite:///path/to/farebox.db or postgresql://user:password@host:5432/name."
    if scheme == "sqlite":
        slashes = "write three slashes before a relative path, four before an absolute one"
        raise ConfigError(f"FAREBOX_DATABASE_URL: {slashes}. {use}")
    if "://" not in value:  # it is not repeated: it may be a password that went astray
        raise ConfigError(f"FAREBOX_DATABASE_URL is not a URL. For a file, write sqlite:/// before its path. {use}")
    raise ConfigError(f"FAREBOX_DATABASE_URL: {scheme!r} is not supported. {use}")


def _public_url(value: str | None, key: Secret | None) -> str | None:
    if value is None:
        return None
    parts = _address(value)
    if parts is None or parts.query or parts.fragment or parts.username:
        raise ConfigError("FAREBOX_PUBLIC_URL must be a plain address such as https://api.example.com.")
    if key is not None and key.reveal()[3:7] == "live" and parts.scheme != "https":
        raise ConfigError("FAREBOX_PUBLIC_URL must begin with https:// when a live Stripe key is used.")
    return value.rstrip("/")


def _address(value: str) -> SplitResult | None:
    """The parts of an http or https address, or None when it is not one that can stand in a link."""
    if not value.isascii() or not value.isprintable() or " " in value:
        return None
    try:
        parts = urlsplit(value)
        known = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        return None
    return parts if known else None


def _secrets(value: str | None, name: str, characters_min: int, prefix: str = "") -> tuple[Secret, ...]:
    if value is None:
        return ()
    found = [entry.strip() for entry in value.split(",")]
    for entry in found:
        if not entry.isprintable():
            raise ConfigError(f"{name}: an entry has characters that are no text.")
        if not entry.startswith(prefix):
            raise ConfigError(f"{name}: each entry must begin with {prefix}.")
        if len(entry) < characters_min:
            raise ConfigError(f"{name}: an entry has {len(entry)} characters; at least {characters_min} are needed.")
    return tuple(Secret(entry) for entry in found)
