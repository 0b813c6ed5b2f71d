"""`farebox serve` and `farebox worker`: Farebox's routes as a server of its own, and its loops without any."""

import asyncio
import signal
from typing import Annotated, Final

import typer
import uvicorn

from farebox.app import Adapters, Runtime
from farebox.cli.context import ConfigOption, ledger
from farebox.config import Settings, load_settings, name_config
from farebox.served import create_app
from farebox.terminal import ERR

__all__ = ["WORKERS_MAX", "serve", "worker"]

WORKERS_MAX: Final = 64


def serve(
    config: ConfigOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, max=WORKERS_MAX, help="Processes that serve.")] = 1,
) -> None:
    """Serve Farebox's routes as a server of its own, with its loops."""
    load_settings(path=config).require_serving()
    if config is not None:
        name_config(config)
    if workers == 1:
        uvicorn.run(create_app(), host=host, port=port, log_level="info")
        return
    with ledger(config):  # a ledger that is refused is refused here, once, and not by each process again and again
        pass
    uvicorn.run("farebox.served:create_app", factory=True, workers=workers, host=host, port=port, log_level="info")


def worker(config: ConfigOption = None) -> None:
    """Work off webhooks, seal usage and report it, without serving anything. Several may run, and beside your app."""
    settings = load_settings(path=config)
    settings.require_serving()
    asyncio.run(_work(settings))


async def _work(settings: Settings) -> None:
    ended = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, ended.set)
    runtime = Runtime(settings, Adapters.of(settings))
    await runtime.start()
    ERR.print("The worker runs. Ctrl-C ends it.")
    await ended.wait()
    await runtime.stop()
