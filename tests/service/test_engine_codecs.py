"""The engine with joint bundles and with every codec."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from models import self_test
from models.bundle import Bundle
from service.api.native import model_cards
from service.engine import Engine
from service.errors import InvalidRequest, Overloaded, RequestError, TooLarge, UnknownModel
from service.generation import GenerationParameters
from tests.support import bundles
from tests.support.bundles import FRAMES
from tests.support.engines import inference_request, load_engine


@pytest.fixture
async def engine(tiny_kinds: Path) -> AsyncIterator[Engine]:
    engine = load_engine(tiny_kinds)
    yield engine
    await engine.drain(5)


def opened(engine: Engine, name: str) -> Bundle:
    return engine.runtimes[name].bundle


INPUTS: dict[str, list[Any]] = {
    "tiny-letters": ["Rossi", "", "O'Neill"],
    "tiny-dna": ["ACGT", "", "nnnuuu-gattaca"],
    "tiny-frames": [FRAMES, [], FRAMES * 3],
}


@pytest.mark.parametrize("kind", INPUTS)
async def test_answers_are_those_of_one_run_alone(engine: Engine, kind: str) -> None:
    inputs = INPUTS[kind]
    tagger, classifier = opened(engine, f"{kind}-tag"), opened(engine, f"{kind}-classify")
    tags = [self_test.answer(tagger, raw) for raw in inputs]
    labels = [self_test.answer(classifier, raw, {"top_k": 1}) for raw in inputs]
    assert await engine.tag(inputs, model=f"{kind}-tag", request=inference_request()) == tags
    assert await engine.classify(inputs, model=f"{kind}-classify", top_k=1, request=inference_request()) == labels
    assert await engine.tag(inputs[0], model=f"{kind}-tag", request=inference_request()) == tags[0]
    assert (
        await engine.classify(inputs[0], model=f"{kind}-classify", top_k=1, request=inference_request()) == labels[:1]
    )


async def test_empty_frames_have_an_empty_answer(engine: Engine) -> None:
    for inputs, expected in (([], []), ([[]], [[]]), ([[], []], [[], []])):
        assert await engine.tag(inputs, model="tiny-frames-tag", request=inference_request()) == expected
        assert await engine.classify(inputs, model="tiny-frames-classify", request=inference_request()) == expected


async def test_a_joint_bundle_answers_both_tasks(engine: Engine, joint: Bundle) -> None:
    texts = ["the cat sat", "", "zebras"]
    whole = [self_test.answer(joint, text) for text in texts]
    assert await engine.tag(texts, model="tiny-joint", request=inference_request()) == [each.tags for each in whole]
    assert await engine.classify(texts, model="tiny-joint", request=inference_request()) == [
        each.labels for each in whole
    ]
    tokens = [["the", "cat"]]
    found = await engine.tag(tokens, model="tiny-joint", aggregation="none", request=inference_request())
    assert found == [self_test.answer(joint, tokens[0], {"aggregation_strategy": "none"}, part="tag")]


async def test_requests_of_both_tasks_run_in_one_batch(tmp_path: Path) -> None:
    engine = load_engine(bundles.joint(tmp_path))
    calls = [inference_request() for _ in range(4)]
    await asyncio.gather(
        *(engine.tag("the cat", request=each) for each in calls[:2]),
        *(engine.classify("the mat", request=each) for each in calls[2:]),
    )
    # The first runs alone, because nothing else is queued. The others run together.
    assert max(each.batch_items for each in calls[:2]) == max(each.batch_items for each in calls[2:]) >= 3
    await engine.drain(5)


async def test_the_tasks_of_a_joint_bundle_share_the_limit_on_requests(tmp_path: Path) -> None:
    engine = load_engine(bundles.joint(tmp_path), queue_requests=1)
    waiting = asyncio.ensure_future(engine.tag("the cat", request=inference_request()))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await engine.classify("the cat", request=inference_request())
    await waiting
    await engine.drain(5)


async def test_the_first_bundle_with_the_task_is_the_default(tmp_path: Path) -> None:
    paths = [bundles.generator(tmp_path), bundles.joint(tmp_path), bundles.tagger(tmp_path)]
    engine = load_engine(*paths)
    assert engine.defaults() == {"tag": "tiny-joint", "classify": "tiny-joint", "generate": "tiny-generate"}
    expected = self_test.answer(opened(engine, "tiny-joint"), "the cat", part="tag")
    assert await engine.tag("the cat", request=inference_request()) == expected
    await engine.drain(5)
    engine = load_engine(*reversed(paths))
    assert engine.defaults() == {"tag": "tiny-tag", "classify": "tiny-joint", "generate": "tiny-generate"}
    await engine.drain(5)


async def test_a_model_of_another_task_is_refused_with_the_available_ones(engine: Engine) -> None:
    with pytest.raises(UnknownModel, match="tiny-path") as caught:
        await engine.classify("the", model="tiny-path", request=inference_request())
    assert caught.value.details["available"] == [
        "tiny-dna-classify",
        "tiny-frames-classify",
        "tiny-joint",
        "tiny-letters-classify",
    ]
    with pytest.raises(UnknownModel):
        await engine.generate("the", options=GenerationParameters(), request=inference_request())


@pytest.mark.parametrize(
    ("model", "inputs", "field"),
    [
        ("tiny-dna-tag", ["ACGT", "ACXT"], "inputs[1]"),
        ("tiny-dna-tag", "AC T", "inputs"),
        ("tiny-dna-tag", [["A", "CG"]], "inputs[0]"),
        ("tiny-letters-tag", [["a"], ["b", "cd"]], "inputs[1]"),
        ("tiny-frames-tag", [FRAMES, [[1.0, 2.0]]], "inputs[1]"),
        ("tiny-frames-tag", [[1.0, 2.0]], "inputs"),
        ("tiny-frames-tag", [*FRAMES, [0.0, float("inf"), 0.0]], "inputs"),
        ("tiny-frames-tag", ["text"], "inputs[0]"),
        ("tiny-frames-tag", "text", "inputs"),
        ("tiny-frames-tag", [["to", "ken"]], "inputs[0]"),
        ("tiny-path", FRAMES, "inputs"),
        ("tiny-dna-tag", [FRAMES], "inputs"),
    ],
)
async def test_an_invalid_input_is_named_by_its_index(engine: Engine, model: str, inputs: Any, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await engine.tag(inputs, model=model, request=inference_request())
    assert caught.value.details["field"] == field


async def test_a_number_outside_json_is_shown_as_text(engine: Engine) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await engine.tag([[0.0, float("nan"), 0.0]], model="tiny-frames-tag", request=inference_request())
    assert caught.value.details == {"field": "inputs", "value": "nan"}


@pytest.mark.parametrize(
    ("model", "raw", "limit"),
    [
        ("tiny-dna-classify", "A" * 21, 20),
        ("tiny-frames-classify", FRAMES * 22, 64),
        ("tiny-letters-classify", "a" * 4097, 4096),
    ],
)
async def test_an_input_that_is_too_long_is_refused_with_the_limit(
    engine: Engine, model: str, raw: Any, limit: int
) -> None:
    for inputs, field in ((raw, "inputs"), ([raw[:1], raw], "inputs[1]")):
        with pytest.raises(TooLarge) as caught:
            await engine.classify(inputs, model=model, request=inference_request())
        assert caught.value.details == {"field": field, "limit": limit}


async def test_the_frames_of_a_request_are_bounded(tiny_kinds: Path) -> None:
    engine = load_engine(tiny_kinds / "tiny-frames-tag", request_tokens=5)
    with pytest.raises(TooLarge):
        await engine.tag([FRAMES, FRAMES], request=inference_request())
    await engine.drain(5)


async def test_an_invalid_input_fails_its_own_request_only(engine: Engine) -> None:
    bad = [["ACGT", "?"], ["X"], ["A" * 21, "A"]]
    good = [["ACGT"] * 3, ["gattaca", "n"]]
    requests = [texts for pair in zip(bad, [*good, good[0]], strict=True) for texts in pair]
    found = await asyncio.gather(
        *(engine.tag(texts, model="tiny-dna-tag", request=inference_request()) for texts in requests),
        return_exceptions=True,
    )
    tagger = opened(engine, "tiny-dna-tag")
    for texts, answer in zip(requests, found, strict=True):
        if texts in bad:
            assert isinstance(answer, RequestError)
        else:
            assert answer == [self_test.answer(tagger, text) for text in texts]


async def test_cards_describe_codec_and_labels(engine: Engine) -> None:
    cards = {card["id"]: card for card in model_cards(engine)}
    joint = cards["tiny-joint"]
    assert (joint["task"], joint["codec"]) == ("joint", "words")
    assert (joint["labels"], joint["text_labels"]) == (list(bundles.IOB2), list(bundles.SENTIMENTS))
    assert (cards["tiny-path"]["task"], cards["tiny-path"]["text_labels"]) == ("tag", [])
    assert (cards["tiny-dna-tag"]["codec"], cards["tiny-dna-tag"]["limits"]) == ("dna", {"max_length": 20})
    assert cards["tiny-frames-tag"]["examples"][0] == FRAMES
