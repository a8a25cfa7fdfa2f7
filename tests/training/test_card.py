"""Model cards of the published bundles: each has the facts of its manifest."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from models import bundle
from models.manifest import read
from models.onnx_session import Placement
from service.api import schemas
from service.api.application import ROUTES
from service.settings import Settings
from tests.support import bundles
from training import card
from training import recipe as recipes
from training.score import TextScore, score_checklist

ZOO = Path(__file__).parents[2] / "models/zoo"
NAMES = sorted(path.name for path in ZOO.iterdir() if path.is_dir())


@pytest.mark.parametrize("name", NAMES)
def test_card_has_the_facts_of_the_manifest(name: str) -> None:
    manifest = read(ZOO / name)
    text = card.write(manifest)
    facts = [
        f"# {manifest.name}\n",
        manifest.description,
        manifest.provenance.command,
        manifest.provenance.data.licence,
        f"{manifest.provenance.parameters:,} parameters",
        f"| {manifest.default_variant} (default) |",
        *(f"`{label}`" for label in (*manifest.labels, *manifest.text_labels) if manifest.task != "generate"),
        *(f"| {variant.scores[manifest.metric]} |" for variant in manifest.variants.values()),
    ]
    assert [fact for fact in facts if fact not in text] == []


def test_card_has_the_score_of_texts_and_the_interval() -> None:
    texts = TextScore(share=0.025, metric="accuracy", score=91.23)
    text = card.write(read(ZOO / "pos-en"), measured={"texts": texts, "interval": (93.25, 96.5)})
    assert "**Tokens:** 2.5%" in text
    assert "91.23" in text
    assert "93.2 to 96.5" in text


@pytest.mark.parametrize("name", NAMES)
def test_request_of_the_card_is_one_of_its_route(name: str) -> None:
    manifest = read(ZOO / name)
    (command,) = re.findall(r"^curl .*$", card.write(manifest), re.MULTILINE)
    body, url = shlex.split(command)[-1], re.findall(r"/models/\w[\w-]*(/\w+)", command)[-1]
    if place := re.search(r"\.examples\[(\d+)\]", command):
        body = json.dumps({"inputs": manifest.examples[int(place[1])].inputs})
    route = next(each for each in ROUTES if each.pattern == "/models/{id}" + url)
    assert route.docs
    schemas.parse_body(route.docs.body, body.encode(), Settings())


@pytest.mark.parametrize("name", NAMES)
def test_published_card_is_up_to_date(name: str) -> None:
    """It has the lines of the manifest and of the checklist. `seqserve card` measures the others on the data."""
    checklist = score_checklist(bundle.load(ZOO / name, placement=Placement(device="cpu")))
    lines = card.write(read(ZOO / name), checklist=checklist).splitlines()
    published = (ZOO / name / "README.md").read_text("utf-8").splitlines()
    assert [line for line in lines if line not in published] == []


@pytest.mark.parametrize("name", NAMES)
def test_metadata_is_that_of_the_hub(name: str) -> None:
    manifest = read(ZOO / name)
    data = ModelCard(card.write(manifest), ignore_metadata_errors=False).data
    found = [(each.metric_type, each.metric_value) for each in data.eval_results]
    variant = manifest.variants[manifest.default_variant]
    assert (data.model_name, data.language) == (manifest.name, list(manifest.languages) or None)
    assert found == [score for score in variant.scores.items() if " " not in score[0]]
    assert data.license == "other" or data.license in card.LICENSES.values()


MEASURED: dict[str, Any] = {
    "baselines": {
        "majority": {"accuracy": 20.0, "macro_f1": 5.0},
        "a bag of words": {"accuracy": 99.5, "macro_f1": 90},
    },
    "labels": [{"label": f"l{n}", "precision": 1, "recall": 2, "f1": 3, "support": n} for n in range(40)],
    "sample": {"temperature": 0.7, "seed": 1, "prompt": "a", "text": "a b"},
}


def test_measurements_have_their_tables() -> None:
    manifest = read(ZOO / "pos-en")
    scores = {"scores": {"accuracy": 95.0, "macro_f1": 90.0}}
    variants = {name: variant.model_copy(update=scores) for name, variant in manifest.variants.items()}
    text = card.write(manifest.model_copy(update={"variants": variants}), measured=MEASURED)
    assert "| majority | 20 | 5 |" in text
    assert "**This model does not beat its baseline** (a bag of words)" in text
    assert "| `l39` | 1.0 | 2.0 | 3.0 | 39 |" in text
    assert "| `l9` |" not in text  # only the most frequent labels are shown
    assert "```\na b\n```" in text


@pytest.mark.parametrize(
    ("changes", "chosen"),
    [
        ({"data": {"choice_share": 0.1}}, "10% of the first data set's"),
        ({"data": {"choice_share": 0.0}}, "which also chose the epoch"),
        ({"expect": {"settings": "5 delays; the dev set chose 8"}}, " Settings: 5 delays; the dev set chose 8."),
        (
            {"expect": {"folds": 10, "score": 84.0}},
            "Over 10 folds, each scored by the last epoch of a network that was not trained on it, the score is 84.",
        ),
        (
            {"data": {"choice_share": 0.2}, "task": "tag", "codec": {"kind": "frames"}},
            "The last 20% of each training series was held out and chose the epoch. The scores",
        ),
    ],
)
def test_card_says_which_examples_chose_the_epoch_and_the_seed(changes: dict[str, Any], chosen: str) -> None:
    manifest = read(ZOO / NAMES[0])
    recipe = json.loads(manifest.provenance.recipe)
    for field, value in changes.items():
        recipe[field] = {**recipe[field], **value} if isinstance(value, dict) else value
    recipe["expect"]["seeds"] = "1 to 6; the checklist chose seed 4"
    provenance = manifest.provenance.model_copy(update={"recipe": json.dumps(recipe)})
    text = card.write(manifest.model_copy(update={"provenance": provenance}))
    assert chosen in text
    assert "Seeds: 1 to 6; the checklist chose seed 4." in text


def test_card_of_a_translator_has_its_parts_and_the_signatures(tmp_path: Path) -> None:
    manifest = read(bundles.translator(tmp_path))
    origin = manifest.provenance.model_copy(update={"recipe": recipes.load("translator").model_dump_json()})
    timed = manifest.variants["fp32"].model_copy(update={"milliseconds": {"batch_1": 1.0, "batch_16": 1.0}})
    manifest = manifest.model_copy(update={"provenance": origin, "variants": {"fp32": timed}})
    text = card.write(manifest, measured={"signatures": {"bleu": "tok:13a", "chrf": "nc:6"}})
    assert "attention of 96 units; conditional GRU of 192 units" in text
    assert "en to de" in text
    assert "- BLEU: `tok:13a`\n- chrF2: `nc:6`" in text
