"""Stripe's own command line, unmodified, against the local Stripe as a process of its own."""

import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import stripe
from tests.e2e.stack import HOST, free_port, until

KEY = "sk_test_of_the_command_line"


@pytest.fixture(scope="module")
def program() -> str:
    path = os.environ.get("FAREBOX_STRIPE_CLI", "")
    assert path, "FAREBOX_STRIPE_CLI names no Stripe CLI. `make test` sets one up, or: sh tools/stripe_cli.sh"
    return path


@dataclass
class Cli:
    """The command line, in a home of its own, and the local Stripe that it talks to."""

    program: str
    base: str
    home: Path
    client: httpx.Client

    @property
    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("STRIPE_", "XDG_"))}
        return kept | {"HOME": str(self.home), "STRIPE_CLI_TELEMETRY_OPTOUT": "1", "NO_PROXY": HOST}

    def command(self, *arguments: str) -> list[str]:
        return [self.program, *arguments, "--api-base", self.base, "--api-key", KEY]

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            self.command(*arguments), env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def get(self, path: str, **params: Any) -> Any:
        headers = {"Authorization": f"Bearer {KEY}"}
        return self.client.get(self.base + path, params=params, headers=headers).raise_for_status().json()

    def events(self, type: str) -> list[Any]:
        return list(self.get("/v1/events", type=type)["data"])


