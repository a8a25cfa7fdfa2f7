"""Export: a bundle of every format and task passes its self-test, and what must not be exported is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models import bundle as bundles
from models import self_test
from models.manifest import BundleError, Variant, read
from models.onnx_session import Placement
from tests.support.tiny import SMALL
from tests.support.tiny_files import conll
from tests.support.tiny_runs import FILES, fit, silent
from training import export, run, score
from training import recipe as recipes
from training.data import loading, scenes
from training.data.examples import DataError, Splits, TaggedExample
from training.objectives.sequences import SequenceObjective

CPU = Placement(device="cpu")


@pytest.mark.parametrize(
    ("file", "cell"), [*((file, "lstm") for file in FILES), ("mine.csv", "gru"), ("mine.conll", "gru")]
)
def test_bundle_of_every_format_passes_its_self_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, cell: str
) -> None:
    monkeypatch.setattr(export, "drawback", lambda *_: "")  # keeps int8, whatever its times
    fit(tmp_path, file, **{"architecture.cell": cell})
    manifest = export.export_run(run.open_run(tmp_path / "run"), tmp_path / "bundle", silent)
    assert next(iter(manifest.variants)) == "fp32"
    card = (tmp_path / "bundle/README.md").read_text()
    for name, variant in manifest.variants.items():
        opened = bundles.load(tmp_path / "bundle", variant=name, placement=CPU)
        self_test.run(opened)
        dev = loading.load_splits(run.open_run(tmp_path / "run").recipe).dev
        assert score.score(opened, dev) == variant.scores
        assert all(value > 0 for value in variant.milliseconds.values())
        assert f"| {variant.scores[manifest.metric]} |" in card
    assert manifest.provenance.data.licence == "the user's own"
    assert manifest.provenance.command.startswith(f"fit {FILES[file][0]} && seqserve export ")
    assert read(tmp_path / "bundle").model_dump(mode="json") == manifest.model_dump(mode="json")


def test_a_tagger_is_scored_on_the_tokens_of_the_service_too(tmp_path: Path) -> None:
    """A text splits "e-mail". Its label is that of the first part, which the tagger never saw."""
    hyphens = "".join("the\tO\ne-mail\tNOUN\nis\tO\ndull\tADJ\n\n" for _ in range(40))
    done = fit(tmp_path, "mine.conll", conll() + hyphens)
    manifest = export.export_run(done, tmp_path / "bundle", silent)
    opened, dev = bundles.load(tmp_path / "bundle", placement=CPU), loading.load_splits(done.recipe).dev
    found = score.score_texts(opened, dev)
    tokens = [token for example in dev for token in example.tokens]
    assert found is not None
    assert found.share == pytest.approx(tokens.count("e-mail") / len(tokens))
    assert found.score <= manifest.variants[manifest.default_variant].scores["accuracy"]
    plain = [example for example in dev if "e-mail" not in example.tokens]
    assert score.score_texts(opened, plain) is None


def test_fp32_bundle_has_the_accuracy_of_the_network(tmp_path: Path) -> None:
    done = fit(tmp_path, "mine.conll")
    manifest = export.export_run(done, tmp_path / "bundle", silent)
    objective = SequenceObjective(done.recipe, done.codec, done.network(), loading.load_splits(done.recipe))
    accuracy = objective.evaluate(done.network())["accuracy"]
    assert manifest.variants["fp32"].scores["accuracy"] == round(accuracy, 2)
    assert accuracy == max(entry["accuracy"] for entry in done.history)


def test_language_model_is_scored_on_the_whole_held_out_text(tmp_path: Path) -> None:
    done = fit(tmp_path, "mine.txt")
    manifest = export.export_run(done, tmp_path / "bundle", silent)
    rows = torch.from_numpy(done.codec.encode(loading.load_splits(done.recipe).dev).rows).long()  # type: ignore
    with torch.no_grad():
        logits, _ = done.network()(rows[:-1, None], torch.tensor([len(rows) - 1]))
    nats = float(torch.nn.functional.cross_entropy(logits[:, 0], rows[1:]))
    assert manifest.variants["fp32"].scores["nats_per_character"] == pytest.approx(nats, abs=1e-4)


def test_vocabulary_without_repeated_words_can_be_exported(tmp_path: Path) -> None:
    done = fit(tmp_path, "mine.conll", "\n".join(f"w{chr(97 + i)}{i}x\tA\nv{chr(97 + i)}{i}y\tB\n" for i in range(20)))
    assert done.codec.words == ()  # type: ignore[union-attr]
    export.export_run(done, tmp_path / "bundle", silent)
    self_test.run(bundles.load(tmp_path / "bundle", placement=CPU))


def test_tagger_that_finds_no_span_can_be_exported(tmp_path: Path) -> None:
    plain = "nothing O\nhere O\n\n" * 60
    done = fit(tmp_path, "mine.conll", f"{plain}in O\nParis B-LOC\n\n" + plain)
    manifest = export.export_run(done, tmp_path / "bundle", silent)
    assert [(example.inputs, example.outputs) for example in manifest.examples] == [("nothing here", [])]
    assert manifest.scheme == "iob2"


def test_examples_with_spans_come_from_anywhere_in_the_development_data() -> None:
    dev = [TaggedExample(tokens=("no", f"{i}"), tags=("O", "O")) for i in range(900)]
    dev.append(TaggedExample(tokens=("in", "Paris"), tags=("O", "B-LOC")))
    assert export.candidates("tag", "words", dev)[:2] == ("in Paris", "no 0")


def test_symbols_are_joined_to_a_text_without_blanks() -> None:
    dev = [TaggedExample(tokens=("我", "爱"), tags=("O", "B-x"))]
    assert export.candidates("tag", "characters", dev) == ("我爱",)


def test_worse_bundle_does_not_replace_a_better_one(tmp_path: Path) -> None:
    done = fit(tmp_path, "mine.conll")
    manifest = export.export_run(done, tmp_path / "bundle", silent)
    better = {n: v.model_copy(update={"scores": {"accuracy": 100.1}}) for n, v in manifest.variants.items()}
    boasting = manifest.model_copy(update={"variants": better})
    (tmp_path / "bundle/manifest.json").write_text(boasting.model_dump_json())
    with pytest.raises(BundleError, match=r"accuracy.*100\.1.*--force"):
        export.export_run(done, tmp_path / "bundle", silent)
    assert read(tmp_path / "bundle") == boasting
    export.export_run(done, tmp_path / "bundle", silent, force=True)
    assert read(tmp_path / "bundle").variants["fp32"].scores == manifest.variants["fp32"].scores


def test_folder_that_is_not_a_bundle_is_never_replaced(tmp_path: Path) -> None:
    done = fit(tmp_path, "mine.conll")
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters/dear.txt").write_text("keep me")
    with pytest.raises(BundleError, match=r"letters.*--out"):
        export.export_run(done, tmp_path / "letters", silent, force=True)
    assert (tmp_path / "letters/dear.txt").exists()


def test_graph_that_differs_from_the_network_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done, export_graph = fit(tmp_path, "mine.conll"), export.export_graph

    def drawn_before_a_change(network: Any, precision: Any) -> Any:
        drawing = export_graph(network, precision)
        with torch.no_grad():
            network.step_head.bias[0] += 0.1
        return drawing

    monkeypatch.setattr(export, "export_graph", drawn_before_a_change)
    with pytest.raises(BundleError, match="differs from PyTorch"):
        export.export_run(done, tmp_path / "bundle", silent)
    assert not (tmp_path / "bundle").exists()


def test_changed_data_is_refused(tmp_path: Path) -> None:
    done = fit(tmp_path, "mine.conll")
    (tmp_path / "mine.conll").write_text(conll(61))
    with pytest.raises(DataError, match=r"mine\.conll.*--fresh"):
        export.export_run(done, tmp_path / "bundle", silent)


def test_fold_is_not_exported(tmp_path: Path) -> None:
    whole = fit(tmp_path, "mine.csv")
    examples = loading.load_splits(whole.recipe)
    part = Splits(train=examples.train[:-9], dev=[*examples.train[-9:], *examples.dev], source=examples.source)
    fold = run.fit(whole.recipe, tmp_path / "fold", silent, examples=part)
    with pytest.raises(DataError, match="fold"):
        export.export_run(fold, tmp_path / "bundle", silent)


def test_variant_must_be_accurate_and_faster() -> None:
    def variant(accuracy: float, ms: float) -> Variant:
        return Variant(file="a.onnx", scores={"accuracy": accuracy}, milliseconds={"batch_1": ms, "batch_16": ms})

    assert export.drawback("accuracy", variant(90, 2), variant(89.7, 1)) == ""
    assert export.drawback("accuracy", variant(90, 2), variant(89.6, 1))
    assert export.drawback("accuracy", variant(90, 2), variant(90, 3))


def test_int8_that_saves_less_than_a_tenth_is_left_out() -> None:
    def variant(ms: float) -> Variant:
        return Variant(file="a.onnx", scores={"accuracy": 90}, milliseconds={"batch_1": 1, "batch_16": ms})

    assert export.drawback("accuracy", variant(1), variant(export.KEPT_RATIO)) == ""
    assert export.drawback("accuracy", variant(1), variant(export.KEPT_RATIO + 0.02))


def test_captioner_can_be_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "drawback", lambda *_: "")
    random, words = np.random.default_rng(1), ["red", "green", "blue"]
    colors = random.integers(0, 3, 60)
    np.savez(tmp_path / "x.npz", np.eye(3)[colors] + 0.1 * random.normal(size=(60, 3)))
    (tmp_path / "y.txt").write_text("".join(f"a {words[color]} circle\n" for color in colors))
    files = {"data.path": str(tmp_path / "x.npz"), "data.parallel": str(tmp_path / "y.txt")}
    recipe = recipes.load("captioner", **{**SMALL, **files, "pieces": 320, "source.features": 3})
    run.fit(recipe, tmp_path / "run", silent)
    manifest = export.export_run(run.open_run(tmp_path / "run"), tmp_path / "bundle", silent)
    assert set(manifest.variants) == {"fp32", "int8"}
    self_test.run(bundles.load(tmp_path / "bundle", placement=CPU))


def test_captioner_of_pictures_can_be_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "drawback", lambda *_: "an untrained network")  # keeps fp32
    for name, count in (("TRAIN", 60), ("DEV", 8), ("UNSEEN_COUNT", 4)):
        monkeypatch.setattr(scenes, name, count)
    changes = {**SMALL, "architecture.filters": (4, 4, 8), "data.choice_share": 0.1, "training.warmup_steps": 0}
    run.fit(recipes.load("shapes-caption", **changes), tmp_path / "run", silent)
    assert (tmp_path / "run/attention.png").stat().st_size > 1000
    manifest = export.export_run(run.open_run(tmp_path / "run"), tmp_path / "bundle", silent)
    for variant in manifest.variants.values():
        assert {manifest.metric, "bleu", "scenes unseen pairs"} <= set(variant.scores)
    self_test.run(bundles.load(tmp_path / "bundle", placement=CPU))
    assert "convolutions" in (tmp_path / "bundle/README.md").read_text()
