"""`seqserve inspect`: operators against ONNX Runtime, layers of bundles, units and output.

T steps, B batch, F inputs, D directions, G gates, H hidden.
"""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from matplotlib.image import imread
from numpy.typing import NDArray
from onnx import helper

from models import inspect as inspect_package
from models.__main__ import main
from models.bundle import Bundle
from models.inspect import Layer, NotInstalled, inspect, operators, render, units
from models.inspect.gradients import influence
from models.inspect.operators import PARTS, Kind, RecurrentOperator, UnsupportedOperator
from models.inspect.units import Row
from models.onnx_session import OnnxModel
from tests.support import bundles
from tests.support.pictures import picture_file

T, B, F, H = 7, 4, 3, 5
LENGTHS = np.array([7, 1, 4, 6], np.int32)
GATES: dict[Kind, int] = {"RNN": 1, "GRU": 3, "LSTM": 4}
FORMS: list[tuple[Kind, dict[str, Any], str]] = [
    ("RNN", {}, "WRB"),
    ("RNN", {"activations": ["Relu"]}, "WRBh"),
    ("GRU", {"linear_before_reset": 0}, "WRB"),
    ("GRU", {"linear_before_reset": 1}, "WRBh"),
    ("GRU", {"direction": "reverse"}, "WR"),
    ("GRU", {"direction": "bidirectional", "clip": 0.7}, "WRB"),
    ("LSTM", {}, "WR"),
    ("LSTM", {"direction": "bidirectional"}, "WRBhc"),
    ("LSTM", {"direction": "reverse"}, "WRBhcP"),
    ("LSTM", {"input_forget": 1}, "WRBP"),
    ("LSTM", {"clip": 0.7}, "WRBP"),
]


def random_operator(
    kind: Kind, attributes: dict[str, Any], given: str
) -> tuple[RecurrentOperator, dict[str, NDArray[Any]]]:
    """Return an operator with random weights, and its arrays by their names in the specification."""
    random = np.random.default_rng(1)
    d = 2 if attributes.get("direction") == "bidirectional" else 1
    rows = GATES[kind] * H
    shapes = {"W": (d, rows, F), "R": (d, rows, H), "B": (d, 2 * rows), "P": (d, 3 * H), "h": (d, B, H), "c": (d, B, H)}
    arrays = {name: random.normal(0, 0.8, shapes[name]).astype(np.float32) for name in given}
    arrays["X"] = random.normal(0, 1, (T, B, F)).astype(np.float32)
    weights = {part.lower(): arrays[part].astype(np.float64) for part in "WRBP" if part in arrays}
    return RecurrentOperator(kind=kind, attributes=attributes, **weights), arrays


