"""Repositories of models with versions. The versions have other weights and, if they are taggers, other labels."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from models import bundle
from models.manifest import MANIFEST_FILE, read
from service.engine import Engine
from service.releases import ReleaseFiles, Releases
from service.repository import read_release
from service.settings import Settings
from service.telemetry import Telemetry
from tests.support import bundles

MAKERS: dict[str, Any] = {
    "tiny-tag": bundles.tagger,
    "tiny-live": bundles.live_tagger,
    "tiny-generate": bundles.generator,
}


def labels_of(version: str) -> tuple[str, ...]:
    """Return the labels of the taggers of a version."""
    return tuple(f"{label}{version}" for label in "ABCD")


def add_version(repository: Path, version: str, *, model: str = "tiny-tag", seed: int | None = None) -> Path:
    """Add a version of a model. Return its directory, which appears in one step."""
    options = {} if model == "tiny-generate" else {"labels": labels_of(version)}
    made = MAKERS[model](repository / ".made" / version, seed=seed or 100 + int(version), **options)
    return copy_version(made, repository, version)


def copy_version(source: Path, repository: Path, version: str) -> Path:
    """Add a bundle as a version of its model. Return its directory, which appears in one step."""
    manifest = read(source).model_copy(update={"version": version})
    files = {file.name: file.read_bytes() for file in source.iterdir() if file.name != MANIFEST_FILE}
    path = repository / manifest.name / version
    bundle.save(path, manifest, files)
    return path


def set_serving(model: Path, **content: Any) -> None:
    """Replace the serving.json of a model in one step."""
    new = model / ".serving.json"
    new.write_text(json.dumps(content), "utf-8")
    new.rename(model / "serving.json")


def version_of(labels: Iterable[str]) -> str:
    """Return the version that these labels are from. Fails if they are from two."""
    (version,) = {label[1:] for label in labels}
    return version


class TestWorker:
    """The part of one worker in the releases of a service, without HTTP."""

    __test__ = False

    def __init__(self, directory: Path, settings: Settings, number: int) -> None:
        self.settings = settings
        self.files = ReleaseFiles(directory, worker=number)
        if not (directory / "active.json").exists():
            self.files.activate(read_release(settings))
        self.engine = Engine.load(settings, Telemetry(), release=self.files.active())
        self.changes = 0
        self.releases = Releases(self.files, self.engine.models, settings, on_change=self._changed)
        self.releases.join()

    def version(self, model: str = "tiny-tag") -> str:
        """Return the version that answers to the name."""
        return self.engine.catalog.find(model).version

    def _changed(self) -> None:
        self.changes += 1
