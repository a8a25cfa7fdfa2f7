"""Validation of tensors from clients."""

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
def test_encoded_input_is_valid(tiny_kinds: Path, name: str) -> None:
    bundle = bundles.opened(tiny_kinds / name)
    feeds = encoded(bundle, TEXTS[name])
    size = check(bundle, feeds)
    assert (size.rows, size.steps) == (2, int(feeds["lengths"].max()))


def test_state_is_an_input(generator: Bundle) -> None:
    feeds = encoded(generator, ["ROMEO:"]) | dict(zip("hc", state.zeros(generator.manifest.state, 1), strict=True))
    assert check(generator, feeds).steps == 6
    feeds["h"] = np.zeros((2, bundles.HIDDEN), np.float32)
    with pytest.raises(InputError, match=r"^h .*B is 1"):
        check(generator, feeds)
    feeds["h"] = np.full((1, bundles.HIDDEN), np.nan, np.float32)
    with pytest.raises(InputError, match=r"^h "):
        check(generator, feeds)


@pytest.mark.parametrize(
    ("name", "tensor", "value", "limit"),
    [
        ("tiny-joint", "words", 99, 15),
        ("tiny-joint", "words", -1, 15),
        ("tiny-joint", "lengths", 7, 6),
        ("tiny-joint", "lengths", 0, 6),
        ("tiny-joint", "unseen", 2, 1),
        ("tiny-joint", "spellings", 28, 27),
        ("tiny-joint", "spelling_lengths", 7, 6),
        ("tiny-subwords", "subwords", 41, 40),
        ("tiny-subwords", "subword_counts", 99, 18),
        ("tiny-letters-tag", "characters", 28, 27),
        ("tiny-dna-classify", "bases", 322, 321),
    ],
)
def test_value_out_of_range_is_refused(tiny_kinds: Path, name: str, tensor: str, value: Any, limit: int) -> None:
    bundle = bundles.opened(tiny_kinds / name)
    feeds = encoded(bundle, TEXTS[name])
    feeds[tensor].flat[0] = value
    with pytest.raises(InputError, match=f"^{tensor} ") as caught:
        check(bundle, feeds)
    assert (caught.value.value, caught.value.limit) == (value, limit)


def test_infinite_number_is_refused(tiny_kinds: Path) -> None:
    bundle = bundles.opened(tiny_kinds / "tiny-frames-tag")
    feeds = encoded(bundle, TEXTS["tiny-frames-tag"])
    feeds["frames"].flat[0] = np.inf
    with pytest.raises(InputError, match=r"^frames "):
        check(bundle, feeds)


@pytest.mark.parametrize(
    ("changes", "tensor"),
    [
        ({"bases": None}, "bases"),
        ({"more": np.zeros(1)}, "more"),
        ({"bases": np.zeros((3, 2), np.float32)}, "bases"),
        ({"bases": np.zeros(3, np.int32)}, "bases"),
        ({"bases": np.zeros((0, 2), np.int32)}, "bases"),
        ({"lengths": np.ones(3, np.int32)}, "lengths"),
    ],
)
def test_tensors_must_fit_the_graph(tiny_kinds: Path, changes: dict[str, Any], tensor: str) -> None:
    bundle = bundles.opened(tiny_kinds / "tiny-dna-tag")
    feeds = encoded(bundle, ["ACG", "AC"]) | changes
    with pytest.raises(InputError, match=f"^{tensor} "):
        check(bundle, {name: array for name, array in feeds.items() if array is not None})


@pytest.mark.parametrize(
    ("name", "shapes", "limit"),
    [
        ("tiny-dna-tag", {"bases": (21, 1), "lengths": (1,)}, 20),
        ("tiny-dna-tag", {"bases": (20, 6), "lengths": (6,)}, 100),
        ("tiny-joint", {"spellings": (6, 13), "spelling_lengths": (13,)}, 12),
        ("tiny-joint", {"spellings": (9, 1)}, 8),
        ("tiny-subwords", {"subwords": (103, 1)}, 102),
    ],
)
def test_more_work_than_the_limit_is_refused(
    tiny_kinds: Path, name: str, shapes: dict[str, tuple[int, ...]], limit: int
) -> None:
    bundle = bundles.opened(tiny_kinds / name)
    texts = ["the cat sat on zebras .", "Paris"] if "dna" not in name else ["A"]
    feeds = encoded(bundle, texts) | {tensor: np.ones(shape, np.int32) for tensor, shape in shapes.items()}
    with pytest.raises(TooLong) as caught:
        check(bundle, feeds)
    assert caught.value.limit == limit


def test_one_row_may_have_the_maximum_length(tiny_kinds: Path) -> None:
    bundle = bundles.opened(tiny_kinds / "tiny-dna-tag")
    assert check(bundle, encoded(bundle, ["A" * 20]), cells=4).steps == 20


def test_run_untrusted_raises_graph_refused(tiny_kinds: Path) -> None:
    model = bundles.opened(tiny_kinds / "tiny-dna-tag").model
    with pytest.raises(GraphRefused):
        model.run_untrusted({"bases": np.full((1, 1), 10_000, np.int32), "lengths": np.ones(1, np.int32)})