def run_onnx(operator: RecurrentOperator, arrays: dict[str, NDArray[Any]]) -> NDArray[Any]:
    """Return the outputs (T, D, B, H) of ONNX Runtime."""
    order = ("X", "W", "R", "B", "lengths", "h", "c", "P")[: {"RNN": 6, "GRU": 6, "LSTM": 8}[operator.kind]]
    feeds = {**arrays, "lengths": LENGTHS}
    node = helper.make_node(
        operator.kind, [name if name in feeds else "" for name in order], ["Y"], hidden_size=H, **operator.attributes
    )
    types = {np.dtype(np.float32): onnx.TensorProto.FLOAT, np.dtype(np.int32): onnx.TensorProto.INT32}
    inputs = [helper.make_tensor_value_info(name, types[one.dtype], one.shape) for name, one in feeds.items()]
    output = helper.make_tensor_value_info("Y", onnx.TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "one", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return OnnxModel(model.SerializeToString(), bundles.CPU).run(feeds)["Y"]


@pytest.mark.parametrize(("kind", "attributes", "given"), FORMS)
def test_operator_states_equal_onnx_runtime(kind: Kind, attributes: dict[str, Any], given: str) -> None:
    operator, arrays = random_operator(kind, attributes, given)
    initial = tuple(arrays[name].astype(np.float64) for name in "hc" if name in arrays)
    records = operators.run(operator, arrays["X"].astype(np.float64), LENGTHS, initial)
    found = np.stack([record["state"] for record in records], axis=1)  # (T, D, B, H)
    np.testing.assert_allclose(found, run_onnx(operator, arrays), atol=2e-6)
    assert all(tuple(record) == PARTS[kind] for record in records)


def test_lstm_parts_are_consistent() -> None:
    operator, arrays = random_operator("LSTM", {}, "WRB")
    (record,) = operators.run(operator, arrays["X"].astype(np.float64), np.full(B, T))
    forget, into, output, candidate, cell, memory, state = (record[part] for part in PARTS["LSTM"])
    np.testing.assert_allclose(cell[1:], forget[1:] * cell[:-1] + into[1:] * candidate[1:])
    np.testing.assert_allclose(memory, np.tanh(cell))
    np.testing.assert_allclose(state, output * memory)


@pytest.mark.parametrize("attributes", [{"activations": ["Affine"]}, {"layout": 1}])
def test_unsupported_attributes_are_refused(attributes: dict[str, Any]) -> None:
    operator, arrays = random_operator("RNN", attributes, "WRB")
    with pytest.raises(UnsupportedOperator):
        operators.run(operator, arrays["X"].astype(np.float64), LENGTHS)


def test_inspect_tagger(tagger: Bundle) -> None:
    found = inspect(tagger, "the cat sat on zebras .")
    assert found.steps == ("the", "cat", "sat", "on", "zebras", ".")
    assert [layer.direction for layer in found.layers] == ["forward", "backward"], "without the layer over characters"
    assert all(layer.parts["forget"].shape == (6, bundles.HIDDEN) for layer in found.layers)
    assert max(layer.difference for layer in found.layers) < 1e-6


def test_inspect_language_model_starts_from_zeros(generator: Bundle) -> None:
    found = inspect(generator, "a\ncat")
    assert found.steps == tuple("a\ncat")
    (layer,) = found.layers
    assert layer.difference < 1e-6
    gates = layer.parts["input"] * layer.parts["candidate"]
    np.testing.assert_allclose(layer.parts["cell"][0], gates[0])


def test_inspect_every_kind_of_bundle(tiny_kinds: Path) -> None:
    for path in sorted(tiny_kinds.iterdir()):
        loaded = bundles.opened(path)
        found = inspect(loaded, loaded.manifest.examples[0].inputs)
        assert found.layers, path.name
        assert all(found.steps), path.name
        for layer in found.layers:
            assert len(layer.parts["state"]) == len(found.steps), path.name
            assert layer.difference < 1e-6, path.name


def test_inspect_refuses_an_empty_input(tagger: Bundle) -> None:
    with pytest.raises(ValueError, match="empty"):
        inspect(tagger, "")


def test_missing_onnx_package_is_reported(tagger: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(NotInstalled, match="pip install onnx"):
        inspect(tagger, "the cat")


def test_optional_packages_are_imported_lazily() -> None:
    program = (
        "import sys, models.__main__; found = {'onnx', 'rich', 'matplotlib'} & set(sys.modules); sys.exit(str(found))"
        " if found else None"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr


WAVES = np.stack([np.linspace(-3, 3, 40), np.tile([1.0, -1.0], 20), np.full(40, 5.0)], axis=1)  # (40, 3)


def test_rank_orders_units() -> None:
    assert units.rank(WAVES, "varying") == [0, 1, 2]
    assert units.rank(WAVES, "switching") == [1, 0, 2]
    assert units.rank(WAVES, "active") == [2, 0, 1]


TEXT = "To be, or not\nto be: that\nis the question\nwhether it is\nnobler in mind\nor not to be,\n" * 2


def test_followers_finds_unit_of_line_position() -> None:
    values = np.random.default_rng(1).normal(0, 1, (len(TEXT), 20))
    place, count = [], 0
    for character in TEXT:
        count = 0 if character == "\n" else count + 1
        place.append(count)
    values[:, 7] = -np.array(place)
    found, *_ = units.followers(values, TEXT)
    assert (found.unit, found.feature) == (7, "position in line")
    assert found.correlation == pytest.approx(-1)


def test_followers_ignores_unit_of_first_half_only() -> None:
    values = np.random.default_rng(1).normal(0, 1, (len(TEXT), 20))
    spaces = np.array([float(character == " ") for character in TEXT])
    half = len(TEXT) // 2
    values[:half, 3] = spaces[:half]
    assert units.followers(values, TEXT) == []


def test_followers_ignores_short_text() -> None:
    values = np.array([[float(character == " ")] for character in "a b c d e f"])
    assert units.followers(values, "a b c d e f") == []


def layer(parts: dict[str, NDArray[np.float64]], difference: float = 0.0) -> Layer:
    return Layer(name="layer0", kind="LSTM", direction="forward", parts=parts, difference=difference)


def test_rows_of_means_and_units() -> None:
    parts = {"forget": np.array([[0.2, 0.6]]), "memory": np.array([[-0.5, 0.1]]), "state": np.array([[-0.4, 0.0]])}
    shown = {row.label: row.values[0] for row in units.mean_rows(layer(parts))}
    assert shown == pytest.approx({"forget": 0.4, "|memory|": 0.3, "|state|": 0.2})
    (unit,) = units.unit_rows(layer(parts), "memory", [1])
    assert (unit.label, unit.values[0], unit.reach, unit.signed) == ("unit 1", 0.1, 0.1, True)


def test_colors_of_signs_and_zero() -> None:
    row = Row(label="", values=np.zeros(1), reach=2.0, signed=True)
    assert row.color(0) == units.MIDDLE
    assert row.color(2.0) == units.HIGH
    assert row.color(-5.0) == units.LOW


GATE = Row(label="forget", values=np.array([0.0, 0.5, 1.0, 0.25]))
UNIT = Row(label="unit 3", values=np.array([-2.0, 0.0, 2.0, 1.0]), reach=2.0, signed=True)


def printed(steps: tuple[str, ...], form: render.Form) -> str:
    out = io.StringIO()
    render.show(steps, [GATE, UNIT], form=form, out=out)
    return out.getvalue()


def test_short_input_prints_a_table() -> None:
    assert printed(("the", "cat", "\n", "."), "auto").splitlines() == [
        "     forget  unit 3",
        "the    0.00   -2.00",
        "cat    0.50    0.00",
        "⏎      1.00    2.00",
        ".      0.25    1.00",
    ]


def test_strip_without_colors_prints_blocks() -> None:
    assert printed(("a", "b", "\n", "c"), "strip").splitlines() == [
        "        ab⏎",
        "forget  ▁▅█",
        "unit 3  ▁▅█",
        "",
        "        c",
        "forget  ▃",
        "unit 3  ▇",
        "",
    ]


def test_strip_wraps_at_terminal_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    shown = printed(("some", "words", "of", "text"), "strip").splitlines()
    assert max(map(len, shown)) <= 20
    assert [line.split() for line in shown if line.startswith("   ")] == [["some", "words"], ["of", "text"]]


def test_colors_need_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.delenv("NO_COLOR", raising=False)
    colored = printed(("a", "b", "c", "d"), "table")
    assert "\x1b[30;48;2;213;94;0m" in colored
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert "\x1b" not in printed(("a", "b", "c", "d"), "table")


def test_command_prints_table_and_writes_png(
    tiny_zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "gates.png"
    given = ["--direction", "backward", "--part", "cell", "--units", "2,0", "--out", str(out)]
    assert main(["inspect", str(tiny_zoo / "tiny-tag"), "the cat sat", *given]) == 0
    heading, _, labels, *_ = capsys.readouterr().out.splitlines()
    assert "LSTM of 6 units, backward (also: " in heading
    assert labels.split()[-4:] == ["unit", "2", "unit", "0"]
    assert out.read_bytes().startswith(b"\x89PNG")


def test_command_reads_json_words(tiny_zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tiny_zoo / "tiny-tag"), '["the cat", "sat"]', "--json", "--top", "1"]) == 0
    assert [line[:7] for line in capsys.readouterr().out.splitlines()[3:5]] == ["the cat", "sat    "]


def test_command_warns_if_states_differ(
    tiny_zoo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = operators.run

    def wrong(*given: Any) -> Any:
        return [{part: values + 0.01 for part, values in record.items()} for record in run(*given)]

    monkeypatch.setattr(inspect_package, "run", wrong)
    assert main(["inspect", str(tiny_zoo / "tiny-classify"), "a lovely film"]) == 0
    assert "WARNING" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "value"),
    [
        (["the cat", "--layer", "layer9"], "'layer9'"),
        (["the cat", "--units", "1,6"], "6"),
        (["the cat", "--part", "update"], "'update'"),
        ([""], "empty"),
        (['{"words"', "--json"], "Expecting"),
    ],
)
def test_command_reports_bad_arguments(
    given: list[str], value: str, tiny_zoo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(tiny_zoo / "tiny-tag"), *given]) == 2
    assert value in capsys.readouterr().err


