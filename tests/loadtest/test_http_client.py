"""Tests of loadtest.http_client: addresses, request bytes and request ids."""

import re

import pytest

from loadtest.http_client import ServiceAddress, encode_requests, fetch, free_port, request_bytes

ADDRESS = ServiceAddress(host="127.0.0.1", port=1)


@pytest.mark.parametrize("url", ["https://a:1", "localhost:3000", "http://a:1/path"])
def test_address_must_be_http_host_and_port(url: str) -> None:
    with pytest.raises(ValueError, match=re.escape(url)):
        ServiceAddress.parse(url)


def test_address_of_a_url() -> None:
    assert ServiceAddress.parse("http://127.0.0.1:1/") == ADDRESS


def test_request_declares_its_length() -> None:
    head, _, body = request_bytes(ADDRESS, "/v1/tag", b"{}").partition(b"\r\n\r\n")
    assert body == b"{}"
    assert b"content-length: 2" in head.split(b"\r\n")


def test_every_request_has_its_own_id() -> None:
    requests = encode_requests(ADDRESS, "/v1/tag", [{}] * 100)
    ids = [re.search(rb"x-request-id: ([0-9a-f]{32})\r\n", request) for request in requests]
    assert len({found[1] for found in ids if found}) == 100


def test_constant_headers_are_the_same_bytes() -> None:
    requests = encode_requests(ADDRESS, "/v1/tag", [{}] * 3, constant_headers=True)
    assert len(set(requests)) == 1
    assert b"x-request-id" not in requests[0]


def test_fetch_raises_where_nothing_listens() -> None:
    with pytest.raises(ConnectionError):
        fetch(f"http://127.0.0.1:{free_port()}/readyz")
