"""Recipes: the published ones load, and every problem names its field."""

from pathlib import Path
from typing import Any

import pytest

from models.manifest import DnaSpec, FramesSpec
from training.recipe import RECIPES, RecipeError, load, names, reopen

OWN = {
    "tagger": "tag",
    "classifier": "classify",
    "language-model": "generate",
    "dna": "classify",
    "frames": "classify",
    "frame-tagger": "tag",
}


@pytest.mark.parametrize("name", names())
def test_every_recipe_loads_under_its_own_name(name: str) -> None:
    assert load(name).name == name


@pytest.mark.parametrize(("name", "task"), OWN.items())
def test_recipes_for_own_data_have_no_data_and_no_averaging(name: str, task: str) -> None:
    recipe = load(name)
    assert (recipe.task, recipe.data.name, recipe.data.path) == (task, None, None)
    assert recipe.training.average == 0  # few steps: an average would still be the first weights


def test_fields_are_changed_by_dotted_names() -> None:
    recipe = load("tagger", **{"training.seed": 9, "data.path": "a.conll", "data.tag_column": -2, "name": "mine"})
    assert (recipe.training.seed, recipe.data.path, recipe.name) == (9, Path("a.conll"), "mine")
    assert recipe.data.tag_column == -2
    assert recipe.data.token_column is None


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"training.epoch": 3}, "^--set training.epoch: .*did you mean training.epochs[?]$"),
        (
            {"architecture.hiden": 3},
            "^--set architecture.hiden: .*architecture.hidden",
        ),
        ({"epochs": 3}, "^--set epochs: .*did you mean training.epochs[?]"),
        (
            {"codec.lower": True},
            "^--set codec.lower: .*'words'.*did you mean lowercase[?]$",
        ),
        ({"codec.features": 3}, "^--set codec.features: .*'words'.* tokenizer, [^?]*$"),
        ({"codec.kind": "dan"}, "^--set codec.kind: 'dan' .*words, characters, dna, frames.*did you mean dna"),
        ({"architecture.layers": 0}, "architecture.layers: .* 1 "),
        ({"architecture.dropout": 1.0}, "architecture.dropout: .* 1 "),
        ({"architecture.cell": "lstmm"}, "architecture.cell: .*'rnn', .*'lstm', .*got 'lstmm'"),
        ({"name.first": "x"}, "name.first: .*'name'"),
        ({"name": "My Tagger"}, r"^--name: .*\(got 'My Tagger'\)"),
        (
            {"task": "generate", "architecture.bidirectional": False},
            "^tagger: task .* codec.kind = 'characters', not 'words'",
        ),
        ({"architecture.crf": True, "training.class_weights": "balanced"}, "class_weights .*crf"),
        ({"merge": {"a": ["x"], "b": ["y"]}}, "merge .*'classify'"),
        ({"task": "joint", "variation.join": 2}, "variation.join"),
        ({"variation.window": 9}, "variation.window .*frames"),
        ({"codec.kind": "frames", "variation.window": 9, "variation.lowercase": 0.5}, "variation .*'frames'"),
        ({"task": "classify", "variation.swap": 0.5}, "variation.swap.*'classify'"),
        ({"variation.unaccent": 0.5}, "variation.unaccent.*'tag'"),
        ({"training.learning_rate": -1}, "training.learning_rate: .* 0 "),
    ],
)
def test_wrong_field_is_named_with_what_is_allowed(changes: dict[str, Any], error: str) -> None:
    with pytest.raises(RecipeError, match=error):
        load("tagger", **changes)


@pytest.mark.parametrize(
    ("without", "error"),
    [
        ('name = "mine"\n', 'mine.toml: name: .*name = "mine"$'),
        ("features = 3\n", "mine.toml: codec.features: .*features = 12$"),
        ('kind = "frames"\n', 'mine.toml: codec.kind: .*kind = "words"$'),
    ],
)
def test_missing_field_is_named_with_an_example(tmp_path: Path, without: str, error: str) -> None:
    whole = 'name = "mine"\ntask = "classify"\ndescription = "d"\n[data]\n[codec]\nkind = "frames"\nfeatures = 3\n'
    file = tmp_path / "mine.toml"
    file.write_text(whole)
    assert load(str(file)).name == "mine"
    file.write_text(whole.replace(without, ""))
    with pytest.raises(RecipeError, match=error):
        load(str(file))


def test_another_codec_kind_brings_its_defaults() -> None:
    changed = load("classifier", **{"codec.kind": "dna", "codec.positions": 60}).codec
    assert changed == DnaSpec(positions=60)
    assert load("splice", **{"codec.kind": "dna"}).codec == DnaSpec(positions=60)
    assert load("classifier", **{"codec.kind": "frames"}).codec == FramesSpec(features=1)


@pytest.mark.parametrize("changes", [{"architecture.bidirectional": True}, {"architecture.crf": True}])
def test_a_delay_is_for_taggers_that_read_forward(changes: dict[str, Any]) -> None:
    assert load("gesture-live", **{"codec.delay": 3}).codec == FramesSpec(features=47, delay=3, frame_rate=30)
    with pytest.raises(RecipeError, match=r"codec\.delay"):
        load("gesture-live", **{"codec.delay": 3, "training.class_weights": "none", **changes})


def test_language_model_cannot_be_bidirectional() -> None:
    with pytest.raises(RecipeError, match=r"architecture\.bidirectional = false"):
        load("language-model", **{"architecture.bidirectional": True})


@pytest.mark.parametrize(("name", "named"), [("tager", "tagger"), ("xyz", "classifier, ")])
def test_unknown_recipe_names_the_likely_one_or_all(name: str, named: str) -> None:
    with pytest.raises(RecipeError, match=rf"'{name}'.*{named}"):
        load(name)


def test_recipe_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("\ufeff" + (RECIPES / "tagger.toml").read_text("utf-8"), "utf-8")
    assert load(str(path)) == load("tagger")


def test_recipe_that_is_not_utf8_is_refused_with_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes('name = "café"'.encode("latin-1"))
    with pytest.raises(RecipeError, match=r"mine\.toml: byte 11 is not UTF-8"):
        load(str(path))


def test_run_from_before_the_conversion_keeps_its_tags() -> None:
    fields = load("tagger").model_dump(mode="json")
    assert reopen(fields).data.tag_scheme == "auto"
    del fields["data"]["tag_scheme"]
    assert reopen(fields).data.tag_scheme == "none"


def test_windows_path_in_double_quotes_gets_a_hint(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('[data]\npath = "C:\\data\\mine.csv"\n')
    with pytest.raises(RecipeError, match=r"line 2.*single quotes"):
        load(str(tmp_path / "mine.toml"))
