"""The application's own OpenAPI page with Farebox's key in it, so that a reader can authorize and try a paid call."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, Final

from fastapi import FastAPI

from farebox.domain.catalog import Route
from farebox.web.calls import RouteTable

__all__ = ["add_key_to_openapi"]

_SCHEME: Final = "FareboxKey"


def add_key_to_openapi(app: FastAPI, routes: Callable[[], Sequence[Route]]) -> None:
    """Make `app.openapi()` name the key as a security scheme, required by every operation that is not public.

    Once the routes are known, a priced operation also says what it costs (`x-farebox-price`).
    """
    original = app.openapi

    def openapi() -> dict[str, Any]:
        document = copy.deepcopy(original())  # FastAPI keeps its own, and the rules may not be known yet
        schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
        if _SCHEME not in schemes:
            schemes[_SCHEME] = {"type": "http", "scheme": "bearer", "description": "Your API key, fb_…"}
        table = RouteTable(routes())
        for path, operations in document.get("paths", {}).items():
            for method, operation in operations.items():
                if isinstance(operation, dict) and "responses" in operation:
                    _secure(operation, table, method.upper(), path)
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _secure(operation: dict[str, Any], table: RouteTable, method: str, path: str) -> None:
    route = table.find(method, path)
    if route is not None and route.public:
        return
    wanted: list[dict[str, list[str]]] = operation.setdefault("security", [])
    if {_SCHEME: []} not in wanted:
        # Joined to every alternative: the key is needed beside whatever the application asks for itself.
        operation["security"] = [{**alternative, _SCHEME: []} for alternative in wanted] or [{_SCHEME: []}]
    if route is not None and route.meter is not None:
        operation["x-farebox-price"] = {"meter": route.meter, "quantity": route.quantity}
    elif route is not None and route.terms is not None:
        fixed = [{"meter": meter, "quantity": quantity} for meter, quantity in route.terms.fixed]
        told = [{"meter": m.meter, "from": m.text, "minimum": m.minimum} for m in route.terms.measures]
        operation["x-farebox-price"] = {"charges": [*fixed, *told]}
    for status, text in (("401", "No API key, or not a valid one"), ("402", "The subscription is not active")):
        operation["responses"].setdefault(
            status, {"description": text, "content": {"application/problem+json": {"schema": {"type": "object"}}}}
        )
