"""What all pages share: templates, headers, the banner that says what this is, finding objects, and working on them."""

from collections.abc import Callable
from importlib import resources
from typing import Any, Final

from jinja2 import Environment, PackageLoader, select_autoescape
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from farebox.sandbox.core import Context
from farebox.sandbox.markup import amount, counted, gist, heading, json_markup, lasting, made_at, money, price_markup
from farebox.sandbox.movement import Movement
from farebox.sandbox.periods import moment
from farebox.sandbox.sandbox import Sandbox
from farebox.sandbox.state import State, StripeObject

__all__ = ["ASSETS", "Frame", "form_of", "is_foreign", "see_other"]

_SECURITY: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
ASSETS: Final = {"style.css": "text/css", "live.js": "text/javascript"}


class Frame:
    """The pages' way to the sandbox and to HTML."""

    def __init__(self, sandbox: Sandbox, movement: Movement) -> None:
        self.sandbox = sandbox
        self.movement = movement
        self._templates = Environment(
            loader=PackageLoader("farebox.sandbox"),
            autoescape=select_autoescape(default=True),
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(
            money=money,
            moment=moment,
            brief=lambda at: moment(at).removesuffix(" UTC"),
            made_at=made_at,
            day=lambda at: moment(at)[:11],
            amount=amount,
            counted=counted,
            lasting=lasting,
            gist=gist,
            heading=heading,
            price=price_markup,
        )
        self._templates.filters["linked"] = lambda value, here="": json_markup(
            value, lambda id: self.link(id) if id != here else None
        )
        folder = resources.files("farebox.sandbox") / "templates"
        self._assets = {name: (folder / name).read_text("utf-8") for name in ASSETS}

    async def asset(self, request: Request) -> Response:
        name = request.url.path.rpartition("/")[2]
        headers = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
        return Response(self._assets[name], media_type=ASSETS[name], headers=headers)

    def page(self, name: str, *, status: int = 200, **values: Any) -> Response:
        """A page from its template."""
        content = self._templates.get_template(name).render(**values)
        return HTMLResponse(content, status, headers=_SECURITY)

    def message(self, title: str, text: str, status: int = 404, back: str = "/") -> Response:
        """A page that says one thing."""
        return self.page("message.html", status=status, title=title, text=text, back=back)

    def find(self, kind: str, id: str) -> tuple[State, StripeObject] | None:
        """An object of this kind, whatever account it is in."""
        with self.sandbox.lock:
            for state in self.sandbox.accounts.values():
                if id in state.objects.get(kind, ()):
                    return state, state.objects[kind][id]
        return None

    def find_any(self, id: str) -> tuple[State, StripeObject] | None:
        """An object of any kind and account."""
        with self.sandbox.lock:
            for state in self.sandbox.accounts.values():
                for things in state.objects.values():
                    if id in things:
                        return state, things[id]
        return None

    def find_request(self, id: str) -> tuple[State, StripeObject] | None:
        with self.sandbox.lock:
            for state in self.sandbox.accounts.values():
                for entry in state.requests:
                    if entry["id"] == id:
                        return state, entry
        return None

    def link(self, id: str) -> str | None:
        """Where the page of what bears this id is. None for any other text."""
        if "_" not in id or not id.isascii() or not id.replace("_", "").isalnum():
            return None
        if id.startswith("req_"):
            return f"/requests/{id}" if self.find_request(id) is not None else None
        found = self.find_any(id)
        if found is None:
            return None
        return f"/events/{id}" if found[1]["object"] in ("event", "v2.core.event") else f"/objects/{id}"

    async def work(self, state: State, thing: StripeObject, do: Callable[[Context], object]) -> None:
        """Do something to an object, in its own time and off the event loop."""

        def doing() -> None:
            with self.sandbox.at_work(state, thing) as ctx:
                do(ctx)

        await run_in_threadpool(doing)


async def form_of(request: Request) -> dict[str, str]:
    """The texts of a posted form."""
    return {name: value.strip() for name, value in (await request.form()).items() if isinstance(value, str)}


def is_foreign(request: Request) -> bool:
    """Whether another site's page sent this. Browsers say so; what is no browser needs no such trick."""
    return request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none")


def see_other(to: str) -> Response:
    return RedirectResponse(to, 303)
