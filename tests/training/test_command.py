"""The command line: what it prints, the files it leaves; an error is one sentence and status 2, no traceback."""

import os
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from models.manifest import read
from tests.support import tiny
from tests.training.test_own_data import conll, frames, table
from training import commands as verbs
from training import recipe, terminal
from training import trainer as loop
from training.__main__ import main

ROOT = Path(loop.__file__).parents[1]
TINY = [word for field, value in tiny.SMALL.items() for word in ("--set", f"{field}={value}")]


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wide terminal in an empty folder with a file of one's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(terminal.console, "width", 300)
    (tmp_path / "mine.conll").write_text(conll())
    (tmp_path / "mine.csv").write_text(table("csv").replace("text,label", "review,stars"))
    return tmp_path


def test_list_names_every_recipe_and_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in recipe.names())
    assert "ud-ewt" in said
    assert "--data FILE" in said


def test_data_lists_every_data_set_and_says_where_one_lies(
    desk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEQSERVE_DATA", str(desk))
    (desk / "tinyshakespeare").mkdir()
    (desk / "tinyshakespeare/train.txt").write_text("x")
    assert main(["data"]) == 0
    assert "not fetched" in capsys.readouterr().out
    assert main(["data", "tinyshakespeare"]) == 0
    assert capsys.readouterr().out == f"tinyshakespeare: {desk / 'tinyshakespeare'}\n"


def test_from_a_file_to_a_bundle_and_its_score(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "tagger", "--data", "mine.conll", "--name", "mine", "--tag-column", "-1", *TINY]) == 0
    said = capsys.readouterr().out
    assert "epoch 1: loss" in said
    assert "epoch 2: loss" in said
    assert "held out for the scores; epoch" in said
    assert said.endswith("its weights, curves and report are in runs/mine\nnext: python -m training export runs/mine\n")
    left = {path.name for path in (desk / "runs/mine").iterdir()}
    assert left >= {"run.json", "history.json", "best.pt", "checkpoint.pt", "curves.png", "tensorboard", "words.json"}
    assert main(["export", "runs/mine"]) == 0
    assert "SEQSERVE_BUNDLES=runs/mine/bundle make serve" in capsys.readouterr().out
    assert main(["score", "runs/mine/bundle", "--variant", "fp32"]) == 0
    accuracy = read(desk / "runs/mine/bundle").variants["fp32"].scores["accuracy"]
    assert capsys.readouterr().out.split()[-3:] == ["fp32", str(accuracy), str(accuracy)]
    assert main(["show", "runs/mine/bundle"]) == 0
    said = capsys.readouterr().out
    assert said == (desk / "runs/mine/bundle/README.md").read_text() + "\n"
    assert (
        "python -m training fit tagger --data mine.conll --name mine --tag-column -1 --set architecture.hidden=12"
        in said
    )


def test_one_variant_can_be_published_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "tagger", "--data", "mine.conll", "--name", "mine", *TINY]) == 0
    assert main(["export", "runs/mine", "--only", "fp32", "--to", "alone"]) == 0
    assert sorted(file.name for file in Path("alone").glob("*.onnx")) == ["fp32.onnx"]
    assert main(["export", "runs/mine", "--only", "fp4"]) == 2
    assert "no variant 'fp4'" in capsys.readouterr().err


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
def test_dna_and_frames_of_ones_own_are_trained_on(
    desk: Path, words: list[str], content: str, codec: dict[str, Any]
) -> None:
    (desk / "own.csv").write_text(content)
    assert main(["fit", *words, "--data", "own.csv", "--name", "own", *TINY]) == 0
    assert main(["export", "runs/own"]) == 0
    assert read(desk / "runs/own/bundle").codec.model_dump() == codec


