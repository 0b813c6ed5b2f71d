"""Self-service keys: one account's own, bounded, shown once."""

import pytest
from tests.shop import Shop

from farebox.billing.keys import (
    KEY_NAME_CHARACTERS_MAX,
    KEYS_PER_ACCOUNT_MAX,
    OVERLAP_SECONDS,
    OVERLAP_SECONDS_MAX,
    create_key,
    live_keys,
    revoke_key,
    rotate_key,
)
from farebox.domain.keys import ApiKey, Secret, digest
from farebox.errors import InputInvalid, NotFound


def create(shop: Shop, account_id: str, name: str = "") -> tuple[Secret, ApiKey]:
    peppers = shop.settings.peppers
    return create_key(shop.store, shop.clock, shop.entropy, peppers, live=False, account_id=account_id, name=name)


def rotate(shop: Shop, account_id: str, key_id: str, overlap_seconds: int = OVERLAP_SECONDS) -> tuple[Secret, ApiKey]:
    return rotate_key(
        shop.store,
        shop.clock,
        shop.entropy,
        shop.settings.peppers,
        live=False,
        account_id=account_id,
        key_id=key_id,
        overlap_seconds=overlap_seconds,
    )


def status_of(shop: Shop, key: Secret) -> int:
    shop.runtime.gate.poll()
    return shop.client.get("/api", headers={"X-API-Key": key.reveal()}).status_code


def test_only_a_digest_is_kept(shop: Shop) -> None:
    """The row has the digest under the newest pepper, the first eight and last four symbols, and no more of the key."""
    account_id = shop.buy().account_id
    secret, row = create(shop, account_id, "ci")
    text = secret.reveal()
    pepper = shop.settings.peppers[0]
    assert (row.digest, row.pepper_id) == (digest(text, pepper), pepper.id)
    assert (row.prefix, row.last_four, row.name) == (text[:8], text[-4:], "ci")
    with shop.store.database.read() as connection:
        stored = connection.exec_driver_sql("SELECT * FROM api_keys").all()
    assert text not in repr(stored)
    assert text[8:-4] not in repr(stored)


def test_several_keys_work_side_by_side(shop: Shop) -> None:
    """A further key works, and the first goes on working."""
    claimed = shop.buy()
    secret, _ = create(shop, claimed.account_id)
    assert [status_of(shop, key) for key in (secret, claimed.key)] == [200, 200]


def test_live_keys_are_bounded(shop: Shop) -> None:
    """An account has at most KEYS_PER_ACCOUNT_MAX live keys; revoking one makes room."""
    claimed = shop.buy()
    for _ in range(KEYS_PER_ACCOUNT_MAX - 1):
        create(shop, claimed.account_id)
    with pytest.raises(InputInvalid):
        create(shop, claimed.account_id)
    revoke_key(shop.store, shop.clock, account_id=claimed.account_id, key_id=claimed.key_id)
    create(shop, claimed.account_id)
    assert len(live_keys(shop.store, claimed.account_id, shop.clock.now_at())) == KEYS_PER_ACCOUNT_MAX


@pytest.mark.parametrize("name", ["x" * (KEY_NAME_CHARACTERS_MAX + 1), "two\nlines", "nul\x00", "\ud800"])
def test_names_are_bounded_and_plain(shop: Shop, name: str) -> None:
    """A name is plain text within its bound, or no key is made."""
    account_id = shop.buy().account_id
    with pytest.raises(InputInvalid):
        create(shop, account_id, name)
    assert len(shop.store.keys(account_id)) == 1


def test_rotation_overlaps(shop: Shop) -> None:
    """After a rotation both keys work until the overlap ends to the second; then only the new one does."""
    claimed = shop.buy()
    secret, row = rotate(shop, claimed.account_id, claimed.key_id, 600)
    assert row.name == "claimed"
    assert [status_of(shop, key) for key in (claimed.key, secret)] == [200, 200]
    shop.clock.pass_seconds(599)
    assert status_of(shop, claimed.key) == 200
    shop.clock.pass_seconds(1)
    assert [status_of(shop, key) for key in (claimed.key, secret)] == [401, 200]


def test_rotation_without_overlap(shop: Shop) -> None:
    """An overlap of zero ends the old key at once."""
    claimed = shop.buy()
    secret, _ = rotate(shop, claimed.account_id, claimed.key_id, 0)
    assert [status_of(shop, key) for key in (claimed.key, secret)] == [401, 200]


@pytest.mark.parametrize("overlap_seconds", [-1, OVERLAP_SECONDS_MAX + 1])
def test_overlap_is_bounded(shop: Shop, overlap_seconds: int) -> None:
    """An overlap outside its bounds is refused and the old key stays as it was."""
    claimed = shop.buy()
    with pytest.raises(InputInvalid):
        rotate(shop, claimed.account_id, claimed.key_id, overlap_seconds)
    assert [key.expires_at for key in shop.store.keys(claimed.account_id)] == [None]


def test_a_key_is_rotated_once(shop: Shop) -> None:
    """A key that is about to expire makes no further keys, and gets no more time."""
    claimed = shop.buy()
    rotate(shop, claimed.account_id, claimed.key_id, 600)
    with pytest.raises(InputInvalid, match="rotated already"):
        rotate(shop, claimed.account_id, claimed.key_id, 6_000)
    assert len(shop.store.keys(claimed.account_id)) == 2
    old = next(key for key in shop.store.keys(claimed.account_id) if key.id == claimed.key_id)
    assert old.expires_at == shop.clock.now_at() + 600


def test_revoked_is_over(shop: Shop) -> None:
    """A revoked key is refused at once, and can neither be rotated nor revoked again."""
    claimed = shop.buy()
    revoke_key(shop.store, shop.clock, account_id=claimed.account_id, key_id=claimed.key_id)
    assert status_of(shop, claimed.key) == 401
    with pytest.raises(NotFound):
        rotate(shop, claimed.account_id, claimed.key_id)
    with pytest.raises(NotFound):
        revoke_key(shop.store, shop.clock, account_id=claimed.account_id, key_id=claimed.key_id)


def test_another_accounts_key_is_not_there(shop: Shop) -> None:
    """The id of another account's key is answered exactly like an id that does not exist, and that key lives on."""
    mine, theirs = shop.buy(), shop.buy()
    said = set()
    for key_id in (theirs.key_id, "key_unknown"):
        with pytest.raises(NotFound) as one:
            revoke_key(shop.store, shop.clock, account_id=mine.account_id, key_id=key_id)
        with pytest.raises(NotFound) as other:
            rotate(shop, mine.account_id, key_id)
        said |= {one.value.detail, other.value.detail}
    assert len(said) == 1
    assert status_of(shop, theirs.key) == 200
    assert len(shop.store.keys(mine.account_id)) == 1
