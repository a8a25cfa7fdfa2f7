"""Generation continues from a state token: any split of a text equals the whole, whatever else runs."""

import asyncio
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models import self_test
from models.bundle import Bundle
from models.sampling import UNIFORMS_BLOCK
from models.tasks import GenerationResult
from service.engine import Engine
from service.errors import InvalidRequest
from service.generation import GenerationParameters
from tests.support.engines import inference_request, load_engine

ZOO = Path(__file__).resolve().parents[2] / "models" / "zoo"
KEY = "a key of sixteen"
PROMPT = "ROMEO: a cat sat on"
T = TypeVar("T")


def load(*paths: Path, **settings: Any) -> Engine:
    return load_engine(*paths, **{"state_key": (KEY,), **settings})


@pytest.fixture(scope="module")
def pair(tiny_zoo: Path) -> Iterator[tuple[Engine, Engine]]:
    """Two engines with the same key, like two replicas."""
    engines = load(tiny_zoo), load(tiny_zoo, generation_slots=3)
    yield engines
    for engine in engines:
        asyncio.run(engine.drain(1))


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(coroutine)


async def ask(engine: Engine, inputs: str | list[str], **asked: Any) -> Any:
    return await engine.generate(inputs, options=GenerationParameters(**asked), request=inference_request())


async def generate_others(engine: Engine, count: int) -> None:
    """Generate other texts in the same batch."""
    await asyncio.gather(*(ask(engine, "x" * (1 + n), max_new_tokens=7 * n + 1, seed=n) for n in range(count)))


async def generate_in_parts(
    engines: tuple[Engine, Engine], cut: int, counts: list[int], others: int, **asked: Any
) -> Any:
    """Read the prompt in two parts, then generate parts of these lengths, each on the other engine."""
    state, text, reading = None, "", [PROMPT[:cut], PROMPT[cut:]]
    for turn, count in enumerate([0, *counts]):
        first = {"seed": asked.pop("seed")} if turn == 0 and "seed" in asked else {}
        more = {**asked, **first, "max_new_tokens": count, "state": state, "return_state": True}
        inputs = reading[turn] if turn < 2 else ""
        found, _ = await asyncio.gather(
            ask(engines[turn % 2], inputs, **more), generate_others(engines[turn % 2], others)
        )
        text, state = text + found.generated_text, found.state
    return text


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cut=st.integers(1, len(PROMPT) - 1),
    counts=st.lists(st.integers(1, UNIFORMS_BLOCK + 2), min_size=1, max_size=5),
    others=st.integers(0, 5),
    asked=st.sampled_from(
        [
            {"temperature": 0.0},
            {"temperature": 1.0},
            {"temperature": 0.7, "top_k": 9},
            {"temperature": 1.3, "top_p": 0.8},
        ]
    ),
    seed=st.integers(0, 2**63 - 1),
)
def test_any_split_equals_the_whole(
    pair: tuple[Engine, Engine], generator: Bundle, cut: int, counts: list[int], others: int, asked: Any, seed: int
) -> None:
    whole = self_test.answer(generator, PROMPT, {**asked, "seed": seed, "max_new_tokens": sum(counts)})
    assert run(generate_in_parts(pair, cut, counts, others, seed=seed, **asked)) == whole.generated_text


@pytest.mark.parametrize("name", ["shakespeare", "folk-abc"])
@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_shipped_models_continue_bit_for_bit(name: str, variant: str) -> None:
    if not (ZOO / name / "manifest.json").is_file():
        pytest.skip(f"no {name}")
    engine = load(ZOO / name, variant=variant)
    asked = {"temperature": 0.9, "seed": 5}
    whole = run(ask(engine, PROMPT, max_new_tokens=90, details=True, **asked))
    text, tokens, state = "", (), None
    for turn, count in enumerate([1, 30, 59]):
        more = asked if turn == 0 else {"temperature": 0.9}
        inputs = PROMPT if turn == 0 else ""
        found = run(ask(engine, inputs, max_new_tokens=count, state=state, return_state=True, details=True, **more))
        text, state = text + found.generated_text, found.state
        tokens += found.details.tokens
    assert (text, tokens) == (whole.generated_text, whole.details.tokens)
    run(engine.drain(1))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.integers(3, 60), length=st.integers(1, 8), count=st.integers(1, 70), seed=st.integers(0, 99))
def test_a_stop_string_may_span_the_split(
    pair: tuple[Engine, Engine], generator: Bundle, start: int, length: int, count: int, seed: int
) -> None:
    free = self_test.answer(generator, PROMPT, {"seed": seed, "max_new_tokens": 80}).generated_text
    stop = (free[start : start + length],)
    whole = self_test.answer(generator, PROMPT, {"seed": seed, "max_new_tokens": 80, "stop": stop, "details": True})

    async def twice() -> tuple[str, str]:
        asked: dict[str, Any] = {"stop": stop, "return_state": True, "details": True}
        first = await ask(pair[0], PROMPT, seed=seed, max_new_tokens=count, **asked)
        if first.details.finish_reason == "stop":
            return first.generated_text, "stop"
        second = await ask(pair[1], "", max_new_tokens=80 - count, state=first.state, **asked)
        return first.generated_text + second.generated_text, second.details.finish_reason

    assert run(twice()) == (whole.generated_text, whole.details.finish_reason)


