"""The ONNX twins: fp32 equals PyTorch, int8 is near it, and no answer depends on the rest of its batch."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnxruntime.quantization import QuantType, quantize_dynamic

from tests.training import tiny
from training.graph import draw
from training.layers import Drawing

TASKS = [
    (task, cell, layers, bidirectional)
    for task in ("tag", "classify", "generate")
    for cell in ("lstm", "gru")
    for layers in (1, 2, 3)
    for bidirectional in ((False,) if task == "generate" else (False, True))
]
QUANTISED = [choice for choice in TASKS if choice[1] == "lstm" and choice[2] != 3]


def session(model: onnx.ModelProto | Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def state(drawing: Drawing, size: int, seed: int | None = None) -> dict[str, Any]:
    draws = np.random.default_rng(seed)
    shape = {t.input: (size, t.width) for t in drawing.state}
    return {
        name: (np.zeros(s) if seed is None else draws.uniform(-0.9, 0.9, s)).astype(np.float32)
        for name, s in shape.items()
    }


def answers(run: onnxruntime.InferenceSession, task: str, batch: list[Any], memory: dict[str, Any]) -> list[Any]:
    feeds = tiny.collate(task, batch)
    return tiny.columns(run.run(None, feeds | memory)[0], feeds["lengths"])


def differ_by_company(run: onnxruntime.InferenceSession, task: str, drawing: Drawing) -> bool:
    """Whether any answer has other bits in any of many batches than alone."""
    inputs = tiny.items(task, 24)
    memory = state(drawing, len(inputs), seed=1)
    alone = [
        answers(run, task, [item], {k: v[i : i + 1] for k, v in memory.items()})[0] for i, item in enumerate(inputs)
    ]
    random = np.random.default_rng(2)
    for size in (2, 3, 7, 16, 24):
        chosen = random.permutation(len(inputs))[:size]
        found = answers(run, task, [inputs[i] for i in chosen], {k: v[chosen] for k, v in memory.items()})
        if any(not np.array_equal(alone[i], answer) for i, answer in zip(chosen, found, strict=True)):
            return True
    return False


@pytest.mark.parametrize(("task", "cell", "layers", "bidirectional"), TASKS)
def test_fp32_equals_pytorch_on_ragged_batches(task: str, cell: str, layers: int, bidirectional: bool) -> None:
    made = tiny.network(task, cell, layers=layers, bidirectional=bidirectional)
    drawing = draw(made, "fp32")
    run, batch = session(drawing.model), tiny.items(task, 9)
    feeds = tiny.collate(task, batch)
    found = answers(run, task, batch, state(drawing, len(batch)))
    expected = tiny.columns(tiny.probabilities(made, feeds), feeds["lengths"])
    for ours, theirs in zip(found, expected, strict=True):
        assert np.array_equal(np.isfinite(ours), np.isfinite(theirs))
        possible = np.isfinite(theirs)
        assert np.abs(ours[possible] - theirs[possible]).max() <= 1e-5


@pytest.mark.parametrize(("task", "cell", "layers", "bidirectional"), QUANTISED)
def test_int8_has_the_same_bits_alone_and_in_any_batch_and_is_near_fp32(
    task: str, cell: str, layers: int, bidirectional: bool
) -> None:
    made = tiny.network(task, cell, layers=layers, bidirectional=bidirectional)
    exact, quantised = draw(made, "fp32"), draw(made, "int8")
    run, batch = session(quantised.model), tiny.items(task, 9)
    assert not differ_by_company(run, task, quantised)
    near = answers(session(exact.model), task, batch, state(exact, 9))
    for ours, theirs in zip(answers(run, task, batch, state(quantised, 9)), near, strict=True):
        possible = np.isfinite(theirs)
        distance = np.abs(ours[possible] - theirs[possible])
        assert distance.mean() < 0.03
        assert distance.max() < 0.3


@pytest.mark.parametrize("task", ["tag", "classify"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_fp32_has_the_same_bits_alone_and_in_any_batch(task: str, cell: str) -> None:
    drawing = draw(tiny.network(task, cell, bidirectional=True), "fp32")
    assert not differ_by_company(session(drawing.model), task, drawing)


@pytest.mark.parametrize("task", ["tag", "generate"])
def test_plain_dynamic_quantisation_lets_answers_depend_on_their_company(task: str, tmp_path: Path) -> None:
    """Why there is ballast: what ONNX Runtime's own tool makes of the same fp32 graph does not hold."""
    drawing = draw(tiny.network(task, bidirectional=True), "fp32")
    onnx.save(drawing.model, tmp_path / "fp32.onnx")
    quantize_dynamic(tmp_path / "fp32.onnx", tmp_path / "plain.onnx", weight_type=QuantType.QInt8)
    assert "DynamicQuantizeLSTM" in {node.op_type for node in onnx.load(tmp_path / "plain.onnx").graph.node}
    assert differ_by_company(session(tmp_path / "plain.onnx"), task, drawing)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_text_in_pieces_with_its_state_handed_on_is_the_whole_text(cell: str, precision: Any) -> None:
    drawing = draw(tiny.network("generate", cell, layers=2), precision)
    run, codec = session(drawing.model), tiny.text_codec()
    text = tiny.TEXT[:60]
    feeds = tiny.collate("generate", [codec.encode(text)])
    whole, *end = run.run(None, feeds | state(drawing, 1))
    pieces, memory = [], state(drawing, 1)
    for start, stop in ((0, 1), (1, 20), (20, 60)):
        feeds = tiny.collate("generate", [codec.encode(text[start:stop])])
        piece, *after = run.run(None, feeds | memory)
        memory = {t.input: part for t, part in zip(drawing.state, after, strict=True)}
        pieces.append(piece)
    assert np.array_equal(np.concatenate(pieces), whole)
    assert all(np.array_equal(memory[t.input], part) for t, part in zip(drawing.state, end, strict=True))


def test_a_state_ends_at_its_rows_own_length() -> None:
    drawing = draw(tiny.network("generate", layers=2), "int8")
    run, codec = session(drawing.model), tiny.text_codec()
    short, long = codec.encode("9 green"), codec.encode(tiny.TEXT[:50])
    _, *alone = run.run(None, tiny.collate("generate", [short]) | state(drawing, 1))
    _, *both = run.run(None, tiny.collate("generate", [long, short]) | state(drawing, 2))
    assert all(np.array_equal(a[0], b[1]) for a, b in zip(alone, both, strict=True))


def test_rows_that_stand_for_no_character_get_no_probability() -> None:
    drawing = draw(tiny.network("generate"), "int8")
    batch = [tiny.text_codec().encode("☃ 9")]
    (found,) = answers(session(drawing.model), "generate", batch, state(drawing, 1))
    assert np.isneginf(found[:, :2]).all()
    assert np.exp(found).sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_int8_is_an_lstm_of_bytes() -> None:
    made = tiny.network("generate", layers=2)
    graph = draw(made, "int8").model.graph
    assert [node.op_type for node in graph.node].count("DynamicQuantizeLSTM") == 2
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    assert kinds["layer0.w"] == kinds["layer1.r"] == kinds["table"] == onnx.TensorProto.INT8
