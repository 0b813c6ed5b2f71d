"""The command `farebox sandbox`, on its own: it starts without loading the rest of Farebox."""

from pathlib import Path
from typing import Annotated, Final

import typer

from farebox.sandbox.http import serve
from farebox.sandbox.ratelimits import MODES

__all__ = ["main", "sandbox"]

_MODES: Final = ", ".join(MODES)


def sandbox(
    host: Annotated[str, typer.Option(help="A loopback address.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8001,
    state: Annotated[Path | None, typer.Option(help="Keep everything in this file, across restarts.")] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Forget what --state has kept, and begin anew.")] = False,
    account_limits: Annotated[
        str, typer.Option(help=f"Stripe's own rate limits for each account: {_MODES}.", metavar="MODE")
    ] = "off",
) -> None:
    """Run the local Stripe: stateful, strict, with movable time. Not Stripe, and no money moves."""
    try:
        serve(host=host, port=port, state=state, reset=reset, account_limits=account_limits, ready=_tell)
    except ValueError as error:
        typer.echo(f"Error {error}", err=True)
        raise typer.Exit(1) from None


def _tell(address: str) -> None:
    typer.echo(f"The local Stripe is at {address}. Any sk_test_… key opens an account. Ctrl-C stops it.", err=True)


def main() -> None:
    """`farebox sandbox` with the arguments of this process after that word."""
    alone = typer.Typer(add_completion=False)
    alone.command()(sandbox)
    alone(prog_name="farebox sandbox")
