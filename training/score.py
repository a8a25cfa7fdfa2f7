"""The score of a bundle, through `models`: the path that is served, not the network that was trained.

Knows bundles and examples. Does not know torch.
"""

import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from models import state
from models.bundle import Bundle
from models.codecs.base import UNKNOWN
from models.tasks import Classification, Generation, Joint, Tagging
from training import metrics
from training.batches import bucket_by_length
from training.data.examples import SequenceExample, inputs_of
from training.metrics import ExampleLabels

CHUNK = 1000  # characters a call when a text is scored
TIMED_SEQUENCES, TIMED_CHARACTERS, REPEATS = 256, 256, 5


def score(bundle: Bundle, dev: Any) -> dict[str, float]:
    """The scores of metrics.rate on all of `dev`, or nats a character for a language model."""
    if isinstance(bundle.task, Generation):
        return {metrics.NATS: round(_nats(bundle, bundle.task, dev), 4)}
    manifest = bundle.manifest
    scores = metrics.score_labels(
        manifest.task, manifest.labels, [ExampleLabels.of(example) for example in dev], answers(bundle, dev)
    )
    return {name: round(value, 2) for name, value in scores.items()}


def answers(bundle: Bundle, examples: Sequence[SequenceExample]) -> list[ExampleLabels]:
    """What the bundle answers, in the order of the examples; batches are sorted by length."""
    task = bundle.task
    assert not isinstance(task, Generation)
    items = [task.encode(inputs_of(example)) for example in examples]
    found = [ExampleLabels()] * len(items)
    for group in bucket_by_length([item.length for item in items], 1024, None):
        batch = [items[index] for index in group]
        rows: Sequence[Any] = task.decode(batch, bundle.model.run(task.collate(batch)))
        for index, row in zip(group, rows, strict=True):
            found[index] = _answer(task, row)
    return found


def _answer(task: Tagging | Classification | Joint, row: Any) -> ExampleLabels:
    if isinstance(task, Joint):
        return ExampleLabels(
            steps=_answer(task.tagging, row.tags).steps, text=_answer(task.classification, row.text).text
        )
    if isinstance(task, Tagging):
        return ExampleLabels(steps=tuple(task.labels[label] for label in row.labels))
    return ExampleLabels(text=task.labels[int(np.argmax(row))])


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
        log_probabilities, *after = bundle.model.run_list(feeds)
        memory = tuple(after)
        known = targets != UNKNOWN
        total -= float(log_probabilities[np.arange(len(targets)), 0, targets][known].sum())
        counted += int(known.sum())
    return total / counted


def milliseconds(bundle: Bundle, dev: Any) -> dict[str, float]:
    """Milliseconds for one sequence (generation: one token) in batches of 1 and 16, median of several passes.

    One thread, the network alone, sequences of like length together: what the scheduler strives for.
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
            (task.encode(inputs_of(example)) for example in dev[:TIMED_SEQUENCES]),
            key=lambda item: item.length,
        )
        items = len(encoded)
        calls = [task.collate(encoded[start : start + size]) for start in range(0, items, size)]
    passes = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        for feeds in calls:
            bundle.model.run_list(feeds)
        passes.append(time.perf_counter() - started)
    return 1e3 * statistics.median(passes) / items
