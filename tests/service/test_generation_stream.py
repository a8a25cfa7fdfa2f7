"""Generation streams with tiny bundles."""

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from models import self_test
from models.bundle import Bundle
from models.tasks import GeneratedToken
from service.engine import Engine
from service.errors import ClientGone, DeadlinePassed, TooLarge
from service.generation import GenerationParameters, GenerationStream, TokenDelta
from service.scheduling.loop import SchedulerLoop
from tests.support.engines import inference_request, load_engine, until, used_slots


@pytest.fixture
async def engine(tiny_zoo: Path) -> AsyncIterator[Engine]:
    engine = load_engine(tiny_zoo)
    yield engine
    await engine.drain(5)


def options(**asked: Any) -> GenerationParameters:
    return GenerationParameters(**{"seed": 3, "max_new_tokens": 200, **asked})


async def read_all(stream: GenerationStream) -> list[TokenDelta]:
    return [delta async for deltas in stream for delta in deltas]


async def test_the_deltas_of_a_text_are_the_text(engine: Engine, generator: Bundle) -> None:
    stream = await engine.generate_stream(["ROMEO:"], options=[options(details=True)], request=inference_request())
    deltas = await read_all(stream)
    expected = self_test.answer(generator, "ROMEO:", {"max_new_tokens": 200, "seed": 3, "details": True})
    assert stream.result(0) == expected
    assert "".join(piece for delta in deltas for piece in delta.token_texts) == expected.generated_text
    noted = [
        GeneratedToken(token, piece, round(logprob, 6))
        for delta in deltas
        for token, piece, logprob in zip(delta.tokens, delta.token_texts, delta.logprobs, strict=True)
    ]
    assert tuple(noted) == expected.details.tokens
    assert [delta.finish_reason for delta in deltas] == [None] * (len(deltas) - 1) + ["length"]
    assert len(deltas) > 2


async def test_the_first_token_comes_alone_before_any_step(engine: Engine) -> None:
    stream = await engine.generate_stream(["ROMEO:"], options=[options()], request=inference_request())
    (delta,) = await anext(stream)
    assert (len(delta.tokens), delta.logprobs) == (1, [])
    await stream.aclose()


async def test_several_texts_have_their_index_and_their_own_parameters(engine: Engine, generator: Bundle) -> None:
    prompts, asked = ["ab", "", "cde"], [options(seed=seed, max_new_tokens=9 * seed) for seed in (1, 2, 3)]
    stream = await engine.generate_stream(prompts, options=asked, request=inference_request())
    texts, reasons = ["", "", ""], dict[int, str]()
    async for deltas in stream:
        for delta in deltas:
            texts[delta.index] += "".join(delta.token_texts)
            assert delta.index not in reasons
            if delta.finish_reason is not None:
                reasons[delta.index] = delta.finish_reason
    for index, seed in ((0, 1), (2, 3)):
        alone = self_test.answer(generator, prompts[index], {"max_new_tokens": 9 * seed, "seed": seed})
        assert texts[index] == alone.generated_text == stream.result(index).generated_text
    assert (texts[1], reasons, stream.prompt_tokens) == ("", {0: "length", 1: "length", 2: "length"}, (2, 0, 3))


@pytest.mark.parametrize("prompts", [[], [""]])
async def test_an_empty_prompt_ends_at_once(engine: Engine, prompts: list[str]) -> None:
    stream = await engine.generate_stream(prompts, options=[options() for _ in prompts], request=inference_request())
    assert [(d.index, d.tokens, d.finish_reason) for d in await read_all(stream)] == [
        (index, [], "length") for index, _ in enumerate(prompts)
    ]


async def test_steps_in_a_thread_give_the_same_deltas(
    tiny_zoo: Path, generator: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.model_runtime.SchedulerLoop", partial(SchedulerLoop, inline_s=0.0))
    engine = load_engine(tiny_zoo)
    asked = {"max_new_tokens": 300, "seed": 5}
    stream = await engine.generate_stream(["ab"], options=[options(**asked)], request=inference_request())
    pieces = [piece for delta in await read_all(stream) for piece in delta.token_texts]
    assert "".join(pieces) == self_test.answer(generator, "ab", asked).generated_text
    await engine.drain(5)


async def test_closing_the_stream_frees_the_slot_before_the_next_step(engine: Engine) -> None:
    stream = await engine.generate_stream(["ab"], options=[options(max_new_tokens=4000)], request=inference_request())
    await anext(stream)
    assert used_slots(engine) == 1
    await stream.aclose()
    await until(lambda: used_slots(engine) == 0)
    assert len(stream.texts[0].tokens) < 4000
    assert await read_all(stream) == []


async def test_a_slow_reader_misses_nothing(engine: Engine, generator: Bundle) -> None:
    asked = {"max_new_tokens": 400, "seed": 5}
    stream = await engine.generate_stream(["ab"], options=[options(**asked)], request=inference_request())
    first = await anext(stream)
    await until(lambda: not used_slots(engine))  # the text is generated to its end without a reader
    (rest,) = await read_all(stream)
    assert rest.index == 0
    text = self_test.answer(generator, "ab", asked).generated_text
    assert "".join(first[0].token_texts + rest.token_texts) == text


async def test_a_deadline_ends_the_stream_after_the_generated_tokens(engine: Engine) -> None:
    stream = await engine.generate_stream(
        ["ab"], options=[options(max_new_tokens=60_000)], request=inference_request(timeout_s=0.05)
    )
    seen: list[int] = []

    async def read() -> None:
        async for (delta,) in stream:
            seen.extend(delta.tokens)

    with pytest.raises(DeadlinePassed):
        await read()
    assert seen == stream.texts[0].tokens != []


async def test_a_disconnect_ends_the_stream(engine: Engine) -> None:
    here = [True]
    request = inference_request(is_disconnected=lambda: not here[0])
    stream = await engine.generate_stream(["ab"], options=[options(max_new_tokens=60_000)], request=request)
    await anext(stream)
    here.clear()
    here.append(False)
    with pytest.raises(ClientGone):
        await read_all(stream)


async def test_the_tokens_of_all_texts_are_bounded(engine: Engine) -> None:
    with pytest.raises(TooLarge):
        await engine.generate_stream(
            ["ab"] * 20, options=[options(max_new_tokens=4000)] * 20, request=inference_request()
        )
