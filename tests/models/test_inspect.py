"""Looking into a bundle: the operators' formulas against ONNX Runtime, the graph that is tapped, what is shown.

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
from numpy.typing import NDArray
from onnx import helper

from models.__main__ import main
from models.bundle import Bundle
from models.inspect import operators, rows, terminal, trace, units
from models.inspect.operators import PARTS, Kind, Operator, UnknownOperator
from models.inspect.rows import Row
from models.inspect.trace import Layer, NotInstalled, inspect
from models.onnx_session import OnnxModel
from tests.support import bundles

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


def drawn(kind: Kind, attributes: dict[str, Any], given: str) -> tuple[Operator, dict[str, NDArray[Any]]]:
    """An operator with random weights, and its arrays by the names of the specification."""
    random = np.random.default_rng(1)
    d = 2 if attributes.get("direction") == "bidirectional" else 1
    rows = GATES[kind] * H
    shapes = {"W": (d, rows, F), "R": (d, rows, H), "B": (d, 2 * rows), "P": (d, 3 * H), "h": (d, B, H), "c": (d, B, H)}
    arrays = {name: random.normal(0, 0.8, shapes[name]).astype(np.float32) for name in given}
    arrays["X"] = random.normal(0, 1, (T, B, F)).astype(np.float32)
    weights = {part.lower(): arrays[part].astype(np.float64) for part in "WRBP" if part in arrays}
    return Operator(kind=kind, attributes=attributes, **weights), arrays


def by_runtime(operator: Operator, arrays: dict[str, NDArray[Any]]) -> NDArray[Any]:
    """The outputs (T, D, B, H) that ONNX Runtime computes."""
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
def test_states_are_those_of_the_runtime(kind: Kind, attributes: dict[str, Any], given: str) -> None:
    operator, arrays = drawn(kind, attributes, given)
    initial = tuple(arrays[name].astype(np.float64) for name in "hc" if name in arrays)
    records = operators.run(operator, arrays["X"].astype(np.float64), LENGTHS, initial)
    found = np.stack([record["state"] for record in records], axis=1)  # (T, D, B, H)
    np.testing.assert_allclose(found, by_runtime(operator, arrays), atol=2e-6)
    assert all(tuple(record) == PARTS[kind] for record in records)


def test_the_parts_of_an_lstm_fit_together() -> None:
    operator, arrays = drawn("LSTM", {}, "WRB")
    (record,) = operators.run(operator, arrays["X"].astype(np.float64), np.full(B, T))
    forget, into, output, candidate, cell, memory, state = (record[part] for part in PARTS["LSTM"])
    np.testing.assert_allclose(cell[1:], forget[1:] * cell[:-1] + into[1:] * candidate[1:])
    np.testing.assert_allclose(memory, np.tanh(cell))
    np.testing.assert_allclose(state, output * memory)


@pytest.mark.parametrize(
    ("attributes", "sentence"), [({"activations": ["Affine"]}, "activation affine"), ({"layout": 1}, "batch first")]
)
def test_what_is_not_read_is_named(attributes: dict[str, Any], sentence: str) -> None:
    operator, arrays = drawn("RNN", attributes, "WRB")
    with pytest.raises(UnknownOperator, match=sentence):
        operators.run(operator, arrays["X"].astype(np.float64), LENGTHS)


def test_a_tagger_is_looked_into_along_its_words(tagger: Bundle) -> None:
    found = inspect(tagger, "the cat sat on zebras .")
    assert found.steps == ("the", "cat", "sat", "on", "zebras", ".")
    assert [layer.direction for layer in found.layers] == ["forward", "backward"], "the speller runs beside the words"
    assert all(layer.parts["forget"].shape == (6, bundles.HIDDEN) for layer in found.layers)
    assert max(layer.difference for layer in found.layers) < 1e-6


def test_a_language_model_is_looked_into_from_its_first_state(generator: Bundle) -> None:
    found = inspect(generator, "a\ncat")
    assert found.steps == tuple("a\ncat")
    (layer,) = found.layers
    assert layer.difference < 1e-6
    gates = layer.parts["input"] * layer.parts["candidate"]
    np.testing.assert_allclose(layer.parts["cell"][0], gates[0], err_msg="nothing was remembered before the start")


def test_every_kind_of_bundle_can_be_looked_into(tiny_kinds: Path) -> None:
    for path in sorted(tiny_kinds.iterdir()):
        loaded = bundles.opened(path)
        found = inspect(loaded, loaded.manifest.examples[0].inputs)
        assert found.layers, path.name
        assert all(found.steps), path.name
        for layer in found.layers:
            assert len(layer.parts["state"]) == len(found.steps), path.name
            assert layer.difference < 1e-6, path.name


def test_an_input_without_steps_is_refused(tagger: Bundle) -> None:
    with pytest.raises(ValueError, match="the input has no steps"):
        inspect(tagger, "")


def test_a_missing_package_is_named(tagger: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(NotInstalled, match="pip install onnx, or the train extra"):
        inspect(tagger, "the cat")


def test_nothing_beyond_the_serve_extra_is_imported_before_it_is_needed() -> None:
    program = (
        "import sys, models.__main__; found = {'onnx', 'rich', 'matplotlib'} & set(sys.modules); sys.exit(str(found))"
        " if found else None"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr


WAVES = np.stack([np.linspace(-3, 3, 40), np.tile([1.0, -1.0], 20), np.full(40, 5.0)], axis=1)  # (40, 3)


def test_units_are_ranked_by_what_is_asked_for() -> None:
    assert units.rank(WAVES, "varying") == [0, 1, 2]
    assert units.rank(WAVES, "switching") == [1, 0, 2]
    assert units.rank(WAVES, "active") == [2, 0, 1]


TEXT = "To be, or not\nto be: that\nis the question\nwhether it is\nnobler in mind\nor not to be,\n" * 2


def test_a_unit_that_follows_the_line_is_found() -> None:
    values = np.random.default_rng(1).normal(0, 1, (len(TEXT), 20))
    place, count = [], 0
    for character in TEXT:
        count = 0 if character == "\n" else count + 1
        place.append(count)
    values[:, 7] = -np.array(place)
    found, *_ = units.followers(values, TEXT)  # what else goes along with the lines comes after
    assert (found.unit, found.mark) == (7, "the place in the line")
    assert found.correlation == pytest.approx(-1)


def test_a_unit_that_follows_in_the_first_half_alone_is_not_believed() -> None:
    values = np.random.default_rng(1).normal(0, 1, (len(TEXT), 20))
    spaces = np.array([float(character == " ") for character in TEXT])
    half = len(TEXT) // 2
    values[:half, 3] = spaces[:half]
    assert units.followers(values, TEXT) == []


def test_nothing_is_said_of_a_short_text() -> None:
    values = np.array([[float(character == " ")] for character in "a b c d e f"])
    assert units.followers(values, "a b c d e f") == []


def layer(parts: dict[str, NDArray[np.float64]], difference: float = 0.0) -> Layer:
    return Layer(name="layer0", kind="LSTM", direction="forward", parts=parts, difference=difference)


def test_rows_are_means_of_gates_and_single_units() -> None:
    parts = {"forget": np.array([[0.2, 0.6]]), "memory": np.array([[-0.5, 0.1]]), "state": np.array([[-0.4, 0.0]])}
    shown = {row.label: row.values[0] for row in rows.means(layer(parts))}
    assert shown == pytest.approx({"forget": 0.4, "|memory|": 0.3, "|state|": 0.2})
    (unit,) = rows.of_units(layer(parts), "memory", [1])
    assert (unit.label, unit.values[0], unit.reach, unit.signed) == ("unit 1", 0.1, 0.1, True)


def test_colours_tell_signs_apart_and_zero_is_white() -> None:
    row = Row(label="", values=np.zeros(1), reach=2.0, signed=True)
    assert row.colour(0) == rows.MIDDLE
    assert row.colour(2.0) == rows.HIGH
    assert row.colour(-5.0) == rows.LOW


GATE = Row(label="forget", values=np.array([0.0, 0.5, 1.0, 0.25]))
UNIT = Row(label="unit 3", values=np.array([-2.0, 0.0, 2.0, 1.0]), reach=2.0, signed=True)


def printed(steps: tuple[str, ...], form: terminal.Form) -> str:
    out = io.StringIO()
    terminal.show(steps, [GATE, UNIT], form=form, out=out)
    return out.getvalue()


def test_a_short_input_is_a_table_of_numbers() -> None:
    assert printed(("the", "cat", "\n", "."), "auto").splitlines() == [
        "     forget  unit 3",
        "the    0.00   -2.00",
        "cat    0.50    0.00",
        "⏎      1.00    2.00",
        ".      0.25    1.00",
    ]


def test_a_strip_shows_the_text_and_a_block_a_step() -> None:
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


def test_a_strip_is_no_wider_than_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    shown = printed(("some", "words", "of", "text"), "strip").splitlines()
    assert max(map(len, shown)) <= 20
    assert [line.split() for line in shown if line.startswith("   ")] == [["some", "words"], ["of", "text"]]


def test_colours_are_used_where_rich_is_and_only_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = printed(("a", "b", "c", "d"), "table")
    assert "\x1b[30;48;2;213;94;0m" in coloured
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert "\x1b" not in printed(("a", "b", "c", "d"), "table")


def test_the_command_shows_and_draws(tiny_zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "gates.png"
    given = ["--direction", "backward", "--part", "cell", "--units", "2,0", "--out", str(out)]
    assert main(["inspect", str(tiny_zoo / "tiny-tag"), "the cat sat", *given]) == 0
    heading, parity, labels, *_ = capsys.readouterr().out.splitlines()
    assert "LSTM of 6 units, backward (also: " in heading
    assert parity.startswith("states as the graph's own, within ")
    assert labels.split()[-4:] == ["unit", "2", "unit", "0"]
    assert out.read_bytes().startswith(b"\x89PNG")


def test_the_command_takes_words_already_split(tiny_zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tiny_zoo / "tiny-tag"), '["the cat", "sat"]', "--json", "--top", "1"]) == 0
    assert [line[:7] for line in capsys.readouterr().out.splitlines()[3:5]] == ["the cat", "sat    "]


def test_states_that_differ_from_the_graphs_are_said(
    tiny_zoo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = operators.run

    def wrong(*given: Any) -> Any:
        return [{part: values + 0.01 for part, values in record.items()} for record in run(*given)]

    monkeypatch.setattr(trace, "run", wrong)
    assert main(["inspect", str(tiny_zoo / "tiny-classify"), "a lovely film"]) == 0
    assert "WARNING: the states computed here differ from the graph's own by 1e-02" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["the cat", "--layer", "layer9"], "no layer 'layer9' runs along the input: choose of constant"),
        (["the cat", "--units", "1,6"], "unit 6: "),
        (["the cat", "--part", "update"], "has no part 'update': choose of forget, input"),
        ([""], "there is nothing to look at"),
        (['{"words"', "--json"], "Expecting"),
    ],
)
def test_what_cannot_be_shown_is_said(
    given: list[str], sentence: str, tiny_zoo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(tiny_zoo / "tiny-tag"), *given]) == 2
    assert sentence in capsys.readouterr().err


def test_a_picture_of_too_many_steps_is_refused(
    tiny_zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["a" * 281, "--table", "--out", str(tmp_path / "x.png")]
    assert main(["inspect", str(tiny_zoo / "tiny-generate"), *given]) == 2
    assert "at most 280 steps, this input has 281: give less of it" in capsys.readouterr().err
