"""Where Farebox's routes and the application's meet: collisions refuse to start, unpriced paths are named once."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from starlette.routing import compile_path

from farebox.domain.catalog import Route
from farebox.web.calls import RouteTable

__all__ = ["BILLING_ROUTES", "AppRoute", "collisions", "free_but_priced", "measured_sockets", "unpriced"]

BILLING_ROUTES: Final = (
    ("GET", "/"),
    ("POST", "/checkout"),
    ("POST", "/webhook"),
    ("GET", "/claim"),
    ("POST", "/claim"),
    ("GET", "/usage"),
    ("GET", "/invoices/upcoming"),
    ("GET", "/keys"),
    ("POST", "/keys"),
    ("POST", "/keys/{id}/rotate"),
    ("DELETE", "/keys/{id}"),
    ("GET", "/subscription"),
    ("POST", "/subscription"),
    ("DELETE", "/subscription/change"),
    ("POST", "/portal"),
    ("GET", "/pay"),
    ("POST", "/pay"),
    ("POST", "/events"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
)


@dataclass(frozen=True, slots=True)
class AppRoute:
    """A route of the application, flattened. A mount has no methods and takes everything below its path.

    `priced` says that its code has a `farebox.price`; `socket` that it is a websocket; `walked` that it is a mount
    whose own routes are listed as well.
    """

    path: str
    methods: frozenset[str]
    name: str
    endpoint: Callable[..., Any] | None
    priced: bool = False
    socket: bool = False
    walked: bool = False

    def __str__(self) -> str:
        methods = ",".join(sorted(self.methods - {"HEAD"})) or "mount"
        return f"{methods} {self.path}" + (f" ({self.name})" if self.name else "")


def collisions(routes: Iterable[AppRoute], prefix: str) -> Iterator[tuple[str, str]]:
    """Pairs of (Farebox's route, the application's) that answer the same request.

    A catch-all above the prefix ("/{path:path}", a mount at "/") is no collision: Farebox simply stands before it.
    """
    for route in routes:
        if _catches_all_above(route, prefix):
            continue
        pattern = compile_path(_open_ended(route))[0]
        for method, path in BILLING_ROUTES:
            sample = prefix + path.replace("{id}", "some_id")
            if pattern.match(sample) and (not route.methods or method in route.methods):
                yield f"{method} {prefix}{path}", str(route)
                break


def unpriced(routes: Iterable[AppRoute], rules: Sequence[Route], public: Sequence[str]) -> list[str]:
    """The application's own paths without a price: they need a key, and cost only what their code charges."""
    table = RouteTable(rules, public)
    found = []
    for route in routes:
        if route.priced or route.walked:
            continue
        for method, path in _samples(route):
            if table.find(method, path) is None:
                found.append(f"{method} {path}")
    return found


def _samples(route: AppRoute) -> Iterator[tuple[str, str]]:
    """Methods and paths to look up for a route: those of a mount whose inside is not known stand for all below it."""
    if route.socket:
        yield "GET", route.path
    elif route.methods:
        for method in sorted(route.methods - {"HEAD", "OPTIONS"}):
            yield method, route.path
    elif route.endpoint is None:
        yield "*", route.path.rstrip("/") + "/**"
    else:
        yield "*", route.path


def free_but_priced(routes: Iterable[AppRoute], rules: Sequence[Route]) -> Iterator[str]:
    """The application's paths that farebox.toml makes public and the code gives a price: one of them is a mistake."""
    table = RouteTable(rules)
    for route in routes:
        for method in sorted(route.methods - {"HEAD", "OPTIONS"}):
            found = table.find(method, route.path)
            if route.priced and found is not None and found.public:
                yield f"{method} {route.path}"


def measured_sockets(routes: Iterable[AppRoute], rules: Sequence[Route]) -> Iterator[tuple[str, str]]:
    """Pairs of (the application's websocket, the rule that would look into an answer for its quantity)."""
    table = RouteTable(rules)
    for route in routes:
        found = table.find("GET", route.path) if route.socket else None
        if found is not None and found.terms is not None and found.terms.measures:
            yield route.path, found.match


def _open_ended(route: AppRoute) -> str:
    return route.path if route.methods or route.endpoint else route.path.rstrip("/") + "/{farebox_rest:path}"


def _catches_all_above(route: AppRoute, prefix: str) -> bool:
    path = _open_ended(route)
    if not path.endswith(":path}"):
        return False
    fixed = path[: path.index("{")]
    return not (fixed.rstrip("/") + "/").startswith(prefix + "/")
