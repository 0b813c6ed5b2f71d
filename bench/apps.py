"""The same application twice: bare, and protected by Farebox."""

import os
from typing import Any

from fastapi import FastAPI

from farebox import Farebox

__all__ = ["bare", "paid"]


def _app() -> FastAPI:
    app = FastAPI()

    @app.get("/api")
    async def hello() -> dict[str, str]:
        return {"hello": "world"}

    return app


bare = _app()


def paid() -> Any:
    """The factory that uvicorn calls: made only where it is served."""
    app = _app()
    Farebox(os.environ["FAREBOX_CONFIG"]).protect(app)
    return app
