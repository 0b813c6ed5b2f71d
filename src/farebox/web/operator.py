"""The operator's routes: liveness and readiness without details, metrics only with the operator's token."""

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from fastapi import FastAPI, Request
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from farebox.domain.keys import Secret
from farebox.errors import OperatorOnly

__all__ = ["Operator", "Readiness", "add_operator_routes"]

Readiness = Literal["ready", "degraded", "not ready"]


@dataclass(frozen=True, slots=True)
class Operator:
    """`ready` says whether calls would be let in; "degraded": they are, although the ledger is away or nothing is
    reported to Stripe.

    Without a `token` the metrics stay closed.
    """

    ready: Callable[[], Readiness]
    registry: CollectorRegistry
    token: Secret | None

    def admits(self, request: Request) -> bool:
        """Whether the request carries the operator's token. Nobody has one where none is set."""
        scheme, _, text = request.headers.get("authorization", "").partition(" ")
        given = text.strip().encode("utf-8", "replace") if scheme.lower() == "bearer" else b""
        return self.token is not None and hmac.compare_digest(given, self.token.reveal().encode())


def add_operator_routes(app: FastAPI, operator: Operator) -> None:
    """Liveness and readiness for anyone; metrics only with the operator's token."""

    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> Response:
        return JSONResponse({"status": "ok"})

    @app.get("/readyz", include_in_schema=False)
    async def readyz() -> Response:
        ready = operator.ready()
        return JSONResponse({"status": ready}, 503 if ready == "not ready" else 200)

    @app.get("/metrics", include_in_schema=False)
    async def metrics(request: Request) -> Response:
        if not operator.admits(request):
            raise OperatorOnly("Metrics need `Authorization: Bearer` with the server's FAREBOX_ADMIN_TOKEN.")
        body = await run_in_threadpool(generate_latest, operator.registry)
        return Response(body, media_type=CONTENT_TYPE_LATEST)
