"""A what-if over a real ledger beside a serving process: before is what the buyer sees, and nothing is changed."""

import json
from pathlib import Path

from tests.e2e.stack import stack_in, until


def test_a_dearer_price(tmp_path: Path) -> None:
    """Before equals `GET /usage` and Stripe's preview, after the new price and its fee; usage goes on as it was."""
    with stack_in(tmp_path) as stack:
        stack.start_api()
        buyers = [stack.buy(), stack.buy()]
        stack.call(buyers[0], 5)
        stack.call(buyers[1], 2)
        done = stack.farebox("usage", "adjust", stack.usage(buyers[0])["account"], "calls", "-1", "--reason", "a gift")
        assert done.returncode == 0, done.stderr
        config = (tmp_path / "farebox.toml").read_text()
        (tmp_path / "new.toml").write_text(
            config.replace('"1.00"', '"1.50"').replace("[plans.payg]", '[plans.payg]\nbase = "3.00"')
        )
        done = stack.farebox("simulate", "--plan", "new.toml", "--json", "--csv", "all.csv", "--svg", "chart.svg")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        seen = [stack.usage(headers) for headers in buyers]
        assert sum(one["total"] for one in seen) == 600
        (usd,) = found["currencies"]
        assert (usd["before"], usd["after"], usd["pay_more"]) == (600, 6 * 150 + 2 * 300, 2)
        assert (found["accounts"], found["periods"], found["running"], found["not_compared"]) == (2, 2, 2, [])
        named = {one["account_id"]: one["before"] for one in usd["most_more"]}
        assert named == {one["account"]: one["total"] for one in seen}
        assert len((tmp_path / "all.csv").read_text().splitlines()) == 3
        until(lambda: stack.counted() == 6, "all usage is at Stripe")
        assert [stack.usage(headers)["total"] for headers in buyers] == [400, 200]
