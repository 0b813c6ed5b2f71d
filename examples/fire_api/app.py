"""The fire API: a small real FastAPI application that sells a call for a dollar. Farebox takes two lines of it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Path, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse
from pydantic import BaseModel

from farebox import Account, Farebox

farebox = Farebox()


class Fire(BaseModel):
    """What a paid call answers."""

    data: str
    level: int


class Report(BaseModel):
    account: str
    fires: list[Fire]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """The application's own start and stop, untouched by Farebox."""
    app.state.fires = [Fire(data="🔥" * level, level=level) for level in range(1, 6)]
    yield
    app.state.fires = []


router = APIRouter(tags=["fire"])


@router.get("/api")
async def fire(request: Request) -> Fire:
    """One fire, one dollar: priced in farebox.toml."""
    found: Fire = request.app.state.fires[2]
    return found


@router.get("/report", dependencies=[farebox.price("calls", 5)])
async def report(request: Request, buyer: Annotated[Account, Depends(farebox.account)]) -> Report:
    """All fires: five calls' worth, priced here in code."""
    return Report(account=buyer.id, fires=request.app.state.fires)


@router.get("/burn/{count}")
async def burn(count: Annotated[int, Path(le=100)], request: Request) -> list[Fire]:
    """As many fires as asked for, each charged as it is lit."""
    farebox.charge("calls", count)
    return [request.app.state.fires[0]] * count


@router.get("/health")
async def health() -> dict[str, str]:
    """Public, so that a load balancer can ask."""
    return {"status": "ok"}


@router.get("/", response_class=HTMLResponse, include_in_schema=False)
async def home() -> str:
    """A door for people: what this is and where to subscribe."""
    return HOME


HOME = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>The fire API</title>
<style>
  :root { color-scheme: light dark; font: 18px/1.6 system-ui, sans-serif }
  body { max-width: 34rem; margin: 12vh auto; padding: 0 1.25rem }
  a.button { display: inline-block; padding: .6rem 1.2rem; border-radius: .5rem; background: #c2410c; color: #fff;
             text-decoration: none }
  code { background: #8882; padding: .1em .35em; border-radius: .25em }
</style>
<h1>The fire API</h1>
<p>A real fire, served over HTTP. One dollar a call, billed at the end of the month.</p>
<p><a class="button" href="/billing/">Subscribe</a></p>
<p>Then <code>GET /api</code> with your key. The <a href="/docs">API pages</a> can try it for you.</p>
</html>"""

app = FastAPI(title="The fire API", lifespan=lifespan)
app.include_router(router)
app.add_middleware(
    CORSMiddleware,
    allow_origins=["https://fire.example"],
    allow_methods=["GET"],
    allow_headers=["authorization", "x-api-key"],
)
farebox.protect(app)
