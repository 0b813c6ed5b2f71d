"""What holds for every test: nothing is reached but loopback, and the random tests are the same on every run."""

import ipaddress
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from tests.description import spec_file
from tests.judge import told, watched
from tests.postgres import Cluster, cluster_in, postgres_programs
from tests.shop import shop

__all__ = ["shop"]

settings.register_profile("house", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("wide", deadline=None, max_examples=2_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "house"))


@pytest.fixture(autouse=True, scope="session")
def _loopback_only() -> Iterator[None]:
    """A test that reaches for the network fails, wherever it runs."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and not _is_loopback(str(address[0])):
            raise AssertionError(f"A test tried to reach {address[0]}.")
        connect(self, address)

    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", guarded)
    yield
    patch.undo()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A PostgreSQL server, shared by a worker's tests: each takes a database of its own."""
    with cluster_in(postgres_programs()) as running:
        yield running


@pytest.fixture(scope="session")
def judged_so_far() -> Iterator[list[str]]:
    with watched() as faults:
        yield faults


@pytest.fixture(autouse=True)
def verdict(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """What Stripe's own description has against the local Stripe's answers in a test: the test fails for it.

    Without the description nothing is judged here, and tests/test_judge.py fails.
    """
    faults: list[str] = request.getfixturevalue("judged_so_far") if spec_file() is not None else []
    faults.clear()
    yield faults
    assert not faults, told(faults)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