@pytest.fixture(scope="module")
def cli(program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    folder, port = tmp_path_factory.mktemp("cli"), free_port()
    log = (folder / "sandbox.log").open("wb")
    command = [sys.executable, "-m", "farebox", "sandbox", "--port", str(port)]
    process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    with httpx.Client(timeout=30, trust_env=False) as client:
        made = Cli(program, f"http://{HOST}:{port}", folder, client)
        try:
            until(lambda: client.get(made.base + "/_sandbox/clock").is_success, "the local Stripe starts")
            yield made
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
            log.close()


def test_get_and_post(cli: Cli) -> None:
    """`stripe post` makes an object, `stripe get` shows it, and the commands of a resource find it."""
    made = json.loads(cli.run("post", "/v1/customers", "-d", "name=Ada", "-d", "metadata[plan]=payg"))
    assert (made["name"], made["metadata"]) == ("Ada", {"plan": "payg"})
    assert json.loads(cli.run("get", f"/v1/customers/{made['id']}")) == made
    assert json.loads(cli.run("customers", "retrieve", made["id"])) == made


def test_fixtures(cli: Cli, tmp_path: Path) -> None:
    """`stripe fixtures` builds a metered price, a subscriber and usage from a file, each step from the ones before."""
    meter = {
        "display_name": "CLI calls",
        "event_name": "cli_calls",
        "default_aggregation": {"formula": "sum"},
    }
    recurring = {"interval": "month", "usage_type": "metered", "meter": "${meter:id}"}
    price = {"currency": "usd", "product": "${product:id}", "unit_amount": 100, "recurring": recurring}
    usage = {"event_name": "cli_calls", "payload": {"stripe_customer_id": "${customer:id}", "value": "25"}}
    steps = [
        ("meter", "/v1/billing/meters", meter),
        ("product", "/v1/products", {"name": "CLI"}),
        ("price", "/v1/prices", price),
        ("customer", "/v1/customers", {"name": "Grace", "payment_method": "pm_card_visa"}),
        ("subscription", "/v1/subscriptions", {"customer": "${customer:id}", "items": [{"price": "${price:id}"}]}),
        ("usage", "/v1/billing/meter_events", usage),
        ("preview", "/v1/invoices/create_preview", {"subscription": "${subscription:id}"}),
    ]
    fixtures = [{"name": n, "path": p, "method": "post", "params": params} for n, p, params in steps]
    file = tmp_path / "fixtures.json"
    file.write_text(json.dumps({"_meta": {"template_version": 0}, "fixtures": fixtures}))
    cli.run("fixtures", str(file))
    (subscription,) = (
        s
        for s in cli.get("/v1/subscriptions")["data"]
        if s["items"]["data"][0]["price"]["recurring"].get("meter") is not None
    )
    assert cli.get(f"/v1/customers/{subscription['customer']}")["name"] == "Grace"
    answer = cli.client.post(
        cli.base + "/v1/invoices/create_preview",
        data={"subscription": subscription["id"]},
        headers={"Authorization": f"Bearer {KEY}"},
    )
    assert answer.json()["total"] == 2_500


def test_trigger_a_checkout(cli: Cli) -> None:
    """`stripe trigger checkout.session.completed` makes a price, pays for two through the page's API, and succeeds."""
    assert "Trigger succeeded" in cli.run("trigger", "checkout.session.completed")
    (event,) = cli.events("checkout.session.completed")
    session = event["data"]["object"]
    assert (session["mode"], session["status"], session["payment_status"]) == ("payment", "complete", "paid")
    assert (session["amount_total"], session["currency"]) == (3_000, "usd")


def test_trigger_a_subscription(cli: Cli) -> None:
    """`stripe trigger customer.subscription.created` makes a customer with a test card and a paid subscription."""
    assert "Trigger succeeded" in cli.run("trigger", "customer.subscription.created")
    (event, *_) = cli.events("customer.subscription.created")
    subscription = cli.get(f"/v1/subscriptions/{event['data']['object']['id']}")
    assert subscription["status"] == "active"
    assert subscription["items"]["data"][0]["price"]["unit_amount"] == 1_500
    assert cli.get(f"/v1/invoices/{subscription['latest_invoice']}")["amount_paid"] == 1_500


@dataclass
class Receiver:
    """A seller's webhook endpoint: keeps what comes."""

    port: int
    came: "queue.Queue[tuple[str, bytes]]" = field(default_factory=queue.Queue)


@contextmanager
def receiving() -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.came.put((self.headers["Stripe-Signature"], body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer((HOST, 0), Handler) as server:
        server.daemon_threads = True
        receiver = Receiver(int(server.server_address[1]))
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def listening(cli: Cli, tmp_path: Path, *arguments: str) -> Iterator[str]:
    """`stripe listen`, once it is ready. Gives the secret that it prints."""
    out = tmp_path / "listen.log"
    with out.open("wb") as log:
        command = cli.command("listen", "--skip-update", *arguments)
        process = subprocess.Popen(
            command, env=cli.environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            ready = re.compile(r"signing secret is (whsec_\w+)")
            yield until(lambda: ready.search(out.read_text()), "stripe listen is ready")[1]
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # npm's starter and what it started
            process.wait()


@pytest.mark.parametrize("version", [(), ("--latest",)])
def test_listen(cli: Cli, tmp_path: Path, version: tuple[str, ...]) -> None:
    """`stripe listen --forward-to` forwards an event, signed with the secret that it printed; the log says it came."""
    with receiving() as receiver:
        forward = ("--all-snapshot", "--forward-to", f"http://{HOST}:{receiver.port}/hook", *version)
        with listening(cli, tmp_path, *forward) as secret:
            assert cli.run("listen", "--print-secret").strip() == secret
            made = json.loads(cli.run("post", "/v1/customers", "-d", "name=Linus"))
            signature, body = receiver.came.get(timeout=60)
            event: Any = stripe.Webhook.construct_event(body, signature, secret)
            assert (event.type, event.data.object.id) == ("customer.created", made["id"])
            with pytest.raises(stripe.SignatureVerificationError):
                stripe.Webhook.construct_event(body + b" ", signature, secret)

            def told() -> bool:
                found = cli.client.get(cli.base + "/_sandbox/deliveries", params={"event": event.id}).json()
                return [d["status"] for d in found["deliveries"] if d["endpoint"] == "stripe listen"] == [204]

            until(told, "the forwarded event's answer is logged")
            assert receiver.came.empty()


def test_listen_for_thin_events(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`stripe listen` for thin events forwards the report of a stream's usage that no meter counts."""
    with receiving() as receiver:
        where = f"http://{HOST}:{receiver.port}/thin"
        with listening(cli, tmp_path, "--events", "v1.billing.meter.no_meter_found", "--forward-to", where) as secret:
            bases: Any = {"api": cli.base, "meter_events": cli.base}
            monkeypatch.setenv("NO_PROXY", HOST)
            transport = stripe.RequestsClient(timeout=60)
            client = stripe.StripeClient(KEY, base_addresses=bases, http_client=transport)
            token = client.v2.billing.meter_event_session.create().authentication_token
            events: Any = [{"event_name": "no_such_meter", "payload": {"value": "1"}}]
            client.v2.billing.meter_event_stream.create(
                {"events": events}, {"api_key": token, "idempotency_key": "lost"}
            )
            signature, body = receiver.came.get(timeout=60)
            notice: Any = client.parse_event_notification(body, signature, secret)
            assert notice.type == "v1.billing.meter.no_meter_found"
            assert notice.fetch_event().data.reason.error_types[0].sample_errors[0].request.identifier == "lost"
            transport.close()  # type: ignore[no-untyped-call]
