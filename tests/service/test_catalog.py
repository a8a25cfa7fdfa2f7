"""The names of models: name@version, name@alias, name@sha256:… in the real engine."""

from collections.abc import Iterator

import pytest

from service.catalog import Catalog
from service.engine import Engine
from service.errors import UnknownModel
from tests.support.engines import inference_request, load_engine
from tests.support.repositories import add_version, set_serving, version_of


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine with two versions of tiny-tag. The first is the default."""
    repository = tmp_path_factory.mktemp("repository")
    for version in ("1", "2"):
        add_version(repository, version)
    set_serving(repository / "tiny-tag", serve="all", default="1", aliases={"canary": "2"})
    return load_engine(repository)


@pytest.fixture
def catalog(engine: Engine) -> Catalog:
    return engine.catalog


def digest(engine: Engine, version: str) -> str:
    return engine.catalog.models["tiny-tag"].versions[version].bundle.digest


@pytest.mark.parametrize(
    ("model", "version"),
    [(None, "1"), ("tiny-tag", "1"), ("tiny-tag@1", "1"), ("tiny-tag@2", "2"), ("tiny-tag@canary", "2")],
)
async def test_the_named_version_answers(engine: Engine, model: str | None, version: str) -> None:
    request = inference_request()
    answer = await engine.tag("the cat", model=model, request=request)
    assert not isinstance(answer, list)
    assert version_of(answer.labels) == version
    assert request.model is not None
    assert request.model[:2] == ("tiny-tag", version)
    assert request.model.label == f"tiny-tag@{version};digest=sha256:{digest(engine, version)};variant=fp32".encode()


@pytest.mark.parametrize("digits", [12, 64])
def test_a_digest_names_its_version(engine: Engine, digits: int) -> None:
    model = f"tiny-tag@sha256:{digest(engine, '2')[:digits]}"
    assert engine.catalog.find(model).version == engine.catalog.find_for("tag", model).version == "2"


@pytest.mark.parametrize("model", ["tiny-tag@3", "tiny-tag@", "tiny-tag@1@1", "tiny-tag@sha256:000000000000"])
def test_an_unknown_version_is_refused_with_those_that_exist(catalog: Catalog, model: str) -> None:
    expected = ["tiny-tag@1", "tiny-tag@2", "tiny-tag@canary"]
    for find in (catalog.find, lambda name: catalog.find_for("tag", name)):
        with pytest.raises(UnknownModel) as caught:
            find(model)
        assert caught.value.details["available"] == expected


def test_a_short_digest_is_refused(engine: Engine) -> None:
    with pytest.raises(UnknownModel):
        engine.catalog.find(f"tiny-tag@sha256:{digest(engine, '2')[:11]}")


def test_an_unknown_name_is_refused_with_the_names(catalog: Catalog) -> None:
    with pytest.raises(UnknownModel) as caught:
        catalog.find("nope@1")
    assert caught.value.details["available"] == ["tiny-tag"]


def test_a_version_of_another_task_is_refused(catalog: Catalog) -> None:
    with pytest.raises(UnknownModel):
        catalog.find_for("classify", "tiny-tag@1")


@pytest.mark.parametrize(("model", "pinned"), [("tiny-tag", False), ("tiny-tag@canary", False), ("tiny-tag@1", True)])
def test_an_alias_pins_no_version(catalog: Catalog, model: str, pinned: bool) -> None:
    assert catalog.is_pinned(model) == pinned
