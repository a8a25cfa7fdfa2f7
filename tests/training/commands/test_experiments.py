"""Commands that train several times, compare runs, or measure: what they write."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support import tiny
from tests.support.tiny_files import conll, table
from training import terminal, trainer
from training.__main__ import main

TINY = [word for field, value in tiny.SMALL.items() for word in ("--set", f"{field}={value}")]
CLASSIFIER = ["classifier", "--data", "mine.csv", "--name", "mine", *TINY]


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(terminal.console, "width", 300)
    (tmp_path / "mine.conll").write_text(conll())
    (tmp_path / "mine.csv").write_text(table("csv"))
    return tmp_path


def read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def test_fit_with_seeds_keeps_the_best_run(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *CLASSIFIER, "--seeds", "2,5"]) == 0
    output = capsys.readouterr().out
    assert "\nseed 5, epoch 2/2: " in output
    assert "accuracy: mean" in output
    folder = workplace / "runs/mine"
    summary = read(folder / "seeds.json")
    assert set(summary["scores"]) == {"seed-2", "seed-5"}
    assert summary["scores"][summary["best"]] == max(summary["scores"].values())
    assert read(folder / "run.json") == read(folder / summary["best"] / "run.json")
    assert read(folder / "run.json")["command"].endswith(f"training.seed={summary['best'].removeprefix('seed-')}")
    assert (folder / "best.pt").read_bytes() == (folder / summary["best"] / "best.pt").read_bytes()
    assert (folder / "seeds.png").exists()
    assert main(["export", "runs/mine"]) == 0


def test_finished_seeds_are_not_trained_again(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[int] = []
    train = trainer.Trainer.train

    def count(self: trainer.Trainer, report: trainer.ProgressCallback) -> dict[str, float]:
        trained.append(self.epoch)
        return train(self, report)

    monkeypatch.setattr(trainer.Trainer, "train", count)
    assert main(["fit", *CLASSIFIER, "--seeds", "1"]) == 0
    assert main(["fit", *CLASSIFIER, "--seeds", "2"]) == 0
    assert len(trained) == 2 * 2


def test_single_run_is_not_replaced_by_several(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *CLASSIFIER]) == 0
    assert main(["fit", *CLASSIFIER, "--seeds", "2"]) == 2
    assert "runs/mine" in capsys.readouterr().err


def test_cross_validation_scores_the_last_epoch_and_never_stops_early(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--folds", "3", "--set", "training.patience=1", "--set", "training.epochs=3"]
    assert main(["cross-validate", *CLASSIFIER, *words]) == 0
    assert "60 examples" in capsys.readouterr().out
    summary = read(workplace / "runs/mine-folds/folds.json")
    assert summary["held_out"] == [20, 20, 20]
    for name, score in summary["scores"].items():
        history = read(workplace / "runs/mine-folds" / name / "history.json")
        assert len(history) == 3
        assert score == history[-1]["accuracy"]


def test_text_cannot_be_cross_validated(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workplace / "mine.txt").write_text(tiny.TEXT)
    assert main(["cross-validate", "language-model", "--data", "mine.txt"]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_compare_prints_scores_and_different_fields(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, cell in (("a", "lstm"), ("b", "gru")):
        changes = ["--run", f"runs/{name}", "--set", f"architecture.cell={cell}"]
        assert main(["fit", *CLASSIFIER, *changes]) == 0
    capsys.readouterr()
    assert main(["compare", "runs/a", "runs/b", "--out", "both.png"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    score = max(entry["accuracy"] for entry in read(workplace / "runs/a/history.json"))
    assert lines[1][:2] == ["runs/a", f"{score:.3f}"]
    assert ["architecture.cell", "lstm", "gru"] in lines
    assert not [line for line in lines if line[:1] == ["training.seed"]]
    assert (workplace / "both.png").exists()


def test_runs_with_different_metrics_are_not_compared(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workplace / "mine.txt").write_text(tiny.TEXT)
    text = ["language-model", "--data", "mine.txt", "--run", "runs/text", *TINY]
    assert main(["fit", *CLASSIFIER]) == main(["fit", *text]) == 0
    assert main(["compare", "runs/mine", "runs/text"]) == 2
    assert "(accuracy, nats_per_character)" in capsys.readouterr().err


def test_find_lr_suggests_a_rate_and_keeps_no_run(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["find-lr", *CLASSIFIER, "--steps", "50"]) == 0
    output = capsys.readouterr().out
    suggested = float(output.split("training.learning_rate=")[1].split()[0])
    assert 1e-5 <= suggested <= 0.1
    assert "0.002" in output
    assert [path.name for path in (workplace / "runs").iterdir()] == ["mine-lr.png"]


def test_find_lr_with_few_steps_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["find-lr", *CLASSIFIER, "--steps", "5"]) == 2
    assert "at least 50" in capsys.readouterr().err


def test_benchmark_writes_speed_and_machine(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--batches", "2", "--repeats", "2", "--threads", "1", "--cells"]
    assert main(["benchmark", "tagger", "--data", "mine.conll", "--name", "mine", *TINY, *words]) == 0
    result = read(workplace / "runs/mine-benchmark.json")
    assert result["machine"]["threads"] == 1
    assert result["machine"]["libraries"]["torch"]
    assert 0 <= result["padding_percent"] < 100
    assert result["loop"] > 0
    assert result["share"] > 0
    assert result["cells_ms"]["nn.LSTM"] > 0
    assert f"{result['share']:.1f} %" in capsys.readouterr().out
