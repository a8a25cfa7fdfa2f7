"""Plots: the drawn lines are those of the histories, and any label can be drawn."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from training import metrics, plots

HISTORY = [
    {"epoch": 1, "train_loss": 2.0, "dev_loss": 1.5, "accuracy": 50.0, "seconds": 60.0},
    {"epoch": 2, "train_loss": 1.0, "dev_loss": 1.2, "accuracy": 70.0, "seconds": 120.0},
]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Figures that were saved."""
    figures: list[Figure] = []
    save = Figure.savefig

    def remember(figure: Figure, *arguments: Any, **more: Any) -> None:
        figures.append(figure)
        save(figure, *arguments, **more)

    monkeypatch.setattr(Figure, "savefig", remember)
    return figures


def lines(figure: Figure) -> dict[str, list[tuple[float, float]]]:
    """Points of every labeled line of all axes."""
    found = [line for axes in figure.axes for line in axes.get_lines()]
    return {str(line.get_label()): [tuple(point) for point in line.get_xydata().tolist()] for line in found}


def test_history_plot_has_both_losses_and_the_score(tmp_path: Path, drawn: list[Figure]) -> None:
    plots.draw_history(HISTORY, "accuracy", tmp_path / "curves.png", "a run")
    assert (tmp_path / "curves.png").stat().st_size > 1000
    drawn_lines = lines(drawn[0])
    assert drawn_lines.pop("best epoch: 2, accuracy 70") == [(2, 0), (2, 1)]  # over the whole height of the axes
    assert drawn_lines == {
        "training loss": [(1, 2), (2, 1)],
        "development loss": [(1, 1.5), (2, 1.2)],
        "accuracy": [(1, 50), (2, 70)],
    }


def test_baseline_is_a_line_on_the_axis_of_the_score(tmp_path: Path, drawn: list[Figure]) -> None:
    plots.draw_history(HISTORY, "accuracy", tmp_path / "curves.png", "a run", ("majority", 60.0))
    losses, scores = drawn[0].axes
    assert [line.get_ydata() for line in scores.get_lines()][1:] == [[60.0, 60.0]]
    assert 60.0 not in losses.dataLim.intervaly


def test_score_that_is_the_loss_is_drawn_once(tmp_path: Path, drawn: list[Figure]) -> None:
    history = [{**entry, metrics.NATS: entry["dev_loss"]} for entry in HISTORY]
    plots.draw_history(history, metrics.NATS, tmp_path / "curves.png", "a run", ("5-grams", 1.3))
    assert len(drawn[0].axes) == 1
    assert {"training loss", "development loss", "baseline: 5-grams, 1.3"} < set(lines(drawn[0]))


def test_comparison_plots_scores_over_epochs_and_time(tmp_path: Path, drawn: list[Figure]) -> None:
    plots.draw_comparison({"a": HISTORY, "b": HISTORY[:1]}, "accuracy", tmp_path / "both.png")
    epochs, minutes, losses = drawn[0].axes
    assert [line.get_xydata().tolist() for line in epochs.get_lines()] == [[[1, 50], [2, 70]], [[1, 50]]]
    assert [line.get_xydata().tolist() for line in minutes.get_lines()] == [[[1, 50], [3, 70]], [[1, 50]]]
    assert len(losses.get_lines()) == 4
    assert [text.get_text() for text in epochs.get_legend().get_texts()] == ["a", "b"]


@pytest.mark.parametrize("count", [2, 72])
def test_confusion_plot_takes_any_label_names(tmp_path: Path, count: int) -> None:
    odd = ["$x_$", "快乐", "B-" + "long" * 20, *(f"label {number}" for number in range(count))][:count]
    expected = list(itertools.islice(itertools.cycle(odd), 3 * count))
    plots.draw_confusion(metrics.confusion(expected, expected[::-1]), tmp_path / "confusion.png", "a $ title $")
    picture = imread(tmp_path / "confusion.png")
    assert 300 < picture.shape[0] < 1500
    assert picture.std() > 0.01
