"""Model cards of the published bundles: each has the facts of its manifest."""

import json
from pathlib import Path

import pytest

from models import bundle
from models.manifest import read
from models.onnx_session import Placement
from training import card
from training.score import score_checklist

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


def test_card_has_the_share_of_tokens_that_are_cut_differently() -> None:
    assert "**Tokens:** 2.5%" in card.write(read(ZOO / NAMES[0]), tokens_cut_differently=0.025)


@pytest.mark.parametrize("name", NAMES)
def test_published_card_is_the_generated_one(name: str) -> None:
    checklist = score_checklist(bundle.load(ZOO / name, placement=Placement(device="cpu")))
    assert (ZOO / name / "README.md").read_text("utf-8") == card.write(read(ZOO / name), checklist=checklist)


@pytest.mark.parametrize(("share", "chosen"), [(0.1, "10%"), (0.0, "which also chose the epoch")])
def test_card_says_which_examples_chose_the_epoch(share: float, chosen: str) -> None:
    manifest = read(ZOO / NAMES[0])
    recipe = json.loads(manifest.provenance.recipe)
    recipe["data"]["choice_share"] = share
    provenance = manifest.provenance.model_copy(update={"recipe": json.dumps(recipe)})
    assert chosen in card.write(manifest.model_copy(update={"provenance": provenance}))
