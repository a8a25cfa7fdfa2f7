"""State tokens across replicas: a text continues from its token on any replica, and a forged token is refused.

Each text is generated whole, and up to a random cut with a token. The same replica continues half of the tokens, and
another replica with the same key continues the rest. The full mode has 10,000 texts and 100,000 forged tokens.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import pytest

from loadtest.http_client import ServiceAddress, request_bytes
from loadtest.load_loops import percentile, run_loop
from loadtest.payloads import ServedModel
from tests.support.live_service import FULL, STATE_KEY, LiveService, run_live_service
from tests.support.raw_http import RawConnection

T = TypeVar("T")
R = TypeVar("R")
TEXTS, FORGED = (10_000, 100_000) if FULL else (60, 300)
AT_ONCE = 32
FORGERS = 8  # connections; more would measure their own queue
MAX_TOKENS = 64
SLOWEST_MS, P99_MS = 100.0, 20.0
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@dataclass(frozen=True, kw_only=True)
class SplitText:
    """A text of `tokens`, cut after `cut` of them."""

    model: str
    prompt: str
    tokens: int
    cut: int
    sampling: Mapping[str, Any]
    seed: int | None

    def body(self, tokens: int, **more: Any) -> bytes:
        """Return the request for the first `tokens`, or with `state`, for those that follow it."""
        seed = {} if self.seed is None or "state" in more else {"seed": self.seed}
        parameters = {**self.sampling, **seed, "max_new_tokens": tokens, "details": True, **more}
        inputs = "" if "state" in more else self.prompt
        return json.dumps({"inputs": inputs, "model": self.model, "parameters": parameters}).encode()


@dataclass(frozen=True, kw_only=True)
class StartedText:
    """A split text with its whole answer, its first part and the token."""

    split: SplitText
    whole: str
    first: str
    state: str
    ended: bool  # the model ended the text before the cut


def split_texts(models: Sequence[ServedModel], count: int) -> Iterator[SplitText]:
    """Yield texts of all generating models, greedy or sampled with a seed."""
    random, writers = Random("splits"), [model for model in models if model.task == "generate"]
    for _ in range(count):
        model, tokens = random.choice(writers), random.randint(2, MAX_TOKENS)
        greedy = random.random() < 0.3
        sampled = {"temperature": random.choice((0.7, 1.0)), "top_p": random.choice((0.9, 1.0))}
        yield SplitText(
            model=model.id,
            prompt=" ".join(random.choices(model.words, k=random.randint(1, 6))),
            tokens=tokens,
            cut=random.randint(1, tokens - 1),
            sampling={"temperature": 0.0} if greedy else sampled,
            seed=None if greedy else random.randrange(1 << 32),
        )


async def generate(address: ServiceAddress, body: bytes) -> dict[str, Any]:
    """Send a request on a connection of its own, so that any worker may get it."""
    connection = await RawConnection.open(address)
    try:
        reply = await connection.ask(request_bytes(address, "/v1/generate", body))
    finally:
        connection.close()
    assert reply.status == 200, reply.body[:300]
    answer = reply.json()
    assert isinstance(answer, dict)
    return answer


async def start_text(address: ServiceAddress, split: SplitText) -> StartedText:
    whole = await generate(address, split.body(split.tokens))
    first = await generate(address, split.body(split.cut, return_state=True))
    return StartedText(
        split=split,
        whole=whole["generated_text"],
        first=first["generated_text"],
        state=first["state"],
        ended=first["details"]["finish_reason"] == "eos",
    )


async def continues(address: ServiceAddress, text: StartedText) -> bool:
    """Return whether the first part and its continuation are the whole text."""
    if text.ended:
        return text.first == text.whole
    split = text.split
    rest = await generate(address, split.body(split.tokens - split.cut, state=text.state))
    return bool(text.first + rest["generated_text"] == text.whole)


def run_all(items: Sequence[T], run: Callable[[T], Awaitable[R]]) -> list[R]:
    """Run `run` for every item, AT_ONCE at a time."""
    found: dict[int, R] = {}
    queue = iter(enumerate(items))

    async def work() -> None:
        for number, item in queue:
            found[number] = await run(item)

    async def main() -> None:
        await asyncio.gather(*(work() for _ in range(AT_ONCE)))

    run_loop(main())
    return [found[number] for number in range(len(items))]


@pytest.fixture(scope="module")
def started_texts(live_service: LiveService) -> list[StartedText]:
    splits = list(split_texts(live_service.models, TEXTS))
    return run_all(splits, lambda split: start_text(live_service.address, split))


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory, live_bundles: tuple[Path, ...]) -> Iterator[LiveService]:
    """Another process with the same key."""
    folder, workers = tmp_path_factory.mktemp("replica"), "2" if FULL else "1"
    with run_live_service(folder, *live_bundles, state_key=STATE_KEY, workers=workers) as service:
        yield service


def test_text_continues_from_its_token(live_service: LiveService, started_texts: list[StartedText]) -> None:
    half = started_texts[: len(started_texts) // 2]
    assert all(run_all(half, lambda text: continues(live_service.address, text)))


def test_text_continues_on_another_replica(replica: LiveService, started_texts: list[StartedText]) -> None:
    half = started_texts[len(started_texts) // 2 :]
    assert all(run_all(half, lambda text: continues(replica.address, text)))


def forge(state: str, other: str, random: Random) -> str:
    """Return `state` with one change. `other` is another valid token."""
    while True:
        at = random.randrange(len(state))
        changes = (
            state[:at] + random.choice(ALPHABET) + state[at + 1 :],
            state[:-1] + random.choice(ALPHABET),  # its last bits may be padding
            state[:at] + state[at + 1 :],
            state[:at] + random.choice(ALPHABET) + state[at:],
            state[:at],
            state[:at] + other[at:],
            state + random.choice(("=", "==", "A", " ", "\n")),
            state[at:] + state[:at],
            state.swapcase(),
        )
        found = random.choice(changes)
        if found not in (state, other):
            return found


def test_forged_tokens_are_refused(live_service: LiveService, started_texts: list[StartedText]) -> None:
    random, address = Random("forged"), live_service.address

    async def forger(count: int) -> list[tuple[int, float]]:
        connection, found = await RawConnection.open(address), []
        for _ in range(count):
            text, other = random.choices(started_texts, k=2)
            body = text.split.body(1, state=forge(text.state, other.state, random))
            started_s = time.perf_counter()
            reply = await connection.ask(request_bytes(address, "/v1/generate", body))
            found.append((reply.status, (time.perf_counter() - started_s) * 1000))
        connection.close()
        return found

    async def main() -> list[list[tuple[int, float]]]:
        return await asyncio.gather(*(forger(FORGED // FORGERS) for _ in range(FORGERS)))

    refusals = [each for part in run_loop(main()) for each in part]
    assert {status for status, _ in refusals} == {422}
    if FULL:
        times = sorted(ms for _, ms in refusals)
        assert percentile(times, 99) <= P99_MS
        assert times[-1] <= SLOWEST_MS
