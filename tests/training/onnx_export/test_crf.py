"""The exported CRF: parity with PyTorch, and bits that do not depend on the batch."""

from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from training.nn.crf import LinearChainCRF, forbidden_transitions, is_valid_iob2
from training.onnx_export.builder import OnnxGraphBuilder
from training.onnx_export.crf import add_crf

IOB2 = ("O", *(f"{kind}-{name}" for name in ("per", "loc", "org", "work", "group", "product") for kind in "BI"))
Answers = list[tuple[bytes, bytes]]


def make_crf(labels: int, *, masked: bool = False) -> LinearChainCRF:
    made = LinearChainCRF(labels, forbidden_transitions(IOB2) if masked else None).requires_grad_(False)
    random = torch.Generator().manual_seed(labels)
    for parameter in made.parameters():
        parameter.normal_(generator=random)
    return made


def session(made: LinearChainCRF) -> onnxruntime.InferenceSession:
    graph = OnnxGraphBuilder("fp32")
    emissions = graph.input("emissions", "T", "B", len(made.first), dtype="float32")
    marginals, path = add_crf(graph, emissions, graph.input("lengths", "B"), made)
    graph.output(marginals, "marginals", "T", "B", len(made.first))
    graph.output(path, "path", "T", "B", dtype="int32")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        graph.finish().model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def sequences(lengths: Any, labels: int, scale: float = 3.0) -> list[Any]:
    """Return random emissions (L, K) for each length."""
    random = np.random.default_rng(0)
    return [scale * random.standard_normal((length, labels)).astype(np.float32) for length in lengths]


def padded(batch: list[Any], steps: int, junk: float) -> dict[str, Any]:
    emissions = np.full((steps, len(batch), batch[0].shape[1]), junk, np.float32)
    for column, sequence in enumerate(batch):
        emissions[: len(sequence), column] = sequence
    return {"emissions": emissions, "lengths": np.array([len(sequence) for sequence in batch], np.int32)}


def bits(run: onnxruntime.InferenceSession, batch: list[Any], steps: int = 0, junk: float = 0.0) -> Answers:
    """Return the bytes of the marginals and the path of each sequence."""
    marginals, path = run.run(None, padded(batch, steps or max(map(len, batch)), junk))
    return [
        (marginals[: len(sequence), column].tobytes(), path[: len(sequence), column].tobytes())
        for column, sequence in enumerate(batch)
    ]


@pytest.mark.parametrize("made", [make_crf(n, masked=n == 13) for n in (1, 2, 13, 72)], ids=lambda c: len(c.first))
def test_graph_equals_pytorch_on_ragged_batches(made: LinearChainCRF) -> None:
    feeds = padded(sequences([40, 1, 17, 2, 39], len(made.first)), 40, junk=7.0)
    marginals, path = session(made).run(None, feeds)
    emissions, lengths = torch.from_numpy(feeds["emissions"]), torch.from_numpy(feeds["lengths"]).long()
    valid = np.arange(40)[:, None] < feeds["lengths"]
    assert marginals.dtype == np.float32
    assert path.dtype == np.int32
    assert np.abs(marginals - made.marginals(emissions, lengths).numpy())[valid].max() <= 1e-6
    assert np.array_equal(path[valid], made.decode(emissions, lengths).numpy()[valid])


@pytest.mark.parametrize("labels", [3, 13, 72])
def test_row_has_the_same_bits_alone_and_in_any_batch(labels: int) -> None:
    run, random = session(make_crf(labels)), np.random.default_rng(1)
    rows = sequences(random.integers(1, 41, 16), labels)
    alone = [bits(run, [row])[0] for row in rows]
    for size in (2, 3, 16):
        chosen = random.permutation(len(rows))[:size]
        assert bits(run, [rows[index] for index in chosen]) == [alone[index] for index in chosen]


def test_row_has_the_same_bits_for_any_padding() -> None:
    run, rows = session(make_crf(13, masked=True)), sequences([9, 4], 13)
    short = bits(run, rows)
    assert bits(run, rows, steps=23) == short
    assert bits(run, rows, steps=10, junk=1e6) == short


def test_forbidden_transition_is_never_decoded_and_has_probability_0() -> None:
    """With zero emissions, all allowed paths have the same score."""
    run = session(LinearChainCRF(13, forbidden_transitions(IOB2)))
    hints = [*sequences([30] * 40, 13), np.zeros((30, 13), np.float32)]
    for hint in hints[:20]:
        hint[:, 2::2] += 10  # inside everywhere, were it allowed
    marginals, path = run.run(None, padded(hints, 30, 0.0))
    assert is_valid_iob2([[IOB2[label] for label in column] for column in path.T])
    assert not marginals[0, :, 2::2].any()


def test_outputs_in_the_padding_are_finite() -> None:
    run = session(make_crf(13, masked=True))
    feeds = padded(sequences([3, 1], 13), 30, 0.0)
    feeds["emissions"][3:, :, 2::2] = 1e9
    marginals, path = run.run(None, feeds)
    assert np.isfinite(marginals).all()
    assert ((path >= 0) & (path < 13)).all()


def test_thousands_of_steps_stay_exact() -> None:
    made, rows = make_crf(13, masked=True), sequences([4096], 13)
    marginals, path = session(made).run(None, padded(rows, 4096, 0.0))
    emissions, lengths = torch.from_numpy(rows[0])[:, None], torch.tensor([4096])
    assert np.abs(marginals - made.marginals(emissions, lengths).numpy()).max() <= 1e-6
    assert np.abs(marginals.sum(axis=2) - 1).max() <= 1e-6
    assert np.array_equal(path, made.decode(emissions, lengths).numpy())


def test_forbidden_transition_overrules_hundreds_of_nats() -> None:
    """Emissions prefer O, then I-per, which only B-per allows. In float32 the weight of B-per would be zero."""
    given = np.full((2, 1, 13), -300, np.float32)
    given[0, 0, :2], given[1, 0, [0, 2]] = (0, -250), (-260, 0)
    run = session(LinearChainCRF(13, forbidden_transitions(IOB2)))
    marginals, path = run.run(None, {"emissions": given, "lengths": np.array([2], np.int32)})
    assert path[:, 0].tolist() == [1, 2]
    assert [marginals[0, 0, 1], marginals[1, 0, 2]] == pytest.approx([1, 1], abs=1e-4)
