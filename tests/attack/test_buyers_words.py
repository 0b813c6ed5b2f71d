"""A16: what a buyer writes down is never taken for what the seller writes down."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.shop import ADMIN_TOKEN, CATALOG, bearer, open_shop

KEYS_RECORD = CATALOG + '\n[events]\nfrom = ["operator", "key"]\n'
OPERATOR = {"Authorization": f"Bearer {ADMIN_TOKEN}"}


def told(answer: Any) -> str:
    (result,) = answer.json()["results"]
    return str(result["code"] or result["status"])


@pytest.mark.parametrize("quantity", [1, 100])
def test_an_id_that_a_buyer_has_taken(tmp_path: Path, quantity: int) -> None:
    """A buyer who guesses a job's id and records it first, with the job's quantity or another, changes nothing: the
    operator's and the code's own usage is recorded in full."""
    with open_shop(tmp_path, catalog=KEYS_RECORD) as shop:
        claimed = shop.buy()
        for id in ("job-17", "transcribe-talk"):
            event = {"id": id, "meter": "calls", "quantity": quantity}
            assert told(shop.client.post("/billing/events", json=event, headers=bearer(claimed.key))) == "recorded"
        owed = {"id": "job-17", "meter": "calls", "quantity": 100, "account": claimed.account_id}
        assert told(shop.client.post("/billing/events", json={"events": [owed]}, headers=OPERATOR)) == "recorded"
        assert shop.client.portal is not None
        shop.client.portal.call(
            partial(shop.runtime.record, claimed.account_id, "calls", 1_000, record_id="transcribe-talk")
        )
        (line,) = shop.store.usage(claimed.account_id, 0, 2**40)
        assert line.quantity == 2 * quantity + 100 + 1_000


def test_a_buyer_records_nothing_unless_told(tmp_path: Path) -> None:
    """Without the seller's word in farebox.toml a buyer's key records nothing, however the body is written."""
    with open_shop(tmp_path) as shop:
        claimed = shop.buy()
        event = {"id": "job-17", "meter": "calls", "quantity": 0}
        for body in (event, {**event, "account": claimed.account_id}, {"events": [event]}, {}, "x"):
            answer = shop.client.post("/billing/events", json=body, headers=bearer(claimed.key))
            assert (answer.status_code, answer.json()["code"]) == (403, "operator_only")
        assert shop.store.recorded(claimed.account_id, ["job-17", "key:job-17"]) == {}
