"""One bundle with its scheduler and the pump that drives it.

Joins models to batching: turns items into arrays and back, and tells telemetry. Knows no request and no HTTP.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from datetime import time as time_of_day
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import state
from models.bundle import Bundle
from models.codecs import InputError, TooLong
from models.manifest import SERVES
from models.state import State
from models.tasks import Generation, Joint
from models.tasks.generate import InPlaceDecoder
from service.errors import InvalidRequest, Overloaded, TooLarge
from service.inputs import are_one, hold_numbers
from service.observers import TellBatches, TellSteps
from service.scheduling import decoding_batch as table
from service.scheduling import sequences
from service.scheduling.cost_model import CostModel
from service.scheduling.decoding import StepScheduler
from service.scheduling.job import InferenceRequest, Job
from service.scheduling.loop import LoopBudget, SchedulerLoop
from service.scheduling.sequences import SequenceScheduler
from service.settings import Settings
from service.telemetry import Telemetry
from service.tensor_runtime import TensorRuntime, Work, open_tensor_runtime

Answer = Callable[..., list[Any]]  # of an item and its row, with the parameters of its task
UNITS = {"words": "words", "characters": "characters", "dna": "bases", "frames": "frames"}  # steps, by codec


@dataclass(frozen=True, kw_only=True)
class ModelRuntime:
    """`scheduler` is a StepScheduler for generation, else a SequenceScheduler.

    A bundle of several tasks has one lane all the same: whichever is asked, one run of the network answers it.
    """

    bundle: Bundle
    scheduler: SequenceScheduler | StepScheduler
    pump: SchedulerLoop
    tensors: TensorRuntime  # for arrays that come as they are
    most: int  # requests under way
    limit: int  # steps of the longest input
    answers: Mapping[str, Answer]  # by the task that is asked for
    open: set[Job] = field(default_factory=set)  # those under way

    def check_room(self, inputs: int) -> None:
        """Raise Overloaded or Unavailable if a request of so many inputs is not taken: ask before the work on it."""
        if self.is_full():
            raise self.overload()
        self.scheduler.check_room(inputs)

    def is_full(self) -> bool:
        """Whether as many requests as may be are under way."""
        if len(self.open) >= self.most:
            self.scheduler.drop_the_gone()
            self.tensors.scheduler.drop_the_gone()
        return len(self.open) >= self.most

    def overload(self) -> Overloaded:
        """What a request is told that comes while the lane is full."""
        return Overloaded(
            f"{len(self.open)} requests to {self.name} are under way already: come back later",
            retry_after_s=1.0,
            limit=self.most,
        )

    def refuses(self) -> bool:
        """Whether `check_room` would raise Overloaded for one input: cheap."""
        return self.is_full() or self.scheduler.is_full(1)

    def refusal(self) -> Overloaded:
        """What it would raise."""
        return self.overload() if self.is_full() else self.scheduler.overload()

    def submit(
        self,
        request: InferenceRequest,
        parts: Sequence[Any] | Work,
        settled: Callable[[], None],
        follow: Callable[[], None] | None = None,
    ) -> Job:
        """Queue the parts of a request, or arrays for the graph; `settled` is called once, `follow` whenever its texts
        have got on. Raises what the scheduler raises.
        """

        def settle(ticket: Job) -> None:
            self.open.discard(ticket)
            settled()

        if isinstance(parts, Work):
            ticket = Job(request, 1, settle, monotonic())
            self.tensors.scheduler.submit(ticket, parts)
        else:
            ticket = Job(request, len(parts), settle, monotonic(), follow)
            self.scheduler.submit(ticket, parts)
        self.open.add(ticket)
        (self.tensors if isinstance(parts, Work) else self).pump.wake()
        return ticket

    @property
    def name(self) -> str:
        return self.bundle.manifest.name

    @property
    def nothing(self) -> Any:
        """The row of an item without a step, which no network sees."""
        task = self.bundle.task
        assert not isinstance(task, Generation)
        return task.empty_row

    @property
    def tasks(self) -> tuple[str, ...]:
        """What can be asked of it."""
        manifest = self.bundle.manifest
        embed = ("embed",) if manifest.embedding_width else ()
        stream = ("stream",) if manifest.streams else ()
        return (*SERVES[manifest.task], *embed, *stream)

    def is_one(self, inputs: list[Any]) -> bool:
        """Whether a list is one input, as frames are, and not a list of them."""
        return self.bundle.manifest.codec.kind == "frames" and are_one(inputs)

    def check_kind(self, inputs: Sequence[Any]) -> None:
        """Raise InvalidRequest for numbers where text is read. (A codec of frames refuses text by itself.)"""
        if self.bundle.manifest.codec.kind != "frames" and isinstance(inputs, list) and hold_numbers(inputs):
            raise InvalidRequest(
                f"{self.name} reads text, not numbers: send strings, or name a model that takes frames",
                field="inputs",
            )

    def encode(self, raw: Any, place: int | None = None) -> Any:
        """Encode one input, which is at `place` of the request's list if there is one.

        Raises TooLarge for an input that is too long, InvalidRequest for one that cannot be read.
        """
        limit = self.limit
        try:
            item = self.bundle.task.encode(raw, limit=limit)
        except InputError as error:
            raise self._refused(error, place) from None
        if item.length > limit:
            field = _field(place)
            raise TooLarge(
                f"more than {limit} {self.unit}, the limit of {self.name}; split it", limit=limit, field=field
            )
        return item

    def _refused(self, error: InputError, place: int | None) -> InvalidRequest | TooLarge:
        field = _field(place)
        if isinstance(error, TooLong) and error.limit is not None:
            return TooLarge(str(error), limit=error.limit, field=field)
        return InvalidRequest(str(error), field=field, limit=error.limit, value=error.value)

    def card(self) -> dict[str, Any]:
        """What /v1/models tells of the bundle: OpenAI's fields first, then ours."""
        manifest = self.bundle.manifest
        created = datetime.combine(manifest.provenance.created, time_of_day(), tzinfo=UTC)
        return {
            "id": manifest.name,
            "object": "model",
            "created": int(created.timestamp()),
            "owned_by": "seqserve",
            "task": manifest.task,
            "tasks": list(self.tasks),
            "description": manifest.description,
            "languages": list(manifest.languages),
            "codec": manifest.codec.kind,
            "labels": list(manifest.labels),
            "text_labels": list(manifest.text_labels),
            "streams": manifest.streams,
            "embeddings": manifest.embedding_width,
            "limits": {**manifest.limits.model_dump(), "max_length": manifest.max_length},
            "version": manifest.version,
            "digest": self.bundle.digest,
            "variant": self.bundle.variant,
            "metric": manifest.metric,
            "scores": {name: variant.scores for name, variant in manifest.variants.items()},
            "examples": [example.inputs for example in manifest.examples],
        }

    @property
    def unit(self) -> str:
        """What a step of an input is called."""
        return UNITS[self.bundle.manifest.codec.kind]


