"""An engine that goes from one release to the next: what answers, what is kept, and what is freed."""

import asyncio
import gc
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest

from models.manifest import BundleError, read
from models.tasks import GenerationResult, TaggedInput
from service.engine import Engine
from service.errors import InvalidRequest
from service.generation import GenerationParameters
from service.repository import read_release
from service.settings import Settings
from service.telemetry import Telemetry
from tests.support.engines import inference_request, until
from tests.support.repositories import add_version, set_serving, version_of

OPTIONS = GenerationParameters(max_new_tokens=20, seed=7, return_state=True)


class Site:
    """An engine with version 1 of a model, and version 2 on disk."""

    def __init__(self, repository: Path, model: str = "tiny-tag", **settings: Any) -> None:
        self.model, self.directory = model, repository / model
        self.settings = Settings(bundles=(str(repository),), device="cpu", **{"retire_s": 0.0, **settings})
        self.telemetry = Telemetry()
        add_version(repository, "1", model=model)
        self.engine = Engine.load(self.settings, self.telemetry)
        add_version(repository, "2", model=model)

    def serve(self, *versions: str, **serving: Any) -> int:
        """Serve these versions. Returns how many of them were loaded for it."""
        set_serving(self.directory, serve=list(versions), **serving)
        release = read_release(self.settings)
        loaded = self.engine.models.load_missing(release)
        self.engine.models.serve(release, loaded)
        return len(loaded)

    def bundle_info(self, version: str) -> float | None:
        self.telemetry.flush()
        assert self.telemetry.registry is not None
        labels = {"model": self.model, "version": version, "variant": "fp32"}
        return self.telemetry.registry.get_sample_value("seqserve_bundle_info", labels)

    async def tag(self, text: str = "the cat", model: str | None = None) -> TaggedInput:
        answer = await self.engine.tag(text, model=model, request=inference_request())
        assert isinstance(answer, TaggedInput)
        return answer

    async def generate(self, text: str, **options: Any) -> GenerationResult:
        wanted = GenerationParameters(**{"max_new_tokens": 20, "seed": 7, "return_state": True, **options})
        model = options.pop("model", None)
        answer = await self.engine.generate(text, model=model, options=wanted, request=inference_request())
        assert isinstance(answer, GenerationResult)
        return answer


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


async def test_new_requests_are_answered_by_the_new_version(site: Site) -> None:
    assert version_of((await site.tag()).labels) == "1"
    site.serve("2")
    assert version_of((await site.tag()).labels) == "2"
    assert (site.bundle_info("1"), site.bundle_info("2")) == (0, 1)


async def test_a_request_is_answered_by_the_version_that_it_began_with(site: Site) -> None:
    request = asyncio.create_task(site.tag())
    await asyncio.sleep(0)  # it is queued
    site.serve("2")
    assert site.engine.models.drop_retired() == []
    assert version_of((await request).labels) == "1"


async def test_a_tagging_stream_that_crosses_a_release_is_that_of_one_version(tmp_path: Path) -> None:
    site = Site(tmp_path, "tiny-live")
    unswapped = site.engine.open_stream()
    whole = await site.engine.advance(unswapped, "the cat sat on", request=inference_request())
    del unswapped
    stream = site.engine.open_stream()
    found = [await site.engine.advance(stream, "the cat", request=inference_request())]
    site.serve("2")
    assert site.engine.models.drop_retired() == []  # it is in use
    found.append(await site.engine.advance(stream, "sat on", request=inference_request()))
    assert [label for part in found for label in part.labels] == whole.labels
    assert [score for part in found for score in part.scores] == whole.scores


async def test_a_text_that_crosses_a_release_is_that_of_one_version(tmp_path: Path) -> None:
    site = Site(tmp_path, "tiny-generate")
    whole = await site.generate("ROMEO:")
    request = inference_request()
    stream = await site.engine.generate_stream(["ROMEO:"], options=[OPTIONS], request=request)
    pieces = [piece for delta in await anext(stream) for piece in delta.token_texts]
    site.serve("2")
    site.engine.models.drop_retired()
    pieces += [piece async for deltas in stream for delta in deltas for piece in delta.token_texts]
    assert "".join(pieces) == whole.generated_text
    assert (await site.generate("ROMEO:")).generated_text != whole.generated_text


