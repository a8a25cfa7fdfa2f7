"""The owner: what it runs for a worker is what the worker would have run, and nobody who waits for it is forgotten."""

import asyncio
import fcntl
import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import pytest
import uvloop

from models import self_test as reference
from models.bundle import Bundle
from models.manifest import BundleError
from service import errors
from service.engine import Engine
from service.errors import ClientGone, DeadlinePassed, Overloaded, ServiceError, Unavailable
from service.generation import GenerateOptions
from service.generation_stream import GenerationStream
from service.owner import remote, start
from service.owner.message import Error, Hello
from service.owner.remote import Connection
from service.owner.start import OwnerFailed, Starter, meet, only_one
from service.owner.wire import Peer
from service.places import There, place_of
from service.scheduling.decoding import StepScheduler
from service.scheduling.inference_request import InferenceRequest
from service.scheduling.loop import SchedulerLoop
from service.settings import BadSetting, Settings
from service.telemetry import Telemetry
from tests import bundles
from tests.service.owned import Nobody, Pair, listen, owned, until

ROOT = Path(__file__).resolve().parents[2]
LONG = GenerateOptions(seed=3, max_new_tokens=60_000)


def call(*, timeout_s: float = 60.0, gone: Callable[[], bool] = lambda: False) -> InferenceRequest:
    return InferenceRequest(request_id="r", route="/v1/x", deadline_s=time.monotonic() + timeout_s, gone=gone)


def running(pair: Pair) -> int:
    """Texts on the owner's table."""
    return len(cast(StepScheduler, pair.own.lanes["tiny-generate"].scheduler)._table)


async def looks(writing: GenerationStream) -> list[Any]:
    return [delta async for deltas in writing for delta in deltas]


async def test_a_text_is_read_while_the_owner_writes_it(tiny_zoo: Path, generator: Bundle) -> None:
    asked = {"seed": 3, "max_new_tokens": 200, "details": True}
    async with owned(tiny_zoo) as pair:
        request = call()
        writing = await pair.engine.write(["ROMEO:"], options=[GenerateOptions(**asked)], call=request)  # type: ignore[arg-type]
        deltas = await looks(writing)
        assert len(deltas) > 1
        assert writing.answer(0) == reference.answer(generator, "ROMEO:", asked)
        assert [delta.finish_reason for delta in deltas] == [None] * (len(deltas) - 1) + ["length"]
        assert request.compute_s > 0
        assert request.batch_items == 1


async def test_a_stop_string_ends_a_text_over_there(tiny_zoo: Path, generator: Bundle) -> None:
    whole = reference.answer(generator, "ab", {"seed": 3, "max_new_tokens": 200})["generated_text"]
    asked = {"seed": 3, "max_new_tokens": 200, "details": True, "stop": (whole[20:22],)}
    async with owned(tiny_zoo) as pair:
        options = GenerateOptions(**asked)  # type: ignore[arg-type]
        found = await pair.engine.generate("ab", options=options, call=call())
    assert found == reference.answer(generator, "ab", {**asked, "stop": [whole[20:22]]})
    assert cast(dict[str, Any], found)["details"]["finish_reason"] == "stop"


async def test_a_state_goes_on_where_the_text_stood(tiny_zoo: Path) -> None:
    async with owned(tiny_zoo, settings={"state_key": ("a key of sixteen",)}) as pair:
        ask = pair.engine.generate
        whole: Any = await ask("ab", options=GenerateOptions(seed=5, max_new_tokens=60), call=call())
        first: Any = await ask("ab", options=GenerateOptions(seed=5, max_new_tokens=25, return_state=True), call=call())
        rest: Any = await ask("", options=GenerateOptions(max_new_tokens=35, state=first["state"]), call=call())
        read: Any = await ask("ab", options=GenerateOptions(seed=5, max_new_tokens=0, return_state=True), call=call())
        then: Any = await ask("", options=GenerateOptions(max_new_tokens=60, state=read["state"]), call=call())
    assert first["generated_text"] + rest["generated_text"] == whole["generated_text"] == then["generated_text"]


