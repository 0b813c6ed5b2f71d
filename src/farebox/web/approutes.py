"""The routes of the seller's application, flattened: those of mounted FastAPI and Starlette applications as well."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.routing import Mount, Router, WebSocketRoute

from farebox.web.collisions import AppRoute

__all__ = ["MOUNT_LEVELS_MAX", "app_routes", "own_pages"]

MOUNT_LEVELS_MAX: Final = 10
_ENDPOINT_METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")
_FASTAPI: Final = "fastapi.applications"  # the module of the endpoints that FastAPI adds itself


def app_routes(app: Starlette, has_price: Callable[[Any], bool]) -> list[AppRoute]:
    """Every route with its full path. `has_price` says whether a route has a price in code.

    A mounted application of another kind is one route without methods, which takes everything below its path.
    """
    return list(_routes_in(app.router.routes, "", has_price, MOUNT_LEVELS_MAX))


def own_pages(app: Starlette) -> tuple[str, ...]:
    """Paths at which FastAPI itself shows the application's documentation, and no route of the seller comes first."""
    if not isinstance(app, FastAPI):
        return ()
    pages = [p for p in (app.openapi_url, app.docs_url, app.swagger_ui_oauth2_redirect_url, app.redoc_url) if p]
    first: dict[str, Any] = {}
    for context in iter_route_contexts(app.router.routes):
        if context.path is not None and "GET" in (context.methods or ()):
            first.setdefault(context.path, context.endpoint)
    return tuple(page for page in pages if getattr(first.get(page), "__module__", "") == _FASTAPI)


def _routes_in(routes: Sequence[Any], above: str, has_price: Callable[[Any], bool], levels: int) -> Iterator[AppRoute]:
    for context in iter_route_contexts(routes):
        if context.path is None:
            continue
        path, original = above + context.path, context.original_route
        if above and getattr(context.endpoint, "__module__", "") == _FASTAPI:
            continue  # the documentation of a mounted application: it needs a key, as it did
        inside = original.app if isinstance(original, Mount) and levels else None
        inner = inside.routes if isinstance(inside, Starlette | Router) else None
        yield AppRoute(
            path,
            _methods(context),
            context.name or "",
            context.endpoint,
            priced=has_price(context),
            socket=isinstance(original, WebSocketRoute),
            walked=inner is not None,
        )
        if inner is not None:
            yield from _routes_in(inner, path, has_price, levels - 1)


def _methods(context: Any) -> frozenset[str]:
    endpoint = context.endpoint
    if not context.methods and isinstance(endpoint, type) and issubclass(endpoint, HTTPEndpoint):
        return frozenset(method for method in _ENDPOINT_METHODS if hasattr(endpoint, method.lower()))
    return frozenset(context.methods or ())
