"""Splitting exported graphs: the two graphs give the bits of the whole, at every precision."""

from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.manifest import read
from models.onnx_session import OnnxModel, Placement
from models.speller import ModelWithSpeller
from tests.support import bundles, tiny
from training.onnx_export.builder import ExportedGraph
from training.onnx_export.network_graph import export_graph
from training.onnx_export.speller import split_bundle, split_speller

CPU = Placement(device="cpu")
SHAPES: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "crf": ("tag", tiny.words_codec, {"bidirectional": True, "crf": True}),
    "subwords": ("classify", partial(tiny.words_codec, subwords=True), {"bidirectional": True}),
    "live": ("tag", tiny.words_codec, {"layers": 2}),
}
WORDS = st.one_of(st.sampled_from(["the", "film", "Film", "unheard"]), st.text("abdilmé☃", min_size=1, max_size=30))
TEXTS = st.lists(st.lists(WORDS, min_size=1, max_size=8), min_size=1, max_size=12)


@cache
def exported(shape: str, precision: Any) -> tuple[Any, ExportedGraph, bytes, bytes]:
    """Return the codec, the whole graph, and its two parts."""
    task, make_codec, options = SHAPES[shape]
    codec = make_codec()
    whole = export_graph(tiny.network(task, codec=codec, **options), precision)
    parts = split_speller(whole.model)
    assert parts is not None
    return codec, whole, *(part.SerializeToString() for part in parts)


@cache
def sessions(shape: str, precision: Any) -> tuple[OnnxModel, OnnxModel, OnnxModel]:
    """Return the whole graph, the graph with its speller, and the speller alone."""
    _, whole, graph, speller = exported(shape, precision)
    split = ModelWithSpeller(graph, speller, CPU, cache_entries=20)
    return OnnxModel(whole.model.SerializeToString(), CPU), split, OnnxModel(speller, CPU)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=25, deadline=None)
@given(texts=TEXTS)
def test_split_graphs_have_the_bits_of_the_whole(shape: str, precision: str, texts: list[list[str]]) -> None:
    codec, graph, *_ = exported(shape, precision)
    whole, split, _ = sessions(shape, precision)
    feeds = codec.collate([codec.encode(text) for text in texts])
    feeds |= {tensor.input: np.zeros((len(texts), tensor.width), np.float32) for tensor in graph.state}
    expected, found = whole.run(feeds), split.run(feeds)
    assert list(found) == list(expected)
    assert all(np.array_equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=25, deadline=None)
@given(words=st.lists(WORDS, min_size=1, max_size=40, unique=True))
def test_vector_of_a_word_has_the_same_bits_alone_and_with_others(shape: str, precision: str, words: list[str]) -> None:
    codec, (_, _, speller) = exported(shape, precision)[0], sessions(shape, precision)
    feeds = codec.collate([codec.encode(words)])
    (together,) = speller.run_list({name: feeds[name] for name in speller.inputs})
    for word, place in zip(words, feeds["unseen"][:, 0], strict=True):
        if place:
            feeds = codec.collate([codec.encode([word])])
            (alone,) = speller.run_list({name: feeds[name] for name in speller.inputs})
            assert np.array_equal(alone[0], together[place - 1])


@pytest.mark.parametrize(
    ("codec", "options"),
    [(tiny.words_codec(characters=False, subwords=True), {}), (tiny.words_codec(), {"characters": "cnn"})],
    ids=["subwords", "cnn"],
)
def test_model_without_an_lstm_over_characters_has_no_speller(codec: Any, options: dict[str, Any]) -> None:
    assert split_speller(export_graph(tiny.network("tag", codec=codec, **options), "fp32").model) is None


def test_bundle_is_split_once(tmp_path: Path) -> None:
    path = bundles.tagger(tmp_path)
    before = read(path)
    split = split_bundle(path)
    assert (split.variants["fp32"].speller, split.examples) == ("fp32-speller.onnx", before.examples)
    assert split_bundle(path) == split == read(path)
