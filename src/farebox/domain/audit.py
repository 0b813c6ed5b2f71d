"""Who did what: one entry for each act of an operator."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

__all__ = ["ACTOR_CHARACTERS_MAX", "AuditEntry"]

ACTOR_CHARACTERS_MAX: Final = 128


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """`action` is a short stable word such as "key.revoke"; `subject` the account it was done to, or "ledger".

    `detail` holds plain values and never a secret.
    """

    id: str
    at: int
    actor: str
    action: str
    subject: str
    detail: Mapping[str, str | int | None] = field(default_factory=dict)

    def with_detail(self, **more: str | int | None) -> "AuditEntry":
        return replace(self, detail={**self.detail, **more})
