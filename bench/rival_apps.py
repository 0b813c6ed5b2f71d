"""What people would use instead, in front of the same endpoint: factories for uvicorn.

Each tells at /calls how many calls its endpoint has let through, to be held against what was charged for.
"""

import os
from itertools import cycle
from typing import Annotated

from fastapi import Depends, FastAPI, Header, HTTPException
from stripe import StripeClient

__all__ = ["gringotts", "tutorial"]


def gringotts() -> FastAPI:
    """gringotts-api as its README sets it up, at its defaults, but the endpoint is a coroutine like those beside it.

    A plain function, as in the README, is as fast; once forty calls wait for it, though, none of them gets a thread
    or a connection to the database until the pool gives up, 30 seconds later.
    """
    import gringotts  # lies in a folder that only this server looks into
    from gringotts import CreditedUser, CreditPack, GringottsConfig, charge

    app = _counting()
    gringotts.init_app(
        app,
        GringottsConfig(
            packs=[CreditPack(credits=100, price_cents=500, name="Starter")],
            idempotency_replay_validator=lambda _scope: True,
        ),
    )

    @app.get("/api")
    async def hello(user: Annotated[CreditedUser, Depends(charge(1))]) -> dict[str, str]:
        app.state.calls += 1
        return {"hello": "world"}

    return app


def tutorial() -> FastAPI:
    """A meter event to Stripe in each call, awaited before the answer.

    The one key's calls go round many customers in turn: Stripe refuses a customer's second event while the first is
    under way, so most calls of a single busy customer would fail.
    """
    stripe = StripeClient(os.environ["STRIPE_SECRET_KEY"], base_addresses={"api": os.environ["STRIPE_API_BASE"]})
    customers = {os.environ["TUTORIAL_KEY"]: cycle(os.environ["TUTORIAL_CUSTOMERS"].split())}
    app = _counting()

    @app.get("/api")
    async def hello(x_api_key: Annotated[str, Header()]) -> dict[str, str]:
        if x_api_key not in customers:
            raise HTTPException(401)
        payload = {"stripe_customer_id": next(customers[x_api_key]), "value": "1"}
        await stripe.v1.billing.meter_events.create_async({"event_name": "calls", "payload": payload})
        app.state.calls += 1
        return {"hello": "world"}

    return app


def _counting() -> FastAPI:
    app = FastAPI()
    app.state.calls = 0

    @app.get("/calls")
    async def calls() -> int:
        return int(app.state.calls)

    return app
