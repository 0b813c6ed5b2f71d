"""The shop of tests/shop.py for every test in this folder."""

from tests.shop import shop

__all__ = ["shop"]
