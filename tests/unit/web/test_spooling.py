"""The ledger is away and calls go on: what a buyer and an operator see of it (L16)."""

from pathlib import Path
from typing import Any

import pytest
from tests.shop import ADMIN_TOKEN, CATALOG, Shop, bearer, open_shop

from farebox.billing.keys import revoke_key
from farebox.config import load_settings
from farebox.errors import StoreUnavailable, StoreUnusable


def lost(*_: Any, **__: Any) -> None:
    raise StoreUnavailable(internal="away")


def spooling(folder: Path) -> str:
    return f'{CATALOG}\n[ledger]\non_store_loss = "spool"\nspool_seconds_max = 30\nspool_path = "{folder}"\n'


def metric(shop: Shop, name: str) -> str:
    page = shop.client.get("/billing/metrics", headers={"Authorization": f"Bearer {ADMIN_TOKEN}"}).text
    return next(line.split()[1] for line in page.splitlines() if line.startswith(name + " "))


def test_known_keys_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A known key is served while the ledger is away, one that was not seen is not, and readiness says degraded (I12).

    A key revoked meanwhile elsewhere works on: the documented exception to I9.
    """
    with open_shop(tmp_path, catalog=spooling(tmp_path)) as shop:
        known, unseen = shop.buy(), shop.buy()
        shop.call(known.key)
        revoke_key(shop.store, shop.clock, account_id=known.account_id, key_id=known.key_id)
        for name in ("commit_batch", "batch_landed", "changes", "find_facts", "writer_state"):
            monkeypatch.setattr(shop.store, name, lost)
        with pytest.raises(StoreUnavailable):
            shop.runtime.gate.poll()
        shop.clock.pass_seconds(29)
        assert shop.client.get("/api", headers=bearer(known.key)).status_code == 200
        assert shop.client.get("/api", headers=bearer(unseen.key)).status_code == 503
        assert shop.client.get("/billing/readyz").json() == {"status": "degraded"}
        assert (metric(shop, "farebox_spooling"), metric(shop, "farebox_spooled_batches")) == ("1.0", "1.0")
        shop.clock.pass_seconds(2)
        late = shop.client.get("/api", headers=bearer(known.key))
        assert (late.status_code, late.json()["code"]) == (503, "facts_stale")
        assert shop.client.get("/billing/readyz").status_code == 503
        assert metric(shop, "farebox_spool_age_seconds") == "2.0"
        monkeypatch.undo()
        merging = shop.runtime.recorder._merging
        assert merging is not None
        shop.client.portal.call(_done, merging)  # type: ignore[union-attr]
        assert metric(shop, "farebox_spooling") == "0.0"
        assert [line.quantity for line in shop.store.usage(known.account_id, 0, 1 << 40)] == [2]
        shop.runtime.gate.poll()
        assert shop.client.get("/api", headers=bearer(known.key)).status_code == 401


async def _done(task: Any) -> None:
    await task


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    """A spool that could not be written in an outage refuses the start instead (I12)."""
    with pytest.raises(StoreUnusable, match="outage spool"), open_shop(tmp_path, catalog=spooling(tmp_path / "none")):
        raise AssertionError("it started")


def test_no_place_at_all(tmp_path: Path) -> None:
    """A spool without a place refuses the start and names the setting."""
    catalog = CATALOG + '[ledger]\non_store_loss = "spool"\n'
    with pytest.raises(StoreUnusable, match="spool_path"), open_shop(tmp_path, catalog=catalog):
        raise AssertionError("it started")


def test_the_settings(tmp_path: Path) -> None:
    """Refused by default; the time has a default and counts only with the spool."""
    path = tmp_path / "farebox.toml"
    path.write_text(CATALOG)
    assert load_settings(environ={}, path=path).spool_seconds == 0
    path.write_text(CATALOG + '[ledger]\non_store_loss = "spool"\n')
    assert load_settings(environ={}, path=path).spool_seconds == 900
