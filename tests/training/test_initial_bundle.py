"""Training from the weights of a bundle: they are those of its graphs, and what does not fit is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from models.manifest import read
from tests.support.tiny_files import conll
from tests.support.tiny_runs import fit, silent
from training import export, run
from training.data.examples import DataError
from training.initial_bundle import InitialBundle
from training.nn.networks import Network, make_network
from training.onnx_export import scan
from training.onnx_export.builder import Precision
from training.onnx_export.network_graph import export_graph
from training.recipe import reopen
from training.run import TrainingRun

ZOO = Path(__file__).resolve().parents[2] / "models" / "zoo"

NO_TRAINING = {"training.learning_rate": 1e-12, "training.epochs": 1}  # the weights stay those that it started from


@pytest.fixture
def worthwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep int8, whatever its times."""
    monkeypatch.setattr(export, "drawback", lambda *_: "")


def bundle_of(done: TrainingRun, folder: Path, only: str | None = None) -> Path:
    export.export_run(done, folder / "bundle", silent, only=only)
    return folder / "bundle"


def constants(network: Network, variant: Precision) -> dict[str, Any]:
    """Return the numbers and the bytes in the graphs of a network."""
    graph = export_graph(network, variant)
    models = [graph.model] if graph.reader is None else [graph.reader.model, graph.model]
    return {
        f"{number}.{tensor.name}": onnx.numpy_helper.to_array(tensor).astype(np.float64)
        for number, model in enumerate(models)
        for tensor in model.graph.initializer
        if not tensor.name.startswith(("reach", "pins"))  # their names have their values
    }


def largest_difference(first: Network, second: Network, variant: Precision = "fp32") -> float:
    """Return the largest difference of two networks' constants, relative to the largest number of each."""
    before, after = constants(first, variant), constants(second, variant)
    assert before.keys() == after.keys()
    finite = [name for name in before if np.isfinite(before[name]).all()]
    return max(
        float(np.abs(before[name] - after[name]).max(initial=0) / max(np.abs(before[name]).max(initial=0), 1e-6))
        for name in finite
    )


def published(name: str) -> tuple[InitialBundle, Network]:
    """Return a bundle of the zoo and an untrained network of its recipe."""
    recipe = reopen(json.loads(read(ZOO / name).provenance.recipe)).model_copy(update={"init": ZOO / name})
    start = InitialBundle.open(recipe)
    assert start is not None
    return start, make_network(recipe.architecture, start.codec, task=recipe.task, forecast=recipe.forecast)


@pytest.mark.usefixtures("worthwhile")
@pytest.mark.parametrize(
    ("file", "variant", "changes"),
    [
        ("mine.conll", "fp32", {"architecture.crf": True}),
        ("mine.conll", "int8", {}),
        ("mine.conll", "int8", {"architecture.cell": "gru"}),
        ("mine.csv", "fp32", {"architecture.pooling": ["attention", "max"]}),
        ("joint.conll", "int8", {}),
        ("mine.txt", "fp32", {"architecture.cell": "gru", "architecture.tied": True}),
        ("sentences.txt", "int8", {}),
        ("pairs.tsv", "fp32", {"architecture.attention": 0}),
        ("pairs.tsv", "int8", {}),
    ],
)
def test_training_starts_from_the_weights_of_the_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, changes: dict[str, Any], variant: Precision
) -> None:
    monkeypatch.setattr(scan, "LARGEST_TABLE", 0)  # as for a large vocabulary: a small one is multiplied at export
    first = fit(tmp_path, file, **changes)
    init = {"init": str(bundle_of(first, tmp_path, variant))}
    (tmp_path / "second").mkdir()
    second = fit(tmp_path / "second", file, **{**changes, **NO_TRAINING, "training.seed": 5, **init})
    assert largest_difference(first.network(), second.network(), variant) < (1e-5 if variant == "fp32" else 0.02)


def test_a_network_reads_a_published_forecaster() -> None:
    start, network = published("ett-h1")
    start.read_into(network)
    found = constants(network, "fp32")
    for tensor in onnx.load_model(start.path / "fp32.onnx").graph.initializer:
        np.testing.assert_array_equal(found[f"0.{tensor.name}"], onnx.numpy_helper.to_array(tensor))


@pytest.mark.usefixtures("worthwhile")
def test_products_of_weights_are_refused(tmp_path: Path) -> None:
    init = {"init": str(bundle_of(fit(tmp_path, "pairs.tsv"), tmp_path, "int8"))}
    (tmp_path / "second").mkdir()
    with pytest.raises(DataError, match=r"layer0\.forward\.x0.*fp32"):
        fit(tmp_path / "second", "pairs.tsv", **init)


def test_other_data_keep_the_vocabulary_of_the_bundle(tmp_path: Path) -> None:
    first = fit(tmp_path, "mine.conll")
    init = {"init": str(bundle_of(first, tmp_path))}
    (tmp_path / "second").mkdir()
    second = fit(tmp_path / "second", "mine.conll", conll().replace("film", "opera"), **init)
    assert second.codec.vocabularies == first.codec.vocabularies


def test_the_run_and_its_bundle_name_the_digest(tmp_path: Path) -> None:
    init = bundle_of(fit(tmp_path, "mine.conll"), tmp_path)
    (tmp_path / "second").mkdir()
    second = fit(tmp_path / "second", "mine.conll", init=str(init))
    digest = second.init_digest
    manifest = export.export_run(run.open_run(tmp_path / "second/run"), tmp_path / "tuned", silent)
    assert digest in manifest.provenance.data.sha256.values()
    export.export_run(run.open_run(tmp_path / "second/run"), init, silent, force=True)
    with pytest.raises(DataError, match="init"):  # the bundle is another one now, so this is another run
        fit(tmp_path / "second", "mine.conll", init=str(init))


@pytest.mark.parametrize(
    ("file", "changes", "named"),
    [
        ("mine.conll", {"architecture.hidden": 13}, ("layer0.w", "(2, 48, 18)", "(2, 52, 18)")),
        ("mine.conll", {"architecture.cell": "gru"}, ("layer0.w", "(2, 48, 18)", "(2, 36, 18)")),
        ("mine.conll", {"architecture.layers": 2}, ("layer1",)),
        ("mine.conll", {"codec.lowercase": True}, ("lowercase=False", "lowercase=True")),
        ("joint.conll", {}, ("tag", "joint")),
    ],
)
def test_a_bundle_that_does_not_fit_is_refused(
    tmp_path: Path, file: str, changes: dict[str, Any], named: tuple[str, ...]
) -> None:
    init = {"init": str(bundle_of(fit(tmp_path, "mine.conll"), tmp_path))}
    (tmp_path / "second").mkdir()
    with pytest.raises(DataError) as refused:
        fit(tmp_path / "second", file, **{**changes, **init})
    assert all(part in str(refused.value) for part in named)


def test_bytes_of_other_shapes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"shape of reader\.layer0\.forward\.rz\.weight: \(256, 512\).*\(12, 24\)"):
        fit(tmp_path, "pairs.tsv", init=str(ZOO / "de-en"))


def test_other_labels_are_refused(tmp_path: Path) -> None:
    init = {"init": str(bundle_of(fit(tmp_path, "mine.conll"), tmp_path))}
    (tmp_path / "second").mkdir()
    with pytest.raises(DataError) as refused:
        fit(tmp_path / "second", "mine.conll", conll().replace("ADJ", "A"), **init)
    labels = read(tmp_path / "bundle").labels
    assert all(repr(label) in str(refused.value) for label in (*labels, "A"))