async def test_vectors_streams_and_arrays_come_from_over_there(tiny_live: Path) -> None:
    live, embedder = bundles.opened(tiny_live / "tiny-live"), bundles.opened(tiny_live / "tiny-embed")
    async with owned(tiny_live) as pair:
        engine = pair.engine
        ((vector, steps),) = await engine.embed("the cat", model="tiny-embed", call=call())
        assert steps == 2
        here = Engine.load(Settings(bundles=(str(tiny_live),), device="cpu"), Telemetry())
        ((expected, _),) = await here.embed("the cat", model="tiny-embed", call=call())
        assert np.array_equal(vector, expected)
        stream = engine.stream("tiny-live")
        pieces = [await engine.follow(stream, words, call=call()) for words in ("the cat", "sat on")]
        assert [tag["entity"] for piece in pieces for tag in piece] == [
            tag["entity"] for tag in reference.answer(live, "the cat sat on")
        ]
        arrays = cast(Any, embedder.task).collate([embedder.task.encode("the cat")])
        found = await engine.run_arrays(arrays, model="tiny-embed", call=call())
        for name, array in embedder.network.run(arrays).items():
            assert np.array_equal(found[name], array)
        with pytest.raises(errors.InvalidRequest, match="is missing"):
            await engine.run_arrays({}, model="tiny-embed", call=call())
        await here.drain(5)


async def test_who_stops_reading_frees_the_slot_of_the_owner(tiny_zoo: Path) -> None:
    async with owned(tiny_zoo) as pair:
        writing = await pair.engine.write(["ab"], options=[LONG], call=call())
        await anext(writing)
        assert running(pair) == 1
        await writing.aclose()
        await until(lambda: running(pair) == 0)
        gone = [False]
        writing = await pair.engine.write(["ab"], options=[LONG], call=call(gone=lambda: gone[0]))
        await anext(writing)
        gone[0] = True
        with pytest.raises(ClientGone):
            await looks(writing)
        await until(lambda: running(pair) == 0)


async def test_a_worker_that_is_lost_takes_its_texts_along_and_nobody_elses(
    tiny_zoo: Path, generator: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "service.model_runtime.SchedulerLoop", partial(SchedulerLoop, inline_s=0.0)
    )  # steps are under way when it is lost
    async with owned(tiny_zoo) as pair:
        mine = asyncio.ensure_future(
            pair.own.generate("ab", options=GenerateOptions(seed=5, max_new_tokens=300), call=call())
        )
        for _ in range(3):
            writing = await pair.engine.write(["ab"], options=[LONG], call=call())
            await anext(writing)
            for guest in pair.owner._guests:
                guest.peer.close()
            with pytest.raises(Unavailable):
                await looks(writing)
            await until(lambda: pair.engine.ready)
        assert await mine == reference.answer(generator, "ab", {"seed": 5, "max_new_tokens": 300})
        await until(lambda: running(pair) == 0)


async def test_a_deadline_ends_a_text_after_what_was_written(tiny_zoo: Path) -> None:
    async with owned(tiny_zoo) as pair:
        writing = await pair.engine.write(["ab"], options=[LONG], call=call(timeout_s=0.1))
        seen: list[int] = []
        with pytest.raises(DeadlinePassed):  # noqa: PT012
            async for (delta,) in writing:
                seen += delta.tokens
        assert seen == writing.texts[0].tokens != []


async def test_an_owner_that_says_nothing_does_not_outlast_the_deadline(
    tiny_zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "GRACE_S", 0.05)
    async with owned(tiny_zoo) as pair:
        for guest in pair.owner._guests:
            monkeypatch.setattr(guest.peer, "_heard", lambda said: None)
        with pytest.raises(DeadlinePassed):
            await pair.engine.tag("the cat", call=call(timeout_s=0.1))


