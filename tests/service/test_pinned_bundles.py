"""Workers that start later have the bundles that the service started with."""

import json
import os
import shutil
from pathlib import Path

import pytest

from models import bundle
from models.manifest import BundleError, read
from service import app
from service.engine import Engine, pin_bundles
from service.settings import Settings
from service.telemetry import Telemetry


@pytest.fixture
def folder(tiny_zoo: Path, tmp_path: Path) -> Path:
    """Return a directory of two bundles."""
    for name in ("tiny-tag", "tiny-classify"):
        shutil.copytree(tiny_zoo / name, tmp_path / name)
    return tmp_path


def settings(folder: Path) -> Settings:
    return Settings(bundles=(str(folder),), device="cpu")


def replace(path: Path) -> None:
    """Write another version of a bundle with the same weights."""
    files = {file.name: file.read_bytes() for file in path.iterdir() if file.name != "manifest.json"}
    bundle.save(path, read(path).model_copy(update={"version": "2"}), files)


def test_replaced_bundle_is_refused(folder: Path) -> None:
    pinned = pin_bundles(settings(folder))
    replace(folder / "tiny-tag")
    with pytest.raises(BundleError, match="tiny-tag"):
        Engine.load(settings(folder), Telemetry(), pinned=pinned)
    assert Engine.load(settings(folder), Telemetry()).runtimes["tiny-tag"].bundle.manifest.version == "2"


def test_removed_bundle_is_refused(folder: Path) -> None:
    pinned = pin_bundles(settings(folder))
    shutil.rmtree(folder / "tiny-tag")
    with pytest.raises(BundleError, match="tiny-tag"):
        Engine.load(settings(folder), Telemetry(), pinned=pinned)


def test_new_bundle_and_new_order_wait_for_a_start(folder: Path, tiny_zoo: Path) -> None:
    pinned = pin_bundles(settings(folder))
    shutil.copytree(tiny_zoo / "tiny-generate", folder / "tiny-generate")
    (folder / "order.txt").write_text("tiny-tag")
    engine = Engine.load(settings(folder), Telemetry(), pinned=pinned)
    assert list(engine.runtimes) == ["tiny-classify", "tiny-tag"]


def test_edited_model_card_does_not_matter(folder: Path) -> None:
    pinned = pin_bundles(settings(folder))
    (folder / "tiny-tag" / "README.md").write_text("# Edited")
    assert len(Engine.load(settings(folder), Telemetry(), pinned=pinned).runtimes) == 2


def test_workers_read_the_pins_from_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(app.load_engine(settings(folder), Telemetry()).runtimes) == 2
    monkeypatch.setitem(os.environ, app.PINNED_BUNDLES, json.dumps(pin_bundles(settings(folder))))
    replace(folder / "tiny-tag")
    with pytest.raises(BundleError, match="tiny-tag"):
        app.load_engine(settings(folder), Telemetry())
