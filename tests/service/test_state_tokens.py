"""State tokens: what was signed is verified, and nothing else."""

import random
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidRequest
from service.state_tokens import StateSigner

KEY, OTHER = "a key of sixteen", "another key of sixteen"
PAYLOAD = bytes(range(256)) * 33
BASE64URL = string.ascii_letters + string.digits + "-_"


class FakeClock:
    now_s = 1.8e9

    def __call__(self) -> float:
        return self.now_s


def signer(*keys: str, clock: FakeClock | None = None) -> StateSigner:
    return StateSigner(keys or (KEY,), ttl_s=60, clock=clock or FakeClock())


def check_refused(by: StateSigner, token: str, *, max_bytes: int = 10_000) -> None:
    with pytest.raises(InvalidRequest) as caught:
        by.verify(token, "weights", max_bytes=max_bytes)
    assert caught.value.details == {"field": "state"}


@given(payload=st.binary(max_size=300))
def test_a_token_is_accepted_by_every_signer_with_the_key(payload: bytes) -> None:
    token = signer().sign(payload, "weights")
    assert signer(OTHER, KEY).verify(token, "weights", max_bytes=len(payload)) == payload
    assert set(token) <= set(BASE64URL + "=")


def test_the_first_key_signs_and_all_are_accepted() -> None:
    old = signer(KEY).sign(PAYLOAD, "weights")
    new = signer(OTHER, KEY).sign(PAYLOAD, "weights")
    assert signer(OTHER, KEY).verify(old, "weights", max_bytes=10_000) == PAYLOAD
    assert signer(OTHER).verify(new, "weights", max_bytes=10_000) == PAYLOAD
    check_refused(signer(OTHER), old)


def test_a_token_expires() -> None:
    clock = FakeClock()
    kept = signer(clock=clock)
    token = kept.sign(b"x", "weights")
    clock.now_s += 59
    assert kept.verify(token, "weights", max_bytes=1) == b"x"
    clock.now_s += 3
    check_refused(kept, token)


def test_a_token_of_another_subject_is_refused() -> None:
    check_refused(signer(), signer().sign(b"x", "other weights"))


def test_a_token_that_is_too_long_is_refused() -> None:
    check_refused(signer(), "A" * 10**7)
    token = signer().sign(PAYLOAD, "weights")
    assert signer().verify(token, "weights", max_bytes=len(PAYLOAD)) == PAYLOAD
    check_refused(signer(), token, max_bytes=len(PAYLOAD) - 3)


@pytest.mark.parametrize(
    "token", ["", "=", "A", "AAAA", "not base64!", "é" * 100, "\ud800" * 100, "A" * 200, " " * 100]
)
def test_malformed_text_is_refused(token: str) -> None:
    check_refused(signer(), token)


def test_an_altered_token_is_refused() -> None:
    kept, chance = signer(), random.Random(0)
    token = kept.sign(PAYLOAD, "weights")
    for _ in range(3000):
        place, kind = chance.randrange(len(token)), chance.randrange(4)
        letter = chance.choice(BASE64URL + "=+/ \n")
        changed = (
            token[:place] + letter + token[place + 1 :],
            token[:place] + token[place + 1 :],
            token[:place] + letter + token[place:],
            token[:place],
        )[kind]
        if changed != token:
            check_refused(kept, changed)


@pytest.mark.parametrize("bytes_more", range(3))
def test_the_last_character_has_one_spelling(bytes_more: int) -> None:
    kept = signer()
    token = kept.sign(b"x" * bytes_more, "weights")
    bare = token.rstrip("=")
    for letter in set(BASE64URL) - {bare[-1]}:
        check_refused(kept, bare[:-1] + letter + token[len(bare) :])
    if bare != token:
        check_refused(kept, bare)
