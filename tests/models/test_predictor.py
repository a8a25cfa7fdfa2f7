"""models.load: the answers of the reference path, batches, parameters and the tutorial."""

import contextlib
import io
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from models import load, self_test
from models.codecs import InputError
from models.manifest import BundleError
from models.predictor import BATCH_ROWS, BATCH_TOKENS, ParameterError, Predictor, batches
from tests.support.pictures import encoded, picture_file

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/tutorials/use-in-python.md").read_text("utf-8")


@pytest.fixture(params=["tiny-tag", "tiny-tag-spans", "tiny-classify", "tiny-generate", "joint"])
def predictor(request: pytest.FixtureRequest, tiny_zoo: Path, tiny_kinds: Path) -> Predictor:
    return load(tiny_kinds / "tiny-joint" if request.param == "joint" else tiny_zoo / request.param)


@pytest.fixture
def tagger(tiny_zoo: Path) -> Predictor:
    return load(tiny_zoo / "tiny-tag-spans")


@pytest.fixture
def writer(tiny_zoo: Path) -> Predictor:
    return load(tiny_zoo / "tiny-generate")


def test_answers_equal_the_reference_path(predictor: Predictor) -> None:
    for example in predictor.bundle.manifest.examples:
        seeded = example.parameters | ({"seed": 3} if predictor.bundle.manifest.task == "generate" else {})
        expected = self_test.answer(predictor.bundle, example.inputs, seeded)
        assert predictor(example.inputs, **seeded) == expected
        assert predictor([example.inputs], **seeded) == [expected]


def test_every_kind_of_bundle_answers_its_examples(tiny_kinds: Path, tiny_live: Path) -> None:
    for path in sorted([*tiny_kinds.iterdir(), *tiny_live.iterdir()]):
        predictor = load(path)
        for example in predictor.bundle.manifest.examples:
            expected = self_test.answer(predictor.bundle, example.inputs, example.parameters)
            assert predictor(example.inputs, **example.parameters) == expected, path


def test_an_answer_does_not_depend_on_the_list(predictor: Predictor) -> None:
    parameters: dict[str, Any] = {}
    if predictor.bundle.manifest.task == "generate":
        parameters = {"seed": 5, "details": True, "stop": ["e", "an"], "max_new_tokens": 40}
    inputs = ["a", "", "to be or not", "the cat", "be"] * 20
    inputs = [text[: 1 + place % 9] for place, text in enumerate(inputs)]
    assert predictor(inputs, **parameters) == [predictor(text, **parameters) for text in inputs]


def test_batches_hold_every_place_once_within_the_limits() -> None:
    lengths = [(7 * place) % 300 for place in range(500)] + [BATCH_TOKENS + 1]
    found = list(batches(lengths))
    assert sorted(place for batch in found for place in batch) == [
        place for place, length in enumerate(lengths) if length
    ]
    for batch in found:
        cost = len(batch) * max(lengths[place] for place in batch)
        assert len(batch) == 1 or (len(batch) <= BATCH_ROWS and cost <= BATCH_TOKENS)


def test_lists_of_tokens_are_inputs_of_a_tagger(tagger: Predictor) -> None:
    (tagged,) = tagger([["to", "be"]], aggregation_strategy="none")
    assert [(each.start, each.end) for each in tagged] == [(0, 1), (1, 2)]


def test_frames_can_be_an_array(tiny_live: Path) -> None:
    predictor = load(tiny_live / "tiny-live-frames")
    frames = predictor.bundle.manifest.examples[0].inputs
    assert predictor(np.array(frames)) == predictor(frames)
    assert predictor(np.array([frames, frames])) == [predictor(frames)] * 2


def test_merged_frames_have_seconds_at_the_rate_of_the_bundle_or_of_the_call(tiny_live: Path) -> None:
    predictor = load(tiny_live / "tiny-live-delayed")
    frames = predictor.bundle.manifest.examples[0].inputs
    ends = [predictor(frames, aggregation_strategy="simple", frame_rate=rate)[-1].end for rate in (None, 2)]
    assert ends == [len(frames) / 25, len(frames) / 2]
    for name, strategy in (("tiny-live-delayed", "none"), ("tiny-live", "simple")):
        with pytest.raises(ParameterError, match="frame_rate"):
            load(tiny_live / name).check_parameters({"frame_rate": 2, "aggregation_strategy": strategy})


SERIES = [5.0, 9.0, 7.0, 6.0, 8.0]


@pytest.mark.parametrize(
    "series",
    [
        tuple(SERIES),
        np.array(SERIES),
        [np.float64(value) for value in SERIES],
        [np.int64(value) for value in SERIES],
        pd.Series(SERIES, index=[7, 8, 9, 10, 11]),
    ],
)
def test_a_series_can_be_an_array_of_any_library(tiny_forecaster: Path, series: Any) -> None:
    predictor = load(tiny_forecaster)
    expected = predictor(SERIES)
    assert predictor(series) == expected
    assert predictor([series, SERIES]) == [expected, expected]


