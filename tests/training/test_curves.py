"""Pictures of histories: the curves that are drawn are those of the history."""

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from training import plots

HISTORY = [
    {"epoch": 1, "train_loss": 2.0, "dev_loss": 1.5, "accuracy": 50.0, "seconds": 60.0},
    {"epoch": 2, "train_loss": 1.0, "dev_loss": 1.2, "accuracy": 70.0, "seconds": 120.0},
]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were written."""
    figures: list[Figure] = []
    save = Figure.savefig

    def remember(figure: Figure, *arguments: Any, **more: Any) -> None:
        figures.append(figure)
        save(figure, *arguments, **more)

    monkeypatch.setattr(Figure, "savefig", remember)
    return figures


def lines(figure: Figure) -> dict[str, list[tuple[float, float]]]:
    """Points of every labelled line, of all axes."""
    found = [line for axes in figure.axes for line in axes.get_lines()]
    return {str(line.get_label()): [tuple(point) for point in line.get_xydata().tolist()] for line in found}


def test_a_run_shows_both_losses_and_its_score(tmp_path: Path, drawn: list[Figure]) -> None:
    plots.draw(HISTORY, "accuracy", tmp_path / "curves.png", "a run")
    assert (tmp_path / "curves.png").stat().st_size > 1000
    assert lines(drawn[0]) == {
        "training loss": [(1, 2), (2, 1)],
        "development loss": [(1, 1.5), (2, 1.2)],
        "accuracy": [(1, 50), (2, 70)],
    }


def test_a_score_that_is_the_loss_is_not_drawn_twice(tmp_path: Path, drawn: list[Figure]) -> None:
    history = [{**entry, "nats": entry["dev_loss"]} for entry in HISTORY]
    plots.draw(history, "nats", tmp_path / "curves.png", "a run")
    assert set(lines(drawn[0])) == {"training loss", "development loss"}


def test_runs_side_by_side_share_axes_over_epochs_and_over_time(tmp_path: Path, drawn: list[Figure]) -> None:
    plots.side_by_side({"a": HISTORY, "b": HISTORY[:1]}, "accuracy", tmp_path / "both.png")
    epochs, minutes, losses = drawn[0].axes
    assert [line.get_xydata().tolist() for line in epochs.get_lines()] == [[[1, 50], [2, 70]], [[1, 50]]]
    assert [line.get_xydata().tolist() for line in minutes.get_lines()] == [[[1, 50], [3, 70]], [[1, 50]]]
    assert len(losses.get_lines()) == 4
    assert [text.get_text() for text in epochs.get_legend().get_texts()] == ["a", "b"]
