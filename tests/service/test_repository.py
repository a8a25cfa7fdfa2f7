"""Which versions of a model are served, from its directory and its serving.json."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from models.manifest import BundleError
from service.errors import UnknownModel
from service.repository import (
    ModelSource,
    Serving,
    choose_versions,
    read_model,
    read_release,
    versions_on_disk,
)
from service.settings import Settings
from tests.support.repositories import add_version, set_serving


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a directory with the versions 1 and 2 of tiny-tag."""
    for version in ("1", "2"):
        add_version(tmp_path, version)
    return tmp_path


def settings(*paths: Path) -> Settings:
    return Settings(bundles=tuple(map(str, paths)), device="cpu")


def read_only_model(repository: Path) -> ModelSource:
    (model,) = read_release(settings(repository)).models
    return model


@pytest.mark.parametrize(
    ("serving", "versions", "default"),
    [
        ({}, ["10"], "10"),
        ({"serve": "latest"}, ["10"], "10"),
        ({"serve": "all"}, ["2", "9", "10", "beta"], "10"),
        ({"serve": ["9", "2"]}, ["2", "9"], "9"),
        ({"default": "2"}, ["2"], "2"),
        ({"default": "2", "serve": "latest"}, ["2", "10"], "2"),
        ({"default": "beta"}, ["beta"], "beta"),
        ({"aliases": {"canary": "9"}}, ["9", "10"], "10"),
        ({"aliases": {"champion": "9"}, "default": "champion"}, ["9"], "9"),
    ],
)
def test_serving_chooses_versions(serving: dict[str, Any], versions: list[str], default: str) -> None:
    available = ["2", "9", "10", "beta"]
    assert choose_versions(Serving.model_validate_json(json.dumps(serving)), available) == (versions, default)


@pytest.mark.parametrize(
    "serving",
    [{"default": "3"}, {"serve": ["3"]}, {"serve": []}, {"aliases": {"canary": "3"}}, {"aliases": {"b": "2"}}],
)
def test_serving_that_cannot_be_followed_is_refused(serving: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"3|empty|alias"):
        choose_versions(Serving.model_validate_json(json.dumps(serving)), ["2", "9", "b"])


def test_no_version_is_the_latest_without_numbers() -> None:
    assert choose_versions(Serving(), ["beta"]) == (["beta"], "beta")
    with pytest.raises(ValueError, match="default"):
        choose_versions(Serving(), ["alpha", "beta"])


def test_flat_and_versioned_models_are_read_together(repository: Path, tiny_zoo: Path) -> None:
    shutil.copytree(tiny_zoo / "tiny-classify", repository / "tiny-classify")
    release = read_release(settings(repository))
    assert [(model.name, model.default) for model in release.models] == [("tiny-classify", "1"), ("tiny-tag", "2")]
    assert [Path(source.path) for source in release.sources] == [
        repository / "tiny-classify",
        repository / "tiny-tag/2",
    ]


def test_the_directory_of_a_model_can_be_named_itself(repository: Path) -> None:
    assert [model.name for model in read_release(settings(repository / "tiny-tag")).models] == ["tiny-tag"]


def test_serving_json_is_read(repository: Path) -> None:
    set_serving(repository / "tiny-tag", default="champion", aliases={"champion": "1", "canary": "2"})
    model = read_only_model(repository)
    assert (model.default, [source.version for source in model.versions]) == ("1", ["1", "2"])


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"server": "all"}', '{"serve": "newest"}', '{"aliases": {"A b": "1"}}']
)
def test_a_broken_serving_json_is_refused(repository: Path, content: str) -> None:
    (repository / "tiny-tag/serving.json").write_text(content)
    with pytest.raises(BundleError, match=r"serving\.json"):
        read_only_model(repository)


def test_a_misspelled_field_of_serving_json_gets_the_known_ones(repository: Path) -> None:
    (repository / "tiny-tag/serving.json").write_text('{"defualt": "1"}')
    with pytest.raises(BundleError, match=r"defualt .* serve, default, aliases; did you mean default\?"):
        read_only_model(repository)


@pytest.mark.parametrize("moved", ["tiny-tag/3", "tiny-other/2"])
def test_a_directory_that_contradicts_its_manifest_is_refused(repository: Path, moved: str) -> None:
    (repository / moved).parent.mkdir(exist_ok=True)
    (repository / "tiny-tag/2").rename(repository / moved)
    with pytest.raises(BundleError, match=moved):
        read_release(settings(repository))


def test_two_models_of_one_name_are_refused(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    add_version(other, "3")
    with pytest.raises(BundleError, match="same name"):
        read_release(settings(repository, other))


def test_a_model_is_read_although_another_is_broken(repository: Path) -> None:
    broken = repository / "broken"
    broken.mkdir()
    (broken / "manifest.json").write_text("{")
    assert read_model(settings(repository), "tiny-tag").default == "2"
    with pytest.raises(BundleError, match="broken"):
        read_model(settings(repository), "broken")
    with pytest.raises(UnknownModel):
        read_model(settings(repository), "absent")


def test_a_version_that_is_being_written_is_not_seen(repository: Path) -> None:
    (repository / "tiny-tag/2").rename(repository / "tiny-tag/.2.new")
    assert read_only_model(repository).default == "1"
    assert versions_on_disk(settings(repository), {}) == [("tiny-tag", "1", "")]


def test_a_failure_is_that_of_the_version_that_it_names(repository: Path) -> None:
    add_version(repository, "22")
    failure = f"{repository}/tiny-tag/2/words.json: is missing"
    found = versions_on_disk(settings(repository), {"tiny-tag": failure})
    assert [each for _, *each in found] == [["1", ""], ["2", failure], ["22", ""]]


def test_a_failure_that_names_no_version_is_that_of_all(repository: Path) -> None:
    found = versions_on_disk(settings(repository), {"tiny-tag": "serving.json is broken"})
    assert {failure for *_, failure in found} == {"serving.json is broken"}


def test_a_new_model_is_the_last_of_a_release(repository: Path, tiny_zoo: Path) -> None:
    release = read_release(settings(repository))
    changed = release.with_model(read_model(settings(tiny_zoo), "tiny-classify"))
    assert (changed.number, [model.name for model in changed.models]) == (1, ["tiny-tag", "tiny-classify"])
    changed = changed.without_model("tiny-tag")
    assert (changed.number, [model.name for model in changed.models]) == (2, ["tiny-classify"])
    with pytest.raises(UnknownModel):
        changed.without_model("tiny-tag")


def test_a_model_that_is_loaded_again_returns_to_its_place(tiny_zoo: Path) -> None:
    release = read_release(settings(tiny_zoo))
    names = [model.name for model in release.models]
    for name in names:
        changed = release.without_model(name).with_model(read_model(settings(tiny_zoo), name))
        assert [model.name for model in changed.models] == names
    assert len(names) > 1
