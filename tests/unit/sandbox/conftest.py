"""Every test here has a local Stripe of its own."""

import pytest
from tests.unit.sandbox.town import Seller, Town


@pytest.fixture
def town() -> Town:
    return Town()


@pytest.fixture
def seller() -> Seller:
    return Seller()