async def test_a_state_is_continued_by_the_version_that_made_it(tmp_path: Path) -> None:
    site = Site(tmp_path, "tiny-generate", retire_s=3600)
    first = await site.generate("ROMEO:", max_new_tokens=8)
    expected = await site.generate("", state=first.state, seed=None)
    site.serve("2")
    assert await site.generate("", state=first.state, seed=None) == expected
    with pytest.raises(InvalidRequest) as caught:
        await site.engine.generate(
            "",
            model="tiny-generate@2",
            options=GenerationParameters(state=first.state),
            request=inference_request(),
        )
    assert caught.value.details["field"] == "state"


async def test_the_state_of_a_tagging_stream_is_continued_by_the_version_that_made_it(tmp_path: Path) -> None:
    site = Site(tmp_path, "tiny-live", retire_s=3600)
    stream = site.engine.open_stream()
    await site.engine.advance(stream, "the cat", request=inference_request())
    token = site.engine.state_token(stream)
    site.serve("2", aliases={"stable": "2"})
    for model in (None, "tiny-live", "tiny-live@stable"):
        continued = site.engine.open_stream(model, state=token)
        assert (continued.runtime.version, continued.steps) == ("1", 2)


async def test_a_state_of_a_version_that_is_gone_is_refused(tmp_path: Path) -> None:
    site = Site(tmp_path, "tiny-generate")
    first = await site.generate("ROMEO:", max_new_tokens=8)
    site.serve("2")
    site.engine.models.drop_retired()
    with pytest.raises(InvalidRequest) as caught:
        await site.generate("", state=first.state)
    assert caught.value.details["field"] == "state"


async def test_a_dropped_version_is_freed_without_the_garbage_collector(site: Site) -> None:
    await site.tag()
    gc.disable()
    weights = weakref.ref(site.engine.catalog.find("tiny-tag").bundle.model)
    site.serve("2")
    try:
        assert [runtime.version for runtime in site.engine.models.drop_retired()] == ["1"]
        await until(lambda: weights() is None)
    finally:
        gc.enable()


def test_a_version_is_served_again_without_loading_it(tmp_path: Path) -> None:
    site = Site(tmp_path, retire_s=3600)
    assert site.serve("2") == 1
    assert site.engine.models.drop_retired() == []
    assert site.serve("1") == 0
    assert (site.bundle_info("1"), site.bundle_info("2")) == (1, 0)
    assert site.engine.catalog.find("tiny-tag").version == "1"


def test_only_the_last_version_is_kept(tmp_path: Path) -> None:
    site = Site(tmp_path, retire_s=3600)
    add_version(tmp_path, "3")
    site.serve("2")
    site.serve("3")
    assert [runtime.version for runtime in site.engine.models.drop_retired()] == ["1"]


def test_a_version_of_another_task_is_refused(site: Site, tmp_path: Path, tiny_zoo: Path) -> None:
    manifest = read(tiny_zoo / "tiny-classify").model_copy(update={"name": "tiny-tag", "version": "3"})
    path = Path(shutil.copytree(tiny_zoo / "tiny-classify", tmp_path / "tiny-tag/3"))
    (path / "manifest.json").write_text(manifest.model_dump_json(), "utf-8")
    with pytest.raises(BundleError, match="classify"):
        site.serve("3")
    assert site.engine.catalog.find("tiny-tag").version == "1"


def test_a_manifest_that_was_replaced_after_it_was_read_is_refused(site: Site) -> None:
    release = read_release(site.settings)
    path = site.directory / "2/manifest.json"
    path.write_text(path.read_text().replace("A tiny model", "Another model"))
    with pytest.raises(BundleError, match="replaced"):
        site.engine.models.load_missing(release)
