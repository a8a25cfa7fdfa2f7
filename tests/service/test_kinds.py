"""The engine with bundles of every kind: joint ones, letters, bases and frames."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from models import self_test
from models.bundle import Bundle
from service.engine import Engine
from service.errors import InvalidRequest, Overloaded, RequestError, TooLarge, UnknownModel
from service.generation import GenerateOptions
from service.settings import Settings
from service.telemetry import Telemetry
from tests.service.test_engine import call
from tests.support import bundles
from tests.support.bundles import FRAMES


def load(*paths: Path, **settings: Any) -> Engine:
    return Engine.load(Settings(bundles=tuple(map(str, paths)), device="cpu", **settings), Telemetry())


@pytest.fixture
async def engine(tiny_kinds: Path) -> AsyncIterator[Engine]:
    engine = load(tiny_kinds)
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
async def test_answers_are_those_of_the_reference_path(engine: Engine, kind: str) -> None:
    inputs = INPUTS[kind]
    tagger, classifier = opened(engine, f"{kind}-tag"), opened(engine, f"{kind}-classify")
    tags = [self_test.answer(tagger, raw) for raw in inputs]
    labels = [self_test.answer(classifier, raw, {"top_k": 1}) for raw in inputs]
    assert await engine.tag(inputs, model=f"{kind}-tag", request=call()) == tags
    assert await engine.classify(inputs, model=f"{kind}-classify", top_k=1, request=call()) == labels
    assert await engine.tag(inputs[0], model=f"{kind}-tag", request=call()) == tags[0]
    assert await engine.classify(inputs[0], model=f"{kind}-classify", top_k=1, request=call()) == labels[:1]


async def test_frames_of_nothing_have_an_empty_answer(engine: Engine) -> None:
    for inputs, expected in (([], []), ([[]], [[]]), ([[], []], [[], []])):
        assert await engine.tag(inputs, model="tiny-frames-tag", request=call()) == expected
        assert await engine.classify(inputs, model="tiny-frames-classify", request=call()) == expected


async def test_a_joint_bundle_answers_both_tasks(engine: Engine, joint: Bundle) -> None:
    texts = ["the cat sat", "", "zebras"]
    whole = [self_test.answer(joint, text) for text in texts]
    assert await engine.tag(texts, model="tiny-joint", request=call()) == [each.tags for each in whole]
    assert await engine.classify(texts, model="tiny-joint", request=call()) == [each.labels for each in whole]
    tokens = [["the", "cat"]]
    found = await engine.tag(tokens, model="tiny-joint", aggregation="none", request=call())
    assert found == [self_test.answer(joint, tokens[0], {"aggregation_strategy": "none"}, part="tag")]


async def test_requests_of_both_tasks_run_in_one_batch(tmp_path: Path) -> None:
    engine = load(bundles.joint(tmp_path))
    calls = [call() for _ in range(4)]
    await asyncio.gather(
        *(engine.tag("the cat", request=each) for each in calls[:2]),
        *(engine.classify("the mat", request=each) for each in calls[2:]),
    )
    # The first goes alone, as it finds nobody waiting; those that came meanwhile go together.
    assert max(each.batch_items for each in calls[:2]) == max(each.batch_items for each in calls[2:]) >= 3
    await engine.drain(5)


async def test_a_joint_bundle_is_full_for_both_tasks_at_once(tmp_path: Path) -> None:
    engine = load(bundles.joint(tmp_path), queue_requests=1)
    waiting = asyncio.ensure_future(engine.tag("the cat", request=call()))
    await asyncio.sleep(0)
    assert engine.is_full("classify")
    with pytest.raises(Overloaded):
        await engine.classify("the cat", request=call())
    await waiting
    await engine.drain(5)


async def test_the_first_bundle_that_can_answers_when_none_is_named(tmp_path: Path) -> None:
    paths = [bundles.generator(tmp_path), bundles.joint(tmp_path), bundles.tagger(tmp_path)]
    engine = load(*paths)
    assert engine.defaults() == {"tag": "tiny-joint", "classify": "tiny-joint", "generate": "tiny-generate"}
    expected = self_test.answer(opened(engine, "tiny-joint"), "the cat", part="tag")
    assert await engine.tag("the cat", request=call()) == expected
    await engine.drain(5)
    engine = load(*reversed(paths))
    assert engine.defaults() == {"tag": "tiny-tag", "classify": "tiny-joint", "generate": "tiny-generate"}
    await engine.drain(5)


async def test_a_model_of_another_task_is_refused_with_those_that_can(engine: Engine) -> None:
    with pytest.raises(UnknownModel, match="is loaded for another task") as caught:
        await engine.classify("the", model="tiny-path", request=call())
    assert caught.value.details["available"] == [
        "tiny-dna-classify",
        "tiny-frames-classify",
        "tiny-joint",
        "tiny-letters-classify",
    ]
    with pytest.raises(UnknownModel, match="no bundle is loaded that can generate"):
        await engine.generate("the", options=GenerateOptions(), request=call())


@pytest.mark.parametrize(
    ("model", "inputs", "field", "said"),
    [
        ("tiny-dna-tag", ["ACGT", "ACXT"], "inputs[1]", "character 2 is 'X', which is no base"),
        ("tiny-dna-tag", "AC T", "inputs", "character 2 is ' ', which is no base"),
        ("tiny-dna-tag", [["A", "CG"]], "inputs[0]", "token 1 is 'CG', but a token here is one base"),
        ("tiny-letters-tag", [["a"], ["b", "cd"]], "inputs[1]", "token 1 is 'cd', but a token here is one character"),
        ("tiny-frames-tag", [FRAMES, [[1.0, 2.0]]], "inputs[1]", "frame 0 has 2 numbers, but a frame here has 3"),
        ("tiny-frames-tag", [[1.0, 2.0]], "inputs", "frame 0 has 2 numbers, but a frame here has 3"),
        ("tiny-frames-tag", [*FRAMES, [0.0, float("inf"), 0.0]], "inputs", "number 1 of frame 3 is inf: send a finite"),
        ("tiny-frames-tag", ["text"], "inputs[0]", "frames are wanted, lists of 3 numbers each, not 'text'"),
        ("tiny-frames-tag", "text", "inputs", "frames are wanted, lists of 3 numbers each, not 'text'"),
        ("tiny-frames-tag", [["to", "ken"]], "inputs[0]", "frame 0 is 'to', not a list of 3 numbers"),
        ("tiny-path", FRAMES, "inputs", "tiny-path reads text, not numbers: send strings, or name a model"),
        ("tiny-dna-tag", [FRAMES], "inputs", "tiny-dna-tag reads text, not numbers"),
    ],
)
async def test_an_input_that_cannot_be_read_is_refused_by_its_place(
    engine: Engine, model: str, inputs: Any, field: str, said: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await engine.tag(inputs, model=model, request=call())
    assert caught.value.message.startswith(f"{field}: {said}")
    assert caught.value.details["field"] == field


async def test_a_number_that_json_does_not_have_is_shown_as_a_word(engine: Engine) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await engine.tag([[0.0, float("nan"), 0.0]], model="tiny-frames-tag", request=call())
    assert caught.value.details == {"field": "inputs", "value": "nan"}


@pytest.mark.parametrize(
    ("model", "raw", "limit", "unit"),
    [
        ("tiny-dna-classify", "A" * 21, 20, "bases"),
        ("tiny-frames-classify", FRAMES * 22, 64, "frames"),
        ("tiny-letters-classify", "a" * 4097, 4096, "characters"),
    ],
)
async def test_an_input_that_is_too_long_is_over_a_limit(
    engine: Engine, model: str, raw: Any, limit: int, unit: str
) -> None:
    for inputs, field in ((raw, "inputs"), ([raw[:1], raw], "inputs[1]")):
        with pytest.raises(TooLarge) as caught:
            await engine.classify(inputs, model=model, request=call())
        assert caught.value.message.startswith(f"{field}: more than {limit} {unit}")
        assert caught.value.details == {"field": field, "limit": limit}


async def test_frames_of_all_inputs_together_are_bounded(tiny_kinds: Path) -> None:
    engine = load(tiny_kinds / "tiny-frames-tag", request_tokens=5)
    with pytest.raises(TooLarge, match="more than 5 frames, sent and asked for"):
        await engine.tag([FRAMES, FRAMES], request=call())
    await engine.drain(5)


async def test_a_bad_input_fails_its_own_request_alone(engine: Engine) -> None:
    bad = [["ACGT", "?"], ["X"], ["A" * 21, "A"]]
    good = [["ACGT"] * 3, ["gattaca", "n"]]
    requests = [texts for pair in zip(bad, [*good, good[0]], strict=True) for texts in pair]
    found = await asyncio.gather(
        *(engine.tag(texts, model="tiny-dna-tag", request=call()) for texts in requests), return_exceptions=True
    )
    tagger = opened(engine, "tiny-dna-tag")
    for texts, answer in zip(requests, found, strict=True):
        if texts in bad:
            assert isinstance(answer, RequestError)
        else:
            assert answer == [self_test.answer(tagger, text) for text in texts]


async def test_cards_say_what_kind_of_input_and_answer_there_is(engine: Engine) -> None:
    cards = {card["id"]: card for card in engine.cards()}
    joint = cards["tiny-joint"]
    assert (joint["task"], joint["codec"]) == ("joint", "words")
    assert (joint["labels"], joint["text_labels"]) == (list(bundles.IOB2), list(bundles.SENTIMENTS))
    assert (cards["tiny-path"]["task"], cards["tiny-path"]["text_labels"]) == ("tag", [])
    assert (cards["tiny-dna-tag"]["codec"], cards["tiny-dna-tag"]["limits"]) == ("dna", {"max_length": 20})
    assert cards["tiny-frames-tag"]["examples"][0] == FRAMES
