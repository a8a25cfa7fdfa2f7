"""Verbs that train more than once or not for keeps: what they print and leave."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support import tiny
from tests.training.test_own_data import conll, table
from training import terminal
from training import trainer as loop
from training.__main__ import main

TINY = [word for field, value in tiny.SMALL.items() for word in ("--set", f"{field}={value}")]
CLASSIFIER = ["classifier", "--data", "mine.csv", "--name", "mine", *TINY]


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(terminal.console, "width", 300)
    (tmp_path / "mine.conll").write_text(conll())
    (tmp_path / "mine.csv").write_text(table("csv"))
    return tmp_path


def read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def test_seeds_are_runs_of_their_own_and_the_folder_becomes_the_best(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *CLASSIFIER, "--seeds", "2,5"]) == 0
    said = capsys.readouterr().out
    assert "seed 5, epoch 2: loss" in said
    assert "accuracy: mean" in said
    folder = desk / "runs/mine"
    summary = read(folder / "seeds.json")
    assert set(summary["scores"]) == {"seed-2", "seed-5"}
    assert summary["scores"][summary["best"]] == max(summary["scores"].values())
    assert read(folder / "run.json") == read(folder / summary["best"] / "run.json")
    assert read(folder / "run.json")["command"].endswith(f"training.seed={summary['best'].removeprefix('seed-')}")
    assert (folder / "best.pt").read_bytes() == (folder / summary["best"] / "best.pt").read_bytes()
    assert (folder / "seeds.png").exists()
    assert main(["export", "runs/mine"]) == 0


def test_seeds_that_are_done_are_not_trained_again(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[int] = []
    train = loop.Trainer.train

    def count(self: loop.Trainer, report: loop.ProgressCallback) -> dict[str, float]:
        trained.append(self.epoch)
        return train(self, report)

    monkeypatch.setattr(loop.Trainer, "train", count)
    assert main(["fit", *CLASSIFIER, "--seeds", "1"]) == 0
    assert main(["fit", *CLASSIFIER, "--seeds", "2"]) == 0
    assert len(trained) == 2 * 2


def test_a_single_run_is_not_overwritten_by_several(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *CLASSIFIER]) == 0
    assert main(["fit", *CLASSIFIER, "--seeds", "2"]) == 2
    assert "runs/mine holds a single run" in capsys.readouterr().err


def test_cross_validation_takes_the_last_epoch_of_each_fold_and_stops_none_early(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--folds", "3", "--set", "training.patience=1", "--set", "training.epochs=3"]
    assert main(["cross-validate", *CLASSIFIER, *words]) == 0
    assert "over all 60 examples, each held out once:" in capsys.readouterr().out
    said = read(desk / "runs/mine-folds/folds.json")
    assert said["held_out"] == [20, 20, 20]
    for name, score in said["scores"].items():
        history = read(desk / "runs/mine-folds" / name / "history.json")
        assert len(history) == 3
        assert score == history[-1]["accuracy"]


def test_a_text_cannot_be_cross_validated(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (desk / "mine.txt").write_text(tiny.TEXT)
    assert main(["cross-validate", "language-model", "--data", "mine.txt"]) == 2
    assert "a text has no examples to hold out in turn" in capsys.readouterr().err


def test_compare_shows_scores_and_what_differs(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, cell in (("a", "lstm"), ("b", "gru")):
        changes = ["--run", f"runs/{name}", "--set", f"architecture.cell={cell}"]
        assert main(["fit", *CLASSIFIER, *changes]) == 0
    capsys.readouterr()
    assert main(["compare", "runs/a", "runs/b", "--to", "both.png"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    score = max(entry["accuracy"] for entry in read(desk / "runs/a/history.json"))
    assert lines[1][:2] == ["runs/a", f"{score:.3f}"]
    assert ["architecture.cell", "lstm", "gru"] in lines
    assert not [line for line in lines if line[:1] == ["training.seed"]]
    assert (desk / "both.png").exists()


def test_runs_with_different_scores_are_not_compared(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (desk / "mine.txt").write_text(tiny.TEXT)
    text = ["language-model", "--data", "mine.txt", "--run", "runs/text", *TINY]
    assert main(["fit", *CLASSIFIER]) == main(["fit", *text]) == 0
    assert main(["compare", "runs/mine", "runs/text"]) == 2
    assert "these runs have different scores (accuracy, nats_per_character)" in capsys.readouterr().err


def test_rate_suggests_a_rate_and_keeps_no_run(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rate", *CLASSIFIER, "--steps", "50"]) == 0
    said = capsys.readouterr().out
    suggested = float(said.split("training.learning_rate=")[1].split()[0])
    assert 1e-5 <= suggested <= 0.1
    assert "(the recipe has 0.002)" in said
    assert [path.name for path in (desk / "runs").iterdir()] == ["mine-rate.png"]


def test_a_range_test_of_a_few_steps_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rate", *CLASSIFIER, "--steps", "5"]) == 2
    assert "--steps 5: at least 50" in capsys.readouterr().err


def test_benchmark_writes_what_it_measured_and_on_what(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--batches", "2", "--repeats", "2", "--threads", "1", "--cells"]
    assert main(["benchmark", "tagger", "--data", "mine.conll", "--name", "mine", *TINY, *words]) == 0
    said = read(desk / "runs/mine-benchmark.json")
    assert said["machine"]["threads"] == 1
    assert said["machine"]["libraries"]["torch"]
    assert 0 <= said["padding_percent"] < 100
    assert said["loop"] > 0
    assert said["share"] > 0
    assert said["cells_ms"]["nn.LSTM"] > 0
    assert f"the loop reaches {said['share']:.1f} % of the bare speed" in capsys.readouterr().out
