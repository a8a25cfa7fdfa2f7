"""The command line: the files it leaves, and errors in one line with status 2."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from models import self_test
from models.manifest import read
from tests.support import bundles, tiny
from tests.support.tiny_files import conll, frames, series, table
from training import recipe, terminal, trainer
from training.__main__ import main, make_parser
from training.metrics import COVERAGE, MAE, MSE
from training.run import open_run

ROOT = Path(__file__).parents[3]
TINY = [word for field, value in tiny.SMALL.items() for word in ("--set", f"{field}={value}")]


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wide terminal in a folder with two files to train on."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(terminal.console, "width", 300)
    (tmp_path / "mine.conll").write_text(conll())
    (tmp_path / "mine.csv").write_text(table("csv").replace("text,label", "review,stars"))
    return tmp_path


def test_list_shows_every_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    output = capsys.readouterr().out
    assert all(name in output for name in recipe.names())
    assert "ud-ewt" in output
    assert "--data FILE" in output


def test_data_lists_data_sets_and_prints_the_folder_of_one(
    workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEQSERVE_DATA", str(workplace))
    (workplace / "tinyshakespeare").mkdir()
    (workplace / "tinyshakespeare/train.txt").write_text("x")
    assert main(["data"]) == 0
    assert "not fetched" in capsys.readouterr().out
    assert main(["data", "tinyshakespeare"]) == 0
    assert capsys.readouterr().out == f"tinyshakespeare: {workplace / 'tinyshakespeare'}\n"


def test_fit_export_score_and_show_work_on_a_file(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "tagger", "--data", "mine.conll", "--name", "mine", "--tag-column", "-1", *TINY]) == 0
    output = capsys.readouterr().out
    assert [line[:10] for line in output.splitlines() if line.startswith("epoch ")] == ["epoch 1/2:", "epoch 2/2:"]
    assert "nan" not in output
    assert "95%" in output
    assert output.endswith("seqserve export runs/mine\n")
    left = {path.name for path in (workplace / "runs/mine").iterdir()}
    assert left >= {
        "run.json",
        "history.json",
        "best.pt",
        "checkpoint.pt",
        "curves.png",
        "errors.tsv",
        "tensorboard",
        "words.json",
    }
    assert main(["export", "runs/mine"]) == 0
    assert "seqserve serve --bundles models/zoo,runs/mine/bundle" in capsys.readouterr().out
    assert main(["export", "runs/mine/bundle"]) == 2
    assert f"seqserve export {workplace}/runs/mine" in capsys.readouterr().err
    assert main(["score", "mine", "--variant", "fp32"]) == 0
    accuracy = read(workplace / "runs/mine/bundle").variants["fp32"].scores["accuracy"]
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["fp32", str(accuracy), str(accuracy)] in lines
    assert "95%" in lines[-1]
    assert main(["show", "runs/mine/bundle"]) == 0
    card = capsys.readouterr().out
    assert card == (workplace / "runs/mine/bundle/README.md").read_text() + "\n"
    assert "seqserve fit tagger --data mine.conll --name mine --tag-column -1 --set architecture.hidden=12" in card


def test_score_of_a_test_file_shows_every_label(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns = ["--text", "review", "--label", "stars"]
    assert main(["fit", "classifier", "--data", "mine.csv", "--name", "mine", *columns, *TINY]) == 0
    assert main(["export", "runs/mine", "--only", "fp32"]) == 0
    capsys.readouterr()
    (workplace / "test.csv").write_text((workplace / "mine.csv").read_text() + "a text,never seen\n")
    assert main(["score", "runs/mine/bundle", "--data", "test.csv"]) == 0
    output = capsys.readouterr().out
    labels = {*read(workplace / "runs/mine/bundle").labels, "never seen"}
    assert all(any(line.strip().startswith(label) for line in output.splitlines()) for label in labels)
    (workplace / "other.csv").write_text((workplace / "test.csv").read_text().replace("review,stars", "words,class"))
    assert main(["score", "runs/mine/bundle", "--data", "other.csv", "--text", "words", "--label", "class"]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == output.splitlines()[:2]
    assert main(["score", "runs/mine/bundle", "--data", "other.csv"]) == 2
    assert "'review'" in capsys.readouterr().err


def test_score_of_a_file_of_series_shows_the_baselines(
    workplace: Path, tiny_forecaster: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tiny bundle comes from no run, so it gets the recipe that a run would write."""
    bundle = workplace / "bundle"
    shutil.copytree(tiny_forecaster, bundle)
    manifest = json.loads((bundle / "manifest.json").read_text())
    sizes = {"codec.segment": 4, "codec.longest": 20, "forecast.horizon": 8, "forecast.frequency": "h"}
    manifest["provenance"]["recipe"] = recipe.load("forecaster", **sizes).model_dump_json()
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    (workplace / "mine.csv").write_text(series().replace("time", "when"))
    assert main(["score", "bundle", "--data", "mine.csv", "--time", "when"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["variant", *(MSE, MAE, COVERAGE)]
    assert (rows[1][0], len(rows[1])) == ("fp32", 4)
    assert [row[:2] for row in rows[2:5]] == [["last", "value"], ["the", "value"], ["linear", "regression"]]
    (workplace / "mine.csv").write_text(series(7))
    assert main(["score", "bundle", "--data", "mine.csv"]) == 2
    assert "7 values" in capsys.readouterr().err


def test_segments_of_another_size_are_an_option_of_fit(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workplace / "mine.csv").write_text(series(90))
    words = ["fit", "forecaster", "--data", "mine.csv", *TINY]
    assert main(words) == 2
    capsys.readouterr()
    assert main([*words, "--set", "codec.segment=7"]) == 0
    assert "trained on 1 series, scored on " in capsys.readouterr().out
    fitted = open_run(workplace / "runs/forecaster").recipe
    assert (fitted.codec.segment, fitted.codec.longest, fitted.forecast.frequency) == (7, 35, "h")


def test_score_of_a_test_file_converts_tags_to_the_scheme_of_the_bundle(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spans = "a B-x\nb I-x\nc O\n\n"
    (workplace / "spans.conll").write_text(spans * 30)
    (workplace / "bioes.conll").write_text(spans.replace("I-x", "E-x") * 3)
    assert main(["fit", "tagger", "--data", "spans.conll", "--name", "mine", *TINY]) == 0
    assert main(["export", "runs/mine", "--only", "fp32"]) == 0
    scores = []
    for file in ("spans.conll", "bioes.conll"):
        capsys.readouterr()
        assert main(["score", "runs/mine/bundle", "--data", file]) == 0
        scores.append([line for line in capsys.readouterr().out.splitlines() if "fp32 " in line])
    assert scores[0] == scores[1]


def test_scoring_imports_no_torch() -> None:
    program = (
        "import sys; from training import score; from training.data import loading; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


def test_export_only_writes_one_variant(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "tagger", "--data", "mine.conll", "--name", "mine", *TINY]) == 0
    assert main(["export", "runs/mine", "--only", "fp32", "--out", "alone"]) == 0
    assert sorted(file.name for file in Path("alone").glob("*.onnx")) == ["fp32-speller.onnx", "fp32.onnx"]
    assert main(["export", "runs/mine", "--only", "fp4"]) == 2
    assert "'fp4'" in capsys.readouterr().err


def test_split_speller_keeps_the_answers(workplace: Path) -> None:
    path = bundles.tagger(workplace)
    before, whole = read(path), bundles.opened(path)
    assert main(["split-speller", str(path)]) == 0
    assert read(path).variants["fp32"].speller == "fp32-speller.onnx"
    assert read(path).examples == before.examples
    for text in ("unheard zebras", "the cat"):
        assert self_test.answer(bundles.opened(path), text) == self_test.answer(whole, text)


DNA = "sequence,class\n" + "".join(f"{row.text},{row.label}\n" for row in tiny.dna(60))
WAVES = frames("csv").replace("id,x,y,z,label", "run,x,y,z,state")


@pytest.mark.parametrize(
    ("words", "content", "codec"),
    [
        (["dna", "--text", "sequence", "--label", "class"], DNA, {"kind": "dna", "positions": 0}),
        (
            ["classifier", "--text", "sequence", "--label", "class", "--set", "codec.kind=dna"],
            DNA,
            {"kind": "dna", "positions": 0},
        ),
        (["frames", "--series", "run", "--label", "state"], WAVES, {"kind": "frames", "features": 3}),
        (
            ["classifier", "--series", "run", "--label", "state", "--set", "codec.kind=frames"],
            WAVES,
            {"kind": "frames", "features": 3},
        ),
    ],
)
def test_dna_and_frames_files_can_be_trained_on(
    workplace: Path, words: list[str], content: str, codec: dict[str, Any]
) -> None:
    (workplace / "own.csv").write_text(content)
    assert main(["fit", *words, "--data", "own.csv", "--name", "own", *TINY]) == 0
    assert main(["export", "runs/own"]) == 0
    assert read(workplace / "runs/own/bundle").codec.model_dump().items() >= codec.items()


def test_columns_and_encoding_are_options(workplace: Path) -> None:
    (workplace / "mine.csv").write_bytes(("review;stars\n" + "café;1\nthé;2\n" * 20).encode("latin-1"))
    columns = ["--text", "review", "--label", "stars", "--encoding", "latin-1"]
    assert main(["fit", "classifier", "--data", "mine.csv", "--name", "mine", *columns, *TINY]) == 0
    assert "café" in (workplace / "runs/mine/words.json").read_text("utf-8")


def test_keys_of_json_are_options(workplace: Path) -> None:
    (workplace / "mine.jsonl").write_text('{"words": ["a", "b"], "ner": ["O", "B-x"]}\n' * 30)
    keys = ["--tokens", "words", "--tags", "ner"]
    assert main(["fit", "tagger", "--data", "mine.jsonl", "--name", "mine", *keys, *TINY]) == 0
    assert json.loads((workplace / "runs/mine/run.json").read_text("utf-8"))["labels"] == ["B-x", "O"]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["fit", "nonesuch"], ["'nonesuch'"]),
        (["fit", "tagger"], ["--data", "[data]"]),
        (["fit", "tagger", "--tag-column", "1"], ["--tag-column", "--data"]),
        (["fit", "tagger", "--data", "gone.conll"], ["gone.conll", "No such file"]),
        (["fit", "tagger", "--data", "."], ["Is a directory"]),
        (["fit", "tagger", "--data", r"C:\mine\new.conll"], [r"C:\mine\new.conll"]),
        (["fit", "tagger", "--data", "mine.conll", "--tag-column", "7"], ["mine.conll, line 1", "column 7"]),
        (["fit", "classifier", "--data", "mine.csv"], ["'text'", "'review', 'stars'"]),
        (["fit", "classifier", "--data", "mine.csv", "--encoding", "ascii-7"], ["'ascii-7'"]),
        (["fit", "tagger", "--set", "training.epochs"], ["--set 'training.epochs'", "FIELD=VALUE"]),
        (["fit", "tagger", "--set", "training.epochs=many"], ["--set training.epochs", "'many'"]),
        (["export", "runs/none"], ["runs/none"]),
        (["export", "."], [".", "run.json"]),
        (["export", "mine.csv"], ["mine.csv", "run.json"]),
        (["data", "ud-ewtt"], ["mean ud-ewt?"]),
        (
            ["fit", "tagger", "--data", "x", "--set", "training.epochs=many", "--set", "architecture.hiden=3"],
            ["epochs: must be a whole number", "mean architecture.hidden?"],
        ),
        (["score", "runs/none"], ["runs/none"]),
        (["show", "[/red]"], ["[/red]"]),
        (["data", "nonesuch"], ["'nonesuch'", "ud-ewt"]),
    ],
)
def test_error_is_one_line_with_status_2(
    words: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert all(part in printed.err for part in parts)
    assert printed.err.count("\n") == 1
    assert "Traceback" not in printed.err + printed.out


@pytest.mark.parametrize("command", ["show", "score"])
def test_error_for_a_run_folder_names_its_bundle(
    workplace: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "classifier", "--data", "mine.csv", "--text", "review", "--label", "stars", *TINY]) == 0
    assert main([command, "runs/classifier"]) == 2
    assert "seqserve export runs/classifier" in capsys.readouterr().err
    (workplace / "runs/classifier/bundle").mkdir()
    assert main([command, "runs/classifier"]) == 2
    assert "runs/classifier/bundle" in capsys.readouterr().err


