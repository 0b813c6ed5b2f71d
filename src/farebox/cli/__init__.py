"""The command line: thin. Parse, call a room, print. Errors are words on stderr and a non-zero exit, never a trace."""

import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from farebox.cli.catalog import init, push
from farebox.cli.customers import customers_app
from farebox.cli.keys import keys_app
from farebox.cli.operate import doctor, migrate
from farebox.cli.plan import plan_app
from farebox.cli.quote import quote
from farebox.cli.reconcile import reconcile
from farebox.cli.serving import serve, worker
from farebox.cli.simulate import simulate
from farebox.cli.usage import usage_app
from farebox.demo import run_demo
from farebox.errors import FareboxError
from farebox.logs import log_through_logging
from farebox.sandbox.command import sandbox
from farebox.terminal import OUT, print_error

__all__ = ["app", "main"]

app = typer.Typer(add_completion=False)


def main() -> None:
    """The entry point."""
    log_through_logging()
    try:
        app()
    except FareboxError as error:
        print_error(error, as_json="--json" in sys.argv)
        sys.exit(1)


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print Farebox's version and exit.")] = False,
) -> None:
    """Charge for an HTTP API through Stripe metered billing."""
    if version:
        OUT.print(f"farebox {metadata.version('farebox')}", highlight=False)
        raise typer.Exit
    if context.invoked_subcommand is None:
        OUT.print(context.get_help())
        raise typer.Exit(2)


@app.command()
def demo(
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Make a buyer's whole journey, print its figures as JSON, and end.")
    ] = False,
    port: Annotated[int, typer.Option(help="Of the fire API.")] = 8000,
    sandbox_port: Annotated[int, typer.Option(help="Of the local Stripe.")] = 8001,
    folder: Annotated[Path, typer.Option(help="Where the demo keeps its ledger and secrets.")] = Path(".farebox-demo"),
) -> None:
    """Sell an API call on this machine: the fire API, Farebox and a local Stripe."""
    run_demo(folder, port=port, sandbox_port=sandbox_port, smoke=smoke)


for command in (init, quote, simulate, push, serve, worker, sandbox, migrate, doctor, reconcile):
    app.command()(command)
app.add_typer(plan_app, name="plan")
app.add_typer(keys_app, name="keys")
app.add_typer(customers_app, name="customers")
app.add_typer(usage_app, name="usage")