@pytest.mark.parametrize("wrong", [5, None, "5", (value for value in SERIES), [], ["5"] * 5, [SERIES, 5]])
def test_what_is_not_a_series_is_refused(tiny_forecaster: Path, wrong: Any) -> None:
    with pytest.raises(InputError):
        load(tiny_forecaster)(wrong)


@pytest.mark.parametrize("parameters", [{"prediction_length": 9}, {"quantile_levels": [0.05, 0.5]}])
def test_a_horizon_or_level_that_the_bundle_lacks_is_refused(tiny_forecaster: Path, parameters: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=next(iter(parameters))):
        load(tiny_forecaster)(SERIES, **parameters)


def test_embeddings_are_rows_of_floats(tiny_live: Path) -> None:
    predictor = load(tiny_live / "tiny-embed")
    one, both = predictor.embed("to be"), predictor.embed(["a", "to be"])
    assert one.shape == (predictor.bundle.manifest.embedding_width,)
    assert one.dtype == np.float32
    np.testing.assert_array_equal(both[1], one)
    assert predictor.embed([]).shape == (0, len(one))
    with pytest.raises(InputError, match="input 1 is empty"):
        predictor.embed(["a", ""])


def test_texts_without_a_seed_differ(writer: Predictor) -> None:
    texts = writer(["a"] * 8, max_new_tokens=30)
    assert len({each.generated_text for each in texts}) > 1


def test_no_new_tokens_give_an_empty_text(writer: Predictor) -> None:
    assert writer("to", max_new_tokens=0).generated_text == ""


@pytest.mark.parametrize("wrong", [3, ["to", 3], [["to"], [1.0]], None, [None]])
def test_input_of_another_type_is_refused(tagger: Predictor, wrong: Any) -> None:
    with pytest.raises(InputError):
        tagger(wrong)


def test_input_over_the_limit_is_refused(tagger: Predictor) -> None:
    limit = tagger.bundle.manifest.max_length
    with pytest.raises(InputError, match="input 1 ") as caught:
        tagger(["a", "a " * (limit + 1)])
    assert caught.value.limit == limit


def test_all_wrong_parameters_are_named_together(writer: Predictor) -> None:
    with pytest.raises(ParameterError) as caught:
        writer("to", max_new_tokens=-1, temperature="hot", sed=1)
    message = str(caught.value)
    assert all(part in message for part in ("max_new_tokens='-1'", "at least 0", "'hot'", "a number", "mean seed?"))


def test_unknown_bundle_suggests_a_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match="pos-en"):
        load("pos-em")


def test_a_bundle_of_a_run_is_found_by_the_name_of_the_run(
    tmp_path: Path, tiny_zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_zoo / "tiny-tag", tmp_path / "runs/my-tags/bundle")
    monkeypatch.chdir(tmp_path)
    assert load("my-tags").bundle.manifest.name == "tiny-tag"
    with pytest.raises(BundleError, match="my-tags"):
        load("my-tag")


def test_pictures_are_one_input_or_several_in_every_form(tiny_writers: Path) -> None:
    model, files = load(tiny_writers / "tiny-picture"), [picture_file(seed) for seed in range(3)]
    arrays = np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])
    expected = model(files, max_new_tokens=5)
    assert len({each.translation_text for each in expected}) > 1
    for several in (list(map(encoded, files)), list(arrays), arrays, arrays.tolist()):
        assert model(several, max_new_tokens=5) == expected
    for one in (files[0], encoded(files[0]), arrays[0], arrays[0].tolist()):
        assert model(one, max_new_tokens=5) == expected[0]
    assert model([], max_new_tokens=5) == []
    for wrong in (7, None, {"a": 1}, [[1.0, 2.0]], ["a"], np.zeros((2, 2))):
        with pytest.raises(InputError):
            model(wrong)


def test_a_run_folder_names_its_bundle(tiny_zoo: Path) -> None:
    with pytest.raises(BundleError, match=f"{tiny_zoo}/tiny-"):
        load(tiny_zoo)


def test_importing_models_imports_no_package_and_load_no_torch() -> None:
    program = "import models, sys; sys.exit('numpy' in sys.modules or (models.load and 'torch' in sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


def test_snippets_of_the_tutorial_print_what_it_shows() -> None:
    names: dict[str, Any] = {}
    for snippet, shown in re.findall(r"```python\n(.*?)```\n```\n(.*?)```", PAGE, re.DOTALL):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(snippet, names)
        assert printed.getvalue() == shown
    assert "writer" in names
