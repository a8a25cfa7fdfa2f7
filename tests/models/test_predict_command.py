"""`seqserve predict`: every format of file, parameters, and inputs that cannot be read."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from models import load
from models.__main__ import main
from models.predictor import PARAMETERS
from models.tasks import as_json
from tests.support.pictures import encoded, picture_file

ROOT = Path(__file__).resolve().parents[2]
FRAMES = [[0.5, -1.0, 2.0], [1.0, 0.0, 0.25]]


def predict(capsys: pytest.CaptureFixture[str], *words: object) -> list[dict[str, Any]]:
    assert main(["predict", *map(str, words)]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    ("name", "content", "options", "inputs"),
    [
        ("a.txt", "to be\n\nor not\n", [], ["to be", "", "or not"]),
        ("a.csv", "n;review\n1;to be\n2;or not\n", ["--text", "review"], ["to be", "or not"]),
        ("a.tsv", "text\tn\nto be\t1\n", [], ["to be"]),
        ("a.jsonl", '{"text": "to be"}\n{"tokens": ["or", "not"]}\n', [], ["to be", ["or", "not"]]),
        ("a.json", '[{"q": "to be"}]', ["--text", "q"], ["to be"]),
        ("a.conll", "# a comment\nto\tPART\nbe\tVERB\n\n#tag\tX\n", [], [["to", "be"], ["#tag"]]),
        ("a.conll", "1 to\n2 be\n", ["--token-column", "1"], [["to", "be"]]),
        ("a.conllu", "# x\n1\tto\n1-2\ttobe\n2\tbe\n", [], [["to", "be"]]),
        ("a.txt", "to X\nbe Y\n", ["--format", "conll"], [["to", "be"]]),
        ("a.csv", "text\ncafé\n".encode("latin-1"), ["--encoding", "latin-1"], ["café"]),
    ],
)
def test_inputs_of_every_format_are_tagged(
    tmp_path: Path,
    tiny_zoo: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: str | bytes,
    options: list[str],
    inputs: list[Any],
) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    rows = predict(capsys, tiny_zoo / "tiny-tag", tmp_path / name, *options)
    assert [row["inputs"] for row in rows] == inputs
    assert [row["outputs"] for row in rows] == as_json(load(tiny_zoo / "tiny-tag")(inputs))


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("a.jsonl", json.dumps({"frames": FRAMES}), []),
        ("a.jsonl", json.dumps({"signal": FRAMES}), ["--text", "signal"]),
        ("a.csv", "run,x,y,z,label,step\n7,0.5,-1,2,a,0\n7,1,0,.25,a,1\n", ["--series", "run"]),
    ],
)
def test_frames_are_read_from_tables_and_json(
    tmp_path: Path, tiny_live: Path, capsys: pytest.CaptureFixture[str], name: str, content: str, options: list[str]
) -> None:
    (tmp_path / name).write_text(content)
    (row,) = predict(capsys, tiny_live / "tiny-live-frames", tmp_path / name, *options)
    assert row["inputs"] == FRAMES
    assert len(row["outputs"]) == len(FRAMES)


SERIES = [[5.0, None, 7.0, 6.0, 8.0], [1.0, 2.0, 3.0, 2.0, 4.0]]


@pytest.mark.parametrize(
    ("name", "content", "options", "inputs"),
    [
        ("a.csv", "time,load,price\n1 h,5,1\n2 h,,2\n3 h,7,3\n4 h,6,2\n5 h,8,4\n", [], SERIES),
        ("a.csv", "load;price\n5;1\n;2\n7;3\n6;2\n8;4\n", ["--text", "price"], SERIES[1:]),
        ("a.csv", "id,y\na,5\nb,1\na,\nb,2\na,7\nb,3\na,6\nb,2\na,8\nb,4\n", [], SERIES),
        ("a.jsonl", "".join(json.dumps({"target": one}) + "\n" for one in SERIES), [], SERIES),
        ("a.json", json.dumps([{"y": SERIES[0]}]), ["--text", "y"], SERIES[:1]),
    ],
)
def test_series_are_read_from_tables_and_json(
    tmp_path: Path,
    tiny_forecaster: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: str,
    options: list[str],
    inputs: list[Any],
) -> None:
    (tmp_path / name).write_text(content)
    words = ["--prediction-length", "3", "--quantile-levels", "0.2,0.5", *options]
    rows = predict(capsys, tiny_forecaster, tmp_path / name, *words)
    expected = load(tiny_forecaster)(inputs, prediction_length=3, quantile_levels=[0.2, 0.5])
    assert rows == [
        {"inputs": one, "outputs": json.loads(json.dumps(as_json(answer)))}
        for one, answer in zip(inputs, expected, strict=True)
    ]


@pytest.mark.parametrize("task", PARAMETERS)
def test_every_parameter_is_an_option(task: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["predict", "--help"])
    shown = capsys.readouterr().out
    assert all(f"--{name.replace('_', '-')}" in shown for name in PARAMETERS[task].model_fields)


def test_half_a_character_does_not_fail_the_file(
    tmp_path: Path, tiny_zoo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "to \\ud83d be"}\n{"text": "café"}\n')
    out = tmp_path / "out.jsonl"
    assert main(["predict", str(tiny_zoo / "tiny-tag"), str(tmp_path / "a.jsonl"), "--out", str(out)]) == 0
    assert [json.loads(line)["inputs"] for line in out.read_text("utf-8").splitlines()] == ["to \ud83d be", "café"]


def test_parameters_are_options(tmp_path: Path, tiny_zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("to be\n")
    words = ["--max-new-tokens", "5", "--seed", "3", "--stop", "e", "--stop", "o", "--return-full-text"]
    (row,) = predict(capsys, tiny_zoo / "tiny-generate", tmp_path / "a.txt", *words)
    expected = load(tiny_zoo / "tiny-generate")(
        "to be", max_new_tokens=5, seed=3, stop=["e", "o"], return_full_text=True
    )
    assert row["outputs"] == as_json(expected)


def test_bases_are_read_from_fasta(tmp_path: Path, tiny_kinds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = next(path for path in sorted(tiny_kinds.iterdir()) if "dna" in path.name)
    (tmp_path / "a.fa").write_text(">one\nACGT\nAC\n>two\nGG\n")
    assert [row["inputs"] for row in predict(capsys, bundle, tmp_path / "a.fa")] == ["ACGTAC", "GG"]


def test_an_input_that_cannot_be_read_does_not_fail_the_others(
    tmp_path: Path, tiny_zoo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "to be"}\n{"text": 3}\n{"text": "or"}\n')
    out = tmp_path / "out.jsonl"
    assert main(["predict", str(tiny_zoo / "tiny-tag"), str(tmp_path / "a.jsonl"), "--out", str(out)]) == 1
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert ["outputs" in row for row in rows] == [True, False, True]
    assert rows[1]["inputs"] == 3
    assert rows[1]["error"]


@pytest.mark.parametrize(
    ("file", "options", "part"),
    [
        ("gone.txt", [], "gone.txt"),
        (".", [], "directory"),
        ("a.csv", [], "'review'"),
        ("a.txt", ["--top-k", "0"], "top_k"),
        ("a.txt", ["--format", "jsn"], "json"),
        ("a.txt", ["--threads", "0"], "'0'"),
        ("a.txt", ["--threads", "-3"], "'-3'"),
        ("a.txt", ["--agregation", "simple"], "--aggregation"),
    ],
)
def test_an_error_is_one_line(
    tmp_path: Path,
    tiny_zoo: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    file: str,
    options: list[str],
    part: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_text("review\nto be\n")
    Path("a.txt").write_text("to be\n")
    try:
        status: object = main(["predict", str(tiny_zoo / "tiny-tag"), file, *options])
    except SystemExit as left:
        status = left.code
    shown = capsys.readouterr().err
    assert status == 2
    assert shown.count("\n") == 1
    assert part in shown


def test_the_file_of_a_picture_is_one_input(
    tiny_writers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "scene.PNG"
    file.write_bytes(picture_file(4))
    (found,) = predict(capsys, tiny_writers / "tiny-picture", file, "--max-new-tokens", 5)
    expected = load(tiny_writers / "tiny-picture")(picture_file(4), max_new_tokens=5)
    assert found == {"inputs": encoded(picture_file(4)), "outputs": as_json(expected)}


def test_a_captioner_of_vectors_reads_frames(
    tiny_writers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "vectors.jsonl"
    file.write_text('{"frames": [[0.5, -1.0, 2.0]]}\n')
    (found,) = predict(capsys, tiny_writers / "tiny-caption", file, "--max-new-tokens", 5)
    expected = load(tiny_writers / "tiny-caption")([[0.5, -1.0, 2.0]], max_new_tokens=5)
    assert found["outputs"] == as_json(expected)


def test_standard_input_is_read_and_no_torch_imported(tiny_zoo: Path) -> None:
    program = (
        "import sys; from models.__main__ import main; s = main(sys.argv[1:]); sys.exit(s or 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", program, "predict", str(tiny_zoo / "tiny-tag"), "-"]
    done = subprocess.run(command, cwd=ROOT, input="to be\n", capture_output=True, text=True, check=True)
    assert json.load(io.StringIO(done.stdout))["inputs"] == "to be"
