"""The loaded models by their names: ``name``, ``name@version``, ``name@alias`` and ``name@sha256:<digits>``.

A catalog never changes. A release replaces it, and requests keep the model runtime that they have found.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from service.errors import UnknownModel, shown
from service.model_runtime import ModelRuntime

DIGEST_REFERENCE = re.compile(r"([^@]+)@sha256:([0-9a-f]{12,64})").fullmatch  # 12 digits are hard to hit by chance
ModelName = str | ModelRuntime | None  # what a request names, or has found; None: the default of the task


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersions:
    """All loaded versions of one name."""

    name: str
    versions: Mapping[str, ModelRuntime]
    default: str  # the version that answers to the name alone
    aliases: Mapping[str, str] = field(default_factory=dict)  # alias: version

    def references(self) -> Iterator[tuple[str, ModelRuntime]]:
        """Yield every name with its runtime, except digests."""
        yield self.name, self.versions[self.default]
        for version, runtime in self.versions.items():
            yield f"{self.name}@{version}", runtime
        for alias, version in self.aliases.items():
            yield f"{self.name}@{alias}", self.versions[version]


class Catalog:
    """The models in the order of the settings."""

    def __init__(self, models: Sequence[ModelVersions]) -> None:
        self.models = {model.name: model for model in models}
        self.references = dict(reference for model in models for reference in model.references())
        self.runtimes = {name: self.references[name] for name in self.models}
        # What a request looks up. None: the first model whose default version has the task.
        self.by_task: defaultdict[str, dict[ModelName, ModelRuntime]] = defaultdict(dict)
        for name, runtime in self.references.items():
            for task in runtime.tasks:
                found = self.by_task[task]
                found[name] = runtime
                if name in self.models:
                    found.setdefault(None, runtime)

    def defaults(self) -> dict[str, str]:
        """Return, for each task, the model that answers a request that names none."""
        return {task: found[None].name for task, found in self.by_task.items() if None in found}

    def find(self, model: str) -> ModelRuntime:
        """Return the named version, whatever its task. Raises UnknownModel."""
        runtime = self.references.get(model) or self._with_digest(model)
        if runtime is None:
            raise UnknownModel.named(model, self._names(self.references, model))
        return runtime

    def find_for(self, task: str, model: ModelName) -> ModelRuntime:
        """Return the named version, or the first one for the task. Raises UnknownModel."""
        if isinstance(model, ModelRuntime):
            return model
        if (runtime := self.by_task[task].get(model)) is not None:
            return runtime
        if model is None:
            raise UnknownModel(f"no bundle is loaded that can {task}", value="", available=[])
        return self._find_other(task, model)

    def is_pinned(self, model: str) -> bool:
        """Return whether a name chooses one version. An alias does not: it may move."""
        name, _, reference = model.partition("@")
        return bool(reference) and not (name in self.models and reference in self.models[name].aliases)

    def _with_digest(self, model: str) -> ModelRuntime | None:
        reference = DIGEST_REFERENCE(model)
        if reference is None or reference[1] not in self.models:
            return None
        versions = (self.runtimes[reference[1]], *self.models[reference[1]].versions.values())
        return next((each for each in versions if each.bundle.digest.startswith(reference[2])), None)

    def _find_other(self, task: str, model: str) -> ModelRuntime:
        runtime = self.references.get(model) or self._with_digest(model)
        if runtime is not None and task in runtime.tasks:
            return runtime
        available = self._names(self.by_task[task], model)
        serves = None if runtime is None else ", ".join(runtime.tasks)
        problem = f"{model} cannot {task}; it serves {serves}" if serves else f"there is no model {shown(model)!r}"
        message = f"{problem}; the models that can {task} are {', '.join(available) or 'none'}"
        raise UnknownModel(message, value=model, available=available, limit=serves)

    def _names(self, found: Iterable[ModelName], model: str) -> list[str]:
        """Return the versions and aliases of a known name, or else all names."""
        name, pinned, _ = model.partition("@")
        names = [each for each in found if isinstance(each, str)]
        references = [each for each in names if each.startswith(f"{name}@")] if pinned else []
        return references or [each for each in names if each in self.models]