def _field(place: int | None) -> str:
    """Where in the request an input is."""
    return "inputs" if place is None else f"inputs[{place}]"


def _answers(bundle: Bundle) -> dict[str, Answer]:
    if isinstance(bundle.task, Joint):
        return {"tag": bundle.task.tags, "classify": bundle.task.labels}
    return {} if isinstance(bundle.task, Generation) else {bundle.manifest.task: bundle.task.answer}


def open_runtime(
    bundle: Bundle, settings: Settings, telemetry: Telemetry, executor: Executor, turns: LoopBudget
) -> ModelRuntime:
    """Put a scheduler before a loaded bundle."""
    name = bundle.manifest.name
    scheduler: SequenceScheduler | StepScheduler
    if isinstance(bundle.task, Generation):
        scheduler = StepScheduler(
            Writer(bundle, bundle.task, slots=settings.slots),
            limits=table.Limits(
                slots=settings.slots, queue_items=settings.queue_items, queue_tokens=settings.queue_tokens
            ),
            clock=monotonic,
            observer=TellSteps(telemetry, name),
        )
    else:
        scheduler = SequenceScheduler(
            Runner(bundle),
            limits=sequences.Limits(
                queue_items=settings.queue_items,
                queue_tokens=settings.queue_tokens,
                queue_s=settings.queue_s,
                batch_rows=settings.batch_rows,
                batch_tokens=settings.batch_tokens,
            ),
            cost=CostModel(),
            clock=monotonic,
            observer=TellBatches(telemetry, name),
        )
    pump = SchedulerLoop(scheduler, executor, clock=monotonic, turns=turns)
    return ModelRuntime(
        bundle=bundle,
        scheduler=scheduler,
        pump=pump,
        tensors=open_tensor_runtime(bundle, settings, executor, turns),
        most=settings.queue_requests,
        limit=bundle.manifest.max_length,
        answers=_answers(bundle),
    )


class Runner:
    """Items of a bundle that reads whole sequences to a row each."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    def __call__(self, items: Sequence[Any]) -> Sequence[Any]:
        task = self._bundle.task
        assert not isinstance(task, Generation)
        rows: Sequence[Any] = task.decode(items, self._bundle.model.run(task.collate(items)))
        return rows


class Writer:
    """A language model as the step scheduler wants it."""

    def __init__(self, bundle: Bundle, task: Generation, *, slots: int) -> None:
        self._run, self._task = bundle.model.run_list, task
        self._decoder: InPlaceDecoder | None = None
        vocabulary = bundle.model.answer_width
        if bundle.model.device == "cpu" and vocabulary is not None:
            self._decoder = InPlaceDecoder(task, bundle.model.bind, slots=slots, vocabulary=vocabulary)

    def room(self) -> State:
        """Where a table begins."""
        return self.zeros(0) if self._decoder is None else self._decoder.empty_state

    def zeros(self, rows: int) -> State:
        return state.zeros(self._task.state, rows)

    def advance(
        self, tokens: NDArray[np.int32], lengths: NDArray[np.int32], memory: State
    ) -> tuple[NDArray[np.float32], State]:
        if self._decoder is not None and len(tokens) == 1:
            found = self._decoder.step(tokens[0], memory)
            if found is not None:
                return found
        return self._task.advance(self._run, tokens, lengths, memory)
