"""Large bodies are read in a thread, within limits, so that they do not stop the event loop."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api import schemas
from service.errors import InvalidRequest, Overloaded, TooLarge
from service.resting_thread import QUEUE
from service.settings import Settings
from service.worker import LARGE_BYTES, BodyParser
from tests.support import large_bodies
from tests.support.oip import OIPSite
from tests.support.polling import turns

LARGE = LARGE_BYTES + 1


@pytest.fixture
async def site(tiny_zoo: Path, tiny_live: Path) -> AsyncIterator[OIPSite]:
    found = OIPSite(tiny_zoo, tiny_live)
    yield found
    await found.close()


@pytest.fixture
def threads(site: OIPSite, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the threads in which the structure of a body was checked, which comes before it is read."""
    names: list[str] = []
    check = schemas.check_structure

    def noted(body: bytes, settings: Settings) -> None:
        names.append(threading.current_thread().name)
        check(body, settings)

    monkeypatch.setattr(schemas, "check_structure", noted)
    site.worker.parser = BodyParser(sleep=lambda _: None)
    return names


@pytest.mark.parametrize("path", large_bodies.ROUTES)
async def test_a_large_body_is_read_in_the_parser_thread(site: OIPSite, threads: list[str], path: str) -> None:
    statuses: dict[str, int] = {}
    for name, body in large_bodies.bodies(large_bodies.ROUTES[path]):
        threads.clear()
        response = await site.client.post(path, content=body, headers={"content-type": "application/json"})
        statuses[name] = response.status_code
        assert {thread.partition("_")[0] for thread in threads} == {"parse"}, name
    assert max(statuses.values()) < 500
    assert statuses["many members"] == 413


async def test_the_event_loop_turns_while_a_large_body_is_read() -> None:
    go_on = threading.Event()
    reading = asyncio.create_task(BodyParser().run(go_on.wait, 10.0, size=LARGE))
    await turns(100)
    assert not reading.done()
    go_on.set()
    assert await reading


async def test_a_small_body_is_read_at_once() -> None:
    coroutine = BodyParser().run(threading.current_thread, size=LARGE_BYTES)
    with pytest.raises(StopIteration) as ended:
        coroutine.send(None)
    assert ended.value.value is threading.main_thread()


async def test_the_parser_rests_between_two_large_bodies() -> None:
    rests: list[float] = []
    parser = BodyParser(sleep=rests.append)

    def work() -> None:
        sum(range(3_000_000))  # its rest is longer than a busy machine delays the next call

    for _ in range(3):
        await parser.run(work, size=LARGE)
    assert len(rests) == 2
    assert all(rest > 0 for rest in rests)


async def test_more_large_bodies_than_may_wait_are_refused() -> None:
    go_on = threading.Event()
    parser = BodyParser(sleep=lambda _: None)
    tasks = [asyncio.create_task(parser.run(go_on.wait, 10.0, size=LARGE)) for _ in range(QUEUE)]
    await turns()
    with pytest.raises(Overloaded):
        await parser.run(go_on.wait, size=LARGE)
    go_on.set()
    assert all(await asyncio.gather(*tasks))
    assert await parser.run(lambda: True, size=LARGE)


async def test_an_error_in_the_parser_thread_is_raised_to_the_request(site: OIPSite) -> None:
    with pytest.raises(TooLarge):
        await schemas.read_request(schemas.TagRequest, b'{"inputs":[%b]}' % large_bodies.filled(b"[]"), site.worker)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='[]{},:"\\aé'),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(alphabet='[]{},:"\\aé'), inner),
)


@given(value=JSON)
def test_the_parts_of_a_document_are_counted_outside_of_its_strings(value: Any) -> None:
    counts = {"[": 0, "{": 0, ":": 0}

    def count(part: Any) -> None:
        if isinstance(part, list):
            counts["["] += 1
            for each in part:
                count(each)
        elif isinstance(part, dict):
            counts["{"] += 1
            counts[":"] += len(part)
            for each in part.values():
                count(each)

    count(value)
    for ascii_only in (False, True):
        found = schemas.count_outside_strings(json.dumps(value, ensure_ascii=ascii_only).encode())
        assert {mark: found[ord(mark)] for mark in counts} == counts


@pytest.mark.parametrize("name", ["as many numbers as allowed, 3 deep", "as many lists as allowed, 2 deep"])
def test_a_large_body_of_frames_within_the_limits_is_read(name: str) -> None:
    value = large_bodies.values()[name]
    settings = Settings(request_tokens=65_536)
    assert schemas.parse_body(schemas.TagRequest, b'{"inputs":%b}' % value, settings).inputs == json.loads(value)


@pytest.mark.parametrize("padding", ["", " " * LARGE])
@pytest.mark.parametrize(
    "text", ['{"inputs":"a","inputs":"b"}', '{"inputs":[["a"],[]],"model":null}', '{"inputs":[[1,2.5],[-0.0,1e3]]}']
)
def test_large_and_small_bodies_are_read_alike(text: str, padding: str) -> None:
    small = schemas.parse_body(schemas.TagRequest, text.encode(), Settings())
    assert schemas.parse_body(schemas.TagRequest, (text + padding).encode(), Settings()) == small


@pytest.mark.parametrize("padding", ["", " " * LARGE])
@pytest.mark.parametrize(
    "text", ['{"inputs":1}', '{"inputs":"a"', '{"inputs":"a","x":1}', '{"inputs":"\\ud800"}', "[]"]
)
def test_large_and_small_bodies_are_rejected_alike(text: str, padding: str) -> None:
    with pytest.raises(InvalidRequest) as small:
        schemas.parse_body(schemas.TagRequest, text.encode(), Settings())
    with pytest.raises(InvalidRequest) as large:
        schemas.parse_body(schemas.TagRequest, (text + padding).encode(), Settings())
    assert large.value.details.get("field") == small.value.details.get("field")
