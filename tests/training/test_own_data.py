"""From a user's own file to a bundle that could be served: every format and task, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models import bundle as bundles
from models import self_test
from models.manifest import BundleError, Variant, read
from models.onnx_session import Placement
from tests.support import tiny
from training import export, metrics, recipe, run, score
from training.data import DataError
from training.data import loading as choice
from training.data.examples import Splits
from training.objectives import make_objective
from training.run import Run

CPU = Placement(device="cpu")
HEADER = {"csv": "text,label\n", "tsv": "text\tlabel\n", "jsonl": ""}


def silent(*_: Any) -> None:
    pass


def table(kind: str, count: int = 60) -> str:
    rows = tiny.labelled(count)
    if kind == "jsonl":
        return "".join(json.dumps({"text": row.text, "label": row.label}) + "\n" for row in rows)
    between = "," if kind == "csv" else "\t"
    return HEADER[kind] + "".join(f"{row.text}{between}{row.label}\n" for row in rows)


def conll(count: int = 60) -> str:
    return "\n".join(
        "".join(f"{token}\t{tag}\n" for token, tag in zip(s.tokens, s.tags, strict=True)) for s in tiny.tagged(count)
    )


def sentences(kind: str, count: int = 60) -> str:
    rows = tiny.joint(count)
    if kind == "jsonl":
        return "".join(json.dumps({"tokens": r.tokens, "tags": r.tags, "label": r.label}) + "\n" for r in rows)
    parts = [zip(row.tokens, row.tags, strict=True) for row in rows]
    blocks = ["".join(f"{token} {tag}\n" for token, tag in part) for part in parts]
    return "\n".join(f"# intent = {row.label}\n{block}" for row, block in zip(rows, blocks, strict=True))


def frames(kind: str, count: int = 60) -> str:
    rows = tiny.framed(count)
    if kind == "jsonl":
        return "".join(json.dumps({"frames": row.frames, "label": row.label}) + "\n" for row in rows)
    lines = [f"{i},{x},{y},{z},{row.label}\n" for i, row in enumerate(rows) for x, y, z in row.frames]
    return "id,x,y,z,label\n" + "".join(lines)


FILES = {
    "mine.csv": ("classifier", table("csv")),
    "mine.tsv": ("classifier", table("tsv")),
    "mine.jsonl": ("classifier", table("jsonl")),
    "mine.conll": ("tagger", conll()),
    "mine.txt": ("language-model", tiny.TEXT),
    "joint.conll": ("snips", sentences("conll")),
    "joint.jsonl": ("snips", sentences("jsonl")),
    "mine.fa": ("splice", "".join(f">s {row.label}\n{row.text}\n" for row in tiny.dna(60))),
    "frames.jsonl": ("vowels", frames("jsonl")),
    "frames.csv": ("vowels", frames("csv")),
}
MORE = {"vowels": {"codec.features": 3}}  # what the recipe of a published set says of its data


def fitted(folder: Path, file: str, content: str | None = None, **changes: Any) -> Run:
    name, usual = FILES[file]
    (folder / file).write_text(usual if content is None else content, "utf-8")
    changes = {"data.path": str(folder / file), "training.learning_rate": 0.01, **tiny.SMALL, **changes}
    changes = {**MORE.get(name, {}), **changes}
    return run.fit(recipe.load(name, **changes), folder / "run", silent, command=f"fit {name}")


@pytest.mark.parametrize(
    ("file", "cell"), [*((file, "lstm") for file in FILES), ("mine.csv", "gru"), ("mine.conll", "gru")]
)
def test_a_file_of_ones_own_becomes_a_bundle_that_passes_its_self_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, cell: str
) -> None:
    monkeypatch.setattr(export, "drawback", lambda *_: "")  # whatever the times of so small a network
    fitted(tmp_path, file, **{"architecture.cell": cell})
    said: list[str] = []
    manifest = export.export_run(run.open_run(tmp_path / "run"), tmp_path / "bundle", said.append)
    assert next(iter(manifest.variants)) == "fp32"  # int8 stays only if it pays, which a network so small need not
    assert "differs from PyTorch" in said[0]
    card = (tmp_path / "bundle/README.md").read_text()
    for name, variant in manifest.variants.items():
        opened = bundles.load(tmp_path / "bundle", variant=name, placement=CPU)
        self_test.run(opened)
        dev = choice.splits(run.open_run(tmp_path / "run").recipe).dev
        assert score.score(opened, dev) == variant.scores
        assert all(value > 0 for value in variant.milliseconds.values())
        assert f"| {variant.scores[manifest.metric]} |" in card
    assert manifest.provenance.data.licence == "the user's own"
    assert manifest.provenance.command.startswith(f"fit {FILES[file][0]} && python -m training export ")
    assert read(tmp_path / "bundle").model_dump(mode="json") == manifest.model_dump(mode="json")


def test_the_score_of_the_fp32_bundle_is_the_accuracy_of_the_network(tmp_path: Path) -> None:
    done = fitted(tmp_path, "mine.conll")
    manifest = export.export_run(done, tmp_path / "bundle", silent)
    objective = make_objective(done.recipe, done.codec, done.network(), choice.splits(done.recipe))
    accuracy = objective.evaluate(done.network())["accuracy"]
    assert manifest.variants["fp32"].scores["accuracy"] == round(accuracy, 2)
    assert accuracy == max(entry["accuracy"] for entry in done.history)


def test_a_language_models_score_is_the_likelihood_of_the_whole_held_out_text(tmp_path: Path) -> None:
    done = fitted(tmp_path, "mine.txt")
    manifest = export.export_run(done, tmp_path / "bundle", silent)
    rows = torch.from_numpy(done.codec.encode(choice.splits(done.recipe).dev).rows).long()  # type: ignore
    with torch.no_grad():
        logits, _ = done.network()(rows[:-1, None], torch.tensor([len(rows) - 1]))
    nats = float(torch.nn.functional.cross_entropy(logits[:, 0], rows[1:]))
    assert manifest.variants["fp32"].scores["nats_per_character"] == pytest.approx(nats, abs=1e-4)


def test_a_worse_bundle_does_not_take_the_place_of_a_better_one(tmp_path: Path) -> None:
    done = fitted(tmp_path, "mine.conll")
    manifest = export.export_run(done, tmp_path / "bundle", silent)
    better = {n: v.model_copy(update={"scores": {"accuracy": 100.1}}) for n, v in manifest.variants.items()}
    boasting = manifest.model_copy(update={"variants": better})
    (tmp_path / "bundle/manifest.json").write_text(boasting.model_dump_json())
    with pytest.raises(BundleError, match=r"accuracy 100\.1, better than .*--force"):
        export.export_run(done, tmp_path / "bundle", silent)
    assert read(tmp_path / "bundle") == boasting
    export.export_run(done, tmp_path / "bundle", silent, force=True)
    assert read(tmp_path / "bundle").variants["fp32"].scores == manifest.variants["fp32"].scores


def test_a_directory_that_is_no_bundle_is_never_replaced(tmp_path: Path) -> None:
    done = fitted(tmp_path, "mine.conll")
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters/dear.txt").write_text("keep me")
    with pytest.raises(BundleError, match=r"exists and is not a bundle .*--to"):
        export.export_run(done, tmp_path / "letters", silent, force=True)
    assert (tmp_path / "letters/dear.txt").exists()


def test_a_graph_that_differs_from_the_network_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done, draw = fitted(tmp_path, "mine.conll"), export.export_graph

    def drawn_before_a_change(network: Any, precision: Any) -> Any:
        drawing = draw(network, precision)
        with torch.no_grad():
            network.step_head.bias[0] += 0.1
        return drawing

    monkeypatch.setattr(export, "export_graph", drawn_before_a_change)
    with pytest.raises(BundleError, match="the graph differs from PyTorch by"):
        export.export_run(done, tmp_path / "bundle", silent)
    assert not (tmp_path / "bundle").exists()


def test_a_file_that_changed_since_is_not_scored_as_if_it_had_not(tmp_path: Path) -> None:
    done = fitted(tmp_path, "mine.conll")
    (tmp_path / "mine.conll").write_text(conll(61))
    with pytest.raises(DataError, match=r"mine.conll has changed since .* was trained: run fit --fresh"):
        export.export_run(done, tmp_path / "bundle", silent)


def test_a_variant_is_kept_only_where_it_loses_little_and_is_not_slower() -> None:
    def variant(accuracy: float, ms: float) -> Variant:
        return Variant(file="a.onnx", scores={"accuracy": accuracy}, milliseconds={"batch_1": ms, "batch_16": ms})

    assert export.drawback("accuracy", variant(90, 2), variant(89.7, 1)) == ""
    assert "too far from 90" in export.drawback("accuracy", variant(90, 2), variant(89.6, 1))
    assert "1.50 times as long" in export.drawback("accuracy", variant(90, 2), variant(90, 3))
    assert metrics.loses_little("nats_per_character", 1.5, 1.51)
    assert not metrics.loses_little("nats_per_character", 1.5, 1.5101)
    assert not metrics.loses_little("nats_per_character", 1.5, np.inf)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        (
            "mine.csv",
            "text,label\n" + "fine,good\n" * 20,
            r"csv, line 2: .* to line 2. has the label 'good'; .*--label",
        ),
        ("mine.conll", "a\tX\n\n" * 20, r"mine.conll, line 1: .* has the tag 'X'; at least two.*--tag-column"),
        ("mine.csv", "text,label\na,x\nb,y\nc,x\n", r"mine.csv: 3 rows are too few.*--set data.dev_share=0.3"),
        ("mine.conll", "a\tX\nb\tY\n" * 20, r"mine.conll: one sentence only, of 40 tokens: put a blank line [^()]*$"),
        (
            "mine.conll",
            "1\ta\tX\n2\tb\tY\n\n" * 20,
            r"mine.conll, line \d+: .* every token is its number.*--token-column 1",
        ),
        (
            "mine.csv",
            "text,label\n" + "".join(f"fine,{i}.5\n" for i in range(40)),
            r"csv, line \d+: 36 labels for 36 training .* is this a number to predict\? That is not supported",
        ),
        ("mine.txt", "too short\n" * 5, r"45 characters to train on and 5 held out; each part needs at least 100"),
        ("mine.txt", "ab" * 900 + "xy" * 100, "shares no character with the rest"),
        ("mine.csv", table("csv") + "so " * 4100 + ",good\n", r"mine.csv, line 62: .* has more than 4096"),
        ("mine.conll", conll() + "\n" + "so\tX\n" * 4100, r"mine.conll, line \d+: .* has more than 4096"),
        ("joint.conll", sentences("conll") + "\nso X\n", r"joint.conll, line \d+: this sentence has no label"),
        ("mine.fa", FILES["mine.fa"][1] + ">bad cut\nGATJ\n", r"mine.fa, line 122: letter 4, 'J', is no base"),
        ("frames.jsonl", frames("jsonl").replace("[[", "[[1, ", 1), r"frames.jsonl, line 1: frame 1 has 3 numbers"),
    ],
)
def test_data_that_nothing_can_be_learnt_from_is_refused_before_a_folder_is_made(
    tmp_path: Path, file: str, content: str, said: str
) -> None:
    with pytest.raises(DataError, match=said):
        fitted(tmp_path, file, content)
    assert not (tmp_path / "run").exists()


def test_labels_that_only_the_development_file_has_are_noted(tmp_path: Path) -> None:
    (tmp_path / "dev.csv").write_text("text,label\nthe film is dull,bad\nthe film is a film,neutral\n")
    done = fitted(tmp_path, "mine.csv", **{"data.dev": str(tmp_path / "dev.csv")})
    assert done.notes == (
        f"labels only in the development data, which count as errors: neutral ({tmp_path}/dev.csv, line 3)",
        "only 2 held out for the scores (one more right is 50 points; from 20 on a score says something): give more "
        "data, or cross-validate, which holds every example out once",
    )
    assert set(done.source.files) == {"mine.csv", "dev/dev.csv"}
    assert export.export_run(done, tmp_path / "bundle", silent).labels == ("bad", "good")


def test_one_example_held_out_measures_nothing(tmp_path: Path) -> None:
    done = fitted(tmp_path, "mine.csv", "text,label\na,x\nb,y\nc,x\n", **{"data.dev_share": 0.3})
    assert any(note.startswith("only 1 held out for the scores (a score of one means nothing;") for note in done.notes)


def test_a_label_that_looks_mistyped_is_noted_with_its_line(tmp_path: Path) -> None:
    done = fitted(tmp_path, "mine.csv", table("csv") + "the film is warm,Good\n")
    assert [note for note in done.notes if "may be a typo of 'good'" in note and "line 62" in note]


def test_characters_that_only_the_held_out_text_has_are_noted_and_not_counted(tmp_path: Path) -> None:
    done = fitted(tmp_path, "mine.txt", tiny.TEXT + "☃")
    assert done.notes[0].startswith("1 characters are only in the held out part and do not count in its score: '☃'")
    scores = export.export_run(done, tmp_path / "bundle", silent).variants["fp32"].scores
    assert np.isfinite(scores["nats_per_character"])


def test_a_conllu_file_is_read_by_form_and_upos_unless_columns_are_named(tmp_path: Path) -> None:
    words = "".join(f"{i}\tw{i % 3}\t_\t{'AB'[i % 2]}\tx{i % 4}\t_\t0\t_\t_\t_\n" for i in range(1, 5))
    (tmp_path / "mine.conllu").write_text("\n".join([words] * 20))
    changes = {"data.path": str(tmp_path / "mine.conllu")}
    first = choice.splits(recipe.load("tagger", **changes)).train[0]
    assert (first.tokens, first.tags) == (("w1", "w2", "w0", "w1"), ("B", "A", "B", "A"))
    by_name = recipe.load("tagger", **changes, **{"data.tag_column": "XPOS"})
    assert choice.splits(by_name).train[0].tags == ("x1", "x2", "x3", "x0")


def test_words_of_which_none_comes_twice_make_a_bundle_all_the_same(tmp_path: Path) -> None:
    content = "\n".join(f"w{chr(97 + i)}{i}x\tA\nv{chr(97 + i)}{i}y\tB\n" for i in range(20))
    done = fitted(tmp_path, "mine.conll", content)
    assert done.codec.words == ()  # type: ignore[union-attr]
    self_test.run(bundles.load(export_of(done, tmp_path), placement=CPU))


def export_of(done: Run, folder: Path) -> Path:
    export.export_run(done, folder / "bundle", silent)
    return folder / "bundle"


def test_a_folder_of_another_run_is_refused_and_says_what_differs(tmp_path: Path) -> None:
    fitted(tmp_path, "mine.conll")
    with pytest.raises(DataError, match=r"holds another run \(architecture, training.seed differ\).*--fresh"):
        fitted(tmp_path, "mine.conll", **{"training.seed": 2, "architecture.hidden": 13})
    with pytest.raises(DataError, match="the data files, the examples differ"):
        fitted(tmp_path, "mine.conll", conll(61))


def test_a_recipe_may_be_worded_anew_without_training_anew(tmp_path: Path) -> None:
    before = fitted(tmp_path, "mine.conll").history
    after = fitted(tmp_path, "mine.conll", description="better words", examples=("the film is dull",))
    assert after.history == before
    assert run.open_run(tmp_path / "run").recipe.description == "better words"


def test_fresh_removes_a_run_and_nothing_else(tmp_path: Path) -> None:
    fitted(tmp_path, "mine.conll")
    again = recipe.load("tagger", **{"data.path": str(tmp_path / "mine.conll"), **tiny.SMALL, "training.seed": 3})
    assert len(run.fit(again, tmp_path / "run", silent, fresh=True).history) == 2
    with pytest.raises(DataError, match="is no run folder"):
        run.fit(again, tmp_path, silent, fresh=True)
    assert (tmp_path / "mine.conll").exists()


def test_a_damaged_run_is_named(tmp_path: Path) -> None:
    fitted(tmp_path, "mine.conll")
    (tmp_path / "run/run.json").write_text("{")
    with pytest.raises(DataError, match=r"run.json: is damaged .*--fresh"):
        run.open_run(tmp_path / "run")


def test_a_fold_is_not_exported_as_if_it_were_the_run(tmp_path: Path) -> None:
    whole = fitted(tmp_path, "mine.csv")
    examples = choice.splits(whole.recipe)
    part = Splits(train=examples.train[:-9], dev=[*examples.train[-9:], *examples.dev], source=examples.source)
    fold = run.fit(whole.recipe, tmp_path / "fold", silent, examples=part)
    assert run.open_run(tmp_path / "fold").sizes == fold.sizes == (len(part.train), len(part.dev))
    with pytest.raises(DataError, match="was trained on other examples than its recipe gives"):
        export.export_run(fold, tmp_path / "bundle", silent)
    with pytest.raises(DataError, match=r"holds another run \(the examples differ\)"):
        run.fit(whole.recipe, tmp_path / "fold", silent)
