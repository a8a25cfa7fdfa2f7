"""The graphs of a translator: equal to PyTorch, and the same bits in every batch.

S steps of the longest source, M sources, B rows, T steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from models.codecs import FramesCodec, ImageCodec
from models.codecs.pieces import END, PiecesCodec, fixed_pieces
from models.manifest import FramesSpec, ImageSpec, PiecesSpec
from training.nn.translator import EncoderDecoder
from training.onnx_export.builder import ExportedGraph, Precision
from training.onnx_export.translator import CANDIDATES, export_translator
from training.options import Architecture

SHAPE = Architecture(cell="gru", hidden=20, decoder_hidden=28, attention=12, embedding=16, filters=(8, 12, 16))
CODEC = PiecesCodec(PiecesSpec(), (*fixed_pieces(), *"abcdefgh"), ())
PICTURES = ImageCodec(ImageSpec(size=16, patch=4))
SOURCES = {
    "pieces": CODEC,
    "frames": FramesCodec(FramesSpec(features=3)),
    "pixels": PICTURES,
}  # by feed
SIZES = [1, 3, 16, 64]
LENGTHS = [1, 2, 3, 5, 8, 13, 21, 34]
STEPS = 7


def network_of(*, attention: int = 12, reads: str = "pieces") -> EncoderDecoder:
    torch.manual_seed(3)
    shape = SHAPE.model_copy(update={"attention": attention})
    network = EncoderDecoder(shape, SOURCES[reads], CODEC).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(2).add_(0.1 * torch.randn_like(parameter))
    return network


@dataclass(frozen=True)
class Runner:
    """Sessions of the two graphs, and greedy decoding with them."""

    reader: Any
    step: Any

    @classmethod
    def of(cls, graph: ExportedGraph) -> "Runner":
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        models = (graph.reader.model, graph.model)
        return cls(*(onnxruntime.InferenceSession(each.SerializeToString(), options) for each in models))

    def read(self, sources: Sequence[Any], padding: int = 0) -> dict[str, Any]:
        lengths = np.array([len(source) for source in sources], np.int32)
        shape = (lengths.max() + padding, len(sources), *sources[0].shape[1:])
        padded = np.full(shape, 7, sources[0].dtype)
        for column, source in enumerate(sources):
            padded[: len(source), column] = source
        names = [each.name for each in self.reader.get_outputs()]
        found = dict(zip(names, self.reader.run(None, {"source": padded, "lengths": lengths}), strict=True))
        return {**found, "memory_lengths": lengths}

    def advance(self, read: dict[str, Any], h: Any, rows: Any, owners: Any) -> dict[str, Any]:
        memory = {name: array for name, array in read.items() if name != "h_next"}
        feeds = {"pieces": rows, "h": h, "owners": np.array(owners, np.int32), **memory}
        return dict(zip([each.name for each in self.step.get_outputs()], self.step.run(None, feeds), strict=True))

    def write(self, read: dict[str, Any], owners: Sequence[int], steps: int = STEPS) -> list[list[bytes]]:
        """Return all outputs of each row, step by step, as bytes. The attention is cut to the source of the row."""
        h, rows = read["h_next"][owners], np.zeros(len(owners), np.int32)
        found: list[list[bytes]] = [[] for _ in owners]
        for _ in range(steps):
            outputs = self.advance(read, h, rows, owners)
            h, rows = outputs["h_next"], outputs["best_pieces"][:, 0]
            for number, owner in enumerate(owners):
                outputs_of = {name: array[number] for name, array in outputs.items()}
                outputs_of["attention"] = outputs_of["attention"][: read["memory_lengths"][owner]]
                found[number].append(b"".join(array.tobytes() for array in outputs_of.values()))
        return found


def sources_of(count: int, *, reads: str = "pieces") -> list[Any]:
    random = np.random.default_rng(1)
    lengths = [LENGTHS[number % len(LENGTHS)] for number in range(count)]
    if reads == "pixels":
        pictures = random.integers(0, 256, (count, 16, 16, 3))
        return [PICTURES.encode(picture).rows.astype(np.float32) for picture in pictures]
    if reads == "frames":
        return [random.normal(size=(length, 3)).astype(np.float32) for length in lengths]
    return [np.append(random.integers(1, CODEC.table_rows, length - 1), END).astype(np.int32) for length in lengths]


@pytest.fixture(scope="module", params=["fp32", "int8"])
def runner(request: pytest.FixtureRequest) -> Runner:
    return Runner.of(export_translator(network_of(), request.param))


@pytest.fixture(scope="module", params=["fp32", "int8"])
def captioner(request: pytest.FixtureRequest) -> Runner:
    """A runner whose sources are pictures."""
    return Runner.of(export_translator(network_of(reads="pixels"), request.param))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("changes", [{}, {"attention": 0}, {"reads": "frames"}, {"reads": "pixels"}])
def test_graphs_give_the_scores_of_the_network(changes: dict[str, Any], precision: Precision) -> None:
    network = network_of(**changes)
    runner, tolerance = Runner.of(export_translator(network, precision)), 1e-5 if precision == "fp32" else 0.05
    reads = changes.get("reads", "pieces")
    sources = sources_of(5, reads=reads)
    read = runner.read(sources)
    dtype = torch.long if reads == "pieces" else torch.float32
    padded = torch.zeros(max(map(len, sources)), 5, *sources[0].shape[1:], dtype=dtype)
    for column, source in enumerate(sources):
        padded[: len(source), column] = torch.from_numpy(source)
    memory, h = network.read(torch.from_numpy(read["memory_lengths"]).long(), **{reads: padded})
    np.testing.assert_allclose(read["h_next"], h.detach(), atol=tolerance)
    rows, state = np.zeros(5, np.int32), read["h_next"]
    for _ in range(3):
        outputs = runner.advance(read, state, rows, range(5))
        scores, h, weights = network.step(torch.from_numpy(rows).long(), h, memory)
        np.testing.assert_allclose(np.exp(outputs["log_probabilities"]), scores.exp().detach(), atol=tolerance)
        np.testing.assert_allclose(outputs["attention"], weights.T.detach(), atol=tolerance)
        state, rows = outputs["h_next"], outputs["best_pieces"][:, 0]


@pytest.mark.parametrize("size", SIZES)
def test_a_row_has_the_same_bits_alone_and_in_a_batch(runner: Runner, size: int) -> None:
    sources = sources_of(size)
    together = runner.write(runner.read(sources), range(size))
    for number in range(0, size, 5):
        assert runner.write(runner.read([sources[number]]), [0]) == [together[number]]


@pytest.mark.parametrize("size", [1, 2, 5, 16, 33, 64])
def test_a_picture_has_the_same_bits_alone_and_in_a_batch(captioner: Runner, size: int) -> None:
    pictures = sources_of(size, reads="pixels")
    together = captioner.write(captioner.read(pictures), range(size))
    assert captioner.write(captioner.read(pictures[::-1]), range(size)) == together[::-1]
    for number in range(0, size, 7):
        assert captioner.write(captioner.read([pictures[number]]), [0]) == [together[number]]


def test_padding_and_order_change_no_bit(runner: Runner) -> None:
    sources = sources_of(8)
    expected = runner.write(runner.read(sources), range(8))
    assert runner.write(runner.read(sources, padding=9), range(8)) == expected
    assert runner.write(runner.read(sources[::-1]), range(8)) == expected[::-1]


def test_rows_share_a_memory_without_a_change_of_bits(runner: Runner) -> None:
    sources = sources_of(8)
    alone = [runner.write(runner.read([source]), [0])[0] for source in sources]
    owners = [7, 0, 7, 7, 3, 3, 0, 7, 2]
    assert runner.write(runner.read(sources), owners) == [alone[owner] for owner in owners]


def test_a_row_that_joins_later_changes_no_bit(runner: Runner) -> None:
    sources = sources_of(8)
    expected = runner.write(runner.read(sources[5:6]), [0], steps=4)[0]
    read = runner.read(sources)
    h, rows = read["h_next"][:4], np.zeros(4, np.int32)
    for _ in range(3):
        outputs = runner.advance(read, h, rows, range(4))
        h, rows = outputs["h_next"], outputs["best_pieces"][:, 0]
    h, rows, owners = np.concatenate([h[2:], read["h_next"][5:6]]), np.append(rows[2:], np.int32(END)), [2, 3, 5]
    for step in range(4):
        outputs = runner.advance(read, h, rows, owners)
        h, rows = outputs["h_next"], outputs["best_pieces"][:, 0]
        last = {name: array[-1] for name, array in outputs.items()}
        last["attention"] = last["attention"][: len(sources[5])]
        assert b"".join(array.tobytes() for array in last.values()) == expected[step]


def test_best_pieces_are_the_highest_scores_and_attention_sums_to_1(runner: Runner) -> None:
    read = runner.read(sources_of(8))
    outputs = runner.advance(read, read["h_next"], np.zeros(8, np.int32), range(8))
    order = np.argsort(-outputs["log_probabilities"], axis=1, kind="stable")[:, :CANDIDATES]
    assert np.array_equal(outputs["best_pieces"], order)
    assert np.array_equal(outputs["best_scores"], np.take_along_axis(outputs["log_probabilities"], order, 1))
    np.testing.assert_allclose(outputs["attention"].sum(1), 1, atol=1e-6)
    steps = np.arange(outputs["attention"].shape[1])
    assert (outputs["attention"][steps >= read["memory_lengths"][:, None]] == 0).all()
