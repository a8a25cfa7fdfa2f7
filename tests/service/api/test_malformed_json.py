"""Malformed and hostile JSON bodies are rejected."""

import pytest

from service.api import schemas
from service.errors import InvalidRequest
from service.settings import Settings

DEEP = 60_000


@pytest.mark.parametrize(
    "body",
    [
        b'{"inputs": ' + b"[" * DEEP,
        b'{"inputs": ' + b"[" * DEEP + b"]" * DEEP + b"}",
        b'{"a":' * 4000,
        b'{"inputs": ' + b"9" * DEEP + b"}",
        b'{"inputs": "\xff"}',
        b'{"inputs": "\\ud800"}',
        b'{"inputs": "a\x00"}',
        b'\xef\xbb\xbf{"inputs": "a"}',
        b'{"inputs": "a"}{"inputs": "b"}',
    ],
)
def test_malformed_json_is_rejected(body: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        schemas.parse_request(schemas.TagRequest, body, Settings())
    assert "field" not in caught.value.details


def test_the_last_of_two_equal_names_counts() -> None:
    assert schemas.parse_request(schemas.TagRequest, b'{"inputs": "a", "inputs": "b"}', Settings()).inputs == "b"


def test_an_escaped_nul_is_a_character() -> None:
    assert schemas.parse_request(schemas.TagRequest, b'{"inputs": "a\\u0000b"}', Settings()).inputs == "a\0b"
