"""The model without a service: the reference of `limits`. One thread, as in the service.

python -m loadtest.peers.in_process bulk|steps

The first line of stdin is JSON: the texts (bulk) or the number of rows (steps). The reply is a line with constant
figures. Every further line starts a measurement, whose figures are printed as one line of JSON.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from loadtest.peers.tagger import BUNDLE, VARIANT, entities
from models import state
from models.bundle import load
from models.sampling import SamplingOptions
from models.tasks.generate import GenerateOptions, TokenSampler

BATCHES = (8, 16, 32)  # rows of a sorted batch; the fastest is the reference
WARMUP_RUNS = 3
FIRST_COME = 32
STEPS = 100  # per measurement


class BulkReference:
    """Sentences/s in batches sorted by length: the session alone, and with encoding, decoding and JSON."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._bundle = load(BUNDLE, variant=VARIANT)
        self._task = cast(Any, self._bundle.task)
        self._texts = texts
        items, collate = self._sorted(), self._task.collate
        self._feeds = {rows: [collate(items[at : at + rows]) for at in range(0, len(items), rows)] for rows in BATCHES}
        self._session_rows = self._fastest(self._run_session)
        self._all_rows = self._fastest(self._run_all)
        lengths = [self._task.encode(text).length for text in texts]
        batches = [lengths[at : at + FIRST_COME] for at in range(0, len(lengths), FIRST_COME)]
        padded = sum(len(batch) * max(batch) for batch in batches)
        self.about = {"first_come_waste": 1 - sum(lengths) / padded}

    def turn(self) -> dict[str, float]:
        return {
            "session_per_s": len(self._texts) / _seconds(self._run_session, self._session_rows),
            "everything_per_s": len(self._texts) / _seconds(self._run_all, self._all_rows),
        }

    def _fastest(self, run: Callable[[int], None]) -> int:
        """Return the fastest number of rows by the best of a few runs, which other processes disturb least."""
        return min(BATCHES, key=lambda rows: min(_seconds(run, rows) for _ in range(WARMUP_RUNS)))

    def _sorted(self) -> list[Any]:
        return sorted((self._task.encode(text) for text in self._texts), key=lambda item: int(item.length))

    def _run_session(self, rows: int) -> None:
        for feed in self._feeds[rows]:
            self._bundle.model.run(feed)

    def _run_all(self, rows: int) -> None:
        items = self._sorted()
        for at in range(0, len(items), rows):
            batch = items[at : at + rows]
            outputs = self._bundle.model.run(self._task.collate(batch))
            decoded = zip(batch, self._task.decode(batch, outputs), strict=True)
            json.dumps([entities(self._task, item, row) for item, row in decoded])


class StepsReference:
    """Tokens/s of decoding steps over `rows` texts: the model alone, and with sampling."""

    def __init__(self, rows: int) -> None:
        self._bundle = load(BUNDLE, variant=VARIANT)
        self._task = cast(Any, self._bundle.task)
        self._rows, self._lengths = rows, np.ones(rows, np.int32)
        for _ in range(WARMUP_RUNS):
            self.turn()
        self.about: dict[str, Any] = {}

    def turn(self) -> dict[str, float]:
        tokens = self._rows * STEPS
        return {
            "network_per_s": tokens / _seconds(self._run_model, STEPS),
            "with_sampling_per_s": tokens / _seconds(self._run_sampling, STEPS),
        }

    def _begin(self) -> tuple[Any, Any]:
        return np.full((1, self._rows), 5, np.int32), state.zeros(self._task.state, self._rows)  # (1, B)

    def _run_model(self, count: int) -> None:
        tokens, memory = self._begin()
        for _ in range(count):
            _, memory = self._task.advance(self._bundle.model.run_list, tokens, self._lengths, memory)

    def _run_sampling(self, count: int) -> None:
        options = (SamplingOptions(temperature=0.8, seed=seed) for seed in range(self._rows))
        texts = [
            self._task.start("", GenerateOptions(max_new_tokens=count + 1, sampling=sampling)) for sampling in options
        ]
        sampler = TokenSampler(texts)
        tokens, memory = self._begin()
        for _ in range(count):
            logits, memory = self._task.advance(self._bundle.model.run_list, tokens, self._lengths, memory)
            sampled = sampler.sample(logits)
            for text, token in zip(texts, sampled.tolist(), strict=True):
                text.append(token)
            tokens = sampled.astype(np.int32)[None, :]  # (1, B)


def _seconds(work: Callable[[int], None], argument: int) -> float:
    started = time.perf_counter()
    work(argument)
    return time.perf_counter() - started


if __name__ == "__main__":
    made: BulkReference | StepsReference
    argument = json.loads(sys.stdin.readline())
    made = BulkReference(argument) if sys.argv[1] == "bulk" else StepsReference(argument)
    print(json.dumps(made.about), flush=True)
    for _ in sys.stdin:
        print(json.dumps(made.turn()), flush=True)
