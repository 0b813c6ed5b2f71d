"""Self-service keys of one account: create, list, rotate with an overlap, revoke. A key in clear is returned once."""

from collections.abc import Sequence
from typing import Final

from farebox.domain.audit import AuditEntry
from farebox.domain.keys import KEY_ENTROPY_BYTES, ApiKey, Pepper, Secret, digest, mint
from farebox.errors import InputInvalid, NotFound
from farebox.ports import Clock, Entropy, Store

__all__ = [
    "KEYS_PER_ACCOUNT_MAX",
    "KEY_NAME_CHARACTERS_MAX",
    "OVERLAP_SECONDS",
    "OVERLAP_SECONDS_MAX",
    "create_key",
    "live_keys",
    "new_key",
    "revoke_key",
    "rotate_key",
]

KEYS_PER_ACCOUNT_MAX: Final = 50
KEY_NAME_CHARACTERS_MAX: Final = 64
OVERLAP_SECONDS: Final = 86_400
OVERLAP_SECONDS_MAX: Final = 30 * 86_400


def new_key(
    clock: Clock, entropy: Entropy, peppers: Sequence[Pepper], *, live: bool, account_id: str, name: str
) -> tuple[Secret, ApiKey]:
    """Mint a key with the newest pepper: the clear text to show once, and the row to keep."""
    if len(name) > KEY_NAME_CHARACTERS_MAX or not name.isprintable():
        raise InputInvalid(f"A key's name is plain text of at most {KEY_NAME_CHARACTERS_MAX} characters.")
    secret = mint(entropy.token_bytes(KEY_ENTROPY_BYTES), live=live)
    text = secret.reveal()
    row = ApiKey(
        id="key_" + entropy.token(),
        account_id=account_id,
        digest=digest(text, peppers[0]),
        pepper_id=peppers[0].id,
        prefix=text[:8],
        last_four=text[-4:],
        name=name,
        created_at=clock.now_at(),
    )
    return secret, row


def live_keys(store: Store, account_id: str, now: int) -> list[ApiKey]:
    """The account's keys that still work."""
    return [
        key
        for key in store.keys(account_id)
        if key.revoked_at is None and (key.expires_at is None or key.expires_at > now)
    ]


def create_key(
    store: Store,
    clock: Clock,
    entropy: Entropy,
    peppers: Sequence[Pepper],
    *,
    live: bool,
    account_id: str,
    name: str = "",
    audit: AuditEntry | None = None,
) -> tuple[Secret, ApiKey]:
    """A further key for the account. InputInvalid at the limit of live keys."""
    if len(live_keys(store, account_id, clock.now_at())) >= KEYS_PER_ACCOUNT_MAX:
        raise InputInvalid(f"An account has at most {KEYS_PER_ACCOUNT_MAX} keys. Revoke one first.")
    secret, row = new_key(clock, entropy, peppers, live=live, account_id=account_id, name=name)
    store.add_key(row, audit=audit.with_detail(key=row.id) if audit is not None else None)
    return secret, row


def rotate_key(
    store: Store,
    clock: Clock,
    entropy: Entropy,
    peppers: Sequence[Pepper],
    *,
    live: bool,
    account_id: str,
    key_id: str,
    overlap_seconds: int = OVERLAP_SECONDS,
    audit: AuditEntry | None = None,
) -> tuple[Secret, ApiKey]:
    """A new key in the place of an old one, which works on for the overlap. NotFound unless the old key is live."""
    if not 0 <= overlap_seconds <= OVERLAP_SECONDS_MAX:
        raise InputInvalid(f"overlap_seconds must lie between 0 and {OVERLAP_SECONDS_MAX}.")
    old = next((key for key in live_keys(store, account_id, clock.now_at()) if key.id == key_id), None)
    if old is None:
        raise NotFound("There is no such live key.")
    if old.expires_at is not None:
        raise InputInvalid("This key has been rotated already and is about to expire. Rotate the new one.")
    secret, row = new_key(clock, entropy, peppers, live=live, account_id=account_id, name=old.name)
    entry = audit.with_detail(old=key_id, key=row.id) if audit is not None else None
    if not store.rotate_key(key_id, row, expires_at=row.created_at + overlap_seconds, audit=entry):
        raise NotFound("There is no such live key.")
    return secret, row


def revoke_key(store: Store, clock: Clock, *, account_id: str, key_id: str, audit: AuditEntry | None = None) -> None:
    """End a key at once. NotFound unless the account has such a live key."""
    entry = audit.with_detail(key=key_id) if audit is not None else None
    # An id that no database can hold is not asked for.
    if not key_id.isprintable() or not store.end_key(account_id, key_id, at=clock.now_at(), audit=entry):
        raise NotFound("There is no such live key.")
