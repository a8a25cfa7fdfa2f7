"""The page on recipes names every field that a recipe can have."""

import dataclasses
from pathlib import Path

import pytest

from training.architecture import Architecture
from training.learning import Training
from training.recipe import Auxiliary, Recipe
from training.variation import Variation

DOCS = Path(__file__).resolve().parents[2] / "docs"
FIELDS = [
    *(("recipes.md", name) for name in Recipe.model_fields),
    *(("recipes.md", name) for name in Auxiliary.model_fields),
    *(("recipes.md", name) for name in Variation.model_fields),
    *(("recipes.md", field.name) for field in dataclasses.fields(Architecture)),
    *(("training.md", name) for name in Training.model_fields),
]


@pytest.mark.parametrize(("page", "field"), FIELDS)
def test_every_field_is_on_its_page(page: str, field: str) -> None:
    assert f"`{field}`" in (DOCS / page).read_text("utf-8")
