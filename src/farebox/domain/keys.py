"""API keys: their format, checksum and digest. A key in clear is held only in a Secret and is never stored."""

import hashlib
import hmac
import zlib
from dataclasses import dataclass
from typing import Final

__all__ = [
    "KEY_ENTROPY_BYTES",
    "KEY_LENGTH",
    "ApiKey",
    "Pepper",
    "Secret",
    "digest",
    "is_well_formed",
    "mint",
    "pepper_from",
]

KEY_ENTROPY_BYTES: Final = 32
KEY_LENGTH: Final = 51
_BODY_LENGTH: Final = 37
_CHECKSUM_LENGTH: Final = 6
_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SYMBOLS: Final = frozenset(_ALPHABET)
_PREFIXES: Final = ("fb_live_", "fb_test_")


class Secret:
    """A text that never shows itself: repr, str and format hide it; only `reveal()` gives it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash(self._text)


@dataclass(frozen=True, slots=True)
class Pepper:
    """What a key's digest is made with. `id` names it in key rows (L19) and tells nothing about `secret`."""

    id: str
    secret: bytes

    def __repr__(self) -> str:
        return f"Pepper({self.id})"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as the store knows it: the digest, never the key. Times in Unix seconds."""

    id: str
    account_id: str
    digest: str
    pepper_id: str
    prefix: str
    last_four: str
    name: str
    created_at: int
    expires_at: int | None = None
    revoked_at: int | None = None


def pepper_from(secret: str) -> Pepper:
    """Derive the key pepper of one FAREBOX_SECRET entry, apart from everything else derived from it."""
    key = hmac.new(secret.encode(), b"farebox/key-pepper", hashlib.sha256).digest()
    name = hmac.new(secret.encode(), b"farebox/key-pepper-id", hashlib.sha256).hexdigest()[:12]
    return Pepper(id=name, secret=key)


def mint(entropy: bytes, *, live: bool) -> Secret:
    """Make a key from KEY_ENTROPY_BYTES random bytes: prefix, 37 base62 symbols, 6 base62 symbols of CRC32."""
    if len(entropy) != KEY_ENTROPY_BYTES:
        raise ValueError(f"a key needs {KEY_ENTROPY_BYTES} random bytes, not {len(entropy)}")
    head = _PREFIXES[0 if live else 1] + _base62(int.from_bytes(entropy, "big"), _BODY_LENGTH)
    return Secret(head + _checksum(head))


def is_well_formed(text: str) -> bool:
    """Whether the text has a key's form and its checksum holds, so that guesses never reach the store."""
    if len(text) != KEY_LENGTH or not text.startswith(_PREFIXES) or not _SYMBOLS.issuperset(text[8:]):
        return False
    return _checksum(text[:-_CHECKSUM_LENGTH]) == text[-_CHECKSUM_LENGTH:]


def digest(text: str, pepper: Pepper) -> str:
    """HMAC-SHA256 of a key with the server's pepper, as hex."""
    return hmac.digest(pepper.secret, text.encode(), "sha256").hex()


def _checksum(head: str) -> str:
    return _base62(zlib.crc32(head.encode()), _CHECKSUM_LENGTH)


def _base62(number: int, length: int) -> str:
    symbols = []
    for _ in range(length):
        number, index = divmod(number, 62)
        symbols.append(_ALPHABET[index])
    return "".join(reversed(symbols))
