"""The models on disk, and which of their versions are served.

In a directory of bundles, each directory is one model: a bundle, or a bundle for each version::

    pos-en/
      serving.json         optional: which versions are served
      3/manifest.json …
      4/manifest.json …

A directory has versions if it has a `serving.json`, or a bundle whose directory is a number.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from models.manifest import BundleError, read, read_file, sha256_of_manifest
from models.messages import needed, suggest
from service.errors import UnknownModel
from service.settings import MANIFEST, SERVING, Settings, is_bundle

SERVING_BYTES = 1 << 16
Alias = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Serving(_Frozen):
    """The content of `serving.json`."""

    serve: Literal["latest", "all"] | tuple[str, ...] | None = Field(
        default=None,
        description="Versions to load. `latest`: the highest number. Default: `default`, or else the latest.",
    )
    default: str | None = Field(
        default=None,
        description="Version or alias that answers to the name alone. Default: the latest of those loaded.",
    )
    aliases: dict[Alias, str] = Field(default={}, description="More names of versions, such as `champion`.")


class VersionSource(_Frozen):
    """One version on disk. `sha256` is that of its manifest, which has the checksums of all its files."""

    name: str
    version: str
    path: str
    sha256: str


class ModelSource(_Frozen):
    """The versions of one model to serve. `default` and the values of `aliases` are among them."""

    name: str
    default: str
    aliases: dict[str, str] = {}
    versions: tuple[VersionSource, ...]


class Release(_Frozen):
    """Everything that is served. All workers of a service go from one release to the next together."""

    number: int = 0
    models: tuple[ModelSource, ...]
    order: tuple[str, ...] = ()  # of all models so far: one that was unloaded returns to its place

    @property
    def sources(self) -> tuple[VersionSource, ...]:
        return tuple(version for model in self.models for version in model.versions)

    def with_model(self, changed: ModelSource) -> Self:
        """Return the next release. A new model is the last one, so it is not the default of a task that has one."""
        models = {model.name: model for model in self.models} | {changed.name: changed}
        order = tuple(dict.fromkeys((*self.order, *models)))
        found = tuple(models[name] for name in order if name in models)
        return type(self)(number=self.number + 1, models=found, order=order)

    def without_model(self, name: str) -> Self:
        """Return the next release. Raises UnknownModel."""
        models = {model.name: model for model in self.models}
        if name not in models:
            raise UnknownModel.named(name, models)
        order = tuple(dict.fromkeys((*self.order, *models)))
        del models[name]
        return type(self)(number=self.number + 1, models=tuple(models.values()), order=order)


def read_release(settings: Settings) -> Release:
    """Return what the directories say is to be served. Raises BundleError and BadSetting."""
    models: dict[str, ModelSource] = {}
    for path in settings.bundle_paths():
        model = _read_model(path)
        if model.name in models:
            other = models[model.name].versions[0].path
            raise BundleError(f"{path}: {other} has the same name {model.name!r}: leave one of them out")
        models[model.name] = model
    return Release(models=tuple(models.values()))


def read_model(settings: Settings, name: str) -> ModelSource:
    """Return which versions of one model are to be served. Raises UnknownModel, BundleError and BadSetting.

    Other models in the directories may be broken. One whose directory has the name comes first.
    """
    paths = settings.bundle_paths()
    for path in sorted(paths, key=lambda path: path.name != name):
        try:
            model = _read_model(path)
        except BundleError:
            if path.name == name:
                raise
            continue
        if model.name == name:
            return model
    raise UnknownModel.named(name, [path.name for path in paths])


def model_name(path: Path) -> str:
    """Return the name of the model in a directory, that of the directory itself if it cannot be read."""
    try:
        return read(path).name if is_bundle(path) else path.name
    except BundleError:
        return path.name


def versions_on_disk(settings: Settings, failures: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Return name, version and failure of all versions in the directories of models. Raises BadSetting.

    `failures` has the last failure of each model. It is that of the versions whose directory it names, or of all.
    """
    found = []
    for path in settings.bundle_paths():
        versions = [] if is_bundle(path) else versions_in(path)
        failure = failures.get(path.name, "")
        named = {version for version in versions if re.search(rf"{re.escape(str(path / version))}\b", failure)}
        found += [(path.name, version, failure if version in (named or versions) else "") for version in versions]
    return found


