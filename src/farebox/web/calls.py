"""One call as the edge sees it: its credential, the route that prices it, and what it has been charged so far.

Never decides who may call (the gate does) and never writes (the recorder does).
"""

import os
import posixpath
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Final
from urllib.parse import parse_qsl

from farebox.domain.access import Grant
from farebox.domain.catalog import Meter, Route
from farebox.domain.paths import pattern_of
from farebox.domain.usage import RowName, checked_quantity
from farebox.errors import (
    ChargeOutsideCall,
    ChargeTooLate,
    CredentialsConflict,
    KeyInvalid,
    KeyMissing,
    MeterUnknown,
    NotFound,
    PathTooLong,
    PlanRequired,
)

__all__ = [
    "CREDENTIAL_CHARACTERS_MAX",
    "PATH_CHARACTERS_MAX",
    "PATH_REMEMBERED_CHARACTERS_MAX",
    "QUERY_FIELDS_MAX",
    "ROUTES_REMEMBERED_MAX",
    "SCOPE_KEY",
    "Call",
    "RouteTable",
    "credential_of",
    "current_call",
    "require_prices",
    "running_call",
]

SCOPE_KEY: Final = "farebox.call"
CREDENTIAL_CHARACTERS_MAX: Final = 512
QUERY_FIELDS_MAX: Final = 200
ROUTES_REMEMBERED_MAX: Final = 4_096
PATH_CHARACTERS_MAX: Final = 2_048
PATH_REMEMBERED_CHARACTERS_MAX: Final = 256
_KEY_PREFIX: Final = "fb_"
_SEVERAL: Final = "The request carries several different API keys. Send one."

running_call: ContextVar["Call | None"] = ContextVar("farebox_call", default=None)
# A forked process holds a copy of the call, and what is charged to that is lost: there a charge is refused.
os.register_at_fork(after_in_child=lambda: running_call.set(None))


class Call:
    """A paid call between its grant and its answer. After the answer has begun nothing more can be charged to it.

    Prices and charges may come from several threads of the call at once; `begin` ends them.
    """

    __slots__ = ("_lock", "begun", "charges", "from_code", "grant", "key_id", "meters", "operation")

    def __init__(self, grant: Grant, key_id: str, operation: str, meters: Mapping[str, Meter]) -> None:
        self.grant = grant
        self.key_id = key_id
        self.operation = operation
        self.meters = meters
        self.charges: dict[str, int] = {}
        self.from_code: dict[str, int] | None = None
        self.begun = False
        self._lock = threading.Lock()

    def begin(self) -> None:
        """The answer begins: what has been charged is final, and a charge that comes later raises ChargeTooLate."""
        with self._lock:
            self.begun = True

    def price(self, meter: str, quantity: int) -> None:
        """What the route costs, from code: replaces what farebox.toml says for this meter, and adds up among itself."""
        whole = self._checked(meter, quantity)
        with self._lock:
            from_code = self.from_code or {}
            self._set(meter, from_code.get(meter, 0) + whole)
            self.from_code = {**from_code, meter: self.charges[meter]}

    def charge(self, meter: str, quantity: int) -> None:
        """Add to what the call costs. MeterUnknown, QuantityInvalid or ChargeTooLate leave everything as it was."""
        whole = self._checked(meter, quantity)
        with self._lock:
            self._set(meter, self.charges.get(meter, 0) + whole)
            from_code = self.from_code or {}
            self.from_code = {**from_code, meter: from_code.get(meter, 0) + whole}

    def _checked(self, meter: str, quantity: int) -> int:
        """Outside the lock: a quantity may be of the seller's own kind, with code of the seller's own."""
        self._require_open(meter)
        if meter not in self.meters:
            raise MeterUnknown(f"There is no meter {meter!r} (known: {', '.join(sorted(self.meters)) or 'none'}).")
        require_prices(self.grant, (meter,), self.meters)
        return checked_quantity(quantity, meter)

    def _set(self, meter: str, total: int) -> None:
        self._require_open(meter)
        self.charges[meter] = checked_quantity(total, meter)

    def _require_open(self, meter: str) -> None:
        if self.begun:
            raise ChargeTooLate(f"{meter}: the answer has begun. Use `farebox.record(…)` from here on.")

    def usage(self, at: int) -> list[tuple[RowName, int]]:
        """What the call adds to which rows of the ledger, when it is handed over at `at`."""
        return self.rows(self.charges, at)

    def rows(self, charges: Mapping[str, int], at: int) -> list[tuple[RowName, int]]:
        """Which rows of the ledger the charges belong to at `at`."""
        grant, key_id, operation = self.grant, self.key_id, self.operation
        account_id, start = grant.account.id, grant.bucket(at)
        return [((account_id, meter, key_id, operation, start), quantity) for meter, quantity in charges.items()]


def require_prices(grant: Grant, names: Iterable[str], meters: Mapping[str, Meter]) -> None:
    """Refuse a call that is counted by a meter for which the grant's subscription has no price. PlanRequired.

    A meter that was renamed in farebox.toml keeps its event name, by which Stripe bills it: its old price counts.
    """
    missing = [name for name in names if name not in grant.meters and not meters[name].free_unpriced]
    if not missing:
        return
    priced = {meters[name].event_name if name in meters else name for name in grant.meters}
    titles = [meters[name].title for name in missing if meters[name].event_name not in priced]
    if titles:
        raise PlanRequired(
            f"The plan of this account does not include: {', '.join(titles)}. Change to a plan that does."
        )


