"""The application that `farebox serve` runs, made anew in each of its processes."""

from starlette.applications import Starlette

from farebox.protect import Farebox

__all__ = ["create_app"]


def create_app() -> Starlette:
    """Farebox's routes and nothing else, configured by the environment."""
    own = Starlette()
    Farebox().protect(own)
    return own
