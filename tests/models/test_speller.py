"""A graph with a speller gives the bits of the whole graph, with any words in the cache."""

import json
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import bundle, self_test
from models.bundle import Bundle
from models.inspect import inspect
from models.manifest import BundleError
from models.onnx_session import GraphRefused, OnnxModel
from models.speller import LENGTHS, OOV_VECTORS, ModelWithSpeller
from tests.support import bundles

MAKERS = (bundles.tagger, bundles.joint, bundles.live_tagger)
WORDS = st.one_of(st.sampled_from([*bundles.WORDS, "zebra", "Zebra"]), st.text("abcdeé☃", min_size=1, max_size=12))
BATCHES = st.lists(st.lists(st.lists(WORDS, min_size=1, max_size=6), min_size=1, max_size=5), min_size=1, max_size=4)


@pytest.fixture(scope="module", params=MAKERS, ids=lambda make: make.__name__)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Path]:
    """Return a bundle with one graph, and the same bundle with a speller."""
    whole = request.param(tmp_path_factory.mktemp("whole"))
    split = bundles.with_speller(Path(shutil.copytree(whole, tmp_path_factory.mktemp("split") / whole.name)))
    return bundles.opened(whole), split


@pytest.fixture
def split(tmp_path: Path) -> Path:
    return bundles.with_speller(bundles.tagger(tmp_path))


def small_cache(path: Path, entries: int) -> ModelWithSpeller:
    graph, speller = ((path / file).read_bytes() for file in ("fp32.onnx", "fp32-speller.onnx"))
    return ModelWithSpeller(graph, speller, bundles.CPU, cache_entries=entries)


def feeds_of(loaded: Bundle, batch: Sequence[Any]) -> dict[str, Any]:
    task: Any = loaded.task
    return dict(task.collate([task.encode(words) for words in batch]))


def test_speller_is_used_and_passes_the_self_test(pair: tuple[Bundle, Path]) -> None:
    whole, path = pair
    loaded = bundles.opened(path)
    assert isinstance(loaded.model, ModelWithSpeller)
    assert set(loaded.model.inputs) == set(whole.model.inputs)
    self_test.run(loaded)


@settings(max_examples=40, deadline=None)
@given(batches=BATCHES, entries=st.sampled_from([0, 1, 3, 100]))
def test_bits_are_those_of_the_whole_graph(pair: tuple[Bundle, Path], batches: list[Any], entries: int) -> None:
    whole, path = pair
    model = small_cache(path, entries)
    for batch in batches:
        feeds = feeds_of(whole, batch)
        expected, found = whole.model.run(feeds), model.run(feeds)
        assert all(np.array_equal(expected[name], found[name]) for name in expected)


def test_word_is_spelled_once(split: Path) -> None:
    loaded = bundles.opened(split)
    model = loaded.model
    assert isinstance(model, ModelWithSpeller)
    for batch in ([["zebra", "zebra"], ["zebra"]], [["the", "cat"]], [["zebra", "lion"]]):
        model.run(feeds_of(loaded, batch))
    assert (model.words, model.spelled) == (5, 2)


