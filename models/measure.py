"""What a bundle does on a device: whether its examples come out right, whether rows keep their bits, how fast it is.

Answers for every variant that the bundle has. Knows bundles and a clock; knows no service: what a request costs beside
the network is loadtest's affair.  T steps, B rows.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models import bundle, self_test
from models import state as states
from models.bundle import Bundle
from models.manifest import BundleError
from models.onnx_session import Placement
from models.padding import pad
from models.tasks import Generation

ROWS = (1, 16, 64, 256)
ROUNDS = 7  # of each figure, whose median is taken
ROUND_S = 0.15
STEPS = 32  # of a row of a language model in one figure

Outputs = list[np.ndarray[Any, Any]]


def measure(path: Path, placement: Placement, rows: Sequence[int] = ROWS) -> list[dict[str, Any]]:
    """One entry a variant: its device, its self-test, and for each number of rows items (or tokens) a second."""
    found = []
    for variant in bundle.load(path, placement=Placement(device="cpu")).manifest.variants:
        loaded = bundle.load(path, variant=variant, placement=placement)
        entry: dict[str, Any] = {"bundle": loaded.manifest.name, "variant": variant, "device": loaded.model.device}
        try:
            self_test.run(loaded)
            entry["self_test"] = "passed"
        except BundleError as error:
            entry["self_test"] = str(error)
        run = _steps if isinstance(loaded.task, Generation) else _whole
        entry["unit"] = "tokens" if isinstance(loaded.task, Generation) else "inputs"
        alone = run(loaded, 1)()
        entry["same_bits"] = {count: _alike(alone, run(loaded, count)()) for count in rows if count > 1}
        entry["per_s"] = {count: round(_rate(run(loaded, count), _items(loaded, count)), 1) for count in rows}
        found.append(entry)
    return found


def _whole(loaded: Bundle, rows: int) -> Callable[[], Outputs]:
    """A run over the longest example, in `rows` rows; its outputs for the first row alone."""
    task = loaded.task
    assert not isinstance(task, Generation)
    items = [task.encode(example.inputs) for example in loaded.manifest.examples]
    feeds = task.collate([max(items, key=lambda item: item.length)] * rows)
    return lambda: [_first(array, rows) for array in loaded.model.run(feeds).values()]


def _first(array: np.ndarray[Any, Any], rows: int) -> np.ndarray[Any, Any]:
    """The first row of an output (B, …) or (T, B, …)."""
    return array[0] if len(array) == rows and array.ndim == 2 else array[:, 0]


def _steps(loaded: Bundle, rows: int) -> Callable[[], Outputs]:
    """The example read in one call, then STEPS greedy steps, in `rows` rows; what the first row came to."""
    task = loaded.task
    assert isinstance(task, Generation)
    prompt = task.encode(loaded.manifest.examples[0].inputs).rows
    tokens, lengths = pad([prompt] * rows)
    ones = np.ones(rows, np.int32)

    def run() -> Outputs:
        run_list, state = loaded.model.run_list, states.zeros(task.state, rows)
        following, state = task.advance(run_list, tokens, lengths, state)
        for _ in range(STEPS):
            best = following.argmax(axis=1).astype(np.int32)
            following, state = task.advance(run_list, best[None, :], ones, state)
        return [following[0], *(part[0] for part in state)]

    return run


def _items(loaded: Bundle, rows: int) -> int:
    return rows * STEPS if isinstance(loaded.task, Generation) else rows


def _alike(alone: Outputs, together: Outputs) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))


def _rate(run: Callable[[], Outputs], items: int) -> float:
    """Items a second, the median of ROUNDS rounds."""
    run()
    rates = []
    for _ in range(ROUNDS):
        count, started = 0, time.perf_counter()
        while not count or time.perf_counter() - started < ROUND_S:
            run()
            count += 1
        rates.append(count * items / (time.perf_counter() - started))
    return statistics.median(rates)
