"""What the oracle is told: plain values, of clients, of Stripe's book and of the ledger's rows."""

from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["ACCEPTED", "REFUSED", "UNKNOWN", "Counted", "Sealed", "Units", "Used"]

Used = Mapping[tuple[str, str, int], int]  # usage by account, meter and the start of the bucket
Units = Mapping[tuple[str, str], int]  # units by account and meter

ACCEPTED, REFUSED, UNKNOWN = "accepted", "refused", "unknown"


class Sealed(NamedTuple):  # a meter event as the ledger has it; a correction is no part of its bucket's usage
    identifier: str
    account: str
    meter: str
    bucket: int
    value: int
    timestamp: int
    state: str
    reason: str
    correction: bool = False


class Counted(NamedTuple):  # a meter event as Stripe has counted it
    identifier: str
    account: str
    meter: str
    value: int
    timestamp: int
