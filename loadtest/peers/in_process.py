"""What the network does with nobody in between: the reference of `loadtest limits`. A program under test: see peers.

python -m loadtest.peers.in_process bulk|steps: reads JSON, the texts or the rows of a table, from the first line that
it is sent and prints what holds of them; then, for every further line, takes a turn and prints its figures as JSON.
One thread, as the service has it.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast

import numpy as np

from loadtest.peers.tagger import BUNDLE, VARIANT, entities
from models import state
from models.bundle import load
from models.sampling import SamplingOptions
from models.tasks.generate import GenerateOptions, TokenSampler

BATCHES = (8, 16, 32)  # rows of a sorted batch: the fastest is the reference
WARM = 3
FIRST_COME = 32
STEPS = 100  # of a turn


class Reference(Protocol):
    """`about` is told once, `turn` again and again: items per second by what is done."""

    @property
    def about(self) -> Mapping[str, Any]: ...

    def turn(self) -> dict[str, float]: ...


class Bulk:
    """Sentences/s in batches sorted by length, of the session alone and with all that a service has to do besides."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._bundle = load(BUNDLE, variant=VARIANT)
        self._task = cast(Any, self._bundle.task)
        self._texts = texts
        items, collate = self._sorted(), self._task.collate
        self._feeds = {rows: [collate(items[at : at + rows]) for at in range(0, len(items), rows)] for rows in BATCHES}
        # By the best of a few: what others of this machine take time from is not slower for that.
        self._alone_rows = min(BATCHES, key=lambda rows: min(_seconds(self._alone, rows) for _ in range(WARM)))
        self._whole_rows = min(BATCHES, key=lambda rows: min(_seconds(self._everything, rows) for _ in range(WARM)))
        self.about = {"first_come_waste": _first_come([self._task.encode(text).length for text in texts])}

    def turn(self) -> dict[str, float]:
        return {
            "session_per_s": len(self._texts) / _seconds(self._alone, self._alone_rows),
            "everything_per_s": len(self._texts) / _seconds(self._everything, self._whole_rows),
        }

    def _sorted(self) -> list[Any]:
        return sorted((self._task.encode(text) for text in self._texts), key=lambda item: int(item.length))

    def _alone(self, rows: int) -> None:
        for feed in self._feeds[rows]:
            self._bundle.model.run(feed)

    def _everything(self, rows: int) -> None:
        items = self._sorted()
        for at in range(0, len(items), rows):
            batch = items[at : at + rows]
            outputs = self._bundle.model.run(self._task.collate(batch))
            decoded = zip(batch, self._task.decode(batch, outputs), strict=True)
            json.dumps([entities(self._task, item, row) for item, row in decoded])


def _first_come(lengths: Sequence[int]) -> float:
    """The share of padding in batches of FIRST_COME, in the order of arrival."""
    batches = [lengths[at : at + FIRST_COME] for at in range(0, len(lengths), FIRST_COME)]
    return 1 - sum(lengths) / sum(len(batch) * max(batch) for batch in batches)


class Steps:
    """Tokens/s of a loop of steps over `rows` texts: the network alone, and with the draw of each token."""

    def __init__(self, rows: int) -> None:
        self._bundle = load(BUNDLE, variant=VARIANT)
        self._task = cast(Any, self._bundle.task)
        self._rows, self._lengths = rows, np.ones(rows, np.int32)
        for _ in range(WARM):
            self.turn()
        self.about: dict[str, Any] = {}

    def turn(self) -> dict[str, float]:
        tokens = self._rows * STEPS
        return {
            "network_per_s": tokens / _seconds(self._network, STEPS),
            "with_draws_per_s": tokens / _seconds(self._draws, STEPS),
        }

    def _begin(self) -> tuple[Any, Any]:
        return np.full((1, self._rows), 5, np.int32), state.zeros(self._task.state, self._rows)

    def _network(self, count: int) -> None:
        tokens, memory = self._begin()
        for _ in range(count):
            _, memory = self._task.advance(self._bundle.model.run_list, tokens, self._lengths, memory)

    def _draws(self, count: int) -> None:
        texts = [
            self._task.start(
                "", GenerateOptions(max_new_tokens=count + 1, sampling=SamplingOptions(temperature=0.8, seed=seed))
            )
            for seed in range(self._rows)
        ]
        sampler = TokenSampler(texts)
        tokens, memory = self._begin()
        for _ in range(count):
            following, memory = self._task.advance(self._bundle.model.run_list, tokens, self._lengths, memory)
            chosen = sampler.sample(following)
            for text, token in zip(texts, chosen.tolist(), strict=True):
                text.append(token)
            tokens = chosen.astype(np.int32)[None, :]


def _seconds(work: Callable[[int], None], argument: int) -> float:
    started = time.perf_counter()
    work(argument)
    return time.perf_counter() - started


KINDS: Mapping[str, Callable[[Any], Reference]] = {"bulk": Bulk, "steps": Steps}

if __name__ == "__main__":
    reference = KINDS[sys.argv[1]](json.loads(sys.stdin.readline()))
    print(json.dumps(reference.about), flush=True)
    for _ in sys.stdin:
        print(json.dumps(reference.turn()), flush=True)