def test_columns_and_encoding_of_a_table_are_options(desk: Path) -> None:
    (desk / "mine.csv").write_bytes(("review;stars\n" + "café;1\nthé;2\n" * 20).encode("latin-1"))
    columns = ["--text", "review", "--label", "stars", "--encoding", "latin-1"]
    assert main(["fit", "classifier", "--data", "mine.csv", "--name", "mine", *columns, *TINY]) == 0
    assert "café" in (desk / "runs/mine/words.json").read_text("utf-8")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fit", "nonesuch"], "no recipe 'nonesuch'"),
        (["fit", "tagger"], "give --data FILE, or set name or path under [data]"),
        (["fit", "tagger", "--tag-column", "1"], "--tag-column describes your own file: give it with --data"),
        (["fit", "tagger", "--data", "gone.conll"], "gone.conll: cannot be read (No such file or directory)"),
        (["fit", "tagger", "--data", "."], "cannot be read (Is a directory)"),
        (["fit", "tagger", "--data", r"C:\mine\new.conll"], r"C:\mine\new.conll: cannot be read"),
        (
            ["fit", "tagger", "--data", "mine.conll", "--tag-column", "7"],
            "line 1: no column 7, there are 2",
        ),
        (["fit", "classifier", "--data", "mine.csv"], "no column 'text'; there are 'review', 'stars'"),
        (["fit", "classifier", "--data", "mine.csv", "--encoding", "ascii-7"], "unknown encoding 'ascii-7'"),
        (["fit", "tagger", "--set", "training.epochs"], "--set 'training.epochs': write FIELD=VALUE"),
        (["fit", "tagger", "--set", "training.epochs=many"], "training.epochs: Input should be a valid integer"),
        (["export", "runs/none"], "runs/none is no finished run (run.json is missing): run fit first"),
        (["score", "runs/none"], "runs/none: no manifest.json here"),
        (["show", "[/red]"], "[/red]: no manifest.json here"),
        (["data", "nonesuch"], "no data set is called 'nonesuch'"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert said in printed.err
    assert printed.err.count("\n") == 1
    assert "Traceback" not in printed.err + printed.out


@pytest.mark.parametrize("verb", ["show", "score"])
def test_a_run_that_is_taken_for_a_bundle_leads_to_its_bundle(
    desk: Path, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "classifier", "--data", "mine.csv", "--text", "review", "--label", "stars", *TINY]) == 0
    assert main([verb, "runs/classifier"]) == 2
    assert "make its bundle with python -m training export runs/classifier" in capsys.readouterr().err
    (desk / "runs/classifier/bundle").mkdir()
    assert main([verb, "runs/classifier"]) == 2
    assert "runs/classifier is a run, not a bundle: try runs/classifier/bundle" in capsys.readouterr().err


def test_a_loss_that_is_no_number_is_an_error_like_any_other(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_: object) -> None:
        raise FloatingPointError("the loss became nan")

    monkeypatch.setattr(loop.Trainer, "run_epoch", explode)
    assert main(["fit", "tagger", "--data", "mine.conll", *TINY]) == 2
    assert capsys.readouterr().err == "error: the loss became nan\n"


def interrupted_in(epoch: int, words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What is said when Ctrl-C comes while an epoch is trained."""
    train = loop.Trainer.train

    def interrupt(self: loop.Trainer, report: loop.ProgressCallback) -> dict[str, float]:
        if self.epoch + 1 == epoch:
            raise KeyboardInterrupt
        return train(self, report)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop.Trainer, "train", interrupt)
        assert main(words) == 130
    return capsys.readouterr().out


def test_after_ctrl_c_the_run_is_usable_and_the_same_command_goes_on(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fit", "tagger", "--data", "mine.conll", "--name", "mine", *TINY]
    said = interrupted_in(2, words, capsys)
    assert "interrupted: 1 of 2 epochs are kept in runs/mine, the best is epoch 1; the same command goes on" in said
    assert (desk / "runs/mine/curves.png").exists()
    assert main(["export", "runs/mine"]) == 0
    assert main(words) == 0
    assert len(loop.saved_history(desk / "runs/mine")) == 2


def test_ctrl_c_in_the_first_epoch_says_that_nothing_is_kept(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["fit", "tagger", "--data", "mine.conll", "--name", "mine", *TINY]
    said = interrupted_in(1, words, capsys)
    assert "the first epoch was not over, so nothing is kept in runs/mine; the same command starts anew" in said
    assert main(words) == 0


def test_other_processes_than_the_first_print_nothing() -> None:
    program = "from training.terminal import console, errors, say; say('a'); console.print('b'); errors.print('c')"
    env = {**os.environ, "RANK": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout + done.stderr == ""


def test_help_is_quick_to_import() -> None:
    program = "import sys; from training.__main__ import parser; parser(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("verb", [found.name.replace("_", "-") for found in pkgutil.iter_modules(verbs.__path__)])
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([verb, "--help"])
    assert left.value.code == 0
    assert f"python -m training {verb}" in capsys.readouterr().out


def test_help_has_commands_to_paste(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    assert "python -m training fit tagger --data mine.conll --name my-tagger" in capsys.readouterr().out
