"""The graph of a filler: parity with PyTorch, and the same bits alone and in a batch, also in int8."""

from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from models.codecs import WordsCodec
from models.manifest import WordsSpec
from models.tasks import Filling
from training.nn.networks import Filler
from training.objectives import to_tensors
from training.onnx_export.builder import Precision
from training.onnx_export.network_graph import export_graph
from training.options import Architecture

WORDS = [f"w{number}" for number in range(300)]
CODEC = WordsCodec(WordsSpec(lowercase=True), WORDS)
OUTPUTS = ["best_scores", "best_words", "target_scores"]


def network_of(cell: str) -> Filler:
    torch.manual_seed(1)
    network = Filler(Architecture(cell=cell, hidden=24, embedding=16), CODEC).eval()
    with torch.no_grad():
        network.embedding.weight.mul_(8)  # for answers that differ
    return network


def texts(count: int) -> list[str]:
    random = np.random.default_rng(1)
    found = ["[MASK]", "[MASK] w1", "w1 [MASK]", "unheard [MASK] unheard"]
    for _ in range(count):
        words = list(random.choice(WORDS, random.integers(2, 30)))
        for place in random.choice(len(words), min(len(words), random.integers(1, 4)), replace=False):
            words[place] = "[MASK]"
        found.append(" ".join(words))
    return found


def session_of(network: Filler, precision: Precision) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    graph = export_graph(network, precision).model.SerializeToString()
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_graph_has_the_same_bits_alone_and_in_any_batch(cell: str, precision: Precision) -> None:
    network = network_of(cell)
    session, task = session_of(network, precision), Filling(CODEC, network.best)
    items = [
        task.with_targets(task.encode(text), task.rows_of(WORDS[: number % 4])) for number, text in enumerate(texts(60))
    ]
    alone = [task.decode([item], _run(session, task.collate([item])))[0] for item in items]
    for size in (2, 16, 64):
        for start in range(0, len(items), size):
            batch = items[start : start + size]
            rows = task.decode(batch, _run(session, task.collate(batch)))
            for item, row, single in zip(batch, rows, alone[start:], strict=False):
                width = len(item.targets)
                assert row.scores.tobytes() == single.scores.tobytes()
                assert np.array_equal(row.words, single.words)
                assert row.target_scores[:, :width].tobytes() == single.target_scores[:, :width].tobytes()


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-6), ("int8", 0.02)])
def test_a_graph_gives_the_answers_of_its_network(precision: Precision, tolerance: float) -> None:
    network = network_of("lstm")
    task = Filling(CODEC, network.best)
    feeds = task.collate([task.with_targets(task.encode(text), task.rows_of(WORDS[:3])) for text in texts(30)])
    expected, found = network.answers(**to_tensors(feeds)), _run(session_of(network, precision), feeds)
    for name in ("best_scores", "target_scores"):
        np.testing.assert_allclose(found[name], expected[name].numpy(), atol=tolerance)


def test_padding_and_unknown_words_are_never_answered() -> None:
    network = network_of("lstm")
    with torch.no_grad():
        network.bias[50:] = -1e9  # all but 48 words have a probability of zero
    task = Filling(CODEC, network.best)
    found = _run(session_of(network, "fp32"), task.collate([task.encode("w1 [MASK] w2")]))
    assert found["best_words"].min() >= 2


def _run(session: Any, feeds: dict[str, Any]) -> dict[str, Any]:
    return dict(zip(OUTPUTS, session.run(OUTPUTS, feeds), strict=True))