def test_a_stop_string_of_the_first_part_does_not_stop_the_second(
    pair: tuple[Engine, Engine], generator: Bundle
) -> None:
    free = self_test.answer(generator, PROMPT, {"seed": 1, "max_new_tokens": 40}).generated_text
    stop = (free[10:12],)
    first = run(ask(pair[0], PROMPT, seed=1, max_new_tokens=40, stop=stop, return_state=True))
    end = len(first.generated_text)
    assert first.generated_text == free[:end]
    second = run(ask(pair[0], "", max_new_tokens=40 - end, state=first.state))
    assert second.generated_text == free[end:]
    assert len(run(ask(pair[0], "", max_new_tokens=9, stop=("\n" * 9,), state=first.state)).generated_text) == 9


def test_a_stop_string_of_the_second_part_is_searched_in_new_text_only(
    pair: tuple[Engine, Engine], generator: Bundle
) -> None:
    first = run(ask(pair[0], PROMPT, seed=1, max_new_tokens=20, return_state=True))
    asked = {"max_new_tokens": 1, "stop": (first.generated_text[-2:],), "details": True}
    assert run(ask(pair[0], "", state=first.state, **asked)).details.finish_reason == "length"


def test_a_prompt_after_a_state_is_read_first(pair: tuple[Engine, Engine], generator: Bundle) -> None:
    first = run(ask(pair[0], "ROMEO:", temperature=0.0, max_new_tokens=10, return_state=True))
    more = run(ask(pair[1], " a cat", temperature=0.0, max_new_tokens=12, state=first.state, return_full_text=True))
    whole = self_test.answer(
        generator, "ROMEO:" + first.generated_text + " a cat", {"temperature": 0, "max_new_tokens": 12}
    )
    assert more.generated_text == " a cat" + whole.generated_text


def test_one_state_continues_with_different_seeds(pair: tuple[Engine, Engine]) -> None:
    state = run(ask(pair[0], PROMPT, seed=1, max_new_tokens=10, return_state=True)).state
    on = run(ask(pair[0], "", max_new_tokens=30, state=state)).generated_text
    forks = [run(ask(pair[0], "", max_new_tokens=30, state=state, seed=seed)).generated_text for seed in (5, 6, 5)]
    assert forks[0] == forks[2]
    assert len({on, *forks}) == 3


def test_the_first_of_several_prompts_continues_the_random_numbers(
    pair: tuple[Engine, Engine],
) -> None:
    state = run(ask(pair[0], PROMPT, seed=1, max_new_tokens=10, return_state=True)).state
    on = run(ask(pair[1], "", max_new_tokens=30, state=state)).generated_text
    found = run(ask(pair[0], ["", "", ""], max_new_tokens=30, state=state, details=True))
    assert found[0].generated_text == on
    assert len({answer.generated_text for answer in found}) == 3
    assert len({answer.details.seed for answer in found}) == 3


def test_zero_new_tokens_only_read_the_prompt(pair: tuple[Engine, Engine], generator: Bundle) -> None:
    for prompt in ("a", "a cat", "x" * 299):
        read = run(ask(pair[0], prompt, max_new_tokens=0, return_state=True, seed=4, details=True))
        assert (read.generated_text, read.details.generated_tokens) == ("", 0)
        again = run(ask(pair[1], "", max_new_tokens=0, return_state=True, state=read.state))
        found = run(ask(pair[0], "", max_new_tokens=20, state=again.state))
        assert found == self_test.answer(generator, prompt, {"max_new_tokens": 20, "seed": 4})


def test_an_empty_text_has_no_state(pair: tuple[Engine, Engine]) -> None:
    assert run(ask(pair[0], "", return_state=True)) == GenerationResult("")


def test_a_streamed_text_has_a_state(pair: tuple[Engine, Engine], generator: Bundle) -> None:
    async def streamed() -> Any:
        asked = GenerationParameters(max_new_tokens=30, seed=8, return_state=True)
        stream = await pair[0].generate_stream([PROMPT], options=[asked], request=inference_request())
        async for _ in stream:
            pass
        return stream.result(0)

    first = run(streamed())
    second = run(ask(pair[1], "", max_new_tokens=30, state=first.state))
    whole = self_test.answer(generator, PROMPT, {"max_new_tokens": 60, "seed": 8})
    assert first.generated_text + second.generated_text == whole.generated_text


def test_a_state_of_another_model_or_key_is_refused(pair: tuple[Engine, Engine], tiny_zoo: Path) -> None:
    state = run(ask(pair[0], PROMPT, max_new_tokens=1, return_state=True)).state
    for engine in (load(tiny_zoo, state_key=("sixteen of another",)), load(ZOO / "folk-abc")):
        with pytest.raises(InvalidRequest) as caught:
            run(ask(engine, "", state=state))
        assert caught.value.details["field"] == "state"
        run(engine.drain(1))