async def test_a_full_owner_refuses_and_says_when_it_has_room(tiny_zoo: Path) -> None:
    async with owned(tiny_zoo, queue_items=1, slots=1) as pair:
        engine = pair.engine
        one = await engine.write(["ab"], options=[LONG], call=call())
        await anext(one)  # on the table
        two = await engine.write(["ab"], options=[LONG], call=call())
        with pytest.raises(Overloaded, match="1 texts of"):  # over there: it was not known here
            await looks(await engine.write(["ab"], options=[LONG], call=call()))
        await until(lambda: engine.is_full("generate"))
        assert "1 texts of" in engine.overload("generate").message
        with pytest.raises(Overloaded):  # here, before anything is read
            await engine.write(["ab"], options=[LONG], call=call())
        await one.aclose()
        await two.aclose()
        await until(lambda: not engine.is_full("generate"))
        assert await engine.generate("ab", options=GenerateOptions(max_new_tokens=3), call=call())


async def test_an_owner_that_is_lost_fails_who_waits_and_is_found_again(tiny_zoo: Path, tagger: Bundle) -> None:
    async with owned(tiny_zoo) as pair:
        engine = pair.engine
        writing = await engine.write(["ab"], options=[LONG], call=call())
        await anext(writing)
        await pair.end()
        with pytest.raises(Unavailable, match="has ended: send the request again"):
            await looks(writing)
        assert not engine.ready
        with pytest.raises(Unavailable, match="is being started"):
            await engine.tag("the cat", call=call())
        os.unlink(pair.path)
        pair.owner, pair.server = await listen(pair.own, pair.path)
        await until(lambda: engine.ready)
        assert await engine.tag("the cat", call=call()) == reference.answer(tagger, "the cat")


async def test_an_owner_with_other_bundles_is_not_believed(tiny_zoo: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with owned(tiny_zoo) as pair:
        other = Hello({**pair.owner.hello.bundles, "tiny-tag": ("another digest", "fp32")})
        wrong = Connection(pair.path, other, clock=time.monotonic, start=Nobody())
        wrong.begin()
        await until(lambda: "has others than this worker" in caplog.text)
        assert not wrong.connected
        with pytest.raises(Unavailable):
            remote.Remote(wrong, "tiny-tag").check_room(1)
        wrong.close()
        settings = Settings(bundles=(str(tiny_zoo),), device="cpu")
        with pytest.raises(BundleError, match="has another 'tiny-tag': restart the service"):
            There(settings, wrong).open(tiny_zoo / "tiny-tag", Telemetry())
        nothing = Connection(pair.path, Hello({}), clock=time.monotonic, start=Nobody())
        with pytest.raises(BundleError, match="has no 'tiny-tag': give it the same bundles"):
            There(settings, nothing).open(tiny_zoo / "tiny-tag", Telemetry())


async def test_a_drain_answers_what_was_handed_over_and_takes_nothing_new(tiny_zoo: Path, tagger: Bundle) -> None:
    async with owned(tiny_zoo) as pair:
        waiting = asyncio.ensure_future(pair.engine.tag("the cat", call=call()))
        await asyncio.sleep(0)
        drain = asyncio.ensure_future(pair.engine.drain(5))
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="shutting down"):
            await pair.engine.tag("the cat", call=call())
        assert await waiting == reference.answer(tagger, "the cat")
        await drain
        await until(lambda: not pair.owner.guests)


