"""Exported networks: fp32 equals PyTorch, int8 is close, and answers do not depend on the batch."""

from functools import cache, partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnxruntime.quantization import QuantType, quantize_dynamic

from tests.support import tiny
from training.onnx_export.builder import ExportedGraph
from training.onnx_export.network_graph import export_graph
from training.onnx_export.stack import has_int8
from training.options import CellName

CELLS = get_args(CellName)
# name: (task, codec, shape). Stacks of every cell are compared in exported/; here is what stands before and after them.
SHAPES: dict[str, tuple[str, Any, dict[str, Any]]] = {
    **{f"words-{cell}": ("tag", tiny.words_codec, {"cell": cell, "bidirectional": True}) for cell in CELLS},
    **{f"text-{cell}": ("generate", tiny.text_codec, {"cell": cell, "layers": 2}) for cell in CELLS},
    "crf": ("tag", tiny.words_codec, {"crf": True, "bidirectional": True}),
    "joint": ("joint", tiny.words_codec, {"crf": True, "bidirectional": True, "pooling": ("max", "attention")}),
    "windows": ("tag", tiny.words_codec, {"characters": "cnn"}),
    "subwords": ("tag", partial(tiny.words_codec, subwords=True), {}),
    "subwords-alone": ("classify", partial(tiny.words_codec, characters=False, subwords=True), {}),
    "plain-words": ("classify", partial(tiny.words_codec, characters=False), {"bidirectional": True}),
    "merged": ("classify", tiny.words_codec, {"merge": {"x": ("a", "b"), "y": ("d",)}}),
    "last": ("classify", tiny.words_codec, {"bidirectional": True, "pooling": ("last",), "layers": 2}),
    "mean": ("classify", tiny.words_codec, {"bidirectional": True, "pooling": ("mean",), "skip": "dense", "layers": 3}),
    "attention": ("classify", tiny.words_codec, {"pooling": ("attention",), "skip": "residual", "layers": 2}),
    "highway": ("classify", tiny.words_codec, {"bidirectional": True, "skip": "highway", "layers": 2}),
    "dna": ("classify", tiny.dna_codec, {"bidirectional": True}),
    "dna-gru": ("classify", tiny.dna_codec, {"bidirectional": True, "cell": "gru"}),
    "frames": ("classify", tiny.frames_codec, {"bidirectional": True}),
    "frames-gru": ("tag", tiny.frames_codec, {"cell": "gru"}),
    **{f"live-{cell}": ("tag", tiny.words_codec, {"cell": cell, "layers": 2}) for cell in CELLS},
    "live-frames": ("tag", tiny.frames_codec, {"layers": 2, "skip": "dense"}),
    "live-characters": ("tag", tiny.text_codec, {"cell": "lstm-peephole"}),
    "live-bases": ("tag", tiny.plain_dna_codec, {"cell": "lstm-coupled"}),
    "live-subwords": ("tag", partial(tiny.words_codec, subwords=True), {"skip": "highway", "layers": 2}),
    "characters": ("classify", tiny.text_codec, {"bidirectional": True, "cell": "gru"}),
    "tied": ("generate", tiny.text_codec, {"layers": 2, "tied": True}),
}


def made_of(shape: str, seed: int = 0) -> tuple[Any, Any]:
    """Return the network of a shape and its codec."""
    task, codec, options = SHAPES[shape]
    made_codec = codec()
    return tiny.network(task, codec=made_codec, seed=seed, **options), made_codec


