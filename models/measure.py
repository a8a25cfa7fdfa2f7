"""Measure each variant of a bundle on a device: self-test, bit equality of rows in batches, and speed.

Speed is that of the graph alone; `seqserve bench` measures the service. T steps, B rows.
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
from models.codecs.base import pad
from models.codecs.pieces import END
from models.manifest import BundleError
from models.onnx_session import Placement
from models.speller import ModelWithSpeller
from models.tasks import Decoding, Filling, Generation, Translation
from models.tasks.translate import Memory

ROWS = (1, 16, 64, 256)
ROUNDS = 7  # the median of these is reported
ROUND_S = 0.15
REPLAY_WINDOW, REPLAY_ROWS = 64, 16  # inputs that are sorted together, and those of a batch
STEPS = 32  # decoding steps per run of a language model

Outputs = list[np.ndarray[Any, Any]]


def measure(
    path: Path, placement: Placement, rows: Sequence[int] = ROWS, inputs: Sequence[Any] = ()
) -> list[dict[str, Any]]:
    """Return one entry per variant: device, self-test, and items (or tokens) per second for each number of rows.

    With `inputs`, a variant with a speller also has the entry of `replay`.
    """
    entries = []
    for variant in bundle.load(path, placement=Placement(device="cpu")).manifest.variants:
        loaded = bundle.load(path, variant=variant, placement=placement)
        entry: dict[str, Any] = {"bundle": loaded.manifest.name, "variant": variant, "device": loaded.model.device}
        try:
            self_test.run(loaded)
            entry["self_test"] = "passed"
        except BundleError as error:
            entry["self_test"] = str(error)
        generates = isinstance(loaded.task, Decoding)
        make_run = _whole_run
        if generates:
            make_run = _translating_run if isinstance(loaded.task, Translation) else _decoding_run
        items = STEPS if generates else 1
        entry["unit"] = "tokens" if generates else "inputs"
        alone = make_run(loaded, 1)()
        entry["same_bits"] = {
            count: all(map(np.array_equal, alone, make_run(loaded, count)())) for count in rows if count > 1
        }
        entry["per_s"] = {count: round(_rate(make_run(loaded, count), count * items), 1) for count in rows}
        if inputs and isinstance(loaded.model, ModelWithSpeller):
            entry["replay"] = replay(loaded, inputs)
        entries.append(entry)
    return entries


def replay(loaded: Bundle, inputs: Sequence[Any]) -> dict[str, Any]:
    """Run inputs in their order, and return how the cache of OOV words does. The bundle must have a speller.

    Each window of REPLAY_WINDOW inputs is sorted by length and cut into batches of REPLAY_ROWS. `cached_share` is the
    share of OOV words that are in the cache in a first pass, which starts with an empty one. `cpu_us` is the CPU time
    per input, without encoding: of the first pass, of a second one, and with no word cached. Medians of ROUNDS rounds.
    """
    model, task = loaded.model, loaded.task
    assert isinstance(model, ModelWithSpeller)
    assert not isinstance(task, Decoding)
    items = [item for item in map(task.encode, inputs) if item.length]
    batches = []
    for start in range(0, len(items), REPLAY_WINDOW):
        window = sorted(items[start : start + REPLAY_WINDOW], key=lambda item: int(item.length))
        batches += [window[first : first + REPLAY_ROWS] for first in range(0, len(window), REPLAY_ROWS)]

    def cpu_us(*, clear: bool = False) -> float:
        started_s = time.process_time()
        for batch in batches:
            if clear:
                model.clear_cache()
            model.run(task.collate(batch))
        return 1e6 * (time.process_time() - started_s) / len(items)

    rounds = []
    for _ in range(ROUNDS):
        model.clear_cache()
        model.take_counts()
        first = cpu_us()
        cached, spelled = model.take_counts()
        rounds.append({"first": first, "second": cpu_us(), "none_cached": cpu_us(clear=True)})
    return {
        "inputs": len(items),
        "oov_share": round((cached + spelled) / sum(item.length for item in items), 3),
        "cached_share": round(cached / max(1, cached + spelled), 3),
        "cpu_us": {name: round(statistics.median(each[name] for each in rounds), 1) for name in rounds[0]},
    }


def _whole_run(loaded: Bundle, rows: int) -> Callable[[], Outputs]:
    """Return a run of the longest example in `rows` rows, which returns the outputs of the first row."""
    task = loaded.task
    assert not isinstance(task, Decoding)
    items: list[Any] = [task.encode(example.inputs) for example in loaded.manifest.examples]
    feeds = task.collate([max(items, key=lambda item: item.length)] * rows)
    if isinstance(task, Filling):
        return lambda: [array[: len(array) // rows] for array in loaded.model.run(feeds).values()]  # of (P, …)
    return lambda: [
        array[0] if len(array) == rows and array.ndim == 2 else array[:, 0]  # of (B, …) or (T, B, …)
        for array in loaded.model.run(feeds).values()
    ]


def _decoding_run(loaded: Bundle, rows: int) -> Callable[[], Outputs]:
    """Return a run that reads the first example and takes STEPS greedy steps in `rows` rows."""
    task = loaded.task
    assert isinstance(task, Generation)
    prompt = task.encode(loaded.manifest.examples[0].inputs).rows
    tokens, lengths = pad([prompt] * rows)
    ones = np.ones(rows, np.int32)

    def run() -> Outputs:
        run_list, state = loaded.model.run_list, states.zeros(task.state, rows)
        log_probabilities, state = task.advance(run_list, tokens, lengths, state)
        for _ in range(STEPS):
            best = log_probabilities.argmax(axis=1).astype(np.int32)
            log_probabilities, state = task.advance(run_list, best[None, :], ones, state)
        return [log_probabilities[0], *(part[0] for part in state)]

    return run


def _translating_run(loaded: Bundle, rows: int) -> Callable[[], Outputs]:
    """Return a run that reads the first example and takes STEPS greedy steps in `rows` rows."""
    task = loaded.task
    assert isinstance(task, Translation)
    model, source = loaded.translator, task.encode(loaded.manifest.examples[0].inputs).rows
    owners = np.arange(rows, dtype=np.int32)

    def run() -> Outputs:
        found = model.read([source] * rows)
        state = states.join([read.state for read in found])
        arrays = tuple(np.stack(parts, axis=1) for parts in zip(*(read.memory for read in found), strict=True))
        memory, pieces = Memory(arrays, np.full(rows, len(source), np.int32)), np.full(rows, END, np.int32)
        for _ in range(STEPS):
            outputs, state = model.step(pieces, state, memory, owners)
            pieces = outputs.best_pieces[:, 0]
        return [outputs.best_scores[0], *(part[0] for part in state)]

    return run


def _rate(run: Callable[[], Outputs], items: int) -> float:
    """Return items per second, the median of ROUNDS rounds."""
    run()
    rates = []
    for _ in range(ROUNDS):
        count, started = 0, time.perf_counter()
        while not count or time.perf_counter() - started < ROUND_S:
            run()
            count += 1
        rates.append(count * items / (time.perf_counter() - started))
    return statistics.median(rates)
