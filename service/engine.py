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
from models.tasks import EmbeddingInput, Generation, StreamChunk, Tagging
from service.errors import ClientGone, InvalidRequest, Overloaded, Unavailable, UnknownModel, shown
from service.generation import GenerateOptions, Texts
from service.generation_stream import GenerationStream
from service.inputs import Frames, Inputs, Piecewise
from service.model_runtime import ModelRuntime, open_lane
from service.paced import answer_all, encode_all, encode_one
from service.scheduling.inference_request import InferenceRequest
from service.scheduling.job import Job
from service.scheduling.loop import LoopBudget
from service.settings import Settings
from service.state_tokens import StateSigner
from service.streaming import TaggingStream, size
from service.telemetry import Telemetry
from service.tensor_runtime import Arrays, Graph, Work

log = logging.getLogger(__name__)

DRAIN_POLL_S = 0.01
TASKS = ("tag", "classify", "generate", "embed", "stream")


class Engine:
    """All bundles of one worker process. `load` makes it; everything else belongs to the event loop's thread."""

    def __init__(
        self, lanes: Sequence[ModelRuntime], executor: Executor, *, request_tokens: int, states: StateSigner
    ) -> None:
        self._lanes = {lane.name: lane for lane in lanes}
        self._by_task = {
            task: {name: lane for name, lane in self._lanes.items() if task in lane.tasks} for task in TASKS
        }
        self._first = {task: next(iter(lanes.values())) for task, lanes in self._by_task.items() if lanes}
        self._texts = {
            lane.name: Texts(lane.bundle, lane.bundle.task, states)
            for lane in lanes
            if isinstance(lane.bundle.task, Generation)
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
        lanes: dict[str, ModelRuntime] = {}
        for path in settings.bundle_paths():
            started = time.perf_counter()
            bundle = bundles.load(path, variant=settings.variant, placement=placement)
            self_test.run(bundle)
            load_s = time.perf_counter() - started
            manifest = bundle.manifest
            if manifest.name in lanes:
                other = lanes[manifest.name].bundle.path
                raise BundleError(f"{path}: {other} has the same name {manifest.name!r}: leave one of them out")
            lanes[manifest.name] = open_lane(bundle, settings, telemetry, executor, turns)
            telemetry.bundle(manifest.name, manifest.version, bundle.variant, load_s)
            log.info("loaded %s (%s, %s) in %.2f s", manifest.name, bundle.variant, bundle.model.device, load_s)
        keys = settings.state_key or (secrets.token_urlsafe(),)  # a service has one of its start, see app.py
        states = StateSigner(keys, ttl_s=settings.state_ttl_s, clock=time.time)
        return cls(list(lanes.values()), executor, request_tokens=settings.request_tokens, states=states)

    @property
    def ready(self) -> bool:
        """Whether work is taken."""
        return self._open

    @property
    def lanes(self) -> Mapping[str, ModelRuntime]:
        """Every bundle with its scheduler, by name."""
        return self._lanes

    def cards(self) -> list[dict[str, Any]]:
        """What /v1/models tells of each bundle, in the order in which they were given."""
        return [lane.card() for lane in self._lanes.values()]

    def defaults(self) -> dict[str, str]:
        """The bundle that answers a request of each task which names none: the first that can, where there is one."""
        return {task: first.name for task, first in self._first.items()}

    async def tag(
        self, inputs: Inputs, *, model: str | None = None, aggregation: str | None = None, call: InferenceRequest
    ) -> list[Any]:
        """Entities of one input, or a list of them for a list of texts, token lists or lists of frames."""
        lane = self._lane("tag", model)
        answer = lane.answers["tag"]
        if isinstance(inputs, str) or lane.is_one(inputs):
            item = encode_one(lane, inputs, self._request_tokens)
            (row,) = await self._wait(lane, call, (item,)) if item.length else (lane.nothing,)
            return answer(item, row, aggregation=aggregation)
        items = await encode_all(lane, inputs, self._request_tokens)
        rows = await self._run_filled(lane, items, call)
        return await answer_all(items, rows, lambda item, row: answer(item, row, aggregation=aggregation))

    async def classify(
        self,
        inputs: str | list[str] | Frames | list[Frames],
        *,
        model: str | None = None,
        top_k: int | None = None,
        call: InferenceRequest,
    ) -> list[list[dict[str, Any]]]:
        """The labels of each input, best first."""
        lane = self._lane("classify", model)
        answer = lane.answers["classify"]
        if isinstance(inputs, str) or lane.is_one(inputs):
            item = encode_one(lane, inputs, self._request_tokens)
            (row,) = await self._wait(lane, call, (item,)) if item.length else (lane.nothing,)
            return [answer(item, row, top_k=top_k)]
        items = await encode_all(lane, inputs, self._request_tokens)
        rows = await self._run_filled(lane, items, call)
        return await answer_all(items, rows, lambda item, row: answer(item, row, top_k=top_k))

    async def embed(
        self, inputs: str | Sequence[Any], *, model: str | None = None, call: InferenceRequest
    ) -> list[tuple[NDArray[np.float32], int]]:
        """The vector (W,) of each input and how many steps it was read from."""
        lane = self._lane("embed", model)
        alone = isinstance(inputs, str) or lane.is_one(list(inputs))
        items = await encode_all(lane, [inputs] if alone else inputs, self._request_tokens, alone=alone)
        for place, item in enumerate(items):
            if not item.length:
                field = "inputs" if alone else f"inputs[{place}]"
                raise InvalidRequest(f"{field}: has no {lane.unit}, so there is no vector of it", field=field)
        vectors = await self._wait(lane, call, [EmbeddingInput(item) for item in items]) if items else []
        return [(vector, item.length) for vector, item in zip(vectors, items, strict=True)]

    def stream(self, model: str | None = None, *, state: str | None = None) -> TaggingStream:
        """A stream at its beginning, or where `keep` left it, of a bundle that has a state. Raises InvalidRequest."""
        lane = self._lane("stream", model)
        task = cast(Tagging, lane.bundle.task)
        if state is None:
            return TaggingStream(model=lane.name, memory=task.start())
        try:
            payload = self._states.open(state, _owner(lane), most_bytes=size(task.state))
        except InvalidRequest as error:  # which names the field by its place in a request for text
            raise InvalidRequest(error.message.removeprefix("parameters."), field="state") from None
        return TaggingStream.unpack(lane.name, payload, task.state)

    def keep(self, stream: TaggingStream) -> str:
        """The stream as a value, for `stream`, here or on any replica that has the key."""
        return self._states.seal(stream.pack(), _owner(self._lane("stream", stream.model)))

    async def follow(self, stream: TaggingStream, inputs: Piecewise, *, call: InferenceRequest) -> list[dict[str, Any]]:
        """The entity of each step of the next piece; places count steps since the stream began."""
        lane = self._lane("stream", stream.model)
        task = cast(Tagging, lane.bundle.task)
        single = isinstance(inputs, list) and bool(inputs) and isinstance(inputs[0], int | float)
        lane.check_kind([inputs])
        item = encode_one(lane, [inputs] if single else inputs, self._request_tokens)
        if not item.length:
            return []
        (row,) = await self._wait(lane, call, (StreamChunk(item, stream.memory),))
        before, stream.memory, stream.steps = stream.steps, row.state, stream.steps + item.length
        return [
            {**entity, "start": before + place, "end": before + place + 1}
            for place, entity in enumerate(task.answer(item, row, aggregation="none"))
        ]

    async def generate(
        self, inputs: str | list[str], *, model: str | None = None, options: GenerateOptions, call: InferenceRequest
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """The continuation of each prompt; an empty prompt has an empty one."""
        lane = self._lane("generate", model)
        alone = isinstance(inputs, str)
        prompts = [inputs] if isinstance(inputs, str) else inputs
        items = await encode_all(lane, prompts, self._request_tokens, beside=options.max_new_tokens, alone=alone)
        texts = self._texts[lane.name]
        starts = texts.begin(prompts, items, [options] * len(prompts))
        wanted = [(start.reading, start.text) for start in starts if len(start.reading)]
        if wanted:
            await self._wait(lane, call, wanted)
        written = [start.text for start in starts]
        answers = await answer_all(items, written, lambda _, text: texts.answer(text), beside=options.max_new_tokens)
        return answers[0] if alone else answers

    async def write(
        self,
        prompts: Sequence[str],
        *,
        model: str | None = None,
        options: Sequence[GenerateOptions],
        call: InferenceRequest,
    ) -> GenerationStream:
        """As `generate`, to be read while it is written; each prompt has options of its own."""
        lane = self._lane("generate", model)
        beside = max((each.max_new_tokens for each in options), default=0)
        items = await encode_all(lane, prompts, self._request_tokens, beside=beside, alone=len(prompts) == 1)
        texts = self._texts[lane.name]
        return GenerationStream(lane, texts, texts.begin(prompts, items, options), call)

    def graphs(self) -> dict[str, Graph]:
        """The graph of each bundle by its name."""
        return {name: lane.graph for name, lane in self._lanes.items()}

    async def run_arrays(self, arrays: Arrays, *, model: str, call: InferenceRequest) -> Arrays:
        """The outputs of a bundle's graph for arrays that were made elsewhere, all of them by name."""
        if model not in self._lanes:
            names = ", ".join(self._lanes)
            raise UnknownModel(
                f"there is no model {shown(model)!r}; there are {names}", value=model, available=list(self._lanes)
            )
        lane = self._lanes[model]
        if lane.is_full():
            raise lane.overload()
        (outputs,) = await self._wait(lane, call, lane.graph.check(arrays))
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

    def _lane(self, task: str, model: str | None) -> ModelRuntime:
        fitting = self._by_task[task]
        if model is None:
            if not fitting:
                raise UnknownModel(f"no bundle is loaded that can {task}", value="", available=[])
            return self._first[task]
        if model not in fitting:
            names = ", ".join(fitting) or "none"
            other = f" ({model!r} is loaded for another task)" if model in self._lanes else ""
            raise UnknownModel(
                f"no bundle of that name can {task}{other}; those that can: {names}",
                value=model,
                available=list(fitting),
            )
        return fitting[model]

    async def _run_filled(self, lane: ModelRuntime, items: Sequence[Any], call: InferenceRequest) -> list[Any]:
        """The network's row for each item; the lane's `nothing` for one without a step, which no network sees."""
        filled = [item for item in items if item.length]
        if not filled:
            return [lane.nothing] * len(items)
        found = await self._wait(lane, call, filled)
        if len(filled) == len(items):
            return found
        rows = iter(found)
        return [next(rows) if item.length else lane.nothing for item in items]

    async def _wait(self, lane: ModelRuntime, call: InferenceRequest, parts: Sequence[Any] | Work) -> list[Any]:
        """Submit a ticket of these parts, or of arrays, and wait for its results; raises its error."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def wake() -> None:
            if not future.done():
                future.set_result(None)

        ticket = lane.submit(call, parts, wake)
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
        for lane in self._lanes.values():
            lane.scheduler.close()
            lane.graph.scheduler.close()
        until = time.monotonic() + timeout_s
        while self._under_way() and time.monotonic() < until:
            await asyncio.sleep(DRAIN_POLL_S)
        for ticket in self._under_way():
            ticket.fail(Unavailable("the service shut down before the answer was ready: send the request again"))
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _under_way(self) -> list[Job]:
        return [ticket for lane in self._lanes.values() for ticket in lane.open]


def _owner(lane: ModelRuntime) -> str:
    """What the state of a stream belongs to: to no other weights."""
    return f"stream {lane.name} {lane.bundle.digest} {lane.bundle.variant}"
