"""What an object was when an event told of it: kept small, because there are many and few are ever looked at."""

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from farebox.sandbox.decimals import encode

__all__ = ["Snapshot"]

_FAST: Final = 1


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot(Mapping[str, Any]):
    """An object as it was sent, decimals as strings. Unpacked at each look."""

    id: str
    packed: bytes

    @classmethod
    def of(cls, document: dict[str, Any]) -> "Snapshot":
        """Of what may be shown of an object."""
        text = json.dumps(document, default=encode, separators=(",", ":"))
        return cls(str(document.get("id", "")), zlib.compress(text.encode(), _FAST))

    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(zlib.decompress(self.packed))
        return found

    def __getitem__(self, name: str) -> Any:
        return self.id if name == "id" and self.id else self.document()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.document())

    def __len__(self) -> int:
        return len(self.document())

    def __eq__(self, other: object) -> bool:
        return self.packed == other.packed if isinstance(other, Snapshot) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.packed)
