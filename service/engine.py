"""Tag, classify, embed, generate, write: the bundles, each with its scheduler, behind a coroutine each.

Loads, checks and drains. Knows no HTTP and no BentoML; the order of work is left to batching/, the meaning of
arrays to models/.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from models import bundle as bundles
from models import reference
from models.manifest import BundleError
from models.network import Placement
from models.tasks import Generation, Piece, Tagging, Whole
from service.batching.pump import Turns
from service.batching.ticket import Ticket
from service.call import Call
from service.errors import ClientGone, InvalidRequest, Overloaded, TooLarge, Unavailable, UnknownModel, shown
from service.following import Following, size
from service.graphs import Arrays, Graph, Work
from service.inputs import Frames, Inputs, Piecewise
from service.lanes import Lane, open_lane
from service.settings import Settings
from service.states import States
from service.telemetry import Telemetry
from service.texts import GenerateOptions, Texts
from service.writing import Writing

log = logging.getLogger(__name__)

ENCODE_SLICE = 32_768  # characters encoded, at least, before the loop may serve others: about 5 ms of English
ANSWER_SLICE = 8_192  # words or characters answered, at least, before the loop may serve others
DRAIN_POLL_S = 0.01
TASKS = ("tag", "classify", "generate", "embed", "stream")


class Engine:
    """All bundles of one worker process. `load` makes it; everything else belongs to the event loop's thread."""

    def __init__(
        self, lanes: Sequence[Lane], executor: ThreadPoolExecutor, *, request_tokens: int, states: States
    ) -> None:
        self._lanes = {lane.name: lane for lane in lanes}
        self._by_task = {
            task: {name: lane for name, lane in self._lanes.items() if task in lane.tasks} for task in TASKS
        }
        self._texts = {
            lane.name: Texts(lane.bundle, lane.bundle.task, states)
            for lane in lanes
            if isinstance(lane.bundle.task, Generation)
        }
        self._states = states
        self._request_tokens = request_tokens
        self._executor = executor
        self.ready = True

    @classmethod
    def load(cls, settings: Settings, telemetry: Telemetry) -> "Engine":
        """Open every bundle and run its examples. Blocks; raises BundleError or BadSetting."""
        # One thread: long work of several bundles queues up rather than fight for the cores of this worker.
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="compute")
        placement = Placement(device=settings.device, threads=settings.threads)
        turns = Turns()
        lanes: dict[str, Lane] = {}
        for path in settings.bundle_paths():
            started = time.perf_counter()
            bundle = bundles.load(path, variant=settings.variant, placement=placement)
            reference.self_test(bundle)
            load_s = time.perf_counter() - started
            manifest = bundle.manifest
            if manifest.name in lanes:
                other = lanes[manifest.name].bundle.path
                raise BundleError(f"{path}: {other} has the same name {manifest.name!r}: leave one of them out")
            lanes[manifest.name] = open_lane(bundle, settings, telemetry, executor, turns)
            telemetry.bundle(manifest.name, manifest.version, bundle.variant, load_s)
            log.info("loaded %s (%s, %s) in %.2f s", manifest.name, bundle.variant, bundle.network.device, load_s)
        keys = settings.state_key or (secrets.token_urlsafe(),)  # a service has one of its start, see app.py
        states = States(keys, ttl_s=settings.state_ttl_s, clock=time.time)
        return cls(list(lanes.values()), executor, request_tokens=settings.request_tokens, states=states)

    def cards(self) -> list[dict[str, Any]]:
        """What /v1/models tells of each bundle, in the order in which they were given."""
        return [lane.card() for lane in self._lanes.values()]

    def defaults(self) -> dict[str, str]:
        """The bundle that answers a request of each task which names none: the first that can, where there is one."""
        return {task: next(iter(fitting)) for task, fitting in self._by_task.items() if fitting}

    async def tag(
        self, inputs: Inputs, *, model: str | None = None, aggregation: str | None = None, call: Call
    ) -> list[Any]:
        """Entities of one input, or a list of them for a list of texts, token lists or lists of frames."""
        lane = self._lane("tag", model)
        answer = lane.answers["tag"]
        if isinstance(inputs, str) or lane.is_one(inputs):
            item = self._encode_one(lane, inputs)
            (row,) = await self._wait(lane, call, (item,)) if item.length else (lane.nothing,)
            return answer(item, row, aggregation=aggregation)
        items = await self._encode(lane, inputs)
        rows = await self._run_filled(lane, items, call)
        return await _paced(items, rows, lambda item, row: answer(item, row, aggregation=aggregation))

    async def classify(
        self,
        inputs: str | list[str] | Frames | list[Frames],
        *,
        model: str | None = None,
        top_k: int | None = None,
        call: Call,
    ) -> list[list[dict[str, Any]]]:
        """The labels of each input, best first."""
        lane = self._lane("classify", model)
        answer = lane.answers["classify"]
        if isinstance(inputs, str) or lane.is_one(inputs):
            item = self._encode_one(lane, inputs)
            (row,) = await self._wait(lane, call, (item,)) if item.length else (lane.nothing,)
            return [answer(item, row, top_k=top_k)]
        items = await self._encode(lane, inputs)
        rows = await self._run_filled(lane, items, call)
        return await _paced(items, rows, lambda item, row: answer(item, row, top_k=top_k))

    async def embed(
        self, inputs: str | Sequence[Any], *, model: str | None = None, call: Call
    ) -> list[tuple[NDArray[np.float32], int]]:
        """The vector (W,) of each input and how many steps it was read from."""
        lane = self._lane("embed", model)
        alone = isinstance(inputs, str) or lane.is_one(list(inputs))
        items = await self._encode(lane, [inputs] if alone else inputs, alone=alone)
        for place, item in enumerate(items):
            if not item.length:
                field = "inputs" if alone else f"inputs[{place}]"
                raise InvalidRequest(f"{field}: has no {lane.unit}, so there is no vector of it", field=field)
        vectors = await self._wait(lane, call, [Whole(item) for item in items]) if items else []
        return [(vector, item.length) for vector, item in zip(vectors, items, strict=True)]

    def stream(self, model: str | None = None, *, state: str | None = None) -> Following:
        """A stream at its beginning, or where `keep` left it, of a bundle that has a state. Raises InvalidRequest."""
        lane = self._lane("stream", model)
        task = cast(Tagging, lane.bundle.task)
        if state is None:
            return Following(model=lane.name, memory=task.start())
        try:
            payload = self._states.open(state, _owner(lane), most_bytes=size(task.state))
        except InvalidRequest as error:  # which names the field by its place in a request for text
            raise InvalidRequest(error.message.removeprefix("parameters."), field="state") from None
        return Following.unpack(lane.name, payload, task.state)

    def keep(self, stream: Following) -> str:
        """The stream as a value, for `stream`, here or on any replica that has the key."""
        return self._states.seal(stream.pack(), _owner(self._lane("stream", stream.model)))

    async def follow(self, stream: Following, inputs: Piecewise, *, call: Call) -> list[dict[str, Any]]:
        """The entity of each step of the next piece; places count steps since the stream began."""
        lane = self._lane("stream", stream.model)
        task = cast(Tagging, lane.bundle.task)
        single = isinstance(inputs, list) and bool(inputs) and isinstance(inputs[0], int | float)
        lane.check_kind([inputs])
        item = self._encode_one(lane, [inputs] if single else inputs)
        if not item.length:
            return []
        (row,) = await self._wait(lane, call, (Piece(item, stream.memory),))
        before, stream.memory, stream.steps = stream.steps, row.memory, stream.steps + item.length
        return [
            {**entity, "start": before + place, "end": before + place + 1}
            for place, entity in enumerate(task.answer(item, row, aggregation="none"))
        ]

    async def generate(
        self, inputs: str | list[str], *, model: str | None = None, options: GenerateOptions, call: Call
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """The continuation of each prompt; an empty prompt has an empty one."""
        lane = self._lane("generate", model)
        alone = isinstance(inputs, str)
        prompts = [inputs] if isinstance(inputs, str) else inputs
        items = await self._encode(lane, prompts, beside=options.max_new_tokens, alone=alone)
        texts = self._texts[lane.name]
        starts = texts.begin(prompts, items, [options] * len(prompts))
        wanted = [(start.reading, start.text) for start in starts if len(start.reading)]
        if wanted:
            await self._wait(lane, call, wanted)
        written = [start.text for start in starts]
        answers = await _paced(items, written, lambda _, text: texts.answer(text), beside=options.max_new_tokens)
        return answers[0] if alone else answers

    async def write(
        self, prompts: Sequence[str], *, model: str | None = None, options: Sequence[GenerateOptions], call: Call
    ) -> Writing:
        """As `generate`, to be read while it is written; each prompt has options of its own."""
        lane = self._lane("generate", model)
        beside = max((each.max_new_tokens for each in options), default=0)
        items = await self._encode(lane, prompts, beside=beside, alone=len(prompts) == 1)
        texts = self._texts[lane.name]
        return Writing(lane, texts, texts.begin(prompts, items, options), call)

    def graphs(self) -> dict[str, Graph]:
        """The graph of each bundle by its name."""
        return {name: lane.graph for name, lane in self._lanes.items()}

    async def run_arrays(self, arrays: Arrays, *, model: str, call: Call) -> Arrays:
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
        lanes = self._by_task[task]
        if len(lanes) == 1:  # of several, the request names the one that it wants
            next(iter(lanes.values())).check_room(1)

    def is_full(self, task: str) -> bool:
        """Whether a request of `task` that names no model would be refused with `overload`: cheap."""
        lanes = self._by_task[task]
        return bool(lanes) and next(iter(lanes.values())).refuses()

    def overload(self, task: str) -> Overloaded:
        """See `is_full`."""
        return next(iter(self._by_task[task].values())).refusal()

    def choices(self, task: str) -> int:
        """How many bundles can do it."""
        return len(self._by_task[task])

    def _lane(self, task: str, model: str | None) -> Lane:
        fitting = self._by_task[task]
        if model is None:
            if not fitting:
                raise UnknownModel(f"no bundle is loaded that can {task}", value="", available=[])
            return next(iter(fitting.values()))
        if model not in fitting:
            names = ", ".join(fitting) or "none"
            other = f" ({model!r} is loaded for another task)" if model in self._lanes else ""
            raise UnknownModel(
                f"no bundle of that name can {task}{other}; those that can: {names}",
                value=model,
                available=list(fitting),
            )
        return fitting[model]

    async def _encode(self, lane: Lane, inputs: Sequence[Any], *, beside: int = 0, alone: bool = False) -> list[Any]:
        """Encode every input, giving way to the loop now and then; `alone`: the one input came without a list.

        Raises TooLarge for an input that is too long, or for all of them together with `beside` tokens for each;
        InvalidRequest for one that cannot be read; Overloaded or Unavailable before anything is encoded in vain.
        """
        lane.check_room(len(inputs))
        lane.check_kind(inputs)
        items: list[Any] = []
        since, tokens = 0, beside * len(inputs)
        for place, raw in enumerate(inputs):
            item = lane.encode(raw, None if alone else place)
            tokens += item.length
            self._check_tokens(lane, tokens)
            items.append(item)
            since += len(raw) if isinstance(raw, str) else 8 * len(raw)
            if since > ENCODE_SLICE:
                since = 0
                await asyncio.sleep(0)
        return items

    def _encode_one(self, lane: Lane, raw: Any) -> Any:
        """As `_encode`, for one input."""
        lane.check_room(1)
        item = lane.encode(raw)
        self._check_tokens(lane, item.length)
        return item

    def _check_tokens(self, lane: Lane, tokens: int) -> None:
        if tokens > self._request_tokens:
            raise TooLarge(
                f"the request comes to more than {self._request_tokens} {lane.unit}, sent and asked for: "
                "spread it over several requests",
                limit=self._request_tokens,
                field="inputs",
            )

    async def _run_filled(self, lane: Lane, items: Sequence[Any], call: Call) -> list[Any]:
        """The network's row for each item; the lane's `nothing` for one without a step, which no network sees."""
        filled = [item for item in items if item.length]
        if not filled:
            return [lane.nothing] * len(items)
        found = await self._wait(lane, call, filled)
        if len(filled) == len(items):
            return found
        rows = iter(found)
        return [next(rows) if item.length else lane.nothing for item in items]

    async def _wait(self, lane: Lane, call: Call, parts: Sequence[Any] | Work) -> list[Any]:
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
        self.ready = False
        for lane in self._lanes.values():
            lane.scheduler.close()
            lane.graph.scheduler.close()
        until = time.monotonic() + timeout_s
        while self._under_way() and time.monotonic() < until:
            await asyncio.sleep(DRAIN_POLL_S)
        for ticket in self._under_way():
            ticket.fail(Unavailable("the service shut down before the answer was ready: send the request again"))
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _under_way(self) -> list[Ticket]:
        return [ticket for lane in self._lanes.values() for ticket in lane.open]


def _owner(lane: Lane) -> str:
    """What the state of a stream belongs to: to no other weights."""
    return f"stream {lane.name} {lane.bundle.digest} {lane.bundle.variant}"


async def _paced(
    items: Sequence[Any], rows: Sequence[Any], answer: Callable[[Any, Any], Any], *, beside: int = 0
) -> list[Any]:
    """The answer for each item and its row, giving way to the loop now and then."""
    answers = []
    since = 0
    for item, row in zip(items, rows, strict=True):
        answers.append(answer(item, row))
        since += item.length + beside
        if since > ANSWER_SLICE:
            since = 0
            await asyncio.sleep(0)
    return answers
