"""The public test kit, where its own promises are at stake: what has happened has arrived when it says so."""

import time
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from farebox import Farebox
from farebox.testing import Kit

CONFIG = """
[meters.calls]
title = "API calls"
[plans.payg]
title = "Pay as you go"
[[plans.payg.prices]]
meter = "calls"
unit_amount = "1.00"
[[routes]]
match = "GET /api"
meter = "calls"
"""


def test_settling_waits_for_what_a_loop_has_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A webhook that the application's own loop is working off has arrived before a buyer is called unpaid."""
    (tmp_path / "farebox.toml").write_text(CONFIG)
    app, farebox = FastAPI(), Farebox()
    app.get("/api")(lambda: {"data": 1})
    farebox.protect(app)
    with Kit(app, farebox, tmp_path / "farebox.toml") as kit:
        store: Any = kit.adapters.store
        take, until = store.take_inbox, time.monotonic() + 0.5
        monkeypatch.setattr(store, "take_inbox", lambda *a, **k: take(*a, **k) if time.monotonic() > until else None)
        assert kit.unpaid_client().get("/api").status_code == 402
