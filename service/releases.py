"""Changes what all workers of a service serve, together and without a restart.

The workers agree through files in a directory of the service. One of them proposes a release. Each worker loads and
self-tests the new versions, and reports it. When all have, the proposal is renamed to the active release. Every worker
then serves it and reports that, too. The request that started the change is answered after the last report. If one
worker cannot load a version, the proposal is withdrawn and nothing changes.

The kernel releases the locks of a worker that ends, so it is not waited for. A worker that starts locks its file before
it reads the active release, so no change is complete without it.
"""

import asyncio
import contextlib
import ctypes
import fcntl
import json
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from models.manifest import BundleError
from service.errors import DeadlinePassed, LoadFailed, ServiceError
from service.model_runtime import ModelRuntime
from service.model_store import LoadedBundle, ModelStore
from service.repository import Release, VersionSource, model_name, read_model
from service.settings import BadSetting, Settings

log = logging.getLogger(__name__)

DIRECTORY = "_SEQSERVE_RELEASES"  # variable: the directory, which the supervising process makes
POLL_S, PENDING_POLL_S = 0.05, 0.01  # between two looks at the files; while a change is under way
CHORES_S = 1.0  # between two looks for what is no longer needed
ACTIVE, PROPOSED, WITHDRAWN, FAILURES = "active.json", "proposed.json", "withdrawn.json", "failures.json"


class WorkerStatus(BaseModel):
    """What one worker reports. ``serves`` and ``prepared`` are numbers of releases."""

    model_config = ConfigDict(frozen=True)

    serves: int
    prepared: int = 0  # the last proposal whose versions it has tried to load
    failure: str = ""  # why it could not


