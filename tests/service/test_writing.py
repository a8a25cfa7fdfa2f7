"""Texts that are read while they are written: with tiny bundles, and nothing in between but the engine."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from models import self_test
from models.bundle import Bundle
from models.tasks import GeneratedToken
from service.engine import Engine
from service.errors import ClientGone, DeadlinePassed, TooLarge
from service.generation import GenerateOptions
from service.generation_stream import GenerationStream, TokenDelta
from service.scheduling.job import InferenceRequest
from service.scheduling.loop import SchedulerLoop
from service.settings import Settings
from service.telemetry import Telemetry


def call(*, timeout_s: float = 60.0, is_disconnected: Callable[[], bool] = lambda: False) -> InferenceRequest:
    return InferenceRequest(
        request_id="r", route="/v1/x", deadline_s=time.monotonic() + timeout_s, is_disconnected=is_disconnected
    )


@pytest.fixture
async def engine(tiny_zoo: Path) -> AsyncIterator[Engine]:
    engine = Engine.load(Settings(bundles=(str(tiny_zoo),), device="cpu"), Telemetry())
    yield engine
    await engine.drain(5)


def options(**asked: Any) -> GenerateOptions:
    return GenerateOptions(**{"seed": 3, "max_new_tokens": 200, **asked})


def slots(engine: Engine) -> int:
    """How many texts the engine's one generator has on its table."""
    return len(engine.runtime_for("generate", None).scheduler._table)  # type: ignore[union-attr]


async def written(writing: GenerationStream) -> list[TokenDelta]:
    return [delta async for deltas in writing for delta in deltas]


async def test_the_deltas_of_a_text_are_the_text(engine: Engine, generator: Bundle) -> None:
    writing = await engine.generate_stream(["ROMEO:"], options=[options(details=True)], request=call())
    deltas = await written(writing)
    expected = self_test.answer(generator, "ROMEO:", {"max_new_tokens": 200, "seed": 3, "details": True})
    assert writing.answer(0) == expected
    assert "".join(piece for delta in deltas for piece in delta.pieces) == expected.generated_text
    noted = [
        GeneratedToken(token, piece, round(logprob, 6))
        for delta in deltas
        for token, piece, logprob in zip(delta.tokens, delta.pieces, delta.logprobs, strict=True)
    ]
    assert tuple(noted) == expected.details.tokens
    assert [delta.finish_reason for delta in deltas] == [None] * (len(deltas) - 1) + ["length"]
    assert len(deltas) > 2


async def test_the_first_token_comes_alone_and_before_any_step(engine: Engine) -> None:
    writing = await engine.generate_stream(["ROMEO:"], options=[options()], request=call())
    (delta,) = await anext(writing)
    assert (len(delta.tokens), delta.logprobs) == (1, [])
    await writing.aclose()


async def test_several_texts_come_with_their_index_and_options_of_their_own(engine: Engine, generator: Bundle) -> None:
    prompts, asked = ["ab", "", "cde"], [options(seed=seed, max_new_tokens=9 * seed) for seed in (1, 2, 3)]
    writing = await engine.generate_stream(prompts, options=asked, request=call())
    texts, reasons = ["", "", ""], dict[int, str]()
    async for deltas in writing:
        for delta in deltas:
            texts[delta.index] += "".join(delta.pieces)
            assert delta.index not in reasons
            if delta.finish_reason is not None:
                reasons[delta.index] = delta.finish_reason
    for index, seed in ((0, 1), (2, 3)):
        alone = self_test.answer(generator, prompts[index], {"max_new_tokens": 9 * seed, "seed": seed})
        assert texts[index] == alone.generated_text == writing.answer(index).generated_text
    assert (texts[1], reasons, writing.prompt_tokens) == ("", {0: "length", 1: "length", 2: "length"}, (2, 0, 3))


@pytest.mark.parametrize("prompts", [[], [""]])
async def test_nothing_to_continue_ends_at_once(engine: Engine, prompts: list[str]) -> None:
    writing = await engine.generate_stream(prompts, options=[options() for _ in prompts], request=call())
    assert [(d.index, d.tokens, d.finish_reason) for d in await written(writing)] == [
        (index, [], "length") for index, _ in enumerate(prompts)
    ]


async def test_long_work_in_a_thread_is_read_the_same(
    tiny_zoo: Path, generator: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.model_runtime.SchedulerLoop", partial(SchedulerLoop, inline_s=0.0))
    engine = Engine.load(Settings(bundles=(str(tiny_zoo),), device="cpu"), Telemetry())
    asked = {"max_new_tokens": 300, "seed": 5}
    writing = await engine.generate_stream(["ab"], options=[options(**asked)], request=call())
    pieces = [piece for delta in await written(writing) for piece in delta.pieces]
    assert "".join(pieces) == self_test.answer(generator, "ab", asked).generated_text
    await engine.drain(5)


async def test_who_stops_reading_frees_the_slot_before_the_next_step(engine: Engine) -> None:
    writing = await engine.generate_stream(["ab"], options=[options(max_new_tokens=4000)], request=call())
    await anext(writing)
    assert slots(engine) == 1
    await writing.aclose()
    await asyncio.sleep(0)  # the next turn of the scheduler
    assert slots(engine) == 0
    assert await written(writing) == []


async def test_a_slow_reader_holds_nobody_up_and_misses_nothing(engine: Engine, generator: Bundle) -> None:
    asked = {"max_new_tokens": 400, "seed": 5}
    writing = await engine.generate_stream(["ab"], options=[options(**asked)], request=call())
    first = await anext(writing)
    while slots(engine):  # the text is written to its end though nobody looks
        await asyncio.sleep(0.001)
    (rest,) = await written(writing)
    assert rest.index == 0
    text = self_test.answer(generator, "ab", asked).generated_text
    assert "".join(first[0].pieces + rest.pieces) == text


async def test_a_deadline_ends_the_texts_after_what_was_written(engine: Engine) -> None:
    writing = await engine.generate_stream(
        ["ab"], options=[options(max_new_tokens=60_000)], request=call(timeout_s=0.05)
    )
    seen: list[int] = []

    async def read() -> None:
        async for (delta,) in writing:
            seen.extend(delta.tokens)

    with pytest.raises(DeadlinePassed):
        await read()
    assert seen == writing.texts[0].tokens != []


async def test_a_client_that_goes_ends_its_texts(engine: Engine) -> None:
    here = [True]
    request = call(is_disconnected=lambda: not here[0])
    writing = await engine.generate_stream(["ab"], options=[options(max_new_tokens=60_000)], request=request)
    await anext(writing)
    here.clear()
    here.append(False)
    with pytest.raises(ClientGone):
        await written(writing)


async def test_what_all_texts_may_come_to_is_bounded(engine: Engine) -> None:
    with pytest.raises(TooLarge):
        await engine.generate_stream(["ab"] * 20, options=[options(max_new_tokens=4000)] * 20, request=call())
