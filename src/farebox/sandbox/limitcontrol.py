"""The control API's limits, seed, and how long test clocks rest: what no Stripe lets one choose."""

from collections.abc import Callable
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from farebox.sandbox.ids import SEED_MAX
from farebox.sandbox.sandbox import Sandbox

__all__ = ["REST_SECONDS_MAX", "limit_routes"]

REST_SECONDS_MAX: Final = 600
_Set = Callable[[dict[str, Any]], None]
_Show = Callable[[], dict[str, Any]]


def limit_routes(sandbox: Sandbox) -> list[BaseRoute]:
    """Each shows what it is by GET and sets it by POST of a JSON object."""

    def set_seed(asked: dict[str, Any]) -> None:
        sandbox.ids.seed(_whole(asked, "seed", SEED_MAX, none=True))

    def set_rest(asked: dict[str, Any]) -> None:
        sandbox.settle_seconds = _whole(asked, "settle_seconds", REST_SECONDS_MAX) or 0

    return [
        _route(
            "/_sandbox/limits",
            sandbox.limits.set,
            lambda: {**sandbox.limits.asked(), "refused": sandbox.limits.refused},
        ),
        _route("/_sandbox/seed", set_seed, lambda: dict(sandbox.ids.seeded())),
        _route("/_sandbox/test_clocks", set_rest, lambda: {"settle_seconds": sandbox.settle_seconds}),
    ]


def _route(path: str, set: _Set, show: _Show) -> Route:
    async def endpoint(request: Request) -> Response:
        if request.method == "POST":
            try:
                asked = await request.json()
                if not isinstance(asked, dict):
                    raise ValueError("Send a JSON object.")
                set(asked)
            except (ValueError, RecursionError) as error:
                return JSONResponse({"error": {"message": str(error)}}, 400)
        return JSONResponse(show())

    return Route(path, endpoint, methods=["GET", "POST"])


def _whole(asked: dict[str, Any], name: str, high: int, *, none: bool = False) -> int | None:
    value = asked.get(name)
    fits = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= high
    if asked.keys() != {name} or not (fits or (none and value is None)):
        raise ValueError(f"Send {name}, a whole number from 0 to {high}{', or null' if none else ''}.")
    return value
