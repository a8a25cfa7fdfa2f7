"""The engine with tiny bundles: its answers are those of one run alone, whatever else runs."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models import self_test
from models.bundle import Bundle
from models.manifest import BundleError
from models.tasks import GenerationResult
from service.api.native import ModelCard, model_cards
from service.engine import Engine
from service.errors import ClientGone, DeadlinePassed, InvalidRequest, Overloaded, TooLarge, Unavailable, UnknownModel
from service.generation import GenerationParameters
from service.scheduling.job import Job
from service.scheduling.loop import SchedulerLoop
from tests.support import bundles, reference
from tests.support.engines import inference_request, load_engine, until, used_slots


@pytest.fixture
async def engine(tiny_zoo: Path) -> AsyncIterator[Engine]:
    engine = load_engine(tiny_zoo)
    yield engine
    await engine.drain(5)


TEXTS = ["", "the cat", "a lovely film about Paris .", "zebras sat on the mat " * 3, "\x00 \ud800 e\u0301 שלום", "dog"]


async def test_one_string_has_a_list_and_a_list_has_a_list_of_lists(engine: Engine, tagger: Bundle) -> None:
    alone = await engine.tag("the cat", request=inference_request())
    assert alone == self_test.answer(tagger, "the cat") != []
    assert await engine.tag(["the cat"], request=inference_request()) == [alone]
    assert await engine.tag([["the", "cat"]], request=inference_request()) == [self_test.answer(tagger, ["the", "cat"])]


async def test_concurrent_requests_have_the_answers_of_each_alone(
    engine: Engine, tagger: Bundle, span_tagger: Bundle, classifier: Bundle, generator: Bundle
) -> None:
    chance, waiting, expected = random.Random(0), [], []
    for number in range(120):
        texts = chance.choices(TEXTS, k=chance.randint(1, 9))
        kind = number % 4
        if kind == 0:
            waiting.append(engine.tag(texts, model="tiny-tag", request=inference_request()))
            expected.append([self_test.answer(tagger, text) for text in texts])
        elif kind == 1:
            waiting.append(engine.tag(texts, model="tiny-tag-spans", aggregation="simple", request=inference_request()))
            expected.append([self_test.answer(span_tagger, text) for text in texts])
        elif kind == 2:
            waiting.append(engine.classify(texts, top_k=2, request=inference_request()))
            expected.append([self_test.answer(classifier, text, {"top_k": 2}) for text in texts])
        else:
            options = GenerationParameters(max_new_tokens=7, seed=number, temperature=0.8)
            waiting.append(engine.generate(texts, options=options, request=inference_request()))
            asked = {"max_new_tokens": 7, "seed": number, "temperature": 0.8}
            expected.append([self_test.answer(generator, text, asked) for text in texts])
    assert await asyncio.gather(*waiting) == expected


async def test_more_requests_than_the_limit_are_refused(tiny_zoo: Path) -> None:
    engine = load_engine(tiny_zoo, queue_requests=2)
    waiting = [asyncio.ensure_future(engine.classify("a film", request=inference_request())) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded) as caught:
        await engine.classify("a film", request=inference_request())
    assert caught.value.details == {"limit": 2, "retry_after_s": 1.0}
    assert await engine.tag("a film", request=inference_request())  # by another model
    assert all(await asyncio.gather(*waiting))
    assert await engine.classify("a film", request=inference_request())
    await engine.drain(5)


async def test_tensors_count_in_the_limit_on_requests(tiny_zoo: Path) -> None:
    engine = load_engine(tiny_zoo, queue_requests=1)
    waiting = asyncio.ensure_future(engine.tag("the cat", request=inference_request()))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await engine.run_tensors({}, runtime=engine.runtimes["tiny-tag"], request=inference_request())
    assert await waiting
    await engine.drain(5)


async def test_one_client_leaves_requests_to_others(tiny_zoo: Path) -> None:
    engine = load_engine(tiny_zoo, queue_requests=16)
    runtime = engine.runtime_for("tag", None)

    def ask(client: str) -> Job:
        return runtime.admit(inference_request(client=client), 1)

    jobs = [ask("many") for _ in range(14)]
    with pytest.raises(Overloaded):
        ask("many")
    jobs.append(ask("few"))
    jobs.pop(0).cancel()
    with pytest.raises(Overloaded):
        ask("many")
    jobs += [ask("few"), ask("few")]
    for job in jobs:
        job.cancel()
    await engine.drain(5)


async def test_a_disconnect_frees_the_place_of_a_request(tiny_zoo: Path) -> None:
    engine = load_engine(tiny_zoo, queue_requests=2)
    gone = [
        asyncio.ensure_future(engine.classify("a film", request=inference_request(is_disconnected=lambda: True)))
        for _ in range(2)
    ]
    await asyncio.sleep(0)
    assert await engine.classify("a film", request=inference_request())
    assert [type(error) for error in await asyncio.gather(*gone, return_exceptions=True)] == [ClientGone] * 2
    await engine.drain(5)


async def test_an_input_that_cannot_be_encoded_leaves_no_reservation(tiny_zoo: Path) -> None:
    engine = load_engine(tiny_zoo, queue_requests=1)
    for _ in range(3):
        with pytest.raises(TooLarge):
            await engine.tag("the " * 65, request=inference_request())
    assert await engine.tag("the cat", request=inference_request())
    await engine.drain(5)


@pytest.mark.parametrize("task", ["classify", "embed"])
async def test_inputs_to_cut_are_admitted_first_and_yield_to_the_event_loop(tmp_path: Path, task: str) -> None:
    engine = load_engine(bundles.embedder(tmp_path), request_tokens=150, queue_requests=1)
    run = partial(getattr(engine, task), truncate=True)
    long = "the cat " * 1000  # a client can send hundreds of them, each of new words
    found, expected = [await run([text], request=inference_request()) for text in (long, "the cat " * 32)]
    assert repr(found) == repr(expected)
    waiting = asyncio.ensure_future(run([long] * 3, request=inference_request()))  # 3 times 64 words
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await run([long], request=inference_request())
    assert not waiting.done()
    with pytest.raises(TooLarge) as caught:
        await waiting
    assert caught.value.details["limit"] == 150
    await engine.drain(5)


async def test_a_failing_scheduler_makes_its_model_unavailable_and_no_other(tiny_zoo: Path) -> None:
    engine = load_engine(tiny_zoo)
    runtime = engine.runtime_for("tag", None)
    runtime.loop.healthy = False
    assert not engine.ready
    with pytest.raises(Unavailable):
        await engine.tag("the cat", request=inference_request())
    assert await engine.classify("a film", request=inference_request())
    runtime.loop.healthy = True
    assert engine.ready
    await engine.drain(5)


async def test_long_work_in_a_thread_gives_the_same_answers(
    tiny_zoo: Path, tagger: Bundle, generator: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.model_runtime.SchedulerLoop", partial(SchedulerLoop, inline_s=0.0))
    engine = load_engine(tiny_zoo)
    found = await asyncio.gather(
        engine.tag(TEXTS, request=inference_request()),
        engine.generate(
            TEXTS, options=GenerationParameters(max_new_tokens=9, temperature=0), request=inference_request()
        ),
    )
    asked = {"max_new_tokens": 9, "temperature": 0}
    assert found[0] == [self_test.answer(tagger, text) for text in TEXTS]
    assert found[1] == [self_test.answer(generator, text, asked) for text in TEXTS]
    await engine.drain(5)


async def test_a_seed_gives_the_same_text_alone_and_in_a_changing_batch(engine: Engine, generator: Bundle) -> None:
    asked: dict[str, Any] = {"max_new_tokens": 150, "seed": 7, "temperature": 0.9, "top_k": 20, "top_p": 0.95}
    alone = self_test.answer(generator, "ROMEO:", {**asked, "details": True})
    chance, enough = random.Random(1), asyncio.Event()

    async def neighbor(number: int) -> None:
        while not enough.is_set():
            options = GenerationParameters(
                max_new_tokens=chance.randint(1, 60), seed=number, temperature=number % 3 * 0.7, top_k=number % 5
            )
            leaves_at = time.monotonic() + (0.003 if chance.random() < 0.3 else 60)
            request = inference_request(is_disconnected=partial(_passed, leaves_at))
            with suppress(ClientGone):
                await engine.generate("x" * chance.randint(1, 250), options=options, request=request)

    neighbors = [asyncio.create_task(neighbor(number)) for number in range(63)]
    await until(lambda: used_slots(engine) > 8)
    for _ in range(3):
        request = inference_request()
        together = await engine.generate("ROMEO:", options=GenerationParameters(**asked, details=True), request=request)
        assert together == alone  # the text, and every log-probability
        assert request.batch_items > 1
    enough.set()
    await asyncio.gather(*neighbors)


def _passed(moment_s: float) -> bool:
    return time.monotonic() > moment_s


async def test_a_random_seed_is_returned_and_reproduces_the_text(engine: Engine, generator: Bundle) -> None:
    options = GenerationParameters(max_new_tokens=20, details=True)
    first, second = [await engine.generate("ab", options=options, request=inference_request()) for _ in range(2)]
    assert isinstance(first, GenerationResult)
    assert isinstance(second, GenerationResult)
    seed = first.details.seed
    assert seed != second.details.seed
    again = self_test.answer(generator, "ab", {"max_new_tokens": 20, "seed": seed})
    assert first.generated_text == again.generated_text


@pytest.mark.parametrize("inputs", ["", " ", [], ["", ""]])
async def test_empty_input_has_an_empty_answer(engine: Engine, inputs: str | list[str]) -> None:
    nothing = [[] for _ in inputs] if isinstance(inputs, list) else []
    assert await engine.tag(inputs, request=inference_request()) == nothing
    assert await engine.classify(inputs, request=inference_request()) == (nothing if isinstance(inputs, list) else [[]])


async def test_an_empty_prompt_has_an_empty_text(engine: Engine, generator: Bundle) -> None:
    options = GenerationParameters(max_new_tokens=3, seed=1)
    assert await engine.generate([], options=options, request=inference_request()) == []
    found = await engine.generate(["", "ab"], options=options, request=inference_request())
    assert found == [GenerationResult(""), self_test.answer(generator, "ab", {"max_new_tokens": 3, "seed": 1})]


async def test_an_input_over_the_limit_is_refused_with_the_limit(engine: Engine) -> None:
    with pytest.raises(TooLarge) as caught:
        await engine.tag(["the", "the " * 65], request=inference_request())
    assert caught.value.details == {"field": "inputs[1]", "limit": 64}
    assert len(await engine.tag("the " * 64, request=inference_request())) == 64
    with pytest.raises(TooLarge) as caught:
        await engine.generate("a" * 301, options=GenerationParameters(), request=inference_request())
    assert caught.value.details == {"field": "inputs", "limit": 300}


async def test_the_first_bundle_of_a_task_is_the_default(engine: Engine, tagger: Bundle) -> None:
    assert await engine.tag("Paris", request=inference_request()) == self_test.answer(tagger, "Paris")


@pytest.mark.parametrize("model", ["nobody", "tiny-classify", ""])
async def test_a_model_of_another_task_is_refused_with_the_available_ones(engine: Engine, model: str) -> None:
    with pytest.raises(UnknownModel) as caught:
        await engine.tag("the", model=model, request=inference_request())
    assert caught.value.details["available"] == ["tiny-tag", "tiny-tag-spans"]


async def test_a_deadline_ends_a_request(engine: Engine) -> None:
    with pytest.raises(DeadlinePassed):
        await engine.tag("the", request=inference_request(timeout_s=0))
    with pytest.raises(DeadlinePassed):
        await engine.generate(
            "a", options=GenerationParameters(max_new_tokens=60_000), request=inference_request(timeout_s=0.05)
        )


async def test_a_disconnect_ends_a_generation(engine: Engine) -> None:
    request = inference_request(is_disconnected=partial(_passed, time.monotonic() + 0.02))
    with pytest.raises(ClientGone):
        await engine.generate("a", options=GenerationParameters(max_new_tokens=60_000), request=request)


async def test_a_cancelled_task_frees_its_slot(engine: Engine, generator: Bundle) -> None:
    endless = GenerationParameters(max_new_tokens=4_000)
    tasks = [asyncio.create_task(engine.generate("a", options=endless, request=inference_request())) for _ in range(64)]
    await until(lambda: used_slots(engine) == 64)
    for task in tasks:
        task.cancel()
    # All 64 slots were taken: without one of them this text would never begin.
    found = await engine.generate(
        "a", options=GenerationParameters(max_new_tokens=3, temperature=0), request=inference_request(timeout_s=5)
    )
    assert found == self_test.answer(generator, "a", {"max_new_tokens": 3, "temperature": 0})
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in ended)


async def test_a_full_queue_refuses_and_answers_what_is_queued(tiny_zoo: Path) -> None:
    engine = load_engine(tiny_zoo, queue_items=2)
    found = await asyncio.gather(
        *(engine.tag(["the", "cat"], request=inference_request()) for _ in range(3)), return_exceptions=True
    )
    assert [type(outcome) for outcome in found] == [list, Overloaded, Overloaded]
    await engine.drain(5)


async def test_prompts_count_in_the_tokens_of_the_queue(tiny_zoo: Path) -> None:
    engine = load_engine(tiny_zoo, queue_tokens=50)
    options = GenerationParameters(max_new_tokens=1)
    asked = [engine.generate("a" * 40, options=options, request=inference_request()) for _ in range(2)]
    asked.append(_first_text(engine, "a" * 40, options))
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(outcome) for outcome in found] == [GenerationResult, Overloaded, Overloaded]
    await engine.drain(5)


async def _first_text(engine: Engine, prompt: str, options: GenerationParameters) -> GenerationResult:
    stream = await engine.generate_stream([prompt], options=[options], request=inference_request())
    return [stream.result(0) async for _ in stream][-1]


async def test_a_drain_answers_admitted_requests_and_refuses_new_ones(tiny_zoo: Path, generator: Bundle) -> None:
    engine = load_engine(tiny_zoo)
    options = GenerationParameters(max_new_tokens=200, seed=3)
    accepted = [
        asyncio.create_task(engine.generate("a", options=options, request=inference_request())) for _ in range(70)
    ]
    accepted.append(asyncio.create_task(engine.tag("the cat", request=inference_request())))
    await asyncio.sleep(0)
    draining = asyncio.create_task(engine.drain(20))
    await asyncio.sleep(0)
    assert not engine.ready
    with pytest.raises(Unavailable):
        await engine.tag("the", request=inference_request())
    with pytest.raises(Unavailable):
        await engine.generate("the", options=options, request=inference_request())
    *texts, tags = await asyncio.gather(*accepted)
    assert texts == [self_test.answer(generator, "a", {"max_new_tokens": 200, "seed": 3})] * 70
    assert len(tags) > 0
    await draining


async def test_a_drain_fails_what_is_not_answered_in_time(tiny_zoo: Path) -> None:
    engine = load_engine(tiny_zoo)
    endless = asyncio.create_task(
        engine.generate("a", options=GenerationParameters(max_new_tokens=4_000), request=inference_request())
    )
    await until(lambda: used_slots(engine) == 1)
    await engine.drain(0.05)
    with pytest.raises(Unavailable):
        await endless


async def test_a_request_records_its_queue_and_compute_time(engine: Engine) -> None:
    request = inference_request()
    await engine.tag(["the cat"] * 5, request=request)
    assert request.batch_items == 5
    assert 0 < request.compute_s < 5
    assert 0 <= request.queue_s < 5


async def test_encoding_a_long_list_yields_to_the_event_loop(engine: Engine) -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    with pytest.raises(TooLarge):  # for the last input, after the others were encoded
        await engine.tag(["x" * 9000] * 40 + ["the " * 65], request=inference_request())
    task.cancel()
    assert turns >= 5


async def test_cards_describe_the_bundles(engine: Engine) -> None:
    cards = {card["id"]: card for card in model_cards(engine)}
    assert list(cards) == ["tiny-classify", "tiny-generate", "tiny-tag", "tiny-tag-spans"]
    card = cards["tiny-tag"]
    assert card.keys() == ModelCard.__annotations__.keys()
    assert (card["object"], card["owned_by"], card["task"]) == ("model", "seqserve", "tag")
    assert (card["labels"], card["limits"]) == (list(bundles.UPOS), {"max_length": 64})
    assert (card["variant"], card["scores"]) == ("fp32", {"fp32": {"accuracy": 50.0}})
    assert isinstance(card["created"], int)


def test_a_failed_self_test_stops_the_start(tmp_path: Path) -> None:
    path = bundles.classifier(tmp_path)
    text = (path / "manifest.json").read_text("utf-8")
    (path / "manifest.json").write_text(text.replace('"score": 0.', '"score": 0.9'), "utf-8")
    with pytest.raises(BundleError, match="example 1"):
        load_engine(tmp_path)


def test_two_bundles_of_one_name_stop_the_start(tmp_path: Path) -> None:
    bundles.classifier(tmp_path / "a")
    bundles.classifier(tmp_path / "b")
    paths = (tmp_path / "a", tmp_path / "b")
    with pytest.raises(BundleError, match="tiny-classify"):
        load_engine(*paths)


async def test_the_tokens_of_a_request_are_bounded(engine: Engine) -> None:
    with pytest.raises(TooLarge) as caught:
        await engine.generate(
            ["ab"] * 20, options=GenerationParameters(max_new_tokens=4000), request=inference_request()
        )
    assert caught.value.details == {"field": "inputs", "limit": 65_536}


async def test_equal_prompts_without_a_seed_get_different_seeds(engine: Engine) -> None:
    found = await engine.generate(
        ["ab"] * 4, options=GenerationParameters(max_new_tokens=20, details=True), request=inference_request()
    )
    assert isinstance(found, list)
    seeds = {answer.details.seed for answer in found}
    assert len(seeds) == 4
    assert max(seeds) < 2**53


async def test_a_vector_is_that_of_one_run_alone(tiny_live: Path) -> None:
    engine, loaded = load_engine(tiny_live), bundles.opened(tiny_live / "tiny-embed")
    texts = ["the cat sat", "Paris", "a lovely film about zebras ."]
    found, labels = await asyncio.gather(
        engine.embed(texts, model="tiny-embed", request=inference_request()),
        engine.classify(texts, model="tiny-embed", request=inference_request()),
    )
    assert [steps for _, steps in found] == [3, 1, 6]
    assert all(
        np.array_equal(vector, reference.embed(loaded, text)) for (vector, _), text in zip(found, texts, strict=True)
    )
    assert labels == [self_test.answer(loaded, text) for text in texts]
    ((vector, steps),) = await engine.embed("Paris", model="tiny-embed-joint", request=inference_request())
    assert (vector.shape, steps) == ((12,), 1)
    await engine.drain(5)


async def test_an_empty_input_or_a_bundle_without_vectors_is_refused(tiny_live: Path) -> None:
    engine = load_engine(tiny_live)
    with pytest.raises(InvalidRequest) as caught:
        await engine.embed(["the", ""], request=inference_request())
    assert caught.value.details["field"] == "inputs[1]"
    with pytest.raises(UnknownModel) as unknown:
        await engine.embed("the", model="tiny-live", request=inference_request())
    assert unknown.value.details["available"] == ["tiny-embed", "tiny-embed-joint"]
    cards = {card["id"]: (card["streams"], card["embeddings"]) for card in model_cards(engine)}
    assert cards["tiny-live"] == (True, 0)
    assert cards["tiny-embed"] == (False, 12)
    await engine.drain(5)


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("tiny-live", ["the", "cat", "zebras", "."] * 5),
        ("tiny-live-frames", bundles.FRAMES * 6),
        ("tiny-live-delayed", bundles.FRAMES * 6),
    ],
)
async def test_a_stream_in_chunks_has_the_answers_of_the_whole_sequence(
    tiny_live: Path, name: str, steps: list[Any]
) -> None:
    engine, loaded = load_engine(tiny_live), bundles.opened(tiny_live / name)
    whole = self_test.answer(loaded, steps, {"aggregation_strategy": "none"})

    async def follow(size: int) -> list[Any]:
        stream, found = engine.open_stream(name), []
        for first in range(0, len(steps), size):
            piece = steps[first] if size == 1 else steps[first : first + size]
            found += await engine.advance(stream, piece, request=inference_request())
        found += await engine.advance(stream, [], end=True, request=inference_request())
        assert stream.steps == len(steps)
        return found

    tagged = [engine.tag([steps], model=name, request=inference_request()) for _ in range(3)]
    found = await asyncio.gather(*(follow(size) for size in (1, 1, 2, 5, 7)), *tagged)
    assert found[:5] == [whole] * 5
    assert found[5:] == [[whole]] * 3
    await engine.drain(5)


async def test_a_delayed_stream_answers_for_earlier_frames_until_its_end(tiny_live: Path) -> None:
    engine, frames, request = load_engine(tiny_live), bundles.FRAMES[:1] * 5, inference_request()
    stream = engine.open_stream("tiny-live-delayed")
    assert [len(await engine.advance(stream, frame, request=request)) for frame in frames] == [0, 0, 0, 1, 1]
    state = engine.state_token(stream)
    with pytest.raises(InvalidRequest):
        await engine.advance(stream, ["text"], end=True, request=request)  # a failed chunk does not end the stream
    found = [await engine.advance(stream, [], end=True, request=request)]
    with pytest.raises(InvalidRequest):
        await engine.advance(stream, frames, request=request)
    found.append(
        await engine.advance(engine.open_stream("tiny-live-delayed", state=state), [], end=True, request=request)
    )
    assert [[(each.start, each.end) for each in part] for part in found] == [[(2, 3), (3, 4), (4, 5)]] * 2
    assert await engine.advance(engine.open_stream("tiny-live-delayed"), [], end=True, request=request) == []
    short = await engine.advance(engine.open_stream("tiny-live-delayed"), frames[:2], end=True, request=request)
    assert [each.start for each in short] == [0, 1]
    await engine.drain(5)


async def test_a_frame_rate_is_for_merged_frames(tiny_live: Path) -> None:
    engine, request = load_engine(tiny_live), inference_request()
    options: dict[str, Any] = {"model": "tiny-live-delayed", "request": request}
    merged = await engine.tag(bundles.FRAMES, **options, aggregation="simple", frame_rate=2)
    assert merged[-1].end == len(bundles.FRAMES) / 2
    for wrong in ({"model": "tiny-live-delayed"}, {"model": "tiny-live", "aggregation": "simple"}):
        with pytest.raises(InvalidRequest) as caught:
            await engine.tag(bundles.FRAMES, **wrong, frame_rate=2, request=request)
        assert caught.value.details["field"] == "parameters.frame_rate"
    await engine.drain(5)


async def test_a_failed_chunk_leaves_its_stream_unchanged(tiny_live: Path) -> None:
    engine = load_engine(tiny_live)
    stream = engine.open_stream("tiny-live")
    (alone,) = await engine.advance(engine.open_stream("tiny-live"), "cat", request=inference_request())
    with pytest.raises(InvalidRequest):
        await engine.advance(stream, [[1.0, 2.0]], request=inference_request())
    with pytest.raises(TooLarge):
        await engine.advance(stream, ["cat"] * 65, request=inference_request())
    with pytest.raises(DeadlinePassed):
        await engine.advance(stream, "cat", request=inference_request(timeout_s=-1))
    assert await engine.advance(stream, [], request=inference_request()) == []
    assert await engine.advance(stream, "cat", request=inference_request()) == [alone]
    await engine.drain(5)


async def test_the_state_of_a_stream_does_not_grow(tiny_live: Path) -> None:
    engine = load_engine(tiny_live)
    stream = engine.open_stream("tiny-live")
    begin = [part.nbytes for part in stream.state]
    for _ in range(300):
        await engine.advance(stream, "cat", request=inference_request())
    assert [part.nbytes for part in stream.state] == begin
    assert all(part.base is None for part in stream.state)
    await engine.drain(5)


@pytest.mark.parametrize("name", ["tiny-live", "tiny-live-frames"])
async def test_a_stream_continues_from_its_token_in_another_engine(tiny_live: Path, name: str) -> None:
    first, second = (load_engine(tiny_live, state_key=("a-key-of-some-length",)) for _ in range(2))
    steps: list[Any] = bundles.FRAMES * 4 if name.endswith("frames") else ["the", "cat", "zebras", "."] * 3
    whole = self_test.answer(bundles.opened(tiny_live / name), steps, {"aggregation_strategy": "none"})
    for cut in range(len(steps)):
        stream = first.open_stream(name)
        await first.advance(stream, steps[:cut], request=inference_request())
        state = first.state_token(stream)
        for engine in (first, second, second):
            again = engine.open_stream(name, state=state)
            assert again.steps == cut
            assert await engine.advance(again, steps[cut:], request=inference_request()) == whole[cut:]
    for engine in (first, second):
        await engine.drain(5)


async def test_an_invalid_state_token_names_its_field(tiny_live: Path) -> None:
    engine = load_engine(tiny_live)
    state = engine.state_token(engine.open_stream("tiny-live"))
    for name, bad in (("tiny-live", state[:-4]), ("tiny-live", "x" * 10_000), ("tiny-live-frames", state)):
        with pytest.raises(InvalidRequest) as caught:
            engine.open_stream(name, state=bad)
        assert caught.value.details["field"] == "state"
    await engine.drain(5)
