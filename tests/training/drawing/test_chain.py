"""The chain as a graph: the answers of PyTorch's, with the same bits for a row in every batch."""

from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from training.nn.crf import LinearChain, forbidden, obeys
from training.onnx_export.crf import draw_chain
from training.onnx_export.graph_builder import Pen

IOB2 = ("O", *(f"{kind}-{name}" for name in ("per", "loc", "org", "work", "group", "product") for kind in "BI"))
Answers = list[tuple[bytes, bytes]]


def chain(labels: int, *, masked: bool = False) -> LinearChain:
    made = LinearChain(labels, forbidden(IOB2) if masked else None).requires_grad_(False)
    random = torch.Generator().manual_seed(labels)
    for parameter in made.parameters():
        parameter.normal_(generator=random)
    return made


def session(made: LinearChain) -> onnxruntime.InferenceSession:
    pen = Pen("fp32")
    emissions = pen.input("emissions", "T", "B", len(made.first), dtype="float32")
    marginals, path = draw_chain(pen, emissions, pen.input("lengths", "B"), made)
    pen.output(marginals, "marginals", "T", "B", len(made.first))
    pen.output(path, "path", "T", "B", dtype="int32")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        pen.finish().model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def sequences(lengths: Any, labels: int, scale: float = 3.0) -> list[Any]:
    """One array (L, K) for each length."""
    random = np.random.default_rng(0)
    return [scale * random.standard_normal((length, labels)).astype(np.float32) for length in lengths]


def padded(batch: list[Any], steps: int, junk: float) -> dict[str, Any]:
    emissions = np.full((steps, len(batch), batch[0].shape[1]), junk, np.float32)
    for column, sequence in enumerate(batch):
        emissions[: len(sequence), column] = sequence
    return {"emissions": emissions, "lengths": np.array([len(sequence) for sequence in batch], np.int32)}


def bits(run: onnxruntime.InferenceSession, batch: list[Any], steps: int = 0, junk: float = 0.0) -> Answers:
    """Marginals and path of each sequence, byte for byte."""
    marginals, path = run.run(None, padded(batch, steps or max(map(len, batch)), junk))
    return [
        (marginals[: len(sequence), column].tobytes(), path[: len(sequence), column].tobytes())
        for column, sequence in enumerate(batch)
    ]


@pytest.mark.parametrize("made", [chain(1), chain(2), chain(13, masked=True), chain(72)], ids=lambda c: len(c.first))
def test_the_graph_equals_pytorch_on_ragged_batches(made: LinearChain) -> None:
    feeds = padded(sequences([40, 1, 17, 2, 39], len(made.first)), 40, junk=7.0)
    marginals, path = session(made).run(None, feeds)
    emissions, lengths = torch.from_numpy(feeds["emissions"]), torch.from_numpy(feeds["lengths"]).long()
    valid = np.arange(40)[:, None] < feeds["lengths"]
    assert marginals.dtype == np.float32
    assert path.dtype == np.int32
    assert np.abs(marginals - made.marginals(emissions, lengths).numpy())[valid].max() <= 1e-6
    assert np.array_equal(path[valid], made.decode(emissions, lengths).numpy()[valid])


@pytest.mark.parametrize("labels", [3, 13, 72])
def test_a_row_has_the_same_bits_alone_and_in_any_batch(labels: int) -> None:
    run, random = session(chain(labels)), np.random.default_rng(1)
    rows = sequences(random.integers(1, 41, 16), labels)
    alone = [bits(run, [row])[0] for row in rows]
    for size in (2, 3, 16):
        chosen = random.permutation(len(rows))[:size]
        assert bits(run, [rows[index] for index in chosen]) == [alone[index] for index in chosen]


def test_a_row_has_the_same_bits_however_far_it_is_padded_and_with_what() -> None:
    run, rows = session(chain(13, masked=True)), sequences([9, 4], 13)
    short = bits(run, rows)
    assert bits(run, rows, steps=23) == short
    assert bits(run, rows, steps=10, junk=1e6) == short


def test_what_is_forbidden_is_never_decoded_even_among_equals_and_has_no_probability() -> None:
    """Without any evidence all paths that are allowed are equally good."""
    run = session(LinearChain(13, forbidden(IOB2)))
    hints = [*sequences([30] * 40, 13), np.zeros((30, 13), np.float32)]
    for hint in hints[:20]:
        hint[:, 2::2] += 10  # inside everywhere, were it allowed
    marginals, path = run.run(None, padded(hints, 30, 0.0))
    assert obeys([[IOB2[label] for label in column] for column in path.T])
    assert not marginals[0, :, 2::2].any()


def test_padding_is_finite_also_where_it_contradicts_the_chain() -> None:
    run = session(chain(13, masked=True))
    feeds = padded(sequences([3, 1], 13), 30, 0.0)
    feeds["emissions"][3:, :, 2::2] = 1e9
    marginals, path = run.run(None, feeds)
    assert np.isfinite(marginals).all()
    assert ((path >= 0) & (path < 13)).all()


def test_thousands_of_steps_stay_exact() -> None:
    made, rows = chain(13, masked=True), sequences([4096], 13)
    marginals, path = session(made).run(None, padded(rows, 4096, 0.0))
    emissions, lengths = torch.from_numpy(rows[0])[:, None], torch.tensor([4096])
    assert np.abs(marginals - made.marginals(emissions, lengths).numpy()).max() <= 1e-6
    assert np.abs(marginals.sum(axis=2) - 1).max() <= 1e-6
    assert np.array_equal(path, made.decode(emissions, lengths).numpy())


def test_evidence_of_hundreds_of_nats_is_overruled_by_what_is_forbidden() -> None:
    """O at first by 250 nats, I-per next by 260: only B-per lets that be. float32 would have forgotten B-per."""
    given = np.full((2, 1, 13), -300, np.float32)
    given[0, 0, :2], given[1, 0, [0, 2]] = (0, -250), (-260, 0)
    run = session(LinearChain(13, forbidden(IOB2)))
    marginals, path = run.run(None, {"emissions": given, "lengths": np.array([2], np.int32)})
    assert path[:, 0].tolist() == [1, 2]
    assert [marginals[0, 0, 1], marginals[1, 0, 2]] == pytest.approx([1, 1], abs=1e-4)