def test_command_refuses_too_many_steps_for_a_picture(
    tiny_zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["a" * 281, "--table", "--out", str(tmp_path / "x.png")]
    assert main(["inspect", str(tiny_zoo / "tiny-generate"), *given]) == 2
    message = capsys.readouterr().err
    assert "281" in message
    assert "280" in message


def moved(
    operator: RecurrentOperator, x: NDArray[Any], at: int, change: NDArray[Any], state_change: NDArray[Any]
) -> NDArray[Any]:
    """Return the last state (H,) after x (T, 1, F), with the memory after `at` steps changed by `change` (H,).

    The state of an LSTM at that step changes by `state_change`.
    """
    head = operators.run(operator, x[:at], np.array([at]))[0]
    state = head["state"][-1:]  # (1, 1, H)
    lstm = operator.kind == "LSTM"
    initial = (state + state_change, head["cell"][-1:] + change) if lstm else (state + change, state)
    tail = operators.run(operator, x[at:], np.array([len(x) - at]), initial)[0]
    end: NDArray[Any] = tail["state"][-1, 0]
    return end


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [("RNN", {}), ("GRU", {"linear_before_reset": 0}), ("GRU", {"linear_before_reset": 1}), ("LSTM", {})],
)
def test_influence_is_the_norm_of_the_jacobian(kind: Kind, attributes: dict[str, Any]) -> None:
    operator, arrays = random_operator(kind, attributes, "WRB")
    x, small = arrays["X"][:, :1].astype(np.float64), 1e-6
    record = {part: values[:, 0] for part, values in operators.run(operator, x, np.array([T]))[0].items()}
    found = influence(operator, 0, record)
    assert found is not None
    norms = []
    for at in range(1, T):
        # A changed cell also changes the state of its own step, through the output gate.
        own = record["output"][at - 1] * (1 - record["memory"][at - 1] ** 2) if kind == "LSTM" else np.zeros(H)
        columns = []
        for unit in range(H):
            change = small * np.eye(H)[unit]
            ends = [moved(operator, x, at, sign * change, sign * change * own) for sign in (1, -1)]
            columns.append((ends[0] - ends[1]) / (2 * small))
        norms.append(float(np.linalg.norm(columns)))
    last = float(np.linalg.norm(record["output"][-1] * (1 - record["memory"][-1] ** 2))) if kind == "LSTM" else H**0.5
    np.testing.assert_allclose(found, np.array([*norms, last]) / last, rtol=1e-5)


