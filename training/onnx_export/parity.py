"""Whether a graph answers as the PyTorch network that it was drawn from, on ragged batches of real inputs.

Knows networks and drawings. Does not know bundles, variants or scores.
T steps, B batch, K labels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
import torch

from models.codecs import Codec
from training.batches import tensors
from training.data.examples import inputs_of
from training.nn.networks import LanguageModel, Network
from training.onnx_export.graph_builder import Drawing

SIZES = (1, 2, 7, 32)  # of the batches
LONGEST_TEXT = 200  # characters


def worst_difference(network: Network, codec: Codec, drawing: Drawing, dev: Any) -> float:
    """The largest difference between the answers of the graph and of the network, over ragged batches."""
    session = onnxruntime.InferenceSession(drawing.model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [tensor.name for tensor in session.get_outputs()]
    random = np.random.default_rng(0)
    worst = 0.0
    for size in SIZES:
        items = _ragged(codec, dev, size, random)
        feeds = codec.collate(items)
        memory = {t.input: random.uniform(-0.9, 0.9, (size, t.width)).astype(np.float32) for t in drawing.state}
        found = dict(zip(names, session.run(None, feeds | memory), strict=True))
        if drawing.state:
            after = [found[tensor.output] for tensor in drawing.state]
            worst = max(worst, _state_difference(network, codec, items, memory, after))
        lengths = [item.length for item in items]
        for name, expected in _expected(network, feeds, memory).items():
            # Differences are those of probabilities: of what is nearly impossible the logarithm is anything.
            ours, theirs = (np.exp(found[name]), np.exp(expected)) if name[:3] == "log" else (found[name], expected)
            worst = max(worst, _difference(ours, theirs, lengths))
    return worst


def _difference(found: Any, expected: Any, lengths: Sequence[int]) -> float:
    """Between arrays (B, K), or (T, B, K) where what is beyond a length does not count; paths must be equal."""
    worst = 0.0
    for column, length in enumerate(lengths):
        if found.dtype == np.int32:  # a path (T, B)
            same = np.array_equal(found[:length, column], expected[:length, column])
            worst = max(worst, 0.0 if same else np.inf)
        elif found.ndim == 3:
            worst = max(worst, float(np.abs(found[:length, column] - expected[:length, column]).max()))
        else:
            worst = max(worst, float(np.abs(found[column] - expected[column]).max()))
    return worst


def _state_difference(
    network: Network, codec: Codec, items: Sequence[Any], memory: Mapping[str, Any], after: Sequence[Any]
) -> float:
    """The largest difference between the states after each input, at its own length."""
    worst = 0.0
    for row, item in enumerate(items):
        start = _layers(network, [torch.from_numpy(part[row : row + 1]) for part in memory.values()])
        with torch.no_grad():
            _, state = network.read(state=start, **tensors(dict(codec.collate([item]))))
        expected = [part for layer in state for part in layer]
        for ours, theirs in zip(after, expected, strict=True):
            # The state of an LSTM's cell is not bounded by 1: beyond, the difference is relative.
            difference = np.abs(ours[row] - theirs[0].numpy()) / np.maximum(1, np.abs(ours[row]))
            worst = max(worst, float(difference.max()))
    return worst


def _layers(network: Network, parts: Sequence[Any]) -> list[tuple[Any, ...]]:
    """State tensors in the order of the graph, grouped by layer."""
    count = len(parts) // len(network.stack.layers)
    return [tuple(parts[start : start + count]) for start in range(0, len(parts), count)]


def _ragged(codec: Codec, dev: Any, size: int, random: np.random.Generator) -> list[Any]:
    if isinstance(dev, str):
        lengths = random.integers(1, min(LONGEST_TEXT, len(dev)), size)
        return [codec.encode(dev[: int(length)]) for length in lengths]
    picked = random.choice(len(dev), size)
    items: list[Any] = [codec.encode(inputs_of(dev[int(index)])) for index in picked]
    return [item for item in items if item.length]


def _expected(network: Network, feeds: Mapping[str, Any], memory: Mapping[str, Any]) -> dict[str, Any]:
    """What PyTorch answers, under the names of the graph's outputs; what has a state starts from `memory`."""
    fed = tensors(dict(feeds))
    state = _layers(network, [torch.from_numpy(part) for part in memory.values()]) if memory else None
    with torch.no_grad():
        if not isinstance(network, LanguageModel):
            return {name: answer.numpy() for name, answer in network.answers(state=state, **fed).items()}
        logits, _ = network(fed["characters"], fed["lengths"], state)
    return {"log_probabilities": torch.log_softmax(logits, -1).numpy()}
