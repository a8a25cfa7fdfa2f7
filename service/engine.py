"""Tag, classify, embed, generate, write: the bundles, each with its scheduler, behind a coroutine each.

Loads, checks and drains. Knows no HTTP and no BentoML; the order of work is left to batching/, the meaning of
arrays to models/.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from models import bundle as bundles
from models import self_test
from models.manifest import BundleError
from models.onnx_session import Placement
from models.tasks import EmbeddingInput, Entity, Generation, GenerationResult, LabelScore, StreamChunk, Tagging
from service.errors import ClientGone, InvalidRequest, Overloaded, Unavailable, UnknownModel, shown
from service.generation import GenerateOptions, Texts
from service.generation_stream import GenerationStream
from service.inputs import Frames, Inputs, Piecewise
from service.model_runtime import ModelRuntime, open_runtime
from service.paced import answer_all, encode_all, encode_one
from service.scheduling.job import InferenceRequest, Job
from service.scheduling.loop import LoopBudget
from service.settings import Settings
from service.state_tokens import StateSigner
from service.streaming import TaggingStream, size
from service.telemetry import Telemetry
from service.tensor_runtime import Arrays, TensorRuntime, Work

log = logging.getLogger(__name__)

DRAIN_POLL_S = 0.01
TASKS = ("tag", "classify", "generate", "embed", "stream")


class Engine:
    """All bundles of one worker process. `load` makes it; everything else belongs to the event loop's thread."""

    def __init__(
        self, runtimes: Sequence[ModelRuntime], executor: Executor, *, request_tokens: int, states: StateSigner
    ) -> None:
        self._runtimes = {runtime.name: runtime for runtime in runtimes}
        self._by_task = {
            task: {name: runtime for name, runtime in self._runtimes.items() if task in runtime.tasks} for task in TASKS
        }
        self._first = {task: next(iter(runtimes.values())) for task, runtimes in self._by_task.items() if runtimes}
        self._texts = {
            runtime.name: Texts(runtime.bundle, runtime.bundle.task, states)
            for runtime in runtimes
            if isinstance(runtime.bundle.task, Generation)
        }
        self._states = states
        self._request_tokens = request_tokens
        self._executor = executor
        self._open = True

    @classmethod
    def load(cls, settings: Settings, telemetry: Telemetry) -> "Engine":
        """Open every bundle and run its self-test. Blocks. Raises BundleError or BadSetting."""
        # One thread: batches of several bundles queue rather than compete for this worker's cores.
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="compute")
        turns = LoopBudget()
        placement = Placement(device=settings.device, threads=settings.threads)
        runtimes: dict[str, ModelRuntime] = {}
        for path in settings.bundle_paths():
            started = time.perf_counter()
            bundle = bundles.load(path, variant=settings.variant, placement=placement)
            self_test.run(bundle)
            load_s = time.perf_counter() - started
            manifest = bundle.manifest
            if manifest.name in runtimes:
                other = runtimes[manifest.name].bundle.path
                raise BundleError(f"{path}: {other} has the same name {manifest.name!r}: leave one of them out")
            runtimes[manifest.name] = open_runtime(bundle, settings, telemetry, executor, turns)
            telemetry.bundle(manifest.name, manifest.version, bundle.variant, load_s)
            log.info("loaded %s (%s, %s) in %.2f s", manifest.name, bundle.variant, bundle.model.device, load_s)
        keys = settings.state_key or (secrets.token_urlsafe(),)  # a service has one of its start, see app.py
        states = StateSigner(keys, ttl_s=settings.state_ttl_s, clock=time.time)
        return cls(list(runtimes.values()), executor, request_tokens=settings.request_tokens, states=states)

    @property
    def ready(self) -> bool:
        """Whether work is taken."""
        return self._open

    @property
    def runtimes(self) -> Mapping[str, ModelRuntime]:
        """Every bundle with its scheduler, by name."""
        return self._runtimes

    def cards(self) -> list[dict[str, Any]]:
        """What /v1/models tells of each bundle, in the order in which they were given."""
        return [runtime.card() for runtime in self._runtimes.values()]

    def defaults(self) -> dict[str, str]:
        """The bundle that answers a request of each task which names none: the first that can, where there is one."""
        return {task: first.name for task, first in self._first.items()}

    async def tag(
        self, inputs: Inputs, *, model: str | None = None, aggregation: str | None = None, request: InferenceRequest
    ) -> list[Any]:
        """Entities of one input, or a list of them for a list of texts, token lists or lists of frames."""
        runtime = self.runtime_for("tag", model)
        answer = runtime.answers["tag"]
        if isinstance(inputs, str) or runtime.is_one(inputs):
            item = encode_one(runtime, inputs, self._request_tokens)
            (row,) = await self._wait(runtime, request, (item,)) if item.length else (runtime.nothing,)
            return answer(item, row, aggregation=aggregation)
        items = await encode_all(runtime, inputs, self._request_tokens)
        rows = await self._run_filled(runtime, items, request)
        return await answer_all(items, rows, lambda item, row: answer(item, row, aggregation=aggregation))

    async def classify(
        self,
        inputs: str | list[str] | Frames | list[Frames],
        *,
        model: str | None = None,
        top_k: int | None = None,
        request: InferenceRequest,
    ) -> list[list[LabelScore]]:
        """The labels of each input, best first."""
        runtime = self.runtime_for("classify", model)
        answer = runtime.answers["classify"]
        if isinstance(inputs, str) or runtime.is_one(inputs):
            item = encode_one(runtime, inputs, self._request_tokens)
            (row,) = await self._wait(runtime, request, (item,)) if item.length else (runtime.nothing,)
            return [answer(item, row, top_k=top_k)]
        items = await encode_all(runtime, inputs, self._request_tokens)
        rows = await self._run_filled(runtime, items, request)
        return await answer_all(items, rows, lambda item, row: answer(item, row, top_k=top_k))

    async def embed(
        self, inputs: str | Sequence[Any], *, model: str | None = None, request: InferenceRequest
    ) -> list[tuple[NDArray[np.float32], int]]:
        """The vector (W,) of each input and how many steps it was read from."""
        runtime = self.runtime_for("embed", model)
        alone = isinstance(inputs, str) or runtime.is_one(list(inputs))
        items = await encode_all(runtime, [inputs] if alone else inputs, self._request_tokens, alone=alone)
        for place, item in enumerate(items):
            if not item.length:
                field = "inputs" if alone else f"inputs[{place}]"
                raise InvalidRequest(f"has no {runtime.unit}, so it has no vector", field=field)
        vectors = await self._wait(runtime, request, [EmbeddingInput(item) for item in items]) if items else []
        return [(vector, item.length) for vector, item in zip(vectors, items, strict=True)]

    def open_stream(self, model: str | None = None, *, state: str | None = None) -> TaggingStream:
        """A stream at its beginning, or where `keep` left it, of a bundle that has a state. Raises InvalidRequest."""
        runtime = self.runtime_for("stream", model)
        task = cast(Tagging, runtime.bundle.task)
        if state is None:
            return TaggingStream(model=runtime.name, memory=task.start())
        try:
            payload = self._states.open(state, _owner(runtime), most_bytes=size(task.state))
        except InvalidRequest as error:  # which names the field by its place in a request for text
            raise InvalidRequest(error.message, field="state") from None
        return TaggingStream.unpack(runtime.name, payload, task.state)

    def state_token(self, stream: TaggingStream) -> str:
        """The stream as a value, for `stream`, here or on any replica that has the key."""
        return self._states.seal(stream.pack(), _owner(self.runtime_for("stream", stream.model)))

    async def advance(self, stream: TaggingStream, inputs: Piecewise, *, request: InferenceRequest) -> list[Entity]:
        """The entity of each step of the next piece; places count steps since the stream began."""
        runtime = self.runtime_for("stream", stream.model)
        task = cast(Tagging, runtime.bundle.task)
        single = isinstance(inputs, list) and bool(inputs) and isinstance(inputs[0], int | float)
        runtime.check_kind([inputs])
        item = encode_one(runtime, [inputs] if single else inputs, self._request_tokens)
        if not item.length:
            return []
        (row,) = await self._wait(runtime, request, (StreamChunk(item, stream.memory),))
        before, stream.memory, stream.steps = stream.steps, row.state, stream.steps + item.length
        return [
            Entity(label, score, word, before + place, before + place + 1)
            for place, (label, score, word, *_) in enumerate(task.answer(item, row, aggregation="none"))
        ]

    async def generate(
        self, inputs: str | list[str], *, model: str | None = None, options: GenerateOptions, request: InferenceRequest
    ) -> GenerationResult | list[GenerationResult]:
        """The continuation of each prompt; an empty prompt has an empty one."""
        runtime = self.runtime_for("generate", model)
        alone = isinstance(inputs, str)
        prompts = [inputs] if isinstance(inputs, str) else inputs
        items = await encode_all(runtime, prompts, self._request_tokens, beside=options.max_new_tokens, alone=alone)
        texts = self._texts[runtime.name]
        starts = texts.begin(prompts, items, [options] * len(prompts))
        wanted = [(start.reading, start.text) for start in starts if len(start.reading)]
        if wanted:
            await self._wait(runtime, request, wanted)
        written = [start.text for start in starts]
        answers = await answer_all(items, written, lambda _, text: texts.answer(text), beside=options.max_new_tokens)
        return answers[0] if alone else answers

    async def generate_stream(
        self,
        prompts: Sequence[str],
        *,
        model: str | None = None,
        options: Sequence[GenerateOptions],
        request: InferenceRequest,
    ) -> GenerationStream:
        """As `generate`, to be read while it is written; each prompt has options of its own."""
        runtime = self.runtime_for("generate", model)
        beside = max((each.max_new_tokens for each in options), default=0)
        items = await encode_all(runtime, prompts, self._request_tokens, beside=beside, alone=len(prompts) == 1)
        texts = self._texts[runtime.name]
        return GenerationStream(runtime, texts, texts.begin(prompts, items, options), request)

    def tensor_runtimes(self) -> dict[str, TensorRuntime]:
        """The graph of each bundle by its name."""
        return {name: runtime.tensors for name, runtime in self._runtimes.items()}

    async def run_tensors(self, arrays: Arrays, *, model: str, request: InferenceRequest) -> Arrays:
        """The outputs of a bundle's graph for arrays that were made elsewhere, all of them by name."""
        if model not in self._runtimes:
            names = ", ".join(self._runtimes)
            raise UnknownModel(
                f"there is no model {shown(model)!r}; there are {names}", value=model, available=list(self._runtimes)
            )
        runtime = self._runtimes[model]
        if runtime.is_full():
            raise runtime.overload()
        (outputs,) = await self._wait(runtime, request, runtime.tensors.check(arrays))
        return cast(Arrays, outputs)

    def check_room(self, task: str) -> None:
        """Raise Overloaded or Unavailable if a request of `task` would be refused whatever it says."""
        if len(self._by_task[task]) == 1:  # of several, the request names the one that it wants
            self._first[task].check_room(1)

    def is_full(self, task: str) -> bool:
        """Whether a request of `task` that names no model would be refused with `overload`: cheap."""
        first = self._first.get(task)
        return first is not None and first.refuses()

    def overload(self, task: str) -> Overloaded:
        """See `is_full`."""
        return self._first[task].refusal()

    def choices(self, task: str) -> int:
        """How many bundles can do it."""
        return len(self._by_task[task])

    def runtime_for(self, task: str, model: str | None) -> ModelRuntime:
        fitting = self._by_task[task]
        if model is None:
            if not fitting:
                raise UnknownModel(f"no bundle is loaded that can {task}", value="", available=[])
            return self._first[task]
        if model not in fitting:
            names = ", ".join(fitting) or "none"
            other = f" ({model!r} is loaded for another task)" if model in self._runtimes else ""
            raise UnknownModel(
                f"no bundle of that name can {task}{other}; those that can: {names}",
                value=model,
                available=list(fitting),
            )
        return fitting[model]

    async def _run_filled(self, runtime: ModelRuntime, items: Sequence[Any], request: InferenceRequest) -> list[Any]:
        """The network's row for each item; the runtime's `nothing` for one without a step, which no network sees."""
        filled = [item for item in items if item.length]
        if not filled:
            return [runtime.nothing] * len(items)
        found = await self._wait(runtime, request, filled)
        if len(filled) == len(items):
            return found
        rows = iter(found)
        return [next(rows) if item.length else runtime.nothing for item in items]

    async def _wait(self, runtime: ModelRuntime, request: InferenceRequest, parts: Sequence[Any] | Work) -> list[Any]:
        """Submit a ticket of these parts, or of arrays, and wait for its results; raises its error."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def wake() -> None:
            if not future.done():
                future.set_result(None)

        ticket = runtime.submit(request, parts, wake)
        try:
            await future
        except asyncio.CancelledError:
            ticket.fail(ClientGone())
            raise
        if ticket.error is not None:
            raise ticket.error
        return ticket.results

    async def drain(self, timeout_s: float) -> None:
        """Refuse new work and answer what was accepted; what is not answered in time fails with Unavailable."""
        self._open = False
        for runtime in self._runtimes.values():
            runtime.scheduler.close()
            runtime.tensors.scheduler.close()
        until = time.monotonic() + timeout_s
        while self._under_way() and time.monotonic() < until:
            await asyncio.sleep(DRAIN_POLL_S)
        for ticket in self._under_way():
            ticket.fail(Unavailable("the service shut down before the answer was ready: send the request again"))
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _under_way(self) -> list[Job]:
        return [ticket for runtime in self._runtimes.values() for ticket in runtime.open]


def _owner(runtime: ModelRuntime) -> str:
    """What the state of a stream belongs to: to no other weights."""
    return f"stream {runtime.name} {runtime.bundle.digest} {runtime.bundle.variant}"
