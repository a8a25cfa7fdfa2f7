"""The graph of a forecaster: parity with PyTorch, and the same bits alone and in a batch."""

import numpy as np
import onnxruntime
import pytest
import torch

from models.codecs import SeriesCodec
from models.manifest import ForecastSpec, SeriesSpec
from training.nn.networks import Forecaster
from training.objectives import to_tensors
from training.onnx_export.network_graph import export_graph
from training.options import Architecture

CODEC = SeriesCodec(SeriesSpec(segment=4, longest=40))
SPEC = ForecastSpec(horizon=12, quantile_levels=(0.1, 0.5, 0.9))
LENGTHS = (4, 5, 40, 13, 39, 100, 8, 27)


@pytest.mark.parametrize("cell", ["gru", "lstm", "gru-textbook"])
def test_a_graph_gives_the_answers_of_its_network_alone_and_in_a_batch(cell: str) -> None:
    torch.manual_seed(1)
    network = Forecaster(Architecture(cell=cell, hidden=32, embedding=16, bidirectional=False), CODEC, SPEC).eval()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    graph = export_graph(network, "fp32").model.SerializeToString()
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(1)
    items = [CODEC.encode(random.normal(size=length)) for length in LENGTHS]
    feeds = CODEC.collate(items)
    together = session.run(["mean", "quantiles"], feeds)
    expected = network.answers(**to_tensors(feeds))
    for found, name in zip(together, ("mean", "quantiles"), strict=True):
        np.testing.assert_allclose(found, expected[name].numpy(), atol=1e-6)
    for row, item in enumerate(items):
        alone = session.run(["mean", "quantiles"], CODEC.collate([item]))
        assert all(one[0].tobytes() == all_[row].tobytes() for one, all_ in zip(alone, together, strict=True))


def test_a_horizon_is_whole_segments() -> None:
    with pytest.raises(ValueError, match=r"forecast\.horizon"):
        Forecaster(Architecture(), CODEC, ForecastSpec(horizon=13, quantile_levels=(0.1, 0.9)))
