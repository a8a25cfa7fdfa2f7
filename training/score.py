"""The score of a bundle, through `models`: the path that is served, not the network that was trained.

Knows bundles and examples. Does not know torch.
"""

import math
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from models import state
from models.bundle import Bundle
from models.codecs.characters import UNKNOWN
from models.tasks import Classification, Generation, Tagging
from training.batches import buckets
from training.data.examples import Labelled, Tagged

CHUNK = 1000  # characters a call when a text is scored
TIMED_SENTENCES, TIMED_CHARACTERS, REPEATS = 256, 256, 5


def score(bundle: Bundle, dev: Any) -> dict[str, float]:
    """Percentages for tagging and classification, nats a character for a language model, on all of `dev`."""
    if isinstance(bundle.task, Generation):
        return {"nats_per_character": round(_nats(bundle, bundle.task, dev), 4)}
    right, total = 0, 0
    for item, answer in zip(dev, answers(bundle, dev), strict=True):
        expected = item.tags if isinstance(item, Tagged) else (item.label,)
        right += sum(a == b for a, b in zip(answer, expected, strict=True))
        total += len(expected)
    return {"accuracy": round(100 * right / total, 2)}


def answers(bundle: Bundle, examples: Sequence[Tagged | Labelled]) -> list[tuple[str, ...]]:
    """The labels that the bundle gives, in the order of the examples; batches are sorted by length."""
    task = bundle.task
    assert isinstance(task, Tagging | Classification)
    items = [task.encode(e.tokens if isinstance(e, Tagged) else e.text) for e in examples]
    found: list[tuple[str, ...]] = [()] * len(items)
    for group in buckets([item.length for item in items], 1024, None):
        batch = [items[index] for index in group]
        rows = task.decode(batch, bundle.network.run(task.collate(batch)))
        for index, row in zip(group, rows, strict=True):
            labels = row.labels if isinstance(task, Tagging) else [int(np.argmax(row))]
            found[index] = tuple(task.labels[label] for label in labels)
    return found


def _nats(bundle: Bundle, task: Generation, text: str) -> float:
    """Mean negative log-likelihood of every character after the first, one stream, the state carried on.

    Characters that training never saw have no probability; they are read, but not counted.
    """
    rows = task.encode(text).rows
    memory, total, counted = state.zeros(task.state, 1), 0.0, 0
    for start in range(0, len(rows) - 1, CHUNK):
        inputs, targets = rows[start : start + CHUNK], rows[start + 1 : start + CHUNK + 1]
        inputs = inputs[: len(targets)]
        feeds: dict[str, Any] = {"characters": inputs[:, None], "lengths": np.array([len(inputs)], np.int32)}
        feeds |= {tensor.input: part for tensor, part in zip(task.state, memory, strict=True)}
        log_probabilities, *after = bundle.network.run_lean(feeds)
        memory = tuple(after)
        known = targets != UNKNOWN
        total -= float(log_probabilities[np.arange(len(targets)), 0, targets][known].sum())
        counted += int(known.sum())
    return total / counted


def milliseconds(bundle: Bundle, dev: Any) -> dict[str, float]:
    """Milliseconds for one sentence (generation: one token) in batches of 1 and 16, median of several passes.

    One thread, the network alone, sentences of like length together: what the scheduler strives for.
    """
    return {f"batch_{size}": round(_milliseconds(bundle, dev, size), 4) for size in (1, 16)}


def _milliseconds(bundle: Bundle, dev: Any, size: int) -> float:
    task, calls = bundle.task, []
    if isinstance(task, Generation):
        rows = task.encode(dev[:TIMED_CHARACTERS]).rows
        memory = dict(zip((t.input for t in task.state), state.zeros(task.state, size), strict=True))
        lengths = np.ones(size, np.int32)
        calls = [{"characters": np.full((1, size), row, np.int32), "lengths": lengths, **memory} for row in rows]
        items = size * len(rows)
    else:
        encoded = sorted(
            (task.encode(e.tokens if isinstance(e, Tagged) else e.text) for e in dev[:TIMED_SENTENCES]),
            key=lambda item: item.length,
        )
        items = len(encoded)
        calls = [task.collate(encoded[start : start + size]) for start in range(0, items, size)]
    passes = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        for feeds in calls:
            bundle.network.run_lean(feeds)
        passes.append(time.perf_counter() - started)
    return 1e3 * statistics.median(passes) / items


def loses_little(metric: str, exact: float, quantised: float) -> bool:
    """Whether the int8 variant may be the default: at most 0.3 points or 0.01 nats worse than fp32."""
    if metric == "nats_per_character":
        return math.isfinite(quantised) and round(quantised - exact, 6) <= 0.01
    return round(exact - quantised, 6) <= 0.3


def better(metric: str, new: float, old: float) -> bool:
    return new < old if metric == "nats_per_character" else new > old