def session(model: onnx.ModelProto | Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def state(exported: ExportedGraph, size: int, seed: int | None = None) -> dict[str, Any]:
    draws = np.random.default_rng(seed)
    shape = {t.input: (size, t.width) for t in exported.state}
    return {
        name: (np.zeros(s) if seed is None else draws.uniform(-0.9, 0.9, s)).astype(np.float32)
        for name, s in shape.items()
    }


def answers(run: onnxruntime.InferenceSession, codec: Any, batch: list[Any], state_in: dict[str, Any]) -> list[Any]:
    """Return the outputs of each item without its padding: [item][output]."""
    feeds = codec.collate(batch)
    outputs = run.run(None, feeds | state_in)[: len(run.get_outputs()) - len(state_in)]
    return list(zip(*(tiny.columns(output, feeds["lengths"]) for output in outputs), strict=True))


def differs_by_batch(run: onnxruntime.InferenceSession, codec: Any, exported: ExportedGraph) -> bool:
    """Return whether any answer has other bits in some batch than alone."""
    inputs = tiny.items(codec, 24)
    state_in = state(exported, len(inputs), seed=1)
    alone = [
        answers(run, codec, [item], {k: v[i : i + 1] for k, v in state_in.items()})[0] for i, item in enumerate(inputs)
    ]
    random = np.random.default_rng(2)
    for size in (2, 3, 7, 16, 24):
        chosen = random.permutation(len(inputs))[:size]
        found = answers(run, codec, [inputs[i] for i in chosen], {k: v[chosen] for k, v in state_in.items()})
        for i, parts in zip(chosen, found, strict=True):
            if not all(np.array_equal(a, b) for a, b in zip(alone[i], parts, strict=True)):
                return True
    return False


@pytest.mark.parametrize("shape", SHAPES)
def test_fp32_equals_pytorch_on_ragged_batches(shape: str) -> None:
    made, codec = made_of(shape)
    exported = export_graph(made, "fp32")
    run, batch = session(exported.model), tiny.items(codec, 9)
    feeds = codec.collate(batch)
    found = answers(run, codec, batch, state(exported, len(batch)))
    expected = zip(*(tiny.columns(part, feeds["lengths"]) for part in tiny.answers(made, feeds).values()), strict=True)
    for ours, theirs in zip(found, expected, strict=True):
        for mine, torchs in zip(ours, theirs, strict=True):
            possible = np.isfinite(torchs)
            assert np.array_equal(np.isfinite(mine), possible)
            assert np.abs(mine[possible] - torchs[possible]).max() <= 1e-5


def live(precision: str) -> list[str]:
    return [
        name for name in SHAPES if name.startswith("live") and (precision == "fp32" or has_int8(made_of(name)[0].stack))
    ]


@pytest.mark.parametrize(("shape", "precision"), [(s, p) for p in ("fp32", "int8") for s in live(p)])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_chunks_with_a_carried_state_have_the_bits_of_the_whole(
    shape: str, precision: Any, data: st.DataObject
) -> None:
    run, codec, exported = live_session(shape, precision)
    whole = tiny.items(codec, 1, seed=data.draw(st.integers(0, 99)))[0]
    cuts = data.draw(st.lists(st.integers(1, whole.length), max_size=4).map(sorted))
    expected, *end = run.run(None, codec.collate([whole]) | state(exported, 1))
    state_in, found = state(exported, 1), []
    for piece in tiny.cut(codec, whole, cuts):
        part, *after = run.run(None, codec.collate([piece]) | state_in)
        state_in = {tensor.input: rows for tensor, rows in zip(exported.state, after, strict=True)}
        found.append(part)
    assert np.array_equal(np.concatenate(found), expected)
    assert all(map(np.array_equal, state_in.values(), end))


@cache
def live_session(shape: str, precision: Any) -> tuple[onnxruntime.InferenceSession, Any, ExportedGraph]:
    made, codec = made_of(shape)
    exported = export_graph(made, precision)
    assert exported.state
    return session(exported.model), codec, exported


@pytest.mark.parametrize(
    "options",
    [{"bidirectional": True}, {"crf": True}],
)
def test_bidirectional_or_crf_tagger_has_no_state(options: dict[str, Any]) -> None:
    assert export_graph(tiny.network("tag", **options), "fp32").state == ()


def test_dna_with_positions_has_no_state() -> None:
    assert export_graph(tiny.network("tag", codec=tiny.dna_codec()), "fp32").state == ()


@pytest.mark.parametrize("task", ["classify", "joint"])
def test_embedding_is_the_input_of_the_text_head(task: str) -> None:
    made = tiny.network(task, bidirectional=True)
    exported, codec = export_graph(made, "int8"), tiny.words_codec()
    assert exported.outputs[-1].name == "embedding"
    batch = tiny.items(codec, 5)
    found = answers(session(exported.model), codec, batch, {})
    head = made.text_head
    for row in found:
        logits = row[-1] @ head.weight.detach().numpy().T + head.bias.detach().numpy()
        odds = np.exp(logits - logits.max())
        assert row[-2] == pytest.approx(odds / odds.sum(), abs=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_fp32_has_the_same_bits_alone_and_in_any_batch(shape: str) -> None:
    made, codec = made_of(shape)
    exported = export_graph(made, "fp32")
    assert not differs_by_batch(session(exported.model), codec, exported)


@pytest.mark.parametrize("shape", SHAPES)
def test_int8_has_the_same_bits_alone_and_in_any_batch_and_is_close_to_fp32(shape: str) -> None:
    made, codec = made_of(shape)
    if not has_int8(made.stack):
        pytest.skip("no int8 form of this stack")
    exact, quantized = export_graph(made, "fp32"), export_graph(made, "int8")
    run, batch = session(quantized.model), tiny.items(codec, 9)
    assert not differs_by_batch(run, codec, quantized)
    near = answers(session(exact.model), codec, batch, state(exact, 9))
    for ours, theirs in zip(answers(run, codec, batch, state(quantized, 9)), near, strict=True):
        possible = np.isfinite(theirs[0])
        distance = np.abs(ours[0][possible] - theirs[0][possible])
        assert distance.mean() < 0.03
        assert distance.max() < 0.3


@pytest.mark.parametrize("task", ["tag", "generate"])
def test_plain_dynamic_quantization_depends_on_the_batch(task: str, tmp_path: Path) -> None:
    """The reason for range pins: ONNX Runtime's own quantization of the same graph depends on the batch."""
    codec = tiny.text_codec() if task == "generate" else tiny.words_codec()
    exported = export_graph(tiny.network(task, bidirectional=task == "tag"), "fp32")
    onnx.save(exported.model, tmp_path / "fp32.onnx")
    quantize_dynamic(tmp_path / "fp32.onnx", tmp_path / "plain.onnx", weight_type=QuantType.QInt8)
    assert "DynamicQuantizeLSTM" in {node.op_type for node in onnx.load(tmp_path / "plain.onnx").graph.node}
    assert differs_by_batch(session(tmp_path / "plain.onnx"), codec, exported)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_text_in_chunks_with_a_carried_state_equals_the_whole(cell: str, precision: Any) -> None:
    exported = export_graph(tiny.network("generate", cell, layers=2), precision)
    run, codec = session(exported.model), tiny.text_codec()
    text = tiny.TEXT[:60]
    feeds = codec.collate([codec.encode(text)])
    whole, *end = run.run(None, feeds | state(exported, 1))
    pieces, state_in = [], state(exported, 1)
    for start, stop in ((0, 1), (1, 20), (20, 60)):
        feeds = codec.collate([codec.encode(text[start:stop])])
        piece, *after = run.run(None, feeds | state_in)
        state_in = {t.input: part for t, part in zip(exported.state, after, strict=True)}
        pieces.append(piece)
    assert np.array_equal(np.concatenate(pieces), whole)
    assert all(np.array_equal(state_in[t.input], part) for t, part in zip(exported.state, end, strict=True))


def test_final_state_is_taken_at_each_rows_length() -> None:
    exported = export_graph(tiny.network("generate", layers=2), "int8")
    run, codec = session(exported.model), tiny.text_codec()
    short, long = codec.encode("9 green"), codec.encode(tiny.TEXT[:50])
    _, *alone = run.run(None, codec.collate([short]) | state(exported, 1))
    _, *both = run.run(None, codec.collate([long, short]) | state(exported, 2))
    assert all(np.array_equal(a[0], b[1]) for a, b in zip(alone, both, strict=True))


def test_padding_and_unknown_rows_have_probability_0() -> None:
    exported = export_graph(tiny.network("generate"), "int8")
    codec = tiny.text_codec()
    ((found,),) = answers(session(exported.model), codec, [codec.encode("☃ 9")], state(exported, 1))
    assert np.isneginf(found[:, :2]).all()
    assert np.exp(found).sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_int8_uses_dynamic_quantize_lstm_with_byte_weights() -> None:
    made = tiny.network("generate", layers=2)
    graph = export_graph(made, "int8").model.graph
    assert [node.op_type for node in graph.node].count("DynamicQuantizeLSTM") == 2
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    assert kinds["layer0.w"] == kinds["layer1.r"] == kinds["table"] == onnx.TensorProto.INT8
