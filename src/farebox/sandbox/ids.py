"""Identifiers and secrets with Stripe's prefixes. The only place here that draws randomness."""

import secrets
from typing import Final

__all__ = ["Ids"]

_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


class Ids:
    def new(self, prefix: str) -> str:
        """A fresh identifier such as cus_… with 24 symbols after the prefix."""
        return prefix + "".join(secrets.choice(_ALPHABET) for _ in range(24))

    def fraction(self) -> int:
        """A number from 0 to 999,999, for faults that happen at a rate."""
        return secrets.randbelow(1_000_000)
