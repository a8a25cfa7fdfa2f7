"""The versions that one worker has loaded: those in the catalog, and those that are retired."""

import logging
import time
from collections.abc import Collection, Mapping
from concurrent.futures import Executor
from typing import NamedTuple, Protocol
from weakref import WeakSet

from models import bundle as bundles
from models import self_test
from models.bundle import Bundle
from models.manifest import BundleError
from models.onnx_session import Placement
from models.speller import ModelWithSpeller
from models.tasks import Generation
from service.catalog import Catalog, ModelName, ModelVersions
from service.generation import GenerationService
from service.model_runtime import ModelRuntime, open_runtime
from service.repository import Release, VersionSource
from service.scheduling.loop import LoopBudget
from service.settings import Settings
from service.state_tokens import StateSigner, subject_digest
from service.telemetry import Telemetry

log = logging.getLogger(__name__)


class LoadedBundle(NamedTuple):
    """A bundle that has passed its self-test, and the seconds that this took."""

    bundle: Bundle
    load_s: float


class RuntimeUser(Protocol):
    """What holds a version for longer than a request: a stream."""

    @property
    def runtime(self) -> ModelRuntime: ...


class ModelStore:
    """Loads, serves and retires versions. Except for `load_missing`, use it on the event loop only."""

    def __init__(self, settings: Settings, telemetry: Telemetry, executor: Executor, signer: StateSigner) -> None:
        self.catalog = Catalog(())  # what is served now
        self.users: WeakSet[RuntimeUser] = WeakSet()  # versions that they use are not dropped
        self._settings, self._telemetry, self._executor, self._signer = settings, telemetry, executor, signer
        self._budget = LoopBudget()
        self._release = Release(models=())
        self._loaded: dict[VersionSource, ModelRuntime] = {}
        self._retired: dict[VersionSource, float] = {}  # those that are not in the catalog, and until when they stay
        self._generation: dict[ModelRuntime, GenerationService] = {}
        self._subjects: dict[ModelRuntime, bytes] = {}  # the digest that its state tokens have

    def load_missing(self, release: Release) -> dict[VersionSource, LoadedBundle]:
        """Load and self-test the versions of a release that are not loaded.

        Blocks: call it in a thread. Raises BundleError, also for a version with another task than the served one.
        """
        placement = Placement(device=self._settings.device, threads=self._settings.threads)
        found = {}
        for source in release.sources:
            if source in self._loaded:
                continue
            started_s = time.perf_counter()
            bundle = bundles.load(
                source.path, variant=self._settings.variant, placement=placement, manifest_sha256=source.sha256
            )
            self_test.run(bundle)
            served = self.catalog.runtimes.get(source.name)
            if served is not None and served.bundle.manifest.task != bundle.manifest.task:
                raise BundleError(
                    f"{source.path}: the task is {bundle.manifest.task!r}, but {source.name} serves"
                    f" {served.bundle.manifest.task!r}; give the bundle another name"
                )
            found[source] = LoadedBundle(bundle, time.perf_counter() - started_s)
            log.debug("loaded %s (%s, %s)", source.path, bundle.variant, bundle.model.device)
        return found

    def serve(self, release: Release, loaded: Mapping[VersionSource, LoadedBundle]) -> None:
        """Serve a release from now on. `loaded` has those of its versions that were not loaded before.

        Requests and streams finish on the version that they began with. Versions that are no longer served stay loaded
        for `retire_s`, but of each model only those of the last change.
        """
        before, after = set(self._release.sources), set(release.sources)
        retiring = before - after
        names = {source.name for source in retiring}
        self._retired.update({source: 0.0 for source in self._retired if source.name in names})
        for source in retiring:
            self._retired[source] = time.monotonic() + self._settings.retire_s
            self._telemetry.bundle_unloaded(source.name, source.version, self._loaded[source].bundle.variant)
        for source in release.sources:
            if source in before:
                continue
            if source not in self._loaded:
                self._add(source, loaded[source].bundle)
            self._retired.pop(source, None)
            self._record(self._loaded[source], loaded[source].load_s if source in loaded else 0.0)
        self._release = release
        self.catalog = Catalog(
            [
                ModelVersions(
                    name=model.name,
                    versions={source.version: self._loaded[source] for source in model.versions},
                    default=model.default,
                    aliases=model.aliases,
                )
                for model in release.models
            ]
        )

    @property
    def loaded(self) -> Collection[ModelRuntime]:
        """All versions, also those that are retired."""
        return self._loaded.values()

    def generation(self, runtime: ModelRuntime) -> GenerationService:
        """Return what makes the generation jobs of a loaded version."""
        return self._generation[runtime]

    def find_for(self, task: str, model: ModelName, *, state: str | None = None) -> ModelRuntime:
        """Return the named version, or the first one for the task. Raises UnknownModel.

        With a state token and no version, return the version that made the token if it is loaded.
        """
        runtime = self.catalog.find_for(task, model)
        if state is None or (isinstance(model, str) and self.catalog.is_pinned(model)):
            return runtime
        subject = self._signer.subject_of(state)
        candidates = (runtime, *(each for each in self._subjects if each.name == runtime.name))
        return next((each for each in candidates if self._subjects[each] == subject), runtime)

    def drop_retired(self) -> list[ModelRuntime]:
        """Forget the versions whose time is over and that answer nothing any more. Returns them."""
        in_use = {user.runtime for user in self.users}
        dropped = []
        for source, until_s in list(self._retired.items()):
            runtime = self._loaded[source]
            if time.monotonic() < until_s or runtime.jobs or runtime in in_use:
                continue
            del self._loaded[source], self._retired[source]
            self._generation.pop(runtime, None)
            del self._subjects[runtime]
            dropped.append(runtime)
        return dropped

    def _add(self, source: VersionSource, bundle: Bundle) -> None:
        runtime = open_runtime(bundle, self._settings, self._telemetry, self._executor, self._budget)
        self._loaded[source] = runtime
        subject = stream_subject(runtime)
        if isinstance(bundle.task, Generation):
            service = self._generation[runtime] = GenerationService(bundle, bundle.task, self._signer)
            subject = service.subject
        self._subjects[runtime] = subject_digest(subject)

    def _record(self, runtime: ModelRuntime, load_s: float) -> None:
        """Make the metrics of a version that is served from now on."""
        name, version, model = runtime.name, runtime.version, runtime.bundle.model
        self._telemetry.bundle(name, version, runtime.bundle.variant, load_s)
        self._telemetry.load(
            name,
            version,
            saturation=lambda: runtime.saturation,
            queue_items=lambda: runtime.queued_items,
            active_slots=(lambda: runtime.used_slots) if runtime.slots else None,
        )
        if isinstance(model, ModelWithSpeller):
            self._telemetry.oov_words(name, version, model.take_counts)


def stream_subject(runtime: ModelRuntime) -> str:
    """Return what binds the state token of a tagging stream to the weights."""
    return f"stream {runtime.name} {runtime.bundle.digest} {runtime.bundle.variant}"
