"""Session fixtures: the tiny bundles. Tests that change one make their own with tests/support/bundles.py."""

from pathlib import Path

import pytest

from models.bundle import Bundle
from models.manifest import LanguagePair
from tests.support import bundles

pytest_plugins = ["tests.support.live_service"]


@pytest.fixture(scope="session")
def tiny_zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with four bundles: tiny-tag, tiny-tag-spans (IOB2), tiny-classify and tiny-generate."""
    root = tmp_path_factory.mktemp("zoo")
    bundles.tagger(root)
    bundles.tagger(root, name="tiny-tag-spans", labels=bundles.IOB2)
    bundles.classifier(root)
    bundles.generator(root)
    return root


@pytest.fixture(scope="session")
def tiny_forecaster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of the bundle tiny-forecast."""
    return bundles.forecaster(tmp_path_factory.mktemp("forecasters"))


@pytest.fixture(scope="session")
def tiny_writers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with tiny-translate (English to German), tiny-back, tiny-caption and tiny-picture."""
    root = tmp_path_factory.mktemp("writers")
    bundles.translator(root, max_length=200)
    bundles.translator(root, name="tiny-back", max_length=200, pairs=[LanguagePair(source="de", target="en")])
    bundles.captioner(root)
    bundles.picture_captioner(root)
    return root


@pytest.fixture(scope="session")
def tiny_filler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of the bundle tiny-fill."""
    return bundles.filler(tmp_path_factory.mktemp("fillers"))


@pytest.fixture(scope="session")
def tiny_kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the bundles of bundles.of_every_kind."""
    return bundles.of_every_kind(tmp_path_factory.mktemp("kinds"))


@pytest.fixture(scope="session")
def tiny_live(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with tiny-live, tiny-live-frames, tiny-live-delayed, tiny-embed and tiny-embed-joint."""
    return bundles.of_format_3(tmp_path_factory.mktemp("live"))


@pytest.fixture(scope="session")
def joint(tiny_kinds: Path) -> Bundle:
    return bundles.opened(tiny_kinds / "tiny-joint")


@pytest.fixture(scope="session")
def tagger(tiny_zoo: Path) -> Bundle:
    return bundles.opened(tiny_zoo / "tiny-tag")


@pytest.fixture(scope="session")
def span_tagger(tiny_zoo: Path) -> Bundle:
    return bundles.opened(tiny_zoo / "tiny-tag-spans")


@pytest.fixture(scope="session")
def classifier(tiny_zoo: Path) -> Bundle:
    return bundles.opened(tiny_zoo / "tiny-classify")


@pytest.fixture(scope="session")
def generator(tiny_zoo: Path) -> Bundle:
    return bundles.opened(tiny_zoo / "tiny-generate")
