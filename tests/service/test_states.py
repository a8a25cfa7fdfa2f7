"""States as values: what was sealed is opened, and nothing else is."""

import random
import string
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidRequest
from service.state_tokens import StateSigner

KEY, OTHER = "a key of sixteen", "another key of sixteen"
PAYLOAD = bytes(range(256)) * 33
BASE64URL = string.ascii_letters + string.digits + "-_"


class Clock:
    now_s = 1.8e9

    def __call__(self) -> float:
        return self.now_s


def states(*keys: str, clock: Clock | None = None) -> StateSigner:
    return StateSigner(keys or (KEY,), ttl_s=60, clock=clock or Clock())


def refusal(of: StateSigner, state: str, owner: str = "weights", most_bytes: int = 10_000) -> str:
    with pytest.raises(InvalidRequest) as caught:
        of.open(state, owner, most_bytes=most_bytes)
    assert caught.value.details == {"field": "parameters.state"}
    return caught.value.message


@given(payload=st.binary(max_size=300))
def test_what_was_sealed_is_opened_by_whoever_has_the_key(payload: bytes) -> None:
    state = states().seal(payload, "weights")
    assert states(OTHER, KEY).open(state, "weights", most_bytes=len(payload)) == payload
    assert set(state) <= set(BASE64URL + "=")


def test_keys_rotate_the_first_signs_and_all_open() -> None:
    old = states(KEY).seal(PAYLOAD, "weights")
    new = states(OTHER, KEY).seal(PAYLOAD, "weights")
    assert states(OTHER, KEY).open(old, "weights", most_bytes=10_000) == PAYLOAD
    assert states(OTHER).open(new, "weights", most_bytes=10_000) == PAYLOAD
    assert "signed with a key that is not in use here" in refusal(states(OTHER), old)


def test_a_state_expires() -> None:
    clock = Clock()
    kept = states(clock=clock)
    state = kept.seal(b"x", "weights")
    clock.now_s += 59
    assert kept.open(state, "weights", most_bytes=1) == b"x"
    clock.now_s += 3
    assert "expired 2 s ago: begin again" in refusal(kept, state)


def test_a_state_of_other_weights_is_refused() -> None:
    assert "other weights" in refusal(states(), states().seal(b"x", "other weights"))


def test_a_state_that_is_too_long_is_not_looked_at() -> None:
    assert "longer than any state" in refusal(states(), "A" * 10**7)
    state = states().seal(PAYLOAD, "weights")
    assert states().open(state, "weights", most_bytes=len(PAYLOAD)) == PAYLOAD
    assert "longer than any state" in refusal(states(), state, most_bytes=len(PAYLOAD) - 3)


@pytest.mark.parametrize(
    "state", ["", "=", "A", "AAAA", "not base64!", "é" * 100, "\ud800" * 100, "A" * 200, " " * 100]
)
def test_what_never_was_a_state_is_refused(state: str) -> None:
    assert refusal(states(), state)


def test_a_state_with_anything_changed_is_refused_at_once() -> None:
    kept, chance = states(), random.Random(0)
    state = kept.seal(PAYLOAD, "weights")
    slowest_s = 0.0
    for _ in range(3000):
        place, kind = chance.randrange(len(state)), chance.randrange(4)
        letter = chance.choice(BASE64URL + "=+/ \n")
        changed = (
            state[:place] + letter + state[place + 1 :],
            state[:place] + state[place + 1 :],
            state[:place] + letter + state[place:],
            state[:place],
        )[kind]
        if changed != state:
            began_s = time.perf_counter()
            refusal(kept, changed)
            slowest_s = max(slowest_s, time.perf_counter() - began_s)
    assert slowest_s < 0.1


@pytest.mark.parametrize("bytes_more", range(3))
def test_the_last_character_has_one_spelling(bytes_more: int) -> None:
    kept = states()
    state = kept.seal(b"x" * bytes_more, "weights")
    bare = state.rstrip("=")
    for letter in set(BASE64URL) - {bare[-1]}:
        refusal(kept, bare[:-1] + letter + state[len(bare) :])
    if bare != state:
        refusal(kept, bare)