async def test_a_bug_in_the_owner_fails_one_request(tiny_zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with owned(tiny_zoo) as pair:
        lane = pair.own.lanes["tiny-tag"]
        with monkeypatch.context() as patched:
            patched.setattr(type(lane.scheduler), "submit", lambda *_: 1 / 0)
            with pytest.raises(errors.InternalError):
                await pair.engine.tag("the cat", call=call())
        assert await pair.engine.tag("the cat", call=call())


def test_every_error_comes_back_as_it_was() -> None:
    samples: list[ServiceError] = [
        Overloaded("full", retry_after_s=1.5, limit=3),
        errors.InvalidRequest("bad", field="inputs", limit=2, value=[1]),
        errors.RateLimited("slowly", policy="p", limit=1, retry_after_s=0.5),
        Unavailable("later"),
        ClientGone(),
    ]
    for sample in samples:
        found = Error.of(sample).error()
        assert type(found) is type(sample)
        assert (found.message, found.details, str(found)) == (sample.message, sample.details, str(sample))


async def test_words_come_whole_however_they_are_cut() -> None:
    heard: list[Any] = []
    sent = bytearray()

    class Transport(asyncio.Transport):
        def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
            pass

        def writelines(self, parts: Any) -> None:
            sent.extend(b"".join(parts))

    one, other = Peer(heard.append, lambda: None), Peer(heard.append, lambda: None)
    one.say("before there is a connection")
    await asyncio.sleep(0)
    one.connection_made(Transport())
    one.say(1)
    one.say("x" * 1000)
    await asyncio.sleep(0)
    for at in range(0, len(sent), 7):
        other.data_received(bytes(sent[at : at + 7]))
    assert [word for words in heard for word in words] == ["before there is a connection", 1, "x" * 1000]
    with pytest.raises((TypeError, AttributeError)):
        one.say(lambda: "not to be pickled")
    one.connection_lost(None)
    one.say("nobody is there")
    await asyncio.sleep(0)
    assert len(heard) == 3


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_it_works_on_the_loop_of_tests_and_on_that_of_uvicorn(
    tiny_zoo: Path, tagger: Bundle, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def ask() -> Any:
        async with owned(tiny_zoo) as pair:
            return await pair.engine.tag("the cat", call=call())

    with asyncio.Runner(loop_factory=loop) as runner:
        assert runner.run(ask()) == reference.answer(tagger, "the cat")


async def test_nothing_is_left_of_a_request_that_was_answered(tiny_zoo: Path) -> None:
    async with owned(tiny_zoo) as pair:
        await pair.engine.tag("the cat", call=call())
        gc.collect()
        for _ in range(40):
            await pair.engine.tag("the cat", call=call())
        assert not any(guest._held for guest in pair.owner._guests)
        assert gc.collect() < 40


async def test_results_that_cannot_be_sent_fail_their_request_alone(
    tiny_zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with owned(tiny_zoo) as pair:
        task = pair.own.lanes["tiny-tag"].bundle.task
        with monkeypatch.context() as patched:
            patched.setattr(task, "decode", lambda items, outputs: [lambda: None for _ in items])
            with pytest.raises(errors.InternalError):
                await pair.engine.tag("the cat", model="tiny-tag", call=call())
        assert await pair.engine.tag("the cat", model="tiny-tag", call=call())


async def test_an_owner_that_is_silent_is_given_up(tiny_zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "SILENT_S", 0.2)
    monkeypatch.setattr("service.owner.serve.BEAT_S", 0.05)
    async with owned(tiny_zoo) as pair:
        await asyncio.sleep(0.4)
        assert pair.engine.ready  # it is heard of though nothing is asked
        for guest in pair.owner._guests:
            monkeypatch.setattr(guest.peer, "say", lambda word: None)
        await until(lambda: not pair.engine.ready)
        await until(lambda: pair.engine.ready)


async def test_the_time_of_several_tasks_on_one_request_adds_up(tiny_zoo: Path) -> None:
    async with owned(tiny_zoo) as pair:
        request = call()
        await pair.engine.tag("the cat", call=request)
        first_s = request.compute_s
        await pair.engine.classify("the cat", call=request)
        assert request.compute_s > first_s > 0


@pytest.mark.parametrize("mode", [0o755, 0o701])
def test_a_socket_where_others_may_come_is_refused(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(mode)
    settings = Settings(bundles=(str(tmp_path),), owner=f"{folder}/owner")
    with pytest.raises(BadSetting, match="others may enter"):
        place_of(settings)
    with pytest.raises(BadSetting, match="needs `bentoml serve`"):
        place_of(Settings(bundles=(str(tmp_path),), owner="auto"))


def test_a_path_that_is_too_long_is_told_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with pytest.raises(BadSetting, match="set TMPDIR to a shorter one"):
        start.new_socket()
    assert list(deep.iterdir()) == []


def test_an_owner_takes_away_only_a_directory_that_was_made_for_it(tmp_path: Path) -> None:
    made, given = start.new_socket(), str(tmp_path / "seqserve-own" / "owner")
    start.check_private(given)
    for path in (made, given):
        with only_one(path) as lock:
            assert lock is not None
            start.forget_socket(path)
        assert not os.path.exists(f"{path}.lock")
    assert not os.path.exists(os.path.dirname(made))
    assert os.path.isdir(os.path.dirname(given))


def test_an_owner_can_be_started_where_the_last_one_took_its_directory_away(tmp_path: Path) -> None:
    path = str(tmp_path / "gone" / "owner")
    starter = start.Starter(path, [sys.executable, "-c", ""])
    starter()
    assert starter.process is not None
    assert starter.process.wait(30) == 0


def test_of_several_owners_that_start_at_once_one_stays(tmp_path: Path) -> None:
    path = str(tmp_path / "owner")
    with only_one(path) as first, only_one(path) as second:
        assert first is not None
        assert second is None
    with only_one(path) as again:
        assert again is not None


def test_the_lock_of_an_owner_that_has_ended_is_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, take = str(tmp_path / "owner"), fcntl.flock

    def late(lock: IO[str], how: int) -> None:
        """The owner ends, and its file with it, between the opening of it and this."""
        Path(f"{path}.lock").unlink()
        take(lock, how)

    monkeypatch.setattr("service.owner.start.fcntl.flock", late)
    with only_one(path) as lock:
        assert lock is None


def test_an_owner_that_cannot_start_is_told(tmp_path: Path) -> None:
    path = str(tmp_path / "owner")
    with pytest.raises(OwnerFailed, match="ended with status 3"):
        meet(path, Starter(path, [sys.executable, "-c", "raise SystemExit(3)"]), timeout_s=30)
    slow = Starter(path, [sys.executable, "-c", "import time; time.sleep(0.5)"])
    with pytest.raises(TimeoutError, match=r"was not ready within 0\.1 s"):
        meet(path, slow, timeout_s=0.1)
    assert slow.process is not None
    assert slow.process.wait(30) == 0


def test_nobody_starts_an_owner_where_one_is_loading(tmp_path: Path) -> None:
    path = str(tmp_path / "owner")
    # Its first moments are those of an owner that has not come to its first line: nobody else starts one in them.
    program = f"import sys; from service.owner.start import keep_given; sys.exit(not keep_given({path!r}))"
    begin, other = (Starter(path, [sys.executable, "-c", program]) for _ in range(2))
    with only_one(path):
        begin()
        assert begin.process is None
    begin()
    other()
    assert begin.process is not None
    assert other.process is None
    assert begin.process.wait(30) == 0
    other()
    assert other.process is not None
    assert other.process.wait(30) == 0


def test_an_owner_needs_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings(owner="/run/owner").owner_socket == "/run/owner"
    assert Settings(owner="auto").owner_socket is None
    with pytest.raises(BadSetting, match="SEQSERVE_OWNER=both is not allowed"):
        Settings.read({"SEQSERVE_OWNER": "both"})
    done = subprocess.run(
        [sys.executable, "-m", "service", "own"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, "is no path of a socket" in done.stderr) == (1, True)


def test_the_process_serves_whoever_comes_and_ends_when_all_have_gone(
    tiny_zoo: Path, tagger: Bundle, tmp_path: Path
) -> None:
    path = start.new_socket()
    environ = {"SEQSERVE_BUNDLES": str(tiny_zoo), "SEQSERVE_DEVICE": "cpu", "SEQSERVE_OWNER": path}
    processes: list[subprocess.Popen[bytes]] = []

    def begin() -> None:
        if not processes:
            processes.append(
                subprocess.Popen([sys.executable, "-m", "service", "own"], cwd=ROOT, env={**os.environ, **environ})
            )

    async def ask(hello: Hello) -> Any:
        settings = Settings.read(environ)
        engine = Engine.open(
            settings, Telemetry(), There(settings, Connection(path, hello, clock=time.monotonic, start=Nobody()))
        )
        engine.begin()
        await until(lambda: engine.ready)
        try:
            return await engine.tag("the cat", call=call())
        finally:
            await engine.drain(5)

    hello = meet(path, begin)
    try:
        assert hello.bundles["tiny-tag"][0] == tagger.digest
        assert asyncio.run(ask(hello)) == reference.answer(tagger, "the cat")
        assert processes[0].wait(30) == 0
        assert not os.path.exists(os.path.dirname(path))
    finally:
        processes[0].kill()
        processes[0].wait()
