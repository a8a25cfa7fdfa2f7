"""Recipes: those that come with seqserve load, and what is wrong in one is named by its field."""

from pathlib import Path
from typing import Any

import pytest

from models.manifest import DnaSpec, FramesSpec
from training.recipe import RecipeError, load, names

OWN = {"tagger": "tag", "classifier": "classify", "language-model": "generate", "dna": "classify", "frames": "classify"}


@pytest.mark.parametrize("name", names())
def test_every_recipe_loads_under_its_own_name(name: str) -> None:
    assert load(name).name == name


@pytest.mark.parametrize(("name", "task"), OWN.items())
def test_the_recipes_for_own_data_name_no_data_and_average_nothing(name: str, task: str) -> None:
    recipe = load(name)
    assert (recipe.task, recipe.data.name, recipe.data.path) == (task, None, None)
    assert recipe.training.average == 0  # few steps: an average would still be the first weights


def test_fields_are_changed_by_their_dotted_names() -> None:
    recipe = load("tagger", **{"training.seed": 9, "data.path": "a.conll", "data.tag_column": -2, "name": "mine"})
    assert (recipe.training.seed, recipe.data.path, recipe.name) == (9, Path("a.conll"), "mine")
    assert recipe.data.tag_column == -2
    assert recipe.data.token_column is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"training.epoch": 3}, "^--set training.epoch: there is no such field; did you mean training.epochs[?]$"),
        (
            {"architecture.hiden": 3},
            "^--set architecture.hiden: there is no such field; did you mean architecture.hidden",
        ),
        ({"epochs": 3}, "^--set epochs: there is no such field; did you mean training.epochs[?]"),
        (
            {"codec.lower": True},
            "^--set codec.lower: kind 'words' has no such field, it has .*; did you mean lowercase[?]$",
        ),
        ({"codec.features": 3}, "^--set codec.features: kind 'words' has no such field, it has tokenizer, [^?]*$"),
        ({"codec.kind": "dan"}, "^--set codec.kind: 'dan' is none of words, characters, dna, frames; did you mean dna"),
        ({"architecture.layers": 0}, "architecture.layers: Input should be greater than or equal to 1"),
        ({"architecture.dropout": 1.0}, "architecture.dropout: Input should be less than 1"),
        ({"architecture.cell": "lstmm"}, "architecture.cell: Input should be 'rnn', 'rnn-relu', 'lstm', .*'mlstm'"),
        ({"name.first": "x"}, "name.first: 'name' is a field without fields of its own"),
        ({"name": "My Tagger"}, r"^--name: lower-case letters, digits.*\(got 'My Tagger'\)"),
        (
            {"task": "generate", "architecture.bidirectional": False},
            "^tagger: task .* needs codec.kind = 'characters', not 'words'",
        ),
        ({"architecture.crf": True, "training.class_weights": "balanced"}, "class_weights have no meaning for a crf"),
        ({"merge": {"a": ["x"], "b": ["y"]}}, "merge needs task = 'classify'"),
        ({"task": "joint", "variation.join": 2}, "variation.join makes one of several sentences"),
        ({"training.learning_rate": -1}, "training.learning_rate: Input should be greater than 0"),
    ],
)
def test_a_wrong_field_is_named_with_what_is_allowed(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        load("tagger", **changes)


@pytest.mark.parametrize(
    ("without", "said"),
    [
        ('name = "mine"\n', 'mine.toml: name: is missing; for example name = "mine"$'),
        ("features = 3\n", "mine.toml: codec.features: is missing; for example features = 12$"),
        ('kind = "frames"\n', 'mine.toml: codec.kind: is missing; for example kind = "words"$'),
    ],
)
def test_a_field_that_is_missing_is_named_with_an_example(tmp_path: Path, without: str, said: str) -> None:
    whole = 'name = "mine"\ntask = "classify"\ndescription = "d"\n[data]\n[codec]\nkind = "frames"\nfeatures = 3\n'
    file = tmp_path / "mine.toml"
    file.write_text(whole)
    assert load(str(file)).name == "mine"
    file.write_text(whole.replace(without, ""))
    with pytest.raises(RecipeError, match=said):
        load(str(file))


def test_another_kind_of_input_brings_its_own_defaults() -> None:
    changed = load("classifier", **{"codec.kind": "dna", "codec.positions": 60}).codec
    assert changed == DnaSpec(positions=60)
    assert load("splice", **{"codec.kind": "dna"}).codec == DnaSpec(positions=60), "the same kind changes nothing"
    assert load("classifier", **{"codec.kind": "frames"}).codec == FramesSpec(features=1)


def test_a_language_model_has_one_direction() -> None:
    with pytest.raises(RecipeError, match=r"set architecture\.bidirectional = false"):
        load("language-model", **{"architecture.bidirectional": True})


def test_an_unknown_recipe_lists_those_that_there_are() -> None:
    with pytest.raises(RecipeError, match=r"no recipe 'tager': give a path to a .toml file or one of classifier, "):
        load("tager")


def test_a_windows_path_in_double_quotes_gets_a_hint(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('[data]\npath = "C:\\data\\mine.csv"\n')
    with pytest.raises(RecipeError, match=r"is not TOML: .*line 2.*in single quotes"):
        load(str(tmp_path / "mine.toml"))
