"""Run folders: unusable data is refused before they change, notes about data, resuming, and damaged folders."""

from pathlib import Path

import pytest
import torch

from tests.support import tiny
from tests.support.tiny_files import conll, frames, sentences, table
from tests.support.tiny_runs import FILES, fit, silent
from training import recipe, report, run
from training.data import loading
from training.data.examples import DataError, Splits
from training.trainer import BEST


@pytest.mark.parametrize(
    ("file", "content", "error"),
    [
        ("mine.csv", "text,label\n" + "fine,good\n" * 20, r"csv, line 2: .*line 2. .*'good'.*--label"),
        ("mine.conll", "a\tX\n\n" * 20, r"mine\.conll, line 1: .*'X'.*--tag-column"),
        ("mine.csv", "text,label\na,x\nb,y\nc,x\n", r"mine\.csv: 3 rows .*--set data\.dev_share=0\.3"),
        ("mine.conll", "a\tX\nb\tY\n" * 20, r"mine\.conll: .* 40 tokens.*blank line"),
        ("mine.conll", "1\ta\tX\n2\tb\tY\n\n" * 20, r"mine\.conll, line \d+: .*--token-column 1"),
        (
            "mine.csv",
            "text,label\n" + "".join(f"fine,{i}.5\n" for i in range(40)),
            r"csv, line \d+: 36 labels for 36 training .*--label",
        ),
        ("mine.txt", "too short\n" * 5, r"45 characters .* 5 .* 100.*--set data\.dev_share=0\.3"),
        ("mine.txt", "ab" * 900 + "xy" * 100, r"mine\.txt: .*character"),
        ("mine.csv", table("csv") + "so " * 4100 + ",good\n", r"mine\.csv, line 62: .* 4096 .*max_length"),
        ("mine.conll", conll() + "\n" + "so\tX\n" * 4100, r"mine\.conll, line \d+: .* 4096 .*max_length"),
        ("joint.conll", sentences("conll") + "\nso X\n", r"joint\.conll, line \d+: .*# label ="),
        ("mine.fa", FILES["mine.fa"][1] + ">bad cut\nGATJ\n", r"mine\.fa, line 122: letter 4 is 'J'"),
        ("frames.jsonl", frames("jsonl").replace("[[", "[[1, ", 1), r"frames\.jsonl, line 1: frame 1 has 3 numbers"),
    ],
)
def test_unusable_data_is_refused_before_the_folder_is_made(
    tmp_path: Path, file: str, content: str, error: str
) -> None:
    with pytest.raises(DataError, match=error):
        fit(tmp_path, file, content)
    assert not (tmp_path / "run").exists()


def test_labels_only_in_the_development_file_are_noted(tmp_path: Path) -> None:
    (tmp_path / "dev.csv").write_text("text,label\nthe film is dull,bad\nthe film is a film,neutral\n")
    done = fit(tmp_path, "mine.csv", **{"data.dev": str(tmp_path / "dev.csv")})
    unseen, few = done.notes
    assert unseen.endswith(f": neutral ({tmp_path}/dev.csv, line 3)")
    assert "only 2 held out" in few
    assert "50 points" in few
    assert set(done.source.files) == {"mine.csv", "dev/dev.csv"}
    assert done.labels == ("bad", "good")


def test_likely_typo_of_a_label_is_noted_with_its_line(tmp_path: Path) -> None:
    done = fit(tmp_path, "mine.csv", table("csv") + "the film is warm,Good\n")
    assert [note for note in done.notes if "'good'" in note and "line 62" in note]


def test_characters_only_in_the_held_out_text_are_noted(tmp_path: Path) -> None:
    done = fit(tmp_path, "mine.txt", tiny.TEXT + "☃")
    assert done.notes[0].startswith("1 characters")
    assert done.notes[0].endswith(": '☃'")


