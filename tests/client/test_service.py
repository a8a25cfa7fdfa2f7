"""The client against the real service: `bentoml serve` with the fake engine."""

import asyncio
import contextlib
import io
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seqserve import AsyncClient, Client, DeadlinePassed, Entity, InternalError, NotFound, Overloaded, Problem, Tries
from tests.service.test_serve import served

README = Path(__file__).parents[2] / "client/README.md"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(tmp_path_factory.mktemp("bentoml")) as (address, _, _):
        yield address


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address, tries=Tries(most=1)) as client:
        yield client


def test_the_three_tasks(client: Client) -> None:
    assert client.tag("Harry") == [Entity(label="A", score=0.75, word="Harry", start=0, end=5)]
    assert [label.label for label in client.classify("fine", model="sentiment-en")] == ["positive", "negative"]
    found = client.generate(["a", "b"], max_new_tokens=7, seed=3)
    assert [(each.text, each.finish_reason, each.seed) for each in found] == [(" ünd so", "length", 3)] * 2


async def test_a_stream_is_the_text_that_comes_whole(address: str, client: Client) -> None:
    options: Any = {"max_new_tokens": 7, "seed": 3}
    with client.generate_stream("a", **options) as tokens:
        text = "".join(token.text for token in tokens)
    assert tokens.generation is not None
    assert tokens.generation.text == text == client.generate("a", **options).text
    async with AsyncClient(address) as aio:
        assert "".join([token.text async for token in aio.generate_stream("a", **options)]) == text


def test_a_stream_may_fail_before_it_begins(client: Client) -> None:
    with pytest.raises(Overloaded):
        list(client.generate_stream("!full"))


def test_frames_and_steps_are_told_from_texts(client: Client) -> None:
    frames = [[0.5, 1.0], [2.0, 3.0]]
    assert [entity.start for entity in client.tag(frames)] == [0, 1]
    assert len(client.tag([frames, frames])) == 2
    assert [entity.word for entity in client.tag([["a", "b"]])[0]] == ["a", "b"]
    assert len(client.classify(frames)) == 2
    assert len(client.classify([frames, frames, frames])) == 3


def test_the_models(client: Client) -> None:
    assert {model.id: model.task for model in client.models()}["pos-en"] == "tag"
    assert client.model("pos-en").labels == ("A",)


@pytest.mark.parametrize(
    ("inputs", "options", "kind", "said"),
    [
        ("x", {"model": "none"}, NotFound, {"field": "model", "available": ["pos-en"]}),
        ("!full", {}, Overloaded, {"retry_after_s": 1.0, "limit": 4096}),
        ("!bug", {}, InternalError, {"type": "urn:seqserve:error:internal"}),
        ("!late", {}, DeadlinePassed, {"limit": 30}),
    ],
)
def test_refusals_are_typed(client: Client, inputs: str, options: Any, kind: type[Problem], said: Any) -> None:
    with pytest.raises(kind) as caught:
        client.tag(inputs, **options)
    assert {name: getattr(caught.value, name) for name in said} == said
    assert caught.value.request_id


def test_a_full_queue_is_asked_again_after_the_time_that_it_named(address: str) -> None:
    started_s = time.monotonic()
    with Client(address, tries=Tries(most=2)) as client, pytest.raises(Overloaded):
        client.tag("!full")
    assert 1.0 <= time.monotonic() - started_s < 2.0


async def test_many_calls_at_once(address: str) -> None:
    async with AsyncClient(address) as client:
        found = await asyncio.gather(*(client.tag("a " * number) for number in range(40)))
    assert [len(entities) for entities in found] == list(range(40))


def test_a_key_is_sent(tmp_path: Path) -> None:
    with served(tmp_path, SEQSERVE_API_KEYS="right-key") as (address, _, _):
        with Client(address) as client, pytest.raises(Problem, match="401"):
            client.tag("a")
        with Client(address, api_key="right-key") as client:
            assert len(client.tag("a")) == 1


def test_the_readme_works(address: str) -> None:
    first, calls, stream, refused = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    out, names = io.StringIO(), dict[str, Any]()
    with contextlib.redirect_stdout(out):
        exec((first + calls + stream + refused).replace("http://localhost:3000", address), names)
    names["client"].close()
    lines = out.getvalue().splitlines()
    assert lines[0] == "Harry A 0.75"
    assert lines[-1].startswith("parameters.top_k ")
