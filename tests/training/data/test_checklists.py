"""Checklists: long enough, and tokenized as the bundles do it."""

import json
from pathlib import Path

import pytest

from models.codecs.words import tokenize
from models.manifest import read
from training.data.examples import LabeledExample, inputs_of, text_of
from training.data.fetch import PUBLISHED
from training.data.published import CHECKLISTS, read_checklist

ZOO = Path(__file__).parents[3] / "models/zoo"
NAMES = sorted(path.stem for path in CHECKLISTS.iterdir() if path.suffix in {".tsv", ".conll"})


@pytest.mark.parametrize("name", NAMES)
def test_checklist_has_forty_different_inputs_in_the_tokens_of_a_text(name: str) -> None:
    examples = read_checklist(name, read(ZOO / name).task)
    assert len({text_of(example) for example in examples}) == len(examples) >= 40
    for example in examples:
        if not isinstance(example, LabeledExample):
            assert tuple(tokenize(text_of(example), "words")[0]) == inputs_of(example)


def test_every_zoo_bundle_for_text_has_a_checklist() -> None:
    texts = {"captions", "names", "sst", "snips", "trec", "ud-ewt", "uner-ewt"} & set(PUBLISHED)
    names = [path.parent.name for path in ZOO.glob("*/manifest.json")]
    data = {name: json.loads(read(ZOO / name).provenance.recipe)["data"]["name"] for name in names}
    assert {name for name in names if data[name] in texts} == set(NAMES)


def test_bundle_without_a_checklist_has_none() -> None:
    assert read_checklist("splice", "classify") == []
