"""API keys: what they look like, that a slip is seen without asking anyone, and what is stored of them."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.domain.keys import KEY_ENTROPY_BYTES, KEY_LENGTH, Pepper, Secret, digest, is_well_formed, mint, pepper_from

BASE62 = string.digits + string.ascii_letters
entropy = st.binary(min_size=KEY_ENTROPY_BYTES, max_size=KEY_ENTROPY_BYTES)


def test_the_format_stands_still() -> None:
    """A key made from known bytes is this key for ever: prefix, 37 symbols, 6 symbols of CRC32."""
    assert mint(bytes(32), live=False).reveal() == "fb_test_00000000000000000000000000000000000001gYOY4"
    assert mint(bytes(range(32)), live=True).reveal() == "fb_live_TJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf1xoMm2"


@given(entropy, st.booleans())
def test_every_key_is_well_formed(random: bytes, live: bool) -> None:
    """Whatever the random bytes, the key has its length, its prefix and only base62 symbols, and its checksum holds."""
    key = mint(random, live=live).reveal()
    assert (len(key), key[:8]) == (KEY_LENGTH, "fb_live_" if live else "fb_test_")
    assert set(key[8:]) <= set(BASE62)
    assert is_well_formed(key)


@given(st.integers(0, 62**37 - 1), st.integers(0, 62**37 - 1))
def test_no_two_keys_are_one(one: int, other: int) -> None:
    """A05: the key holds all that its 37 symbols can, 220 bits of chance: different numbers, different keys."""
    keys = [mint(number.to_bytes(KEY_ENTROPY_BYTES, "big"), live=True) for number in (one, other)]
    assert (keys[0] == keys[1]) == (one == other)


@given(entropy, st.integers(8, KEY_LENGTH - 1), st.sampled_from(BASE62))
def test_one_wrong_symbol(random: bytes, place: int, symbol: str) -> None:
    """A05: a key with one symbol changed is refused by its form alone."""
    key = mint(random, live=False).reveal()
    changed = key[:place] + symbol + key[place + 1 :]
    assert is_well_formed(changed) == (changed == key)


@given(entropy, st.integers(8, KEY_LENGTH - 2))
def test_two_symbols_swapped(random: bytes, place: int) -> None:
    """A05: a key with two neighbours swapped, as typing does it, is refused by its form alone."""
    key = mint(random, live=False).reveal()
    swapped = key[:place] + key[place + 1] + key[place] + key[place + 2 :]
    assert is_well_formed(swapped) == (swapped == key)


@given(st.text(max_size=KEY_LENGTH + 5))
def test_other_texts(text: str) -> None:
    """A22: a text that was not minted is no key, whatever it holds, also behind a key's prefix."""
    assert not is_well_formed(text)
    assert not is_well_formed(f"fb_test_{text}")


@pytest.mark.parametrize("change", [" {}", "{} ", "{}\n", "{}\0", "fb_test_{}"])
def test_no_trimming(change: str) -> None:
    """A22: a key with anything around it is another text."""
    assert not is_well_formed(change.format(mint(b"x" * 32, live=False).reveal()))


def test_the_mode_is_part_of_the_checksum() -> None:
    """A test key cannot be passed off as a live one by its prefix."""
    key = mint(b"x" * 32, live=False).reveal()
    assert not is_well_formed(key.replace("fb_test_", "fb_live_"))


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_too_little_chance(size: int) -> None:
    """A key is made from exactly the bytes that it should be, never quietly from fewer."""
    with pytest.raises(ValueError, match="32 random bytes"):
        mint(bytes(size), live=True)


def test_digests_stand_still() -> None:
    """A31, L19: the pepper derived from a secret and the digest made with it never change, or every key would die."""
    pepper = pepper_from("a secret of the tests that is long enough")
    assert pepper.id == "1a3a9de652c4"
    key = mint(bytes(32), live=False).reveal()
    assert digest(key, pepper) == "9276821ad88dc409f55bfb4b1b8380fca8d072137d285fb4fe71b041acbbeb98"


@given(entropy, st.text(min_size=1, alphabet=BASE62), st.text(min_size=1, alphabet=BASE62))
def test_digests_need_the_pepper(random: bytes, one: str, other: str) -> None:
    """A31: a digest holds nothing of the key, and is another under another pepper; a pepper's id is not its secret."""
    key = mint(random, live=True).reveal()
    mine, others = pepper_from(one), pepper_from(other)
    assert (digest(key, mine) == digest(key, others)) == (one == other)
    assert len(digest(key, mine)) == 64
    assert key[8:16] not in digest(key, mine)
    assert mine.id not in mine.secret.hex()


def test_secrets_stay_hidden() -> None:
    """A07: neither a secret nor a pepper shows itself when it is printed, formatted, or part of something printed."""
    secret, pepper = Secret("whsec_hidden"), Pepper("abc", b"hidden")
    shown = f"{secret} {secret!r} {[secret]} {pepper} {pepper!r} {(pepper,)}"
    assert "hidden" not in shown
    assert secret.reveal() == "whsec_hidden"


def test_secrets_compare() -> None:
    """A secret equals one of the same text and nothing else, and can be looked up as such."""
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert {Secret("a"), Secret("a")} == {Secret("a")}
    assert Secret("é") != Secret("e")
