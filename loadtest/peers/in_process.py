"""What the network does with nobody in between: the reference of `loadtest limits`. A program under test: see peers.

python -m loadtest.peers.in_process bulk|steps < texts.json: prints one JSON object. One thread, as the service has it.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from loadtest.peers.tagger import BUNDLE, VARIANT
from models import state
from models.bundle import load
from models.sampling import Sampling
from models.tasks.generate import Chooser, GenerateOptions

ROUNDS = 5
BATCHES = (8, 16, 32)  # rows of a sorted batch: the fastest is the reference
FIRST_COME = 32
STEPS = 200


def bulk(texts: Sequence[str]) -> dict[str, Any]:
    """Sentences/s in batches sorted by length, of the session alone and with all that a service has to do besides."""
    bundle = load(BUNDLE, variant=VARIANT)
    task: Any = bundle.task

    def session_alone(items: Sequence[Any]) -> Callable[[int], None]:
        feeds = {rows: [task.collate(items[at : at + rows]) for at in range(0, len(items), rows)] for rows in BATCHES}

        def go(rows: int) -> None:
            for feed in feeds[rows]:
                bundle.network.run(feed)

        return go

    def everything(rows: int) -> None:
        items = sorted((task.encode(text) for text in texts), key=lambda item: int(item.length))
        for at in range(0, len(items), rows):
            batch = items[at : at + rows]
            outputs = bundle.network.run(task.collate(batch))
            decoded = zip(batch, task.decode(batch, outputs), strict=True)
            json.dumps([task.answer(item, row) for item, row in decoded])

    items = sorted((task.encode(text) for text in texts), key=lambda item: int(item.length))
    alone = [_seconds(session_alone(items), rows) for rows in BATCHES]
    whole = [_seconds(everything, rows) for rows in BATCHES]
    return {
        "session_per_s": len(texts) / min(each.median for each in alone),
        "session_best_per_s": len(texts) / min(each.best for each in alone),
        "everything_per_s": len(texts) / min(each.median for each in whole),
        "first_come_waste": _first_come([task.encode(text).length for text in texts]),
    }


def _first_come(lengths: Sequence[int]) -> float:
    """The share of padding in batches of FIRST_COME, in the order of arrival."""
    batches = [lengths[at : at + FIRST_COME] for at in range(0, len(lengths), FIRST_COME)]
    return 1 - sum(lengths) / sum(len(batch) * max(batch) for batch in batches)


def steps(rows: int) -> dict[str, Any]:
    """Tokens/s of a loop of steps over `rows` texts: the network alone, and with the draw of each token."""
    bundle = load(BUNDLE, variant=VARIANT)
    task: Any = bundle.task
    lengths = np.ones(rows, np.int32)

    def network(count: int) -> None:
        tokens, memory = np.full((1, rows), 5, np.int32), state.zeros(task.state, rows)
        for _ in range(count):
            _, memory = task.advance(bundle.network.run_lean, tokens, lengths, memory)

    def draws(count: int) -> None:
        asked = [
            GenerateOptions(max_new_tokens=count + 1, sampling=Sampling(temperature=0.8, seed=n)) for n in range(rows)
        ]
        texts = [task.start("", options) for options in asked]
        chooser = Chooser(texts)
        tokens, memory = np.full((1, rows), 5, np.int32), state.zeros(task.state, rows)
        for _ in range(count):
            following, memory = task.advance(bundle.network.run_lean, tokens, lengths, memory)
            chosen = chooser.choose(following)
            for text, token in zip(texts, chosen.tolist(), strict=True):
                text.push(token)
            tokens = chosen.astype(np.int32)[None, :]

    alone = _seconds(network, STEPS)
    return {
        "network_per_s": rows * STEPS / alone.median,
        "network_best_per_s": rows * STEPS / alone.best,
        "with_draws_per_s": rows * STEPS / _seconds(draws, STEPS).median,
    }


class Seconds(NamedTuple):
    """Of ROUNDS rounds: what it is compared with is a median, too, and on a shared machine the best one is luck."""

    median: float
    best: float


def _seconds(work: Callable[[int], None], argument: int) -> Seconds:
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        work(argument)
        times.append(time.perf_counter() - started)
    return Seconds(statistics.median(times), min(times))


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    print(json.dumps(bulk(asked) if sys.argv[1] == "bulk" else steps(asked)))
