"""The page on recipes names every field that a recipe can have."""

import dataclasses
import re
import shlex
from pathlib import Path

import pytest

from training import recipe, terminal
from training.__main__ import parser
from training.data.augmentation import AugmentationOptions
from training.nn.options import Architecture
from training.recipe import Auxiliary, Recipe
from training.training_config import Training

DOCS = Path(__file__).resolve().parents[2] / "docs"
FIELDS = [
    *(("recipes.md", name) for name in Recipe.model_fields),
    *(("recipes.md", name) for name in Auxiliary.model_fields),
    *(("recipes.md", name) for name in AugmentationOptions.model_fields),
    *(("recipes.md", field.name) for field in dataclasses.fields(Architecture)),
    *(("training.md", name) for name in Training.model_fields),
]


COMMANDS = re.findall(r"^python -m training (fit .*?)(?: +#.*)?$", (DOCS / "data.md").read_text("utf-8"), re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_for_files_of_ones_own_names_what_there_is(command: str) -> None:
    options = parser().parse_args(shlex.split(command))
    made = recipe.load(options.recipe, **terminal._changes(options))
    assert (made.name, made.data.path) == (options.name, options.data)


def test_there_is_a_command_for_every_kind_of_input_and_every_task() -> None:
    made = [recipe.load(command.split()[1]) for command in COMMANDS]
    assert {each.task for each in made} == set(recipe.CODECS)
    assert {each.codec.kind for each in made} == {kind for kinds in recipe.CODECS.values() for kind in kinds}


@pytest.mark.parametrize(("page", "field"), FIELDS)
def test_every_field_is_on_its_page(page: str, field: str) -> None:
    assert f"`{field}`" in (DOCS / page).read_text("utf-8")
