"""Farebox in a seller's own application: `protect(app)`, and what handlers may ask for and charge.

Reads nothing until the application's lifespan starts; refuses to start rather than serve with a mistake in it.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp

from farebox.app import Adapters, Runtime
from farebox.config import Settings, load_settings
from farebox.domain.accounts import Account
from farebox.domain.catalog import Route
from farebox.domain.measures import Fault, judged, said
from farebox.domain.usage import Recorded, UsageEvent, checked_quantity
from farebox.errors import ChargeOutsideCall, ConfigError, NotStarted, QuantityInvalid
from farebox.logs import log_through_logging
from farebox.web.approutes import app_routes, own_pages
from farebox.web.calls import SCOPE_KEY, Call, current_call, running_call
from farebox.web.collisions import AppRoute, collisions, free_but_priced, measured_sockets, unpriced
from farebox.web.middleware import Edge, PaidCalls
from farebox.web.openapi import add_key_to_openapi
from farebox.web.recording import Recording

__all__ = ["Farebox"]


class Farebox:
    """What a seller holds.

    `config` names farebox.toml; `settings` and `adapters` replace what would be read and built.
    """

    def __init__(
        self, config: str | Path | None = None, *, settings: Settings | None = None, adapters: Adapters | None = None
    ) -> None:
        self._config = config
        self._settings = settings
        self._adapters = adapters
        self._app: Starlette | None = None
        self._wrapped = False
        self._runtime: Runtime | None = None
        self._priced_meters: set[str] = set()
        self._prices: set[Any] = set()

    def override(self, settings: Settings, adapters: Adapters) -> None:
        """Use these at the next start instead of reading the configuration: for tests (see `farebox.testing`)."""
        if self._runtime is not None:
            raise ConfigError("Farebox is running. Override it before the application starts.")
        self._settings, self._adapters = settings, adapters

    @property
    def runtime(self) -> Runtime:
        """What runs between start and stop. NotStarted otherwise."""
        return self._running()

    def protect(self, app: Starlette) -> None:
        """Put the paid call inside the application's own middleware, and Farebox into its lifespan and OpenAPI.

        May stand before or after `add_middleware` and `include_router`. ConfigError when called twice or too late.
        """
        if self._app is not None or self._wrapped:
            raise ConfigError("This Farebox already protects an application. Make one Farebox for each.")
        if app.middleware_stack is not None:
            raise ConfigError("farebox.protect(app) must be called before the application starts.")
        self._app = app
        app.user_middleware.append(Middleware(PaidCalls, host=self))  # the last is the innermost
        if isinstance(app, FastAPI):
            add_key_to_openapi(app, self._routes)

    def wrap(self, app: ASGIApp) -> ASGIApp:
        """Protect an ASGI application of any other framework, or of none: serve what is returned in its place.

        Its server must run the lifespan. Prices come from farebox.toml and `charge`. ConfigError when called twice.
        """
        if self._app is not None or self._wrapped:
            raise ConfigError("This Farebox already protects an application. Make one Farebox for each.")
        self._wrapped = True
        return PaidCalls(app, self)

    async def account(self, connection: HTTPConnection) -> Account:
        """The buyer who makes this call: `buyer: Annotated[Account, Depends(farebox.account)]`."""
        call = connection.scope.get(SCOPE_KEY)
        if not isinstance(call, Call):
            raise ChargeOutsideCall("This route is public or unprotected, so there is no account.")
        return call.grant.account

    def price(self, meter: str, quantity: int = 1) -> Any:
        """What a route costs, in code: `dependencies=[farebox.price("calls", 5)]`.

        Replaces farebox.toml for that meter. QuantityInvalid; ConfigError inside a call, where it would cost nothing.
        """
        checked_quantity(quantity, meter)
        if running_call.get() is not None:
            raise ConfigError(
                "farebox.price is a route's dependency and charges nothing by itself. Use farebox.charge."
            )
        self._priced_meters.add(meter)

        async def farebox_price(connection: HTTPConnection) -> None:
            call = connection.scope.get(SCOPE_KEY)
            if not isinstance(call, Call):
                raise ChargeOutsideCall("A public route has a price in code. Remove one of the two.")
            call.price(meter, quantity)

        self._prices.add(farebox_price)
        return Depends(farebox_price)

    def charge(self, meter: str, quantity: int) -> None:
        """Add to what this call costs, before its answer begins.

        ChargeTooLate after that, ChargeOutsideCall without a paid call, MeterUnknown. A quantity that is none adds
        nothing and is said in the log and the metrics: the work is done, and its answer goes out.
        """
        call = current_call()
        try:
            call.charge(meter, quantity)
        except QuantityInvalid:
            fault = judged(quantity)
            self._running().metering.parking.park(
                call.grant.account.id,
                call.operation,
                meter,
                fault if isinstance(fault, Fault) else Fault.TOO_LARGE,
                quantity,
                "charge",
                counted=0,
            )

    def record(self, account_id: str, meter: str, quantity: int, *, id: str, at: int | None = None) -> Recording[None]:
        """Record usage from outside a request, once for each `id`: `await` it on an event loop; elsewhere, as in a
        thread or a plain background task, it has returned when the usage is durable. `at` is when it was used, in Unix
        seconds, up to 34 days ago; now, if it is left out.

        AccountUnknown, MeterUnknown, QuantityInvalid, RecordConflict (the id has other values), StoreError, NotStarted.
        """
        runtime = self._running()
        work = runtime.record(account_id, meter, quantity, record_id=id, at=at)
        return runtime.recordings.begin(work, {"account": said(account_id), "meter": said(meter), "id": said(id)})

    def record_many(self, events: Iterable[UsageEvent]) -> Recording[list[Recorded]]:
        """Record many at once; done when all that can be are durable: `await` it, or in a thread ask for `.result()`.
        It tells what became of each, in their order.

        A bad one is rejected and costs the others nothing. StoreError: repeat them all, none counts twice. NotStarted.
        """
        runtime, listed = self._running(), list(events)
        return runtime.recordings.begin(runtime.records.record_many(listed), {"events": len(listed)})

    @property
    def edge(self) -> Edge | None:
        """What the middleware serves with; None while not running."""
        return self._runtime.edge if self._runtime is not None else None

    async def start(self) -> None:
        """Read the configuration, open the ledger, start the loops. Any FareboxError is a refusal to start."""
        log_through_logging()
        settings = self._settings or load_settings(path=self._config)
        settings.require_serving()
        routes = self._app_routes()
        self._check(settings, routes)
        public = own_pages(self._app) if self._app is not None else ()
        runtime = Runtime(settings, self._adapters or Adapters.of(settings), public_paths=public)
        await runtime.start(unpriced=unpriced(routes, settings.catalog.routes, public))
        self._settings, self._runtime = settings, runtime

    async def stop(self) -> None:
        """Commit, seal and report what there is, within a bound, and close the ledger.

        Does nothing when not running.
        """
        runtime, self._runtime = self._runtime, None
        if runtime is not None:
            await runtime.stop()

    def _routes(self) -> tuple[Route, ...]:
        return self._settings.catalog.routes if self._settings is not None else ()

    def _running(self) -> Runtime:
        if self._runtime is None:
            raise NotStarted(
                "Farebox has not been started: the application's lifespan did not run. A process that does not serve "
                "the application records usage by POST /events."
            )
        return self._runtime

    def _app_routes(self) -> list[AppRoute]:
        return app_routes(self._app, self._has_price) if self._app is not None else []

    def _has_price(self, route: Any) -> bool:
        """Whether the route has a price in code, so that farebox.toml need not name it."""
        return any(depends.dependency in self._prices for depends in getattr(route, "dependencies", None) or ())

    def _check(self, settings: Settings, routes: list[AppRoute]) -> None:
        unknown = sorted(self._priced_meters - settings.catalog.meters.keys())
        if unknown:
            known = ", ".join(sorted(settings.catalog.meters)) or "none"
            raise ConfigError(
                f"farebox.price names {unknown[0]!r}, but {settings.path} has no such meter (known: {known})."
            )
        for route in free_but_priced(routes, settings.catalog.routes):
            raise ConfigError(
                f"{settings.path} makes {route} public, but its code has a farebox.price. Remove one of the two."
            )
        for path, rule in measured_sockets(routes, settings.catalog.routes):
            raise ConfigError(
                f"{path} is a websocket, which can be charged with fixed quantities only, but {settings.path} takes a "
                f'quantity of {rule!r} "from" an answer. Give the websocket a rule of its own before that one.'
            )
        for ours, theirs in collisions(routes, settings.prefix):
            raise ConfigError(
                f"Farebox's {ours} collides with the application's {theirs}. "
                f"Move yours, or set another [http] prefix in {settings.path}."
            )
