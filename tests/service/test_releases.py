"""Workers that go from one release to the next together."""

import asyncio
import json
import os
import shutil
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from service.errors import DeadlinePassed, LoadFailed, UnknownModel
from service.releases import FAILURES, WorkerStatus
from service.repository import read_model
from service.settings import Settings
from tests.support import bundles
from tests.support.engines import until
from tests.support.repositories import TestWorker, add_version, set_serving

MODEL = "tiny-tag"


class Site:
    """A repository with version 1 of tiny-tag, and the workers that serve it."""

    def __init__(self, folder: Path) -> None:
        self.repository, self.directory = folder / "repository", folder / "releases"
        self.directory.mkdir()
        self.tasks: list[asyncio.Task[None]] = []
        self.workers: list[TestWorker] = []
        add_version(self.repository, "1")

    @property
    def model(self) -> Path:
        return self.repository / MODEL

    def start(self, **settings: Any) -> TestWorker:
        worker = self.join(**settings)
        self.run(worker.releases.follow)
        return worker

    def join(self, **settings: Any) -> TestWorker:
        """Return a worker that does not follow the releases yet."""
        given = {"bundles": (str(self.repository),), "device": "cpu", "watch_s": 0.01, "load_timeout_s": 30.0}
        worker = TestWorker(self.directory, Settings(**{**given, **settings}), len(self.workers) + 1)
        self.workers.append(worker)
        return worker

    def run(self, coroutine: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.tasks.append(asyncio.create_task(coroutine()))

    def versions(self) -> list[str]:
        return [worker.version() for worker in self.workers]

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for worker in self.workers:
            worker.releases.close()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    made = Site(tmp_path)
    yield made
    await made.close()


async def test_all_workers_serve_the_new_version_when_a_load_returns(site: Site) -> None:
    first, second = site.start(), site.start()
    add_version(site.repository, "2")
    await second.releases.load(MODEL)
    assert site.versions() == ["2", "2"]
    assert (first.changes, second.changes) == (1, 1)


async def test_a_load_without_a_change_changes_nothing(site: Site) -> None:
    worker = site.start()
    await worker.releases.load(MODEL)
    assert worker.changes == 0


async def test_an_unloaded_model_is_unknown(site: Site) -> None:
    worker = site.start()
    await worker.releases.unload(MODEL)
    with pytest.raises(UnknownModel):
        worker.version()
    with pytest.raises(UnknownModel):
        await worker.releases.unload(MODEL)
    await worker.releases.load(MODEL)
    assert worker.version() == "1"


async def test_a_model_without_a_directory_is_unknown(site: Site) -> None:
    with pytest.raises(UnknownModel):
        await site.start().releases.load("absent")


async def test_no_worker_changes_if_one_cannot_load(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = site.start(), site.start()
    add_version(site.repository, "2")

    def fail(_: object) -> None:
        raise MemoryError("no memory is left")

    with monkeypatch.context() as patch:
        patch.setattr(second.engine.models, "load_missing", fail)
        with pytest.raises(LoadFailed, match="no memory is left"):
            await first.releases.load(MODEL)
    assert site.versions() == ["1", "1"]
    assert list(second.releases.failures()) == [MODEL]
    await first.releases.load(MODEL)
    assert site.versions() == ["2", "2"]
    assert second.releases.failures() == {}


async def test_a_worker_that_has_ended_is_not_waited_for(site: Site) -> None:
    first, second = site.start(), site.join()
    second.releases.close()
    add_version(site.repository, "2")
    await first.releases.load(MODEL)
    assert site.versions() == ["2", "1"]


async def test_a_worker_that_does_not_report_ends_the_change(site: Site) -> None:
    first, _ = site.start(load_timeout_s=0.5), site.join()
    add_version(site.repository, "2")
    with pytest.raises(DeadlinePassed):
        await first.releases.load(MODEL)
    assert site.versions() == ["1", "1"]


async def test_a_worker_that_hangs_after_the_last_vote_does_not_undo_the_change(site: Site) -> None:
    first, second = site.start(load_timeout_s=2.0), site.join()
    add_version(site.repository, "2")
    load = asyncio.create_task(first.releases.load(MODEL))
    await until(lambda: second.files.proposed() is not None, 30)
    proposed = second.files.proposed()
    assert proposed is not None
    second.files.report(WorkerStatus(serves=0, prepared=proposed.number))
    with pytest.raises(DeadlinePassed, match="some do"):
        await load
    assert site.versions() == ["2", "1"]


async def test_the_proposal_of_a_worker_that_has_ended_is_withdrawn(site: Site) -> None:
    worker, ended = site.start(), site.join()
    add_version(site.repository, "2")
    release = ended.files.active().with_model(read_model(worker.settings, MODEL))
    ended.files.propose(release)
    ended.releases.close()
    await until(lambda: worker.files.proposed() is None, 30)
    await worker.releases.load(MODEL)
    assert worker.version() == "2"


async def test_a_worker_that_starts_is_waited_for(site: Site) -> None:
    first, second = site.start(), site.join()
    add_version(site.repository, "2")
    load = asyncio.create_task(first.releases.load(MODEL))
    await until(lambda: first.files.proposed() is not None, 30)
    assert not load.done()
    site.run(second.releases.follow)
    await load
    assert site.versions() == ["2", "2"]


async def test_a_worker_that_joins_later_serves_the_active_release(site: Site) -> None:
    first = site.start()
    add_version(site.repository, "2")
    await first.releases.load(MODEL)
    assert site.join().version() == "2"


async def test_a_worker_that_missed_a_release_catches_up(site: Site) -> None:
    worker = site.start()
    add_version(site.repository, "2")
    set_serving(site.model, default="2")
    changed = TestWorker(site.directory, worker.settings, 9)  # ends before it follows
    release = changed.files.propose(changed.files.active())
    changed.releases.close()
    changed.files.activate(release)
    await until(lambda: worker.changes == 1, 30)


async def test_two_changes_at_once_are_made_one_after_the_other(site: Site, tiny_zoo: Path) -> None:
    first, second = site.start(), site.start()
    add_version(site.repository, "2")
    shutil.copytree(tiny_zoo / "tiny-classify", site.repository / "tiny-classify")
    await asyncio.gather(first.releases.load(MODEL), second.releases.load("tiny-classify"))
    assert site.versions() == ["2", "2"]
    assert [list(worker.engine.runtimes) for worker in site.workers] == [[MODEL, "tiny-classify"]] * 2


async def test_a_version_that_is_no_longer_needed_is_freed(site: Site) -> None:
    worker = site.start(retire_s=0.0)
    weights = weakref.ref(worker.engine.catalog.find(MODEL).bundle.model)
    add_version(site.repository, "2")
    await worker.releases.load(MODEL)
    await until(lambda: weights() is None, 30)


async def test_the_watch_serves_a_new_version(site: Site) -> None:
    first, second = site.start(), site.start()
    for worker in (first, second):
        site.run(worker.releases.watch)
    add_version(site.repository, "2")
    await until(lambda: site.versions() == ["2", "2"], 30)
    set_serving(site.model, default="1")
    await until(lambda: site.versions() == ["1", "1"], 30)


async def test_the_watch_keeps_a_model_whose_new_version_is_broken_until_it_is_whole(site: Site) -> None:
    worker = site.start()
    site.run(worker.releases.watch)
    path = add_version(site.repository, "2")
    graph = (path / "fp32.onnx").read_bytes()
    (path / "fp32.onnx").write_bytes(graph[:100])  # as in a copy that is not complete
    await until(lambda: MODEL in worker.releases.failures(), 30)
    assert worker.version() == "1"
    (path / "fp32.onnx").write_bytes(graph)
    await until(lambda: worker.version() == "2", 30)


async def test_the_watch_tries_again_after_a_worker_did_not_report(site: Site) -> None:
    worker, hung = site.start(load_timeout_s=0.5), site.join()
    site.run(worker.releases.watch)
    add_version(site.repository, "2")
    await until(lambda: MODEL in worker.releases.failures(), 30)
    hung.releases.close()
    await until(lambda: worker.version() == "2", 30)


async def test_a_change_is_made_even_if_its_result_cannot_be_kept(site: Site) -> None:
    worker = site.start()
    (site.directory / FAILURES).mkdir()  # so that no file can have this name
    add_version(site.repository, "2")
    await worker.releases.load(MODEL)
    assert worker.version() == "2"
    (add_version(site.repository, "3") / "fp32.onnx").unlink()
    with pytest.raises(LoadFailed):
        await worker.releases.load(MODEL)


async def test_a_report_that_cannot_be_written_is_made_later(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    worker = site.start()
    blocked = site.directory / ".1.status.1"
    blocked.mkdir()  # so that no file can have this name
    add_version(site.repository, "2")
    load = asyncio.create_task(worker.releases.load(MODEL))
    await until(lambda: len(caplog.records) > 0, 30)
    assert not load.done()
    blocked.rmdir()
    await load
    assert worker.version() == "2"


async def test_the_files_of_workers_that_have_ended_are_removed(site: Site) -> None:
    worker = site.start()
    for _ in range(3):
        site.join().releases.close()
    add_version(site.repository, "2")
    await worker.releases.load(MODEL)
    assert {file.name for file in site.directory.glob("[0-9]*")} == {"1.lock", "1.status"}
    site.start()  # in a process with an id that another one had
    assert len(worker.files.statuses()) == 2


async def test_all_versions_that_one_change_retires_stay_for_a_while(site: Site) -> None:
    add_version(site.repository, "2")
    set_serving(site.model, serve="all")
    worker = site.start()
    add_version(site.repository, "3")
    set_serving(site.model, serve="latest")
    await worker.releases.load(MODEL)
    assert not worker.engine.models.drop_retired()
    add_version(site.repository, "4")
    await worker.releases.load(MODEL)
    assert {each.version for each in worker.engine.models.drop_retired()} == {"1", "2"}


async def test_the_watch_logs_once_that_it_cannot_read(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    def logged() -> int:
        return sum("cannot be read" in record.message for record in caplog.records)

    worker = site.start()
    site.run(worker.releases.watch)
    shutil.rmtree(site.model)
    await until(lambda: logged() > 0, 30)
    await asyncio.to_thread(add_version, site.repository, "2")  # takes many looks
    await until(lambda: worker.version() == "2", 30)
    assert logged() == 1


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Return a fault: a changed manifest."""

    def apply(path: Path) -> None:
        manifest = json.loads((path / "manifest.json").read_text())
        change(manifest)
        (path / "manifest.json").write_text(json.dumps(manifest))

    return apply


def truncate(file: str) -> Callable[[Path], None]:
    return lambda path: os.truncate(path / file, os.path.getsize(path / file) // 2)


def other_task(path: Path) -> None:
    made = bundles.classifier(path.parent / ".other")
    shutil.rmtree(path)
    made.rename(path)
    edit(lambda manifest: manifest.update(name=MODEL, version="2"))(path)


BROKEN: dict[str, Callable[[Path], None]] = {
    "a torn manifest": truncate("manifest.json"),
    "a torn graph": truncate("fp32.onnx"),
    "a torn vocabulary": truncate("words.json"),
    "no graph": lambda path: (path / "fp32.onnx").unlink(),
    "no vocabulary": lambda path: (path / "words.json").unlink(),
    "a graph outside": lambda path: (
        (path / "fp32.onnx").rename(path.parent / "outside"),
        (path / "fp32.onnx").symlink_to("../outside"),
    )[1],
    "another checksum": edit(lambda manifest: manifest["files"].update({"fp32.onnx": "0" * 64})),
    "another example": edit(lambda manifest: manifest["examples"][0]["outputs"][0].update(entity="Z9")),
    "too few labels": edit(lambda manifest: manifest["labels"].pop()),
    "a newer format": edit(lambda manifest: manifest.update(format=99)),
    "another name": edit(lambda manifest: manifest.update(name="tiny-other")),
    "another version": edit(lambda manifest: manifest.update(version="7")),
    "another task": other_task,
    "an unreadable serving.json": lambda path: (path.parent / "serving.json").write_text("{") and None,
    "an alias of nothing": lambda path: set_serving(path.parent, aliases={"canary": "9"}),
}


@pytest.mark.parametrize("fault", BROKEN)
async def test_a_broken_candidate_changes_nothing_and_the_reason_is_given(site: Site, fault: str) -> None:
    worker = site.start()
    BROKEN[fault](add_version(site.repository, "2"))
    with pytest.raises(LoadFailed, match=MODEL) as caught:
        await worker.releases.load(MODEL)
    assert worker.version() == "1"
    assert worker.releases.failures() == {MODEL: caught.value.message}
    assert worker.changes == 0
