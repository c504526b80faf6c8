from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fedfleet.errors import InvalidInput, TokenInvalid
from fedfleet.identity.authority import Authority
from fedfleet.identity.tokens import matches, new_key, new_token, pin_of, split_key, split_token

PIN = "0123456789abcdef" * 2


def test_token_is_split_into_what_it_was_made_of() -> None:
    made = new_token(PIN)

    token_id, secret, pin = split_token(made.text)

    assert made.text == f"fft_{token_id}_{secret}_{pin}"
    assert (token_id, pin) == (made.id, PIN)
    assert hashlib.sha256(secret.encode()).hexdigest() == made.secret_hash
    assert matches(secret, made.secret_hash)


def test_key_is_split_into_what_it_was_made_of() -> None:
    made = new_key()

    key_id, secret = split_key(made.text)

    assert made.text == f"flk_{key_id}_{secret}"
    assert key_id == made.id
    assert matches(secret, made.secret_hash)


def test_token_is_no_key_and_key_is_no_token() -> None:
    with pytest.raises(TokenInvalid, match="not a key"):
        split_key(new_token(PIN).text)
    with pytest.raises(TokenInvalid, match="not a token"):
        split_token(new_key().text)


def test_token_is_found_between_blanks() -> None:
    made = new_token(PIN)

    assert split_token(f" {made.text}\n") == split_token(made.text)


def test_secrets_are_random_and_long() -> None:
    made = [new_key() for _ in range(1000)]
    secrets = [split_key(one.text)[1] for one in made]

    assert len(set(secrets)) == len({one.id for one in made}) == 1000
    assert {len(secret) * 4 for secret in secrets} == {160}
    # Each bit is set in about half of them: 1000 draws, six standard deviations.
    for bit in range(160):
        assert 405 < sum(int(secret, 16) >> bit & 1 for secret in secrets) < 595


def test_secret_is_not_shown_by_chance() -> None:
    made = new_token(PIN)

    assert split_token(made.text)[1] not in repr(made)


@given(st.one_of(st.text(), st.from_regex(r"f[fl][tk]_[0-9a-f_]{0,120}")))
@example("")
@example(f"fft_{'A' * 16}_{'0' * 40}_{PIN}")  # not in lower case
@example(f"fft_{'٣' * 16}_{'0' * 40}_{PIN}")  # digits that are not ASCII
def test_other_texts_are_refused_without_being_told(text: str) -> None:
    for split, kind in ((split_token, "fft_"), (split_key, "flk_")):
        if re.fullmatch(f"{kind}[0-9a-f]{{16}}_[0-9a-f]{{40}}(_[0-9a-f]{{32}})?", text.strip()):
            continue  # by chance, or the other kind's; those have tests of their own
        with pytest.raises(TokenInvalid) as caught:
            split(text)

        assert caught.value.message.isascii()
        assert len(text) < 8 or text not in caught.value.message
        assert caught.value.__cause__ is None


@given(st.integers(0, 91), st.sampled_from("0123456789abcdef"))
def test_token_with_another_digit_is_refused_or_another(at: int, digit: str) -> None:
    made = new_token(PIN)
    altered = made.text[:at] + digit + made.text[at + 1 :]

    try:
        token_id, secret, pin = split_token(altered)
    except TokenInvalid:
        assert altered != made.text
    else:
        same = (token_id, matches(secret, made.secret_hash), pin) == (made.id, True, PIN)
        assert same == (altered == made.text)


@given(secret=st.text(st.characters()), other=st.text(st.characters()))
def test_matches_the_secret_alone(secret: str, other: str) -> None:
    digest = hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()

    assert matches(secret, digest)
    assert matches(other, digest) == (
        other.encode("utf-8", "replace") == secret.encode("utf-8", "replace")
    )
    assert not matches(secret, other)


@pytest.mark.parametrize("pin", ["", PIN[1:], PIN + "0", PIN.upper(), f"{PIN}\n"])
def test_token_needs_a_pin(pin: str) -> None:
    with pytest.raises(InvalidInput):
        new_token(pin)


def test_pin_is_half_of_the_fingerprint(authority: Authority, foreign: Authority) -> None:
    pin = pin_of(authority.enrolment.chain)

    assert re.fullmatch("[0-9a-f]{32}", pin)
    assert pin == authority.pin != foreign.pin
    assert split_token(new_token(pin).text)[2] == pin