@pytest.mark.parametrize(("attributes", "given"), [({"clip": 0.7}, "WRB"), ({"input_forget": 1}, "WRB"), ({}, "WRBP")])
def test_influence_of_unusual_cells_is_not_given(attributes: dict[str, Any], given: str) -> None:
    operator, arrays = random_operator("LSTM", attributes, given)
    record = operators.run(operator, arrays["X"].astype(np.float64), np.full(B, T))[0]
    assert influence(operator, 0, {part: values[:, 0] for part, values in record.items()}) is None


def test_attention_has_a_row_for_each_piece_that_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = bundles.translator(tmp_path)
    steps, rows = units.attention_rows(bundles.opened(path), "a cat")
    assert steps == ("▁a", "▁cat", "</s>")
    for row in rows:
        assert row.values.shape == (3,)
        np.testing.assert_allclose(row.values.sum(), 1, atol=1e-6)
    picture = tmp_path / "attention.png"
    assert main(["inspect", str(path), "a cat", "--out", str(picture)]) == 0
    assert picture.stat().st_size > 1000
    printed = capsys.readouterr().out
    assert all(row.label in printed for row in rows)


def test_attention_is_drawn_over_a_picture(tmp_path: Path) -> None:
    path, scene, out = bundles.picture_captioner(tmp_path), tmp_path / "scene.png", tmp_path / "attention.png"
    scene.write_bytes(picture_file(3))
    _, rows = units.attention_rows(bundles.opened(path), scene.read_bytes())
    assert {row.values.shape for row in rows} == {(16,)}
    assert main(["inspect", str(path), str(scene), "--out", str(out)]) == 0
    assert imread(out).std() > 0.05


def test_attention_of_an_empty_text_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(bundles.translator(tmp_path)), ""]) == 2
    assert "empty" in capsys.readouterr().err
