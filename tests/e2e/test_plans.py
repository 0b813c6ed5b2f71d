"""Plans and prices as seller and buyer meet them: changed in mid-month, versioned, moved; and every figure the same."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from tests.e2e.stack import Stack, stack_in, until
from tests.howto import Command, commands_of, files_of

SCALE: Final = """
[plans.scale]
title = "Scale"
base = "29.00"
[[plans.scale.prices]]
meter = "calls"
mode = "graduated"
tiers = [ { up_to = 5, unit_amount = "0" }, { up_to = "inf", unit_amount = "0.50", flat_amount = "5.00" } ]
"""
PAGE: Final = "change-plans.md"
UNTOLD: Final = re.compile(r"\b(acct|sub|mtr_test|mtr|prod|price|bpc)_[A-Za-z0-9]+|\d{4}-\d\d-\d\d \d\d:\d\d")


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with stack_in(tmp_path) as running:
        yield running


def sell(stack: Stack, more: str) -> None:
    config = stack.folder / "farebox.toml"
    config.write_text(config.read_text() + more)
    done = stack.farebox("push")
    assert done.returncode == 0, done.stderr


def quoted(stack: Stack, *arguments: str) -> dict[str, Any]:
    done = stack.farebox("quote", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def preview(stack: Stack, buyer: dict[str, str]) -> int:
    answer = stack.client.get(stack.base + "/billing/invoices/upcoming", headers=buyer)
    return int(answer.raise_for_status().json()["total"])


def move(stack: Stack, to_at: int) -> None:
    asked = {"to_at": to_at, "wait": True, "settle_seconds": 3}
    assert stack.client.post(stack.stripe + "/_sandbox/clock", json=asked, timeout=120).is_success


def test_a_month_with_a_change_of_plan(stack: Stack) -> None:
    """I7, I17, L12: quote, usage, Stripe's preview and the paid invoices say the same of a plan that a buyer changed
    between two calls: what was used before is paid with the change, and reconcile agrees."""
    sell(stack, SCALE)
    stack.start_api()
    buyer = stack.buy()
    stack.call(buyer, 7)
    asked = {"plan": "scale", "when": "now"}
    changed = stack.client.post(stack.base + "/billing/subscription", json=asked, headers=buyer)
    assert (changed.status_code, changed.json()["plan"]) == (200, "scale"), changed.text
    until(lambda: stack.client.get(stack.base + "/api", headers=buyer).is_success, "calls go on")
    stack.call(buyer, 7)
    until(lambda: stack.counted() == 15, "all usage is at Stripe")
    usage = stack.usage(buyer)
    old, new = quoted(stack, "payg", "calls=7"), quoted(stack, "scale", "calls=8")
    fee = new["lines"][0]["amount"]
    assert (usage["earlier"], usage["base"]) == ([], fee)
    assert sum(m["amount"] for m in usage["meters"]) == new["total"] - fee == 650
    assert usage["total"] == new["total"]
    assert preview(stack, buyer) == usage["total"]  # this month's usage, and the next month's base fee

    def paid() -> list[int]:
        return [i["total"] for i in stack.at_stripe("invoices")["data"] if i["status"] == "paid"]

    assert old["total"] + fee in paid()
    move(stack, usage["period_end"] + 2 * 3_600)

    until(lambda: new["total"] in paid(), "the invoice is paid")
    reconciled = until(lambda: agreed(stack), "reconcile agrees")
    assert reconciled.returncode == 0


def agreed(stack: Stack) -> Any:
    done = stack.farebox("reconcile", "--json")
    return done if done.returncode == 0 else None


def run(stack: Stack, command: Command, account: str) -> str:
    """What the page's command prints here, without what differs from machine to machine."""
    program, *arguments = command.line.split()
    assert program == "farebox"
    done = stack.farebox(*(account if argument.startswith("acct_") else argument for argument in arguments))
    assert done.returncode == 0, done.stderr
    return plain(done.stdout)


def plain(text: str) -> str:
    return "".join(f"{UNTOLD.sub('…', line).rstrip()}\n" for line in text.splitlines())


def test_the_page(stack: Stack) -> None:
    """docs/how-to/change-plans.md: its commands, in order, print what it shows, and do what it says."""
    config = stack.folder / "farebox.toml"
    (before,) = files_of(PAGE).values()
    plans = config.read_text().split("[plans.payg]")[0]
    routes = config.read_text()[config.read_text().index("[[routes]]") :]
    config.write_text(f"{plans}{before}\n{routes}")
    assert stack.farebox("push").returncode == 0
    stack.start_api()
    buyer = stack.buy()
    account = str(stack.usage(buyer)["account"])
    stack.call(buyer, 2)
    config.write_text(config.read_text().replace('"1.00"', '"0.90"'))
    for command in commands_of(PAGE):
        assert run(stack, command, account) == plain(command.shown), command.line
    usage = stack.usage(buyer)
    assert usage["plan"] == "scale"
    assert [part["plan"] for part in usage["earlier"]] == ["payg"]
    assert usage["period_end"] > time.time()