def test_infinite_loss_is_an_error_of_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_: object) -> None:
        raise FloatingPointError("the loss became nan")

    monkeypatch.setattr(trainer.Trainer, "run_epoch", explode)
    assert main(["fit", "tagger", "--data", "mine.conll", *TINY]) == 2
    assert capsys.readouterr().err == "error: the loss became nan\n"


def interrupted_in(epoch: int, words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the output after Ctrl-C in an epoch."""
    train = trainer.Trainer.train

    def interrupt(self: trainer.Trainer, report: trainer.ProgressCallback) -> dict[str, float]:
        if self.epoch + 1 == epoch:
            raise KeyboardInterrupt
        return train(self, report)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(trainer.Trainer, "train", interrupt)
        assert main(words) == 130
    return capsys.readouterr().out


def test_interrupted_run_can_be_exported_and_resumed(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["fit", "tagger", "--data", "mine.conll", "--name", "mine", *TINY]
    output = interrupted_in(2, words, capsys)
    assert "1 of 2 epochs" in output
    assert (workplace / "runs/mine/curves.png").exists()
    assert main(["export", "runs/mine"]) == 0
    assert main(words) == 0
    assert len(trainer.saved_history(workplace / "runs/mine")) == 2


def test_run_interrupted_in_the_first_epoch_starts_over(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["fit", "tagger", "--data", "mine.conll", "--name", "mine", *TINY]
    assert "first epoch" in interrupted_in(1, words, capsys)
    assert main(words) == 0


def test_only_the_first_process_prints() -> None:
    program = "from training.terminal import console, errors, echo; echo('a'); console.print('b'); errors.print('c')"
    env = {**os.environ, "RANK": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout + done.stderr == ""


def test_parser_does_not_import_torch() -> None:
    program = "import sys; from training.__main__ import make_parser; make_parser(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("command", make_parser().commands)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    assert f"seqserve {command}" in capsys.readouterr().out


def test_help_shows_commands_for_own_data(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    assert "seqserve fit tagger --data mine.conll --name my-tagger" in capsys.readouterr().out