class ReleaseFiles:
    """The directory through which the workers agree. A file is replaced by renaming, so a reader sees all of it."""

    def __init__(self, path: Path, *, worker: int | None = None) -> None:
        """``worker``: a number that no other worker has, by default the process id."""
        self.path, self._worker = path, os.getpid() if worker is None else worker
        self._own_lock: int | None = None

    def active(self) -> Release:
        return Release.model_validate_json((self.path / ACTIVE).read_bytes())

    def proposed(self) -> Release | None:
        """Return the release that a change proposes now, if any."""
        with contextlib.suppress(FileNotFoundError):
            return Release.model_validate_json((self.path / PROPOSED).read_bytes())
        return None

    def changes(self) -> tuple[object, object]:
        """Return a value that differs once the active or the proposed release has changed. Costs microseconds."""
        return _file_id(self.path / ACTIVE), _file_id(self.path / PROPOSED)

    def activate(self, release: Release) -> None:
        """Make a release the active one, without a proposal: at the start of the service."""
        self._write(ACTIVE, release.model_dump_json())

    def propose(self, release: Release) -> Release:
        """Propose a release under a number that no release had before, and return it."""
        numbers = [self.active().number]
        for file in (PROPOSED, WITHDRAWN):
            with contextlib.suppress(FileNotFoundError):
                numbers.append(Release.model_validate_json((self.path / file).read_bytes()).number)
        release = release.model_copy(update={"number": max(numbers) + 1})
        self._write(PROPOSED, release.model_dump_json())
        return release

    def commit(self) -> None:
        """Make the proposal the active release."""
        (self.path / PROPOSED).rename(self.path / ACTIVE)

    def withdraw(self) -> None:
        """Remove the proposal, if there is one."""
        with contextlib.suppress(FileNotFoundError):
            (self.path / PROPOSED).rename(self.path / WITHDRAWN)

    def join(self) -> None:
        """Count this process as a worker from now on, until it ends."""
        lock = self.path / f"{self._worker}.lock"
        lock.with_suffix(".status").unlink(missing_ok=True)  # of an earlier process with this id
        while self._own_lock is None:
            self._own_lock = os.open(lock, os.O_CREAT | os.O_RDWR, 0o600)
            fcntl.flock(self._own_lock, fcntl.LOCK_EX)
            if _file_id(lock)[:1] != (os.fstat(self._own_lock).st_ino,):  # `statuses` has just removed it
                self.leave()

    def leave(self) -> None:
        if self._own_lock is not None:
            os.close(self._own_lock)
            self._own_lock = None

    def report(self, status: WorkerStatus) -> None:
        self._write(f"{self._worker}.status", status.model_dump_json())

    def statuses(self) -> list[WorkerStatus | None]:
        """Return the report of each living worker, None for one that has not made any.

        Removes the files of workers that have ended. Call it only while `locked("change")`.
        """
        found: list[WorkerStatus | None] = []
        for file in self.path.glob("[0-9]*.lock"):
            if not _remove_unless_held(file):
                try:
                    found.append(WorkerStatus.model_validate_json(file.with_suffix(".status").read_bytes()))
                except FileNotFoundError:
                    found.append(None)
        return found

    @contextlib.contextmanager
    def locked(self, name: str) -> Iterator[bool]:
        """Hold the lock of this name, or yield False because another process or task holds it."""
        descriptor = os.open(self.path / f"{name}.lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            yield False
            return
        try:
            yield True
        finally:
            os.close(descriptor)

    def failures(self) -> dict[str, str]:
        """Return why the last change of a model has failed, by the name of the model."""
        with contextlib.suppress(FileNotFoundError):
            return dict(json.loads((self.path / FAILURES).read_bytes()))
        return {}

    def record(self, model: str, failure: str) -> None:
        """Keep why a change of a model has failed, "" if it has not."""
        before = self.failures()
        after = {name: reason for name, reason in before.items() if name != model} | {model: failure}
        after = {name: reason for name, reason in after.items() if reason}
        if after != before:
            self._write(FAILURES, json.dumps(after))

    def _write(self, name: str, content: str) -> None:
        new = self.path / f".{name}.{self._worker}"
        new.write_text(content, "utf-8")
        new.rename(self.path / name)


class Releases:
    """The part of one worker. Call `join` before the first request, and run `follow` on the event loop."""

    def __init__(
        self,
        files: ReleaseFiles,
        models: ModelStore,
        settings: Settings,
        *,
        on_change: Callable[[], None],
        time_limit: Callable[[float], AbstractAsyncContextManager[object]] = asyncio.timeout,
    ) -> None:
        """``time_limit``: of a change. It raises TimeoutError, or a ServiceError that ends the change."""
        self._files, self._models, self._settings, self._on_change = files, models, settings, on_change
        self._time_limit = time_limit
        self._serves = -1
        self._status = WorkerStatus(serves=self._serves)
        self._unreported = False  # whether others cannot see the status yet
        self._seen: object = None
        self._prepared: tuple[Release, dict[VersionSource, LoadedBundle]] | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="load")
        self._ids: dict[Path, object] = {}  # of the files of each model that were read last
        self._settling: dict[Path, object] = {}  # of those that have changed since
        self._unreadable = ""  # why the directories cannot be read, logged once

    def join(self) -> None:
        """Become one of the workers, and serve the active release. Blocks. Raises BundleError."""
        self._files.join()
        while (release := self._files.active()).number != self._serves:
            self._models.serve(release, self._models.load_missing(release))
            self._serves = release.number
        self._report(WorkerStatus(serves=self._serves))

    async def follow(self) -> None:
        """Prepare each proposal and serve each active release, without end."""
        loop = asyncio.get_running_loop()
        next_chores_s = loop.time() + CHORES_S
        while True:
            await asyncio.sleep(POLL_S if self._prepared is None else PENDING_POLL_S)
            if (changes := self._files.changes()) != self._seen:
                await self._act()
                self._seen = changes
            if loop.time() >= next_chores_s:
                next_chores_s = loop.time() + CHORES_S
                self._tidy()

    async def watch(self) -> None:
        """Load each model whose directory has changed, without end. One worker does it for all."""
        while True:
            await asyncio.sleep(self._settings.watch_s)
            with self._files.locked("watch") as is_ours:
                while is_ours:
                    await self._load_changed()
                    await asyncio.sleep(self._settings.watch_s)

    async def load(self, name: str) -> None:
        """Serve what the directory of a model says, once all workers have loaded it.

        Raises LoadFailed if one cannot, UnknownModel if there is no such directory, and DeadlinePassed. Then nothing
        has changed, unless the message of DeadlinePassed says that some workers serve the change.
        """
        await self._change(name, lambda active: active.with_model(read_model(self._settings, name)))

    async def unload(self, name: str) -> None:
        """Stop serving a model. Raises UnknownModel and DeadlinePassed."""
        await self._change(name, lambda active: active.without_model(name))

    def failures(self) -> dict[str, str]:
        """Return why the last change of a model has failed, by the name of the model."""
        return self._files.failures()

    def close(self) -> None:
        """Stop taking part. Other workers do not wait for this one any longer."""
        self._files.leave()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _act(self) -> None:
        """Do what the files ask for now."""
        active, proposed = self._files.active(), self._files.proposed()
        if active.number != self._serves:
            loaded = self._prepared[1] if self._prepared and self._prepared[0] == active else None
            if loaded is None:  # the change was complete before this worker took part in it
                loaded = await self._run(self._models.load_missing, active)
            self._models.serve(active, loaded)
            self._serves, self._prepared = active.number, None
            self._on_change()
            self._report(WorkerStatus(serves=self._serves))
            log.info("serving release %d", active.number)
        if proposed is None:
            self._prepared = None
        elif self._prepared is None or self._prepared[0] != proposed:
            failure = ""
            self._prepared = None
            try:
                self._prepared = proposed, await self._run(self._models.load_missing, proposed)
            except Exception as error:  # a broken bundle can fail in any way
                failure = str(error) or type(error).__name__
            self._report(WorkerStatus(serves=self._serves, prepared=proposed.number, failure=failure))

    def _report(self, status: WorkerStatus) -> None:
        self._status = status
        try:
            self._files.report(status)
        except OSError as error:  # a full disk, for example
            if not self._unreported:
                log.error("this worker cannot report what it serves, and tries again: %s", error)
            self._unreported = True
        else:
            self._unreported = False

    def _tidy(self) -> None:
        """Drop versions that are no longer needed, or the proposal of a worker that has ended."""
        if self._unreported:
            self._report(self._status)
        if self._prepared is None:
            if dropped := self._models.drop_retired():
                self._thread.submit(_free, dropped)
            return
        with self._files.locked("change") as is_ours:
            if is_ours:  # so no worker waits for this proposal
                self._files.withdraw()

    async def _change(self, name: str, make: Callable[[Release], Release]) -> None:
        # In a task of its own: handlers on the fast path run in none, and a timeout needs one.
        await asyncio.create_task(self._change_in_turn(name, make))

    async def _change_in_turn(self, name: str, make: Callable[[Release], Release]) -> None:
        before: int | None = None
        try:
            async with self._time_limit(self._settings.load_timeout_s), self._turn():
                before = self._files.active().number
                try:
                    await self._agree(make)
                finally:
                    self._files.withdraw()
        except TimeoutError:
            limit = self._settings.load_timeout_s
            if before in (None, self._files.active().number):
                message = f"not all workers have loaded {name} after {limit:g} s; raise SEQSERVE_LOAD_TIMEOUT_S"
            else:
                message = f"not all workers serve the change of {name} after {limit:g} s, but some do; see their logs"
            error: ServiceError = DeadlinePassed(message, limit=limit)
        except (BundleError, BadSetting, OSError) as cause:
            error = LoadFailed(str(cause), value=name)
        else:
            self._record(name, "")
            return
        self._record(name, error.message)
        log.error("the change of %s failed: %s", name, error.message)
        raise error

    def _record(self, name: str, failure: str) -> None:
        try:
            self._files.record(name, failure)
        except OSError as error:  # a full disk, for example: the answer of the change does not depend on it
            log.error("the result of a change of %s cannot be kept: %s", name, error)

    async def _agree(self, make: Callable[[Release], Release]) -> None:
        active = self._files.active()
        release = await self._run(make, active)
        if release.models == active.models:
            return
        release = self._files.propose(release)
        found = await self._reports(lambda each: each.prepared >= release.number)
        if failures := dict.fromkeys(each.failure for each in found if each.failure):
            raise BundleError("; ".join(failures))
        self._files.commit()
        await self._reports(lambda each: each.serves >= release.number)

    async def _reports(self, is_done: Callable[[WorkerStatus], bool]) -> list[WorkerStatus]:
        """Wait until all living workers have reported what ``is_done`` accepts, and return their reports."""
        while True:
            found = self._files.statuses()
            done = [each for each in found if each is not None and is_done(each)]
            if len(done) == len(found):
                return done
            await asyncio.sleep(PENDING_POLL_S)

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Wait until no other change is under way."""
        while True:
            with self._files.locked("change") as is_ours:
                if is_ours:
                    yield
                    return
            await asyncio.sleep(POLL_S)

    async def _load_changed(self) -> None:
        """Load the models whose files have changed, and not again since the last call: a copy may not be complete.

        A version that cannot be loaded is not tried again before its files change.
        """
        try:
            paths = await self._run(_scan, self._settings)
        except (BadSetting, OSError) as error:
            if str(error) != self._unreadable:
                self._unreadable = str(error)
                log.error("the directories of bundles cannot be read: %s", error)
            return
        self._unreadable = ""
        for path, ids in paths.items():
            if ids == self._ids.get(path):
                continue
            if self._settling.get(path) != ids:
                self._settling[path] = ids
                continue
            self._ids[path] = ids
            try:
                await self.load(await self._run(model_name, path))
            except DeadlinePassed:  # perhaps because a worker hung; the version itself may load
                del self._ids[path]
            except ServiceError:  # which is logged
                continue

    async def _run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a function in the thread of this worker that loads."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)


def _free(dropped: list[ModelRuntime]) -> None:
    """Free dropped versions, and return their memory to the system."""
    dropped.clear()
    with contextlib.suppress(AttributeError):  # of a C library other than glibc
        ctypes.CDLL(None).malloc_trim(0)


def _remove_unless_held(lock: Path) -> bool:
    """Remove the lock and the report of a worker that has ended. Return False if the worker lives."""
    descriptor = os.open(lock, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lock.with_suffix(".status").unlink(missing_ok=True)
        lock.unlink()
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _file_id(path: Path) -> tuple[int, ...]:
    """Return a value that changes when a file is changed or replaced, () if it is missing."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_mtime_ns, found.st_size


def _scan(settings: Settings) -> dict[Path, object]:
    """Return the ids of all files of each model."""
    return {path: {file: _file_id(file) for file in path.rglob("*")} for path in settings.bundle_paths()}