def test_run_of_another_recipe_or_data_is_refused_with_the_difference(tmp_path: Path) -> None:
    fit(tmp_path, "mine.conll")
    with pytest.raises(DataError, match=r"architecture, training\.seed;.*--run.*--fresh"):
        fit(tmp_path, "mine.conll", **{"training.seed": 2, "architecture.hidden": 13})
    with pytest.raises(DataError, match="data files, examples"):
        fit(tmp_path, "mine.conll", conll(61))


def test_description_and_examples_can_change_without_training_again(tmp_path: Path) -> None:
    before = fit(tmp_path, "mine.conll").history
    after = fit(tmp_path, "mine.conll", description="better words", examples=("the film is dull",))
    assert after.history == before
    assert run.open_run(tmp_path / "run").recipe.description == "better words"


def test_frame_rate_can_change_without_training_again(tmp_path: Path) -> None:
    before = fit(tmp_path, "tagged-frames.csv").history
    assert fit(tmp_path, "tagged-frames.csv", **{"codec.frame_rate": 25}).history == before
    assert run.open_run(tmp_path / "run").recipe.codec.frame_rate == 25


def test_fresh_removes_a_run_and_nothing_else(tmp_path: Path) -> None:
    fit(tmp_path, "mine.conll")
    again = recipe.load("tagger", **{"data.path": str(tmp_path / "mine.conll"), **tiny.SMALL, "training.seed": 3})
    assert len(run.fit(again, tmp_path / "run", silent, fresh=True).history) == 2
    with pytest.raises(DataError, match=r"run\.json"):
        run.fit(again, tmp_path, silent, fresh=True)
    assert (tmp_path / "mine.conll").exists()


def test_damaged_run_is_refused_by_name(tmp_path: Path) -> None:
    fit(tmp_path, "mine.conll")
    (tmp_path / "run/run.json").write_text("{")
    with pytest.raises(DataError, match=r"run\.json: .*--fresh"):
        run.open_run(tmp_path / "run")


def test_opened_run_equals_the_finished_one(tmp_path: Path) -> None:
    done = fit(tmp_path, "mine.csv")
    opened = run.open_run(tmp_path / "run")
    assert (opened.labels, opened.history, opened.sizes, opened.digest) == (
        done.labels,
        done.history,
        done.sizes,
        done.digest,
    )
    assert opened.best["accuracy"] == max(entry["accuracy"] for entry in opened.history)


def test_folder_of_a_fold_is_not_resumed_by_another_fold(tmp_path: Path) -> None:
    whole = fit(tmp_path, "mine.csv")
    examples = loading.load_splits(whole.recipe)
    part = Splits(train=examples.train[:-9], dev=[*examples.train[-9:], *examples.dev], source=examples.source)
    fold = run.fit(whole.recipe, tmp_path / "fold", silent, examples=part)
    assert run.open_run(tmp_path / "fold").sizes == fold.sizes == (len(part.train), len(part.dev))
    with pytest.raises(DataError, match="different examples"):
        run.fit(whole.recipe, tmp_path / "fold", silent)


def test_chosen_threshold_is_in_the_network_of_an_opened_run_once(tmp_path: Path) -> None:
    content = "".join(f"Ann\tB-PER\ncame\tO\nhome\tO\nat\tO\n{i % 9}\tO\n\n" for i in range(60))
    changes = {"training.threshold": True, "training.learning_rate": 0.001, "training.fewest_steps": 0}  # too little
    fit(tmp_path, "mine.conll", content, **changes)
    done = fit(tmp_path, "mine.conll", content, **changes)  # resumes the finished run
    trained = torch.load(tmp_path / "run" / BEST, weights_only=True)["step_head.bias"]
    moved = run.open_run(done.folder).network().step_head.bias - trained  # type: ignore[union-attr, operator]
    threshold = report.read(done.folder)["threshold"]
    assert threshold
    assert moved.tolist() == pytest.approx([threshold if label == "O" else 0 for label in done.labels], abs=1e-6)
