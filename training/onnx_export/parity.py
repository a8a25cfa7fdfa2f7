"""The check that an exported graph gives the answers of its PyTorch network, on ragged batches of real inputs.

T steps, B batch, K labels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
import torch

from models.codecs import Codec, SeriesCodec
from models.codecs.base import FIRST
from models.tasks.fill import EncodedGaps, Filling
from training import translations
from training.data.examples import PairExample, inputs_of
from training.nn.cells import CellState
from training.nn.networks import Filler, LanguageModel, Network
from training.nn.translator import EncoderDecoder
from training.objectives import to_tensors
from training.onnx_export.builder import ExportedGraph

BATCH_SIZES = (1, 2, 7, 32)
LONGEST_TEXT = 200  # characters
STEPS = 8  # pieces that are written


def worst_difference(network: Network, codec: Codec, graph: ExportedGraph, dev: Any) -> float:
    """Return the largest absolute difference between the graph's and the network's answers.

    Differences of log probabilities are measured as probabilities, because the logarithm of a tiny one is arbitrary.
    """
    session = onnxruntime.InferenceSession(graph.model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [tensor.name for tensor in session.get_outputs()]
    random = np.random.default_rng(0)
    worst = 0.0
    for size in BATCH_SIZES:
        if isinstance(dev, str):
            items = [codec.encode(dev[:length]) for length in random.integers(1, min(LONGEST_TEXT, len(dev)), size)]
        else:
            inputs = [inputs_of(dev[index]) for index in random.choice(len(dev), size)]
            if isinstance(codec, SeriesCodec):  # with other histories
                inputs = [one[-random.integers(codec.spec.segment, len(one) + 1) :] for one in inputs]
            items = [codec.encode(one) for one in inputs]
            items = [item for item in items if item.length]
        feeds = _with_gaps(network, codec, items, random) if isinstance(network, Filler) else codec.collate(items)
        state = {t.input: random.uniform(-0.9, 0.9, (len(items), t.width)).astype(np.float32) for t in graph.state}
        found = dict(zip(names, session.run(None, feeds | state), strict=True))
        if graph.state:
            final = [found[tensor.output] for tensor in graph.state]
            worst = max(worst, _state_difference(network, codec, items, state, final))
        lengths = [item.length for item in items]
        start = _by_layer(network, [torch.from_numpy(part) for part in state.values()]) if state else None
        for name, answer in network.answers(state=start, **to_tensors(feeds)).items():
            ours, theirs = found[name], answer.numpy()
            if name == "best_words":  # equally good words may change places
                continue
            if name in ("best_scores", "target_scores"):  # rows are gaps
                worst = max(worst, float(np.abs(ours - theirs).max()))
                continue
            if name in ("mean", "quantiles"):  # rows are series, not steps
                ours, theirs = ours.reshape(len(items), -1), theirs.reshape(len(items), -1)
            if name == "log_probabilities":
                ours, theirs = np.exp(ours), np.exp(theirs)
            worst = max(worst, _difference(ours, theirs, lengths))
    return worst


def worst_difference_of_steps(
    network: EncoderDecoder, source: Codec, graph: ExportedGraph, dev: Sequence[PairExample]
) -> float:
    """Return the largest difference of the probabilities and the attention, in the first steps of some sources."""
    reader, step = (
        onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        for model in (graph.reader.model, graph.model)
    )
    names = [tensor.name for tensor in step.get_outputs()]
    random = np.random.default_rng(0)
    worst = 0.0
    for size in BATCH_SIZES:
        items = [translations.encode_source(source, dev[index].source) for index in random.choice(len(dev), size)]
        feeds = source.collate(items)
        lengths, (rows,) = feeds["lengths"], [array for name, array in feeds.items() if name != "lengths"]
        h, *arrays = reader.run(None, {"source": rows, "lengths": lengths})
        memory = {tensor.name: array for tensor, array in zip(graph.memory, arrays, strict=True)}
        pieces, owners = np.zeros(size, np.int32), np.arange(size, dtype=np.int32)
        with torch.no_grad():
            expected_memory, state = network.read(**to_tensors(dict(feeds)))
            for _ in range(STEPS):
                step_feeds = {"pieces": pieces, "h": h, "memory_lengths": lengths, "owners": owners, **memory}
                found = dict(zip(names, step.run(None, step_feeds), strict=True))
                scores, state, weights = network.step(torch.from_numpy(pieces).long(), state, expected_memory)
                for ours, theirs in (
                    (np.exp(found["log_probabilities"]), scores.exp()),
                    (found["attention"], weights.T),
                    (found["h_next"], state),
                ):
                    worst = max(worst, float(np.abs(ours - theirs.numpy()).max()))
                h, pieces = found["h_next"], found["best_pieces"][:, 0]
    return worst


def _with_gaps(network: Filler, codec: Any, items: Sequence[Any], random: np.random.Generator) -> dict[str, Any]:
    """Return the feeds of texts with gaps at random places, and random targets."""
    task = Filling(codec, network.best)
    gaps = [random.choice(item.length, min(item.length, random.integers(1, 4)), replace=False) for item in items]
    targets = random.integers(FIRST, codec.table_rows, (len(items), 3))
    return task.collate(
        [
            EncodedGaps(text="", rows=item.rows, steps=each.astype(np.int32), targets=rows.astype(np.int32))
            for item, each, rows in zip(items, gaps, targets, strict=True)
        ]
    )


def _difference(found: Any, expected: Any, lengths: Sequence[int]) -> float:
    """Compare (B, K), or (T, B, K) within the lengths; paths (T, B) int32 must be equal."""
    worst = 0.0
    for column, length in enumerate(lengths):
        if found.dtype == np.int32:
            same = np.array_equal(found[:length, column], expected[:length, column])
            worst = max(worst, 0.0 if same else np.inf)
        elif found.ndim == 3:
            worst = max(worst, float(np.abs(found[:length, column] - expected[:length, column]).max()))
        else:
            worst = max(worst, float(np.abs(found[column] - expected[column]).max()))
    return worst


def _state_difference(
    network: Network, codec: Codec, items: Sequence[Any], state: Mapping[str, Any], final: Sequence[Any]
) -> float:
    """Return the largest difference between the final states of each input, each run alone at its own length."""
    worst = 0.0
    read = network if isinstance(network, LanguageModel) else network.read
    for row, item in enumerate(items):
        start = _by_layer(network, [torch.from_numpy(part[row : row + 1]) for part in state.values()])
        with torch.no_grad():
            _, states = read(state=start, **to_tensors(dict(codec.collate([item]))))
        expected = [part for layer in states for part in layer]
        for ours, theirs in zip(final, expected, strict=True):
            # The cell state of an LSTM may exceed 1; there the difference is relative.
            difference = np.abs(ours[row] - theirs[0].numpy()) / np.maximum(1, np.abs(ours[row]))
            worst = max(worst, float(difference.max()))
    return worst


def _by_layer(network: Network, parts: Sequence[Any]) -> list[CellState]:
    """Group state tensors, in the order of the graph, by layer."""
    count = len(parts) // len(network.stack.layers)
    return [tuple(parts[start : start + count]) for start in range(0, len(parts), count)]