def test_counts_taken_while_the_speller_runs_are_complete(split: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, model = bundles.opened(split), small_cache(split, 100)
    run_list, taken = OnnxModel.run_list, []

    def run_and_take(session: OnnxModel, feeds: Any) -> Any:
        taken.append(model.take_counts())
        return run_list(session, feeds)

    monkeypatch.setattr(OnnxModel, "run_list", run_and_take)
    model.run(feeds_of(loaded, [["zebra", "lion"]]))
    model.run(feeds_of(loaded, [["zebra"]]))
    taken.append(model.take_counts())
    assert [counts for counts in taken if any(counts)] == [(0, 2), (1, 0)]


def test_least_recently_used_word_leaves_the_cache(split: Path) -> None:
    loaded, model = bundles.opened(split), small_cache(split, 2)
    spelled = []
    for word in ("zebra", "lion", "zebra", "tiger", "zebra", "lion"):
        model.run(feeds_of(loaded, [[word]]))
        spelled.append(model.spelled)
    assert spelled == [1, 2, 2, 3, 3, 4]


@pytest.mark.parametrize("column", LENGTHS)
def test_cells_after_the_length_of_a_word_change_no_answer(tmp_path: Path, column: str) -> None:
    path = bundles.with_speller(bundles.subword_tagger(tmp_path, spelled=True))
    loaded, model = bundles.opened(path), small_cache(path, 100)
    feeds = feeds_of(loaded, [["ab", "zebra"]])
    expected = loaded.model.run(feeds)
    changed = feeds | {column: feeds[column].copy()}
    changed[column][feeds[LENGTHS[column]][0] :, 0] = 5
    assert not np.array_equal(changed[column], feeds[column])
    for each in (changed, feeds):  # the second run has the vectors of the first one
        assert np.array_equal(model.run(each)["probabilities"], expected["probabilities"])
    assert model.spelled == 2


def test_padding_row_within_a_spelling_is_part_of_it(pair: tuple[Bundle, Path]) -> None:
    whole, path = pair
    model = small_cache(path, 100)
    feeds = feeds_of(whole, [["ab", "abc"]])
    feeds["spellings"][:] = [[5, 5], [0, 0], [0, 0]]
    for lengths in ([1, 2], [3, 1], [2, 3]):
        feeds["spelling_lengths"] = np.array(lengths, np.int32)
        expected, found = whole.model.run(feeds), model.run(feeds)
        assert all(np.array_equal(expected[name], found[name]) for name in expected)


def test_inspection_shows_the_states_of_the_whole_graph(pair: tuple[Bundle, Path]) -> None:
    whole, path = pair
    found, expected = (inspect(loaded, "the zebra") for loaded in (bundles.opened(path), whole))
    assert [layer.name for layer in found.layers] == [layer.name for layer in expected.layers] != []
    for layer, other in zip(found.layers, expected.layers, strict=True):
        assert np.array_equal(layer.parts["state"], other.parts["state"])


def test_threads_share_the_cache(split: Path) -> None:
    loaded, model = bundles.opened(split), small_cache(split, 3)
    words = [f"{a}{b}" for a in "abcdef" for b in "ghijkl"]
    expected = {word: loaded.model.run(feeds_of(loaded, [[word]]))["probabilities"] for word in words}
    wrong: list[Any] = []

    def run(own: Sequence[str]) -> None:
        try:
            for word in own:
                if not np.array_equal(model.run(feeds_of(loaded, [[word]]))["probabilities"], expected[word]):
                    wrong.append(word)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=run, args=(words[start:] + words[:start],)) for start in range(0, 36, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (wrong, model.words) == ([], 4 * len(words))


def test_run_untrusted_raises_graph_refused(split: Path) -> None:
    loaded = bundles.opened(split)
    feeds = feeds_of(loaded, [["zebra"]])
    feeds["spellings"][0, 0] = 10_000
    with pytest.raises(GraphRefused):
        loaded.model.run_untrusted(feeds)


def swap_graphs(path: Path) -> None:
    (path / "fp32.onnx").rename(path / "moved")
    (path / "fp32-speller.onnx").rename(path / "fp32.onnx")
    (path / "moved").rename(path / "fp32-speller.onnx")


def rename_vectors(path: Path) -> None:
    for file in ("fp32.onnx", "fp32-speller.onnx"):
        content = (path / file).read_bytes()
        (path / file).write_bytes(content.replace(OOV_VECTORS.encode(), b"new_vectors"))


def poison(path: Path) -> None:
    model = onnx.load(path / "fp32-speller.onnx")
    table = model.graph.initializer[0]
    values = onnx.numpy_helper.to_array(table).copy()
    values.flat[0] = np.nan
    table.CopyFrom(onnx.numpy_helper.from_array(values, table.name))
    onnx.save(model, path / "fp32-speller.onnx")


def add_a_letter(path: Path) -> None:
    letters = json.loads((path / "characters.json").read_text("utf-8"))
    (path / "characters.json").write_text(bundle.vocabulary_text([*letters, "é"]), "utf-8")


@pytest.mark.parametrize(
    ("damage", "named"),
    [(swap_graphs, "fp32.onnx"), (rename_vectors, "fp32.onnx"), (poison, "speller"), (add_a_letter, "speller")],
)
def test_speller_that_does_not_fit_is_refused(split: Path, damage: Any, named: str) -> None:
    damage(split)
    manifest = bundle.read(split)
    files = {file: (split / file).read_bytes() for file in manifest.checksums}
    changed = manifest.model_copy(update={"files": bundle.digests(files)})
    (split / "manifest.json").write_text(changed.model_dump_json(), "utf-8")
    with pytest.raises(BundleError, match=named):
        bundles.opened(split)