def current_call() -> Call:
    """The call that the running handler serves. ChargeOutsideCall when there is none."""
    call = running_call.get()
    if call is None:
        raise ChargeOutsideCall("No paid call runs here: the route is public, or this is a job. See `farebox.record`.")
    return call


class RouteTable:
    """farebox.toml's routes, first match wins, compiled once. HEAD follows GET's rule; a websocket counts as GET.

    `pages` are the rules of the application's own public pages, which no websocket is.
    """

    def __init__(self, routes: Iterable[Route], public_paths: Iterable[str] = ()) -> None:
        rules = list(routes)
        # The application's own pages come before the first rule that takes everything, so that it does not close them.
        first = next((i for i, rule in enumerate(rules) if rule.path == "/**"), len(rules))
        # They are read only: what the application does at such a path by another method needs a key.
        self.pages = tuple(Route("GET", path, public=True) for path in public_paths)
        rules[first:first] = self.pages
        self._rules = [(rule, pattern_of(rule.path)) for rule in rules]
        self._remembered: dict[tuple[str, str], Route | None] = {}
        self._priced: dict[tuple[str, str], Route | None] = {}

    def price(self, method: str, path: str) -> Route | None:
        """The route that prices this call, or None: then it needs a key and costs nothing.

        NotFound when the path would fall under another rule once it is resolved (A20).
        """
        asked = (method, path)
        try:
            return self._priced[asked]
        except KeyError:
            route = self.find(method, path)
        if self.ambiguous(method, path):
            raise NotFound("There is nothing at this path.")
        if len(path) <= PATH_REMEMBERED_CHARACTERS_MAX:
            if len(self._priced) >= ROUTES_REMEMBERED_MAX:
                self._priced.clear()
            self._priced[asked] = route
        return route

    def find(self, method: str, path: str) -> Route | None:
        """The route that prices this call, or None: then it needs a key and costs nothing."""
        if method == "HEAD":
            method = "GET"
        if len(path) > PATH_CHARACTERS_MAX:
            raise PathTooLong(f"The path has more than {PATH_CHARACTERS_MAX} characters.")
        asked = (method, path)
        if asked in self._remembered:
            return self._remembered[asked]
        found = next((r for r, regex in self._rules if r.method in ("*", method) and regex.fullmatch(path)), None)
        if len(path) <= PATH_REMEMBERED_CHARACTERS_MAX:
            if len(self._remembered) >= ROUTES_REMEMBERED_MAX:
                self._remembered.clear()
            self._remembered[asked] = found
        return found

    def ambiguous(self, method: str, path: str) -> bool:
        """Whether the path would fall under another rule once its dots and doubled slashes are resolved.

        Static files and mounted proxies resolve them after we have priced the path as it stands (A20).
        """
        if "//" not in path and "/." not in path:
            return False
        resolved = "/" + posixpath.normpath(path).lstrip("/")
        if path.endswith("/") and resolved != "/":
            resolved += "/"
        return resolved != path and self.find(method, resolved) is not self.find(method, path)


def credential_of(scope: Mapping[str, Any], credentials: Sequence[str]) -> str:
    """The one API key that a request carries. KeyMissing, KeyInvalid, or CredentialsConflict when several differ.

    A Bearer value that does not begin with fb_ is the seller's own business when another place holds a key.
    """
    key, bearer, stranger = "", False, False
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            if "x-api-key" not in credentials:
                continue
            found = value.decode("latin-1").strip()
        elif name == b"authorization":
            if "bearer" not in credentials:
                continue
            scheme, _, rest = value.decode("latin-1").partition(" ")
            if scheme.lower() != "bearer":
                continue
            found = rest.strip()
            bearer = True
        else:
            continue
        if not found.startswith(_KEY_PREFIX):
            stranger = stranger or name == b"x-api-key"
        elif key and found != key:
            raise CredentialsConflict(_SEVERAL)
        else:
            key = found
    if scope["query_string"]:
        for found in _query_values(scope, credentials):
            if not found.startswith(_KEY_PREFIX):
                stranger = True
            elif key and found != key:
                raise CredentialsConflict(_SEVERAL)
            else:
                key = found
    if not key:
        if bearer or stranger:
            raise KeyInvalid("The API key is not valid. Check that it was copied whole.")
        raise KeyMissing("Send your API key as `Authorization: Bearer fb_…` or `X-API-Key: fb_…`.")
    if stranger:
        raise CredentialsConflict(_SEVERAL)
    if len(key) > CREDENTIAL_CHARACTERS_MAX:
        raise KeyInvalid("The API key is not valid. Check that it was copied whole.")
    return key


def _query_values(scope: Mapping[str, Any], credentials: Sequence[str]) -> list[str]:
    names = {entry.removeprefix("query:") for entry in credentials if entry.startswith("query:")}
    if not names:
        return []
    try:
        fields = parse_qsl(scope["query_string"].decode("latin-1"), max_num_fields=QUERY_FIELDS_MAX)
    except ValueError:
        raise KeyInvalid("The query has too many fields to look for a key in.") from None
    return [value for name, value in fields if name in names]
