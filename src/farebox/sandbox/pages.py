"""What a person sees: the pages for buyers, and a window on the sandbox. Each says that it is a stand-in."""

from starlette.routing import BaseRoute, Route

from farebox.sandbox.frame import ASSETS, Frame
from farebox.sandbox.hosted import hosted_routes
from farebox.sandbox.knobs import knob_routes
from farebox.sandbox.movement import Movement
from farebox.sandbox.sandbox import Sandbox
from farebox.sandbox.viewer import viewer_routes

__all__ = ["page_routes"]


def page_routes(sandbox: Sandbox, movement: Movement) -> list[BaseRoute]:
    """The pages' routes, for the shell to serve beside the API."""
    frame = Frame(sandbox, movement)
    assets = [Route(f"/{name}", frame.asset) for name in ASSETS]
    return [*knob_routes(frame), *viewer_routes(frame), *hosted_routes(frame), *assets]
