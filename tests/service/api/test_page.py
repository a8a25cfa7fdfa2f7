"""The files of the page: where they are, what they may load, and how they are switched off."""

import re

import pytest

from service.api.page import FILES
from tests.support.http_connection import Wire, request
from tests.support.polling import eventually

REMOTE = re.compile(rb"""(?:src|href|action|url|import|from|fetch)\s*[=(]?\s*["'`]?(?:https?:)?//""", re.IGNORECASE)
INLINE = re.compile(rb"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\ssrc=)", re.IGNORECASE)


async def get(wire: Wire, path: str, *lines: str) -> tuple[int, bytes, bytes]:
    """The status, the head and the body of an answer."""
    wire.transport.written = b""
    wire.send("\r\n".join([f"GET {path} HTTP/1.1", "host: test", *lines, "", ""]).encode())
    await eventually(lambda: b"\r\n\r\n" in wire.transport.written)
    head, _, body = wire.transport.written.partition(b"\r\n\r\n")
    return int(head.split()[1]), head.lower(), body


@pytest.mark.parametrize("path", ["/", "/docs", "/page/app.js", "/page/page.css", "/page/icon.svg"])
async def test_the_page_needs_no_key_and_allows_no_other_host(path: str) -> None:
    status, head, body = await get(Wire(settings={"api_keys": ("a-key-of-the-test",)}), path)
    assert (status, bool(body)) == (200, True)
    assert b"content-security-policy: default-src 'self';" in head
    assert b"set-cookie" not in head


@pytest.mark.parametrize("name", sorted(FILES))
def test_files_load_nothing_from_other_hosts_and_have_no_inline_code(name: str) -> None:
    content, _ = FILES[name]
    assert not REMOTE.search(content)
    if name.endswith(".html"):
        assert not INLINE.search(content)
        for target in re.findall(rb'(?:src|href)="([^"#][^"]*)"', content):
            assert not target.startswith(b"/")  # relative, for a path prefix


@pytest.mark.parametrize("name", sorted(name for name in FILES if name.endswith(".js")))
def test_modules_import_files_that_exist(name: str) -> None:
    for imported in re.findall(r'from "\./([^"]+)"', FILES[name][0].decode()):
        assert imported in FILES


async def test_a_file_that_does_not_exist_is_not_found() -> None:
    status, _, body = await get(Wire(), "/page/view-tags.js")
    assert status == 404
    assert b"view-tag.js" in body  # did you mean


@pytest.mark.parametrize("path", ["/", "/docs", "/page/app.js"])
async def test_the_page_can_be_switched_off(path: str) -> None:
    wire = Wire(settings={"page": "off"})
    status, _, body = await get(wire, path)
    assert status == 404
    assert b"SEQSERVE_PAGE" in body
    wire.send(request({"inputs": "a"}))
    await eventually(lambda: b"200 OK" in wire.transport.written)
