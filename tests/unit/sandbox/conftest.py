"""Every test here has a local Stripe of its own, and all that it brought about must survive a restart."""

from collections.abc import Iterator

import pytest
from tests.unit.sandbox.town import Seller, Town, survive


@pytest.fixture
def town() -> Iterator[Town]:
    made = Town()
    yield made
    survive(made.sandbox)


@pytest.fixture
def seller() -> Iterator[Seller]:
    made = Seller()
    yield made
    survive(made.sandbox)
