"""The money proved from outside: by the command line, beside a served API and a local Stripe, over real HTTP."""

import json
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.stack import Stack, stack_in, until


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with stack_in(tmp_path) as running:
        running.start_api()
        yield running


def document(done: "subprocess.CompletedProcess[str]") -> Any:
    """What `--json` printed, whatever the exit code: nothing else may stand on stdout."""
    return json.loads(done.stdout)


def agrees(stack: Stack) -> bool:
    """Whether a whole comparison ends with 0 and nothing still waits."""
    done = stack.farebox("reconcile", "--since", "1", "--json")
    return done.returncode == 0 and not document(done)["waiting"]


def test_from_agreement_to_a_difference(stack: Stack) -> None:
    """Exit code 0 while all agrees; 2, with the reason, as soon as somebody else's usage shows; 1 for an error."""
    buyer = stack.buy()
    stack.call(buyer, 3)
    until(lambda: agrees(stack), "all is reported and agrees")
    customer = stack.at_stripe("customers")["data"][0]["id"]
    foreign = {"event_name": "calls", "payload[stripe_customer_id]": customer, "payload[value]": "5"}
    headers = {"Authorization": f"Bearer {stack.environment['STRIPE_SECRET_KEY']}"}
    assert stack.client.post(f"{stack.stripe}/v1/billing/meter_events", data=foreign, headers=headers).is_success
    done = stack.farebox("reconcile", "--json")
    assert done.returncode == 2
    (one,) = document(done)["comparisons"]
    assert (one["ledger"], one["stripe"], one["verdict"]) == (3, 8, "differs")
    assert [(r["code"], r["quantity"]) for r in one["reasons"]] == [("foreign", 5)]
    shown = stack.farebox("reconcile")
    assert (shown.returncode, "never sent by this ledger" in shown.stdout) == (2, True)
    metrics = stack.client.get(
        stack.base + "/billing/metrics", headers={"Authorization": f"Bearer {stack.environment['FAREBOX_ADMIN_TOKEN']}"}
    )
    assert "farebox_differences 1.0" in metrics.text
    stack.relay.close()
    broken = stack.farebox("reconcile", "--json")
    assert (broken.returncode, json.loads(broken.stderr)["error"]["code"]) == (1, "provider_unavailable")
    stack.relay.open()


def test_a_correction_reaches_the_bill(stack: Stack) -> None:
    """L11: taken off by command, once for its id, it is on the buyer's page, in Stripe's sum and in the audit log."""
    buyer = stack.buy()
    stack.call(buyer, 5)
    account = stack.usage(buyer)["account"]
    asked = ["usage", "adjust", account, "calls", "-2", "--reason", "a mistake"]
    asked += ["--id", "t1", "--actor", "ada", "--json"]
    first, again = document(stack.farebox(*asked)), document(stack.farebox(*asked))
    assert first == again
    refused = stack.farebox("usage", "adjust", account, "calls", "-4", "--reason", "too much", "--json")
    assert (refused.returncode, "never below zero" in refused.stderr) == (1, True)
    usage = stack.usage(buyer)
    assert (usage["meters"][0]["quantity"], usage["total"]) == (3, 300)
    until(lambda: stack.counted() == 3, "Stripe has the correction")
    until(lambda: agrees(stack), "ledger and Stripe agree")
    (entry,) = document(stack.farebox("customers", "--audit", "--account", account, "--json"))
    assert (entry["actor"], entry["action"], entry["detail"]["quantity"]) == ("ada", "adjust", -2)


def test_stripe_away_over_the_invoice(stack: Stack) -> None:
    """L10, F08: what could not be reported before the invoice was final is on the next one, and nothing is lost."""
    buyer = stack.buy()
    stack.call(buyer, 2)
    until(lambda: stack.counted() == 2, "the first calls are reported")
    stack.relay.close()
    stack.call(buyer, 3)
    jump(stack, "1 month")
    stack.relay.open()
    until(lambda: items(stack), "the late usage is an invoice item", 150)
    (item,) = items(stack)
    assert (item["amount"], item["description"].startswith("3 × API calls, ")) == (300, True)
    jump(stack, "1 month")
    until(lambda: agrees(stack), "ledger, invoices and item agree once the item is on a final invoice", 150)
    invoices = stack.at_stripe("invoices")["data"]
    assert sorted(invoice["total"] for invoice in invoices) == [200, 300]


def test_yesterdays_backup(stack: Stack, tmp_path: Path) -> None:
    """F27, I4: backed up while served, lost, restored and settled: every call is billed once, and serving goes on."""
    buyer = stack.buy()
    stack.call(buyer, 3)
    until(lambda: stack.counted() == 3, "the first calls are reported")
    ledger, backup = stack.folder / "farebox.db", tmp_path / "backup.db"
    with sqlite3.connect(ledger) as connection:
        connection.execute("VACUUM INTO ?", [str(backup)])
    stack.call(buyer, 4)
    until(lambda: stack.counted() == 7, "the calls of the lost time are reported")
    while_served = stack.farebox("reconcile", "--after-restore", "--settle-seconds", "0", "--json")
    assert (while_served.returncode, json.loads(while_served.stderr)["error"]["code"]) == (1, "store_busy")
    stack.stop_api()
    for name in ("farebox.db", "farebox.db-wal", "farebox.db-shm"):
        (stack.folder / name).unlink(missing_ok=True)
    ledger.write_bytes(backup.read_bytes())
    rehearsed = document(stack.farebox("reconcile", "--after-restore", "--dry-run", "--json"))
    assert (rehearsed["imported"], rehearsed["dry_run"]) == (4, True)
    settled = stack.farebox("reconcile", "--after-restore", "--settle-seconds", "1", "--json")
    assert settled.returncode == 0, settled.stderr
    assert document(settled)["imported"] == 4
    lost = document(settled)["lost"]
    assert document(stack.farebox("usage", "lost", "--json"))["lost"] == [lost]
    stack.start_api()
    old = {
        "id": "job-1",
        "meter": "calls",
        "quantity": 1,
        "at": lost["end"],
        "account": str(stack.usage(buyer)["account"]),
    }
    operator = {"Authorization": f"Bearer {stack.environment['FAREBOX_ADMIN_TOKEN']}"}
    answer = stack.client.post(stack.base + "/billing/events", json={"events": [old]}, headers=operator)
    (refused,) = answer.json()["results"]
    assert (refused["status"], refused["code"]) == ("rejected", "usage_in_lost_time")
    stack.call(buyer, 2)
    until(lambda: stack.counted() == 9, "the new calls are reported")
    assert stack.usage(buyer)["meters"][0]["quantity"] == 9
    until(lambda: agrees(stack), "ledger and Stripe agree")
    jump(stack, "1 month")
    assert [invoice["total"] for invoice in stack.at_stripe("invoices")["data"]] == [900]


def items(stack: Stack) -> list[dict[str, Any]]:
    return list(stack.at_stripe("invoiceitems")["data"])


def jump(stack: Stack, span: str) -> None:
    asked = {"advance": span, "settle_seconds": 1, "wait": True}
    assert stack.client.post(stack.stripe + "/_sandbox/clock", json=asked).is_success
