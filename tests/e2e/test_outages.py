"""The ledger's PostgreSQL goes away under a serving process that may spool, and the process dies meanwhile (L16)."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.stack import Stack, stack_in, until
from tests.postgres import Cluster, cluster_in, postgres_programs


@pytest.fixture
def own_cluster() -> Iterator[Cluster]:
    with cluster_in(postgres_programs()) as running:
        yield running


@pytest.fixture
def stack(tmp_path: Path, own_cluster: Cluster) -> Iterator[Stack]:
    with stack_in(tmp_path) as running:
        folder = tmp_path / "spool"
        folder.mkdir()
        config = tmp_path / "farebox.toml"
        spool = f'\n[ledger]\non_store_loss = "spool"\nspool_path = "{folder}"\n'
        config.write_text(config.read_text() + spool)
        running.environment["FAREBOX_DATABASE_URL"] = own_cluster.url()
        yield running


def test_calls_go_on_and_survive_a_kill(stack: Stack, own_cluster: Cluster, tmp_path: Path) -> None:
    """F19, I1, I12: without its database a process serves known keys, killed it leaves what they used, the next one
    brings it in by itself, and Stripe has each call once."""
    stack.start_api()
    buyer = stack.buy()
    stack.call(buyer, 3)
    own_cluster.stop(signal.SIGQUIT)
    stack.call(buyer, 5)
    ready = stack.client.get(stack.base + "/billing/readyz")
    assert (ready.status_code, ready.json()) == (200, {"status": "degraded"})
    # Longer than facts are trusted without a spool: the exception holds in the running whole.
    until(lambda: "feed" in stack.log and stack.log.count("step_failed") >= 5, "the feed is known to be away")
    stack.call(buyer, 2)
    assert len(list((tmp_path / "spool").glob("*.spool"))) == 1
    stack.stop_api(signal.SIGKILL)
    own_cluster.start()
    doctor = stack.farebox("doctor", "--json")
    assert "batches in 1 spool files" in doctor.stdout
    stack.start_api()
    until(lambda: not list((tmp_path / "spool").iterdir()), "what was left behind is brought in")
    stack.call(buyer, 1)
    assert stack.usage(buyer)["meters"][0]["quantity"] == 11
    # And once more, with the process there when its database comes back.
    own_cluster.stop()
    stack.call(buyer, 4)
    own_cluster.start()
    until(lambda: not list((tmp_path / "spool").iterdir()), "the spool is merged")
    until(
        lambda: stack.client.get(stack.base + "/billing/readyz").json() == {"status": "ready"}, "the process is ready"
    )
    assert stack.usage(buyer)["meters"][0]["quantity"] == 15
    until(lambda: stack.counted() == 15, "all of it is at Stripe")