def versions_in(path: Path) -> list[str]:
    """Return the versions in the directory of a model, numbers first and in order."""
    names = (each.name for each in path.iterdir() if not each.name.startswith(".") and is_bundle(each))
    return sorted(names, key=_order)


def read_serving(path: Path) -> Serving:
    """Return the content of the `serving.json` of a model, or the default without one. Raises BundleError."""
    file = path / SERVING
    try:
        return Serving.model_validate_json(read_file(file, SERVING_BYTES)[0])
    except FileNotFoundError:
        return Serving()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the document"
        if first["type"] == "extra_forbidden":
            fields = list(Serving.model_fields)
            hint = suggest(where, fields, others=False) or "leave it out"
            raise BundleError(f"{file}: {where} is unknown; the fields are {', '.join(fields)}; {hint}") from None
        raise BundleError(f"{file}: {where} {needed(first)}") from None


def choose_versions(serving: Serving, available: Sequence[str]) -> tuple[list[str], str]:
    """Return the versions to load, in order, and the default. Raises ValueError with what is wrong.

    What `default` and the aliases name is loaded, too.
    """
    if not available:
        raise ValueError("has no version with a manifest")
    for alias in serving.aliases:
        if alias in available:
            raise ValueError(f"alias {alias!r} is also a version; choose another name")
    default = None if serving.default is None else serving.aliases.get(serving.default, serving.default)
    chosen: Iterable[str] = ()
    if serving.serve == "all":
        chosen = available
    elif isinstance(serving.serve, tuple):
        chosen = serving.serve
    elif serving.serve == "latest" or default is None:
        chosen = (_latest(available),)
    versions = {*chosen, *serving.aliases.values(), *(() if default is None else (default,))}
    for version in sorted(versions.difference(available)):
        raise ValueError(f"version {version!r} does not exist; the versions are {', '.join(available)}")
    if not versions:
        raise ValueError("serve is empty; name a version")
    ordered = sorted(versions, key=_order)
    return ordered, _latest(sorted(chosen, key=_order)) if default is None else default


def _latest(versions: Sequence[str]) -> str:
    numbers = [version for version in versions if _is_number(version)]
    if not numbers and len(versions) != 1:
        raise ValueError(f"none of the versions {', '.join(versions)} is a number, so none is the latest; set default")
    return (numbers or versions)[-1]


def _read_model(path: Path) -> ModelSource:
    if is_bundle(path):
        source = _read_version(path)
        return ModelSource(name=source.name, default=source.version, versions=(source,))
    serving = read_serving(path)
    try:
        versions, default = choose_versions(serving, versions_in(path))
    except ValueError as error:
        raise BundleError(f"{path / SERVING if serving != Serving() else path}: {error}") from None
    sources = []
    for version in versions:
        source = _read_version(path / version)
        for field, found, expected, remedy in (
            ("name", source.name, path.name, "rename the directory"),
            (
                "version",
                source.version,
                version,
                f"rename the directory, or run seqserve export with --version {version}",
            ),
        ):
            if found != expected:
                message = f"{field} is {found!r}, but its directory says {expected!r}; {remedy}"
                raise BundleError(f"{path / version / MANIFEST}: {message}")
        sources.append(source)
    return ModelSource(name=path.name, default=default, aliases=serving.aliases, versions=tuple(sources))


def _read_version(path: Path) -> VersionSource:
    try:
        sha256 = sha256_of_manifest(path)
    except FileNotFoundError:
        raise BundleError(f"{path}: has no {MANIFEST}; copy the whole bundle") from None
    manifest = read(path, sha256=sha256)
    return VersionSource(name=manifest.name, version=manifest.version, path=str(path), sha256=sha256)


def _is_number(version: str) -> bool:
    return version.isascii() and version.isdigit()


def _order(version: str) -> tuple[bool, int, str]:
    return not _is_number(version), int(version) if _is_number(version) else 0, version
