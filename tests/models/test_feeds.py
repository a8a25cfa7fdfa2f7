"""Arrays that strangers send to a graph: what an encoder makes passes, whatever else could hurt does not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models import state
from models.bundle import Bundle
from models.codecs import InputError, TooLong
from models.onnx_session import GraphRefused
from models.tensor_inputs import TensorValidator
from tests.support import bundles

TEXTS: dict[str, list[Any]] = {
    "tiny-joint": ["the cat sat on zebras .", "Paris"],
    "tiny-subwords": ["the cat sat on zebras .", "unheard"],
    "tiny-letters-tag": ["Rossi", "O'Neill"],
    "tiny-dna-classify": ["ACGT", "gattaca"],
    "tiny-frames-tag": [bundles.FRAMES, bundles.FRAMES[:1]],
}


def encoded(bundle: Bundle, texts: list[Any]) -> dict[str, Any]:
    codec = bundle.task.codec
    return dict(codec.collate([codec.encode(text) for text in texts]))


def check(bundle: Bundle, feeds: dict[str, Any], cells: int = 100) -> Any:
    return TensorValidator(bundle.manifest, bundle.task.codec).check(feeds, cells=cells)


@pytest.mark.parametrize("name", TEXTS)
def test_what_a_codec_makes_is_taken(tiny_kinds: Path, name: str) -> None:
    bundle = bundles.opened(tiny_kinds / name)
    feeds = encoded(bundle, TEXTS[name])
    size = check(bundle, feeds)
    assert (size.rows, size.steps) == (2, int(feeds["lengths"].max()))


def test_a_state_is_one_of_the_inputs(generator: Bundle) -> None:
    feeds = encoded(generator, ["ROMEO:"]) | dict(zip("hc", state.zeros(generator.manifest.state, 1), strict=True))
    assert check(generator, feeds).steps == 6
    feeds["h"] = np.zeros((2, bundles.HIDDEN), np.float32)
    with pytest.raises(InputError, match=r"h has shape \[2, 6\], but the graph takes \[B, 6\].*B is 1"):
        check(generator, feeds)
    feeds["h"] = np.full((1, bundles.HIDDEN), np.nan, np.float32)
    with pytest.raises(InputError, match="h holds a number that is not finite"):
        check(generator, feeds)


@pytest.mark.parametrize(
    ("name", "tensor", "value", "said"),
    [
        ("tiny-joint", "words", 99, "words holds 99, but its values are 0 to 15"),
        ("tiny-joint", "words", -1, "words holds -1, but its values are 0 to 15"),
        ("tiny-joint", "lengths", 7, "lengths holds 7, but its values are 1 to 6"),
        ("tiny-joint", "lengths", 0, "lengths holds 0, but its values are 1 to 6"),
        ("tiny-joint", "unseen", 2, "unseen holds 2, but its values are 0 to 1"),
        ("tiny-joint", "spellings", 28, "spellings holds 28, but its values are 0 to 27"),
        ("tiny-joint", "spelling_lengths", 7, "spelling_lengths holds 7, but its values are 1 to 6"),
        ("tiny-subwords", "subwords", 41, "subwords holds 41, but its values are 0 to 40"),
        ("tiny-subwords", "subword_counts", 99, "subword_counts holds 99, but its values are 0 to"),
        ("tiny-letters-tag", "characters", 28, "characters holds 28, but its values are 0 to 27"),
        ("tiny-dna-classify", "bases", 322, "bases holds 322, but its values are 0 to 321"),
        ("tiny-frames-tag", "frames", np.inf, "frames holds a number that is not finite"),
    ],
)
def test_a_value_that_a_graph_cannot_look_up_is_named(
    tiny_kinds: Path, name: str, tensor: str, value: Any, said: str
) -> None:
    bundle = bundles.opened(tiny_kinds / name)
    feeds = encoded(bundle, TEXTS[name])
    feeds[tensor].flat[0] = value
    with pytest.raises(InputError, match=said):
        check(bundle, feeds)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bases": None}, "bases is missing: send it; the inputs are bases, lengths"),
        ({"more": np.zeros(1)}, "more is none of the graph's inputs: leave it out"),
        ({"bases": np.zeros((3, 2), np.float32)}, "bases is float32, but the graph takes int32"),
        ({"bases": np.zeros(3, np.int32)}, r"bases has shape \[3\], but the graph takes \[T, B\]"),
        ({"bases": np.zeros((0, 2), np.int32)}, r"bases has shape \[0, 2\], .* none of them 0"),
        ({"lengths": np.ones(3, np.int32)}, r"lengths has shape \[3\], .*B is 2 here"),
    ],
)
def test_tensors_that_do_not_fit_the_graph_are_named(tiny_kinds: Path, changes: dict[str, Any], said: str) -> None:
    bundle = bundles.opened(tiny_kinds / "tiny-dna-tag")
    feeds = encoded(bundle, ["ACG", "AC"]) | changes
    with pytest.raises(InputError, match=said):
        check(bundle, {name: array for name, array in feeds.items() if array is not None})


@pytest.mark.parametrize(
    ("name", "shapes", "said"),
    [
        ("tiny-dna-tag", {"bases": (21, 1), "lengths": (1,)}, "21 steps, but one input may have 20"),
        ("tiny-dna-tag", {"bases": (20, 6), "lengths": (6,)}, "120 in all, but one request may have 100"),
        ("tiny-joint", {"spellings": (6, 13), "spelling_lengths": (13,)}, "N is 13, but .*: 12 at most"),
        ("tiny-joint", {"spellings": (9, 1)}, "C is 9, but a spelling is cut to that: 8 at most"),
        ("tiny-subwords", {"subwords": (103, 2)}, "G is 103, but a word has no more n-grams: 102 at most"),
    ],
)
def test_more_work_than_a_text_could_be_is_too_much(
    tiny_kinds: Path, name: str, shapes: dict[str, tuple[int, ...]], said: str
) -> None:
    bundle = bundles.opened(tiny_kinds / name)
    texts = ["the cat sat on zebras .", "Paris"] if "dna" not in name else ["A"]
    feeds = encoded(bundle, texts) | {tensor: np.ones(shape, np.int32) for tensor, shape in shapes.items()}
    with pytest.raises(TooLong, match=said):
        check(bundle, feeds)


def test_one_row_may_be_as_long_as_any_input(tiny_kinds: Path) -> None:
    bundle = bundles.opened(tiny_kinds / "tiny-dna-tag")
    assert check(bundle, encoded(bundle, ["A" * 20]), cells=4).steps == 20


def test_what_onnxruntime_refuses_is_told_apart_from_a_bug(tiny_kinds: Path) -> None:
    network = bundles.opened(tiny_kinds / "tiny-dna-tag").model
    with pytest.raises(GraphRefused):
        network.run_untrusted({"bases": np.full((1, 1), 10_000, np.int32), "lengths": np.ones(1, np.int32)})
