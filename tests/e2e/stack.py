"""The whole as its users run it: a local Stripe and the fire API as processes of their own, over real HTTP.

Ports are free ones; a relay stands before the local Stripe, so that it can be taken away as a network takes it.
"""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
from tests.description import spec_file
from tests.judge import judged_log, told

__all__ = ["EXAMPLES", "HOST", "Relay", "Stack", "free_port", "stack_in", "until"]

HOST: Final = "127.0.0.1"
EXAMPLES: Final = Path(__file__).resolve().parents[2] / "examples"
START_SECONDS_MAX: Final = 120
HEALTH_SECONDS_MAX: Final = 15  # for which uvicorn waits in vain for a worker that is killed while it is asked
CARD: Final = {"card_number": "4242424242424242", "exp": "12/40", "cvc": "123"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def until(holds: Callable[[], Any], what: str, seconds: float = START_SECONDS_MAX) -> Any:
    """What `holds` returns as soon as it is true. Fails with `what` when that takes too long."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        with contextlib.suppress(httpx.HTTPError):
            found = holds()
            if found:
                return found
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {seconds} s")


class Relay:
    """Passes bytes on to the local Stripe while it is open; closed, connections are refused as by a dead host."""

    def __init__(self, target_port: int) -> None:
        self.port = free_port()
        self._target_port = target_port
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def open(self) -> None:
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(5)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(5)

    def end(self) -> None:
        self.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._serve, HOST, self.port)

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.transport.abort()
        others = asyncio.all_tasks(self._loop) - {asyncio.current_task()}
        if others:
            await asyncio.wait(others)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(HOST, self._target_port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, back}
        await asyncio.gather(self._pump(reader, back), self._pump(there, writer))
        self._writers -= {writer, back}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        with contextlib.suppress(OSError):
            writer.close()


@dataclass
class Stack:
    """`environment` is what the API runs with; change it before `start_api`. `app` is where uvicorn finds it."""

    folder: Path
    environment: dict[str, str]
    relay: Relay
    stripe_port: int
    api_port: int
    client: httpx.Client
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    api: subprocess.Popen[bytes] | None = None
    app: tuple[str, Path] = ("fire_api.app:app", EXAMPLES)

    @property
    def base(self) -> str:
        return f"http://{HOST}:{self.api_port}"

    @property
    def stripe(self) -> str:
        """The local Stripe itself, past the relay."""
        return f"http://{HOST}:{self.stripe_port}"

    @property
    def log(self) -> str:
        return (self.folder / "api.log").read_text("utf-8", "replace")

    def spawn(self, *arguments: str, log: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        with (self.folder / log).open("ab") as output:
            child = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=self.folder,
                env=_clean_environment() | dict(environment or {}),
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.processes.append(child)
        return child

    def farebox(self, *arguments: str, **changed: str) -> subprocess.CompletedProcess[str]:
        """A command of the command line, with the API's environment."""
        return subprocess.run(
            [sys.executable, "-m", "farebox", *arguments],
            cwd=self.folder,
            env=_clean_environment() | self.environment | changed,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def start_stripe(self) -> None:
        self.spawn("-m", "farebox", "sandbox", "--port", str(self.stripe_port), log="stripe.log")
        until(lambda: self.client.get(self.stripe + "/_sandbox/clock").is_success, "the local Stripe starts")
        self.relay.open()

    def publish(self) -> None:
        """The catalog and the webhook endpoint, by the command line, as a seller does it."""
        done = self.farebox("push", "--webhook", "--json")
        assert done.returncode == 0, done.stderr
        self.environment["STRIPE_WEBHOOK_SECRET"] = done.stdout.split('"webhook_secret": "')[1].split('"')[0]

    def spawn_api(self, *more: str) -> subprocess.Popen[bytes]:
        """The API under uvicorn, with more of its options; a second `--port` wins."""
        uvicorn = ["-m", "uvicorn", self.app[0], "--app-dir", str(self.app[1]), "--log-level", "warning"]
        uvicorn += ["--timeout-worker-healthcheck", str(HEALTH_SECONDS_MAX)]  # a busy machine's slow start is no hang
        place = ["--host", HOST, "--port", str(self.api_port), *more]
        return self.spawn(*uvicorn, *place, log="api.log", environment=self.environment)

    def start_api(self, *more: str) -> None:
        self.api = self.spawn_api(*more)
        until(lambda: self.client.get(self.base + "/billing/readyz").is_success, f"the API starts: {self.log[-800:]}")

    def stop_api(self, by: signal.Signals = signal.SIGTERM) -> None:
        assert self.api is not None
        self.api.send_signal(by)
        self.api.wait(60)
        self.api = None

    def buy(self) -> dict[str, str]:
        """Checkout, the hosted page, the claim. Returns the headers of a buyer with a key."""
        session = self.checkout()
        self.pay(session)
        claimed = self.client.post(self.base + "/billing/claim", json={"session_id": session["id"]})
        assert claimed.status_code == 201, claimed.text
        return {"Authorization": f"Bearer {claimed.json()['key']}"}

    def checkout(self) -> dict[str, str]:
        answer = self.client.post(self.base + "/billing/checkout", json={"plan": "payg", "email": "b@example.com"})
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    def pay(self, session: Mapping[str, str]) -> None:
        assert self.client.post(session["url"], data=CARD).status_code == 303

    def call(self, headers: Mapping[str, str], times: int = 1) -> None:
        for _ in range(times):
            answer = self.client.get(self.base + "/api", headers=headers)
            assert answer.status_code == 200, answer.text

    def usage(self, headers: Mapping[str, str]) -> dict[str, Any]:
        return dict(self.client.get(self.base + "/billing/usage", headers=headers).raise_for_status().json())

    def at_stripe(self, path: str, **params: Any) -> Any:
        headers = {"Authorization": f"Bearer {self.environment['STRIPE_SECRET_KEY']}"}
        return self.client.get(f"{self.stripe}/v1/{path}", params=params, headers=headers).raise_for_status().json()

    def counted(self) -> int:
        """What the local Stripe has counted over all customers and all time."""
        meter, total = self.at_stripe("billing/meters")["data"][0]["id"], 0
        end = int(time.time()) // 60 * 60 + 400 * 86_400
        for customer in self.at_stripe("customers", limit=100)["data"]:
            asked = {"customer": customer["id"], "start_time": 0, "end_time": end}
            found = self.at_stripe(f"billing/meters/{meter}/event_summaries", **asked)["data"]
            total += sum(int(entry["aggregated_value"]) for entry in found)
        return total

    def deliveries(self, kind: str) -> list[dict[str, Any]]:
        found = self.client.get(self.stripe + "/_sandbox/deliveries").json()["deliveries"]
        return [entry for entry in found if entry["type"] == kind]

    def fault(self, **asked: Any) -> None:
        assert self.client.post(self.stripe + "/_sandbox/faults", json=asked).is_success

    def heal(self) -> None:
        assert self.client.delete(self.stripe + "/_sandbox/faults").is_success

    def judge(self) -> None:
        """What was asked of the local Stripe, and what it answered, as Stripe's own description has it."""
        log = self.client.get(self.stripe + "/_sandbox/requests", params={"bodies": "true"}).json()["requests"]
        faults = judged_log(log) if spec_file() is not None else []
        assert not faults, told(faults)

    def end(self) -> None:
        for process in reversed(self.processes):
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        for process in self.processes:
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def stack_in(folder: Path, *, seal_seconds: int = 1, more: str = "") -> Iterator[Stack]:
    """A stack with its local Stripe running and its catalog published; the API is the test's to start.

    `more` is added to its farebox.toml.
    """
    stripe_port, api_port = free_port(), free_port()
    relay = Relay(stripe_port)
    config = (EXAMPLES / "fire_api" / "farebox.toml").read_text()
    assert "seal_seconds = 1 " in config
    config = config.replace("seal_seconds = 1 ", f"seal_seconds = {seal_seconds} ")
    (folder / "farebox.toml").write_text(config + more)
    environment = {
        "STRIPE_SECRET_KEY": "sk_test_end_to_end_0123456789",
        "STRIPE_API_BASE": f"http://{HOST}:{relay.port}",
        "FAREBOX_PUBLIC_URL": f"http://{HOST}:{api_port}",
        "FAREBOX_SECRET": "end-to-end-secret-0123456789-0123456789",
        "FAREBOX_ADMIN_TOKEN": "end-to-end-operator-0123456789-0123456789",
    }
    with httpx.Client(timeout=60, trust_env=False) as client:
        stack = Stack(folder, environment, relay, stripe_port, api_port, client)
        try:
            stack.start_stripe()
            stack.publish()
            yield stack
            stack.judge()
        finally:
            stack.end()
            relay.end()


def _clean_environment() -> dict[str, str]:
    """The machine's environment without any Stripe or Farebox of its own."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("STRIPE_", "FAREBOX_"))}
