"""Identifiers and secrets with Stripe's prefixes. The only place here that draws randomness."""

import random
import secrets
import threading
from typing import Final

__all__ = ["SEED_MAX", "Ids"]

SEED_MAX: Final = 2**63 - 1
_ALPHABET: Final = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SYMBOLS: Final = bytes(_ALPHABET[i % len(_ALPHABET)] for i in range(256))


class Ids:
    def __init__(self) -> None:
        self._seed: int | None = None
        self._draws: dict[str, int] = {}
        self._dice: dict[str, random.Random] = {}
        self._lock = threading.Lock()

    def new(self, prefix: str) -> str:
        """A fresh identifier such as cus_… with 24 symbols after the prefix."""
        return prefix + secrets.token_bytes(24).translate(_SYMBOLS).decode("ascii")

    def fraction(self, purpose: str = "") -> int:
        """A number from 0 to 999,999, for faults that happen at a rate. With a seed, each purpose has its own row."""
        with self._lock:
            if self._seed is None:
                return secrets.randbelow(1_000_000)
            self._draws[purpose] = self._draws.get(purpose, 0) + 1
            return self._die(purpose, self._seed).randrange(1_000_000)

    def seed(self, seed: int | None) -> None:
        """Let chance begin anew, the same for the same seed. None: nobody can tell."""
        with self._lock:
            self._seed, self._draws, self._dice = seed, {}, {}

    def seeded(self) -> dict[str, object]:
        """The seed, and how many numbers have been drawn for each purpose."""
        with self._lock:
            return {"seed": self._seed, "draws": dict(self._draws)}

    def restore(self, seed: int | None, draws: dict[str, int]) -> None:
        """Go on where a former process was."""
        self.seed(seed)
        for purpose, count in draws.items():
            for _ in range(count):
                self.fraction(purpose)

    def _die(self, purpose: str, seed: int) -> random.Random:
        if purpose not in self._dice:
            self._dice[purpose] = random.Random(f"{seed} {purpose}")  # noqa: S311 -- it is to be the same each time
        return self._dice[purpose]
