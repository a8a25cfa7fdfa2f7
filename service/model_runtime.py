"""One loaded bundle with its schedulers and limits."""

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any
from urllib.parse import quote

from models.bundle import Bundle
from models.codecs import InputError, TooLong
from models.inputs import are_one, hold_numbers
from models.manifest import SERVES, AnySpec, SeriesSpec, Tensor
from models.onnx_session import GraphRefused
from models.tasks import Decoding, Generation, Joint, Translation
from models.tasks.generate import InPlaceDecoder
from models.tensor_inputs import TensorValidator
from service.errors import InvalidRequest, Overloaded, TooLarge, Unavailable
from service.scheduling.cost_model import CostModel
from service.scheduling.decoding import DecodingScheduler
from service.scheduling.decoding_batch import DecodingLimits
from service.scheduling.generation_batch import GenerationBatch, LanguageModelRunner
from service.scheduling.job import InferenceRequest, Job, ModelIdentity, QueueLimits, Scheduler, exceeds_part
from service.scheduling.loop import LoopBudget, SchedulerLoop
from service.scheduling.sequences import SequenceLimits, SequenceScheduler
from service.scheduling.tensors import Arrays, TensorRequest, TensorScheduler
from service.scheduling.translation_batch import TranslationBatch
from service.settings import Settings
from service.telemetry import ModelMetrics, Telemetry

log = logging.getLogger(__name__)

Decode = Callable[..., Any]  # of an encoded input and its row, with the parameters of the task
NUMERIC = ("frames", "series", "image")  # codecs that read numbers
CHARACTERS_PER_TOKEN = {"words": 8, "pieces": 4}  # with the spaces between: few texts have longer ones
# Name of a step, by codec.
UNITS = {
    "words": "words",
    "characters": "characters",
    "dna": "bases",
    "frames": "frames",
    "series": "segments",
    "pieces": "tokens",
    "image": "patches",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One input or output of a model. A free dimension is None."""

    name: str
    dtype: str  # "float32" or "int32"
    shape: tuple[int | None, ...]


class TensorRuntime:
    """The tensors of one bundle: what the model takes and returns, and the queue of requests that send tensors."""

    def __init__(self, bundle: Bundle, settings: Settings, scheduler: TensorScheduler, loop: SchedulerLoop) -> None:
        self.scheduler, self.loop = scheduler, loop
        manifest = bundle.manifest
        self.name, self.version = manifest.name, manifest.version
        self.tasks = SERVES[manifest.task]
        self.reads_text = manifest.reads.kind not in NUMERIC
        # Number of labels by task: a joint bundle has labels for each step and for the whole input.
        text_labels = manifest.text_labels if manifest.task == "joint" else manifest.labels
        self.labels = {"tag": len(manifest.labels), "classify": len(text_labels)}
        self._validator = TensorValidator(manifest, bundle.task.codec)
        state = (Tensor(name=part.output, dtype=part.dtype, shape=("B", part.width)) for part in manifest.state)
        # One step of a translator is of no use without its beams: such a bundle takes texts or vectors only.
        self.takes_arrays = not isinstance(bundle.task, Translation)
        self.inputs = tuple(map(_spec, self._validator.tensors)) if self.takes_arrays else ()
        self.outputs = tuple(map(_spec, (*manifest.outputs, *state))) if self.takes_arrays else ()
        self._max_cells = settings.batch_tokens

    def check(self, arrays: Arrays) -> TensorRequest:
        """Return the checked arrays with their cost. Raises InvalidRequest and TooLarge, whose field is `inputs`."""
        if not self.takes_arrays:
            raise InvalidRequest(f"{self.name} takes no tensors of a graph; see its metadata", field="inputs")
        try:
            size = self._validator.check(arrays, cells=self._max_cells)
        except TooLong as error:
            raise TooLarge(str(error), limit=error.limit or self._max_cells, field="inputs") from None
        except InputError as error:
            raise InvalidRequest(str(error), field="inputs", limit=error.limit, value=error.value) from None
        return TensorRequest(arrays=arrays, rows=size.rows, steps=size.steps, extra=size.extra)


@dataclass(frozen=True, kw_only=True, eq=False)  # compared by identity
class ModelRuntime:
    """One loaded bundle. A bundle of several tasks has one queue: one run of its model answers all of them."""

    bundle: Bundle
    identity: ModelIdentity
    scheduler: SequenceScheduler | DecodingScheduler
    loop: SchedulerLoop
    tensors: TensorRuntime
    max_requests: int  # in progress
    max_length: int  # of one input, in steps
    reads: AnySpec  # the codec of inputs, which every request asks for
    characters_per_token: int  # of a text, about
    decoders: Mapping[str, Decode]  # by task

    @property
    def name(self) -> str:
        return self.bundle.manifest.name

    @property
    def version(self) -> str:
        return self.bundle.manifest.version

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that a request can ask for."""
        manifest = self.bundle.manifest
        embed = ("embed",) if manifest.embedding_width else ()
        stream = ("stream",) if manifest.streams else ()
        return (*SERVES[manifest.task], *embed, *stream)

    @property
    def empty_row(self) -> Any:
        """The row of an input without steps."""
        task = self.bundle.task
        assert not isinstance(task, Decoding)
        return task.empty_row

    @property
    def unit(self) -> str:
        """The name of one step of an input."""
        return UNITS[self.reads.kind]

    @property
    def slots(self) -> int:
        """Rows of the decoding batch, 0 for a model that does not decode."""
        return self.scheduler.slots if isinstance(self.scheduler, DecodingScheduler) else 0

    @property
    def used_slots(self) -> int:
        """Rows of the decoding batch that are in use."""
        return self.scheduler.used_slots if isinstance(self.scheduler, DecodingScheduler) else 0

    @property
    def queued_items(self) -> int:
        """The inputs in both queues."""
        return self.scheduler.queued_items + self.tensors.scheduler.queued_items

    @property
    def saturation(self) -> float:
        """The share of the queues, slots or requests in progress that is used, from 0 to 1, whichever is largest."""
        requests = min(1.0, len(self.jobs) / self.max_requests)
        return max(requests, self.scheduler.saturation, self.tensors.scheduler.saturation)

    @property
    def ready(self) -> bool:
        """False while a scheduler keeps failing."""
        return self.loop.healthy and self.tensors.loop.healthy

    @property
    def jobs(self) -> list[Job]:
        """The requests in progress."""
        return [*self.scheduler.jobs, *self.tensors.scheduler.jobs]

    def estimated_tokens(self, raw: Any) -> int:
        """Return about how many tokens an input has, without reading it."""
        if isinstance(raw, str):
            return min(len(raw) // self.characters_per_token, self.max_length)
        codec = self.reads
        if isinstance(codec, SeriesSpec):
            return -(-min(len(raw), codec.longest) // codec.segment)
        return min(len(raw), self.max_length)

    def check_ready(self) -> None:
        """Raise Unavailable unless the bundle is ready."""
        if not (self.loop.healthy and self.tensors.loop.healthy):
            raise Unavailable(f"{self.name} has failed and is being restarted; try again in a few seconds")

    def admit(self, request: InferenceRequest, inputs: int, tokens: int = 0, *, as_tensors: bool = False) -> Job:
        """Reserve room in the queue for a request, before any work on it.

        `tokens` are those that are known or estimated before the inputs are encoded. Use the job as a context manager:
        it frees the reservation on any error. Raises Overloaded, Unavailable or DeadlinePassed.
        """
        request.model = self.identity
        self.check_ready()
        scheduler: Scheduler = self.tensors.scheduler if as_tensors else self.scheduler
        if self._is_full(request.client):
            self.scheduler.drop_cancelled()
            self.tensors.scheduler.drop_cancelled()
            if self._is_full(request.client):
                raise Overloaded(
                    f"{len(self.jobs)} requests to {self.name} are in progress; the limit is {self.max_requests}, and"
                    " lower for a client that has most of them; retry later",
                    retry_after_s=1.0,
                    limit=self.max_requests,
                    any_size=True,
                )
        return scheduler.admit(request, inputs, tokens)

    def submit(self, job: Job, items: Sequence[Any] | TensorRequest) -> None:
        """Queue the encoded inputs of an admitted job, or its checked tensors."""
        if isinstance(items, TensorRequest):
            self.tensors.scheduler.submit(job, items)
            self.tensors.loop.wake()
        else:
            self.scheduler.submit(job, items)
            self.loop.wake()

    def close(self) -> None:
        """Admit nothing more."""
        self.scheduler.close()
        self.tensors.scheduler.close()

    def is_single(self, inputs: list[Any]) -> bool:
        """Return whether a list is one input, as frames are, and not a list of inputs."""
        return self.reads.kind == "frames" and are_one(inputs)

    def check_kind(self, inputs: Sequence[Any]) -> None:
        """Raise InvalidRequest for numbers if the model reads text. A codec of frames rejects text itself."""
        if self.reads.kind not in NUMERIC and isinstance(inputs, list) and hold_numbers(inputs):
            raise InvalidRequest(
                f"{self.name} reads text, not numbers; send strings, or name a model that takes frames",
                field="inputs",
            )

    def encode(
        self, raw: Any, index: int | None = None, *, name: str | None = None, truncate: bool = False, **options: Any
    ) -> Any:
        """Encode one input. `index` is its place in the request's list, None for a single input; `name` its field.

        `truncate` cuts an input after `max_length` steps. `options` are those of the task. Raises TooLarge for an input
        that is too long, InvalidRequest for one that cannot be read.
        """
        limit = self.max_length
        try:
            item = self.bundle.task.encode(
                raw, limit=limit - truncate, **options
            )  # codecs encode one step more than the limit
        except InputError as error:
            field = name or _field(index)
            if isinstance(error, TooLong) and error.limit is not None:
                raise TooLarge(str(error), limit=error.limit, field=field) from None
            raise InvalidRequest(str(error), field=field, limit=error.limit, value=error.value) from None
        if item.length > limit:
            message = f"more than {limit} {self.unit}, the limit of {self.name}; split it"
            raise TooLarge(message, limit=limit, field=_field(index))
        return item

    def _is_full(self, client: str) -> bool:
        count, limit = len(self.scheduler.jobs) + len(self.tensors.scheduler.jobs), self.max_requests
        if 2 * count <= limit:  # the usual case
            return False
        found = (self.scheduler.shares, self.tensors.scheduler.shares)
        held = sum(shares[client].jobs for shares in found if client in shares)
        clients = len(found[0].keys() | found[1].keys()) if held else 0
        return count >= limit or (held > 0 and exceeds_part(held, 1, total=count, clients=clients, limit=limit))


def open_runtime(
    bundle: Bundle, settings: Settings, telemetry: Telemetry, executor: Executor, budget: LoopBudget
) -> ModelRuntime:
    """Make the schedulers of a loaded bundle."""
    name, version = bundle.manifest.name, bundle.manifest.version
    metrics = ModelMetrics(telemetry, name, version)
    # A version is any text, but a header is not.
    label = f"{name}@{quote(version, safe='')};digest=sha256:{bundle.digest};variant={bundle.variant}"
    scheduler = _scheduler(bundle, settings, metrics)
    tensor_scheduler = TensorScheduler(
        partial(_run_tensors, bundle),
        limits=QueueLimits(queue_items=settings.queue_items, queue_tokens=settings.queue_tokens),
        cost=CostModel(),
        clock=monotonic,
        metrics=metrics,
    )
    tensor_loop = SchedulerLoop(tensor_scheduler, executor, clock=monotonic, budget=budget)
    return ModelRuntime(
        bundle=bundle,
        identity=ModelIdentity(name, version, label.encode()),
        scheduler=scheduler,
        loop=SchedulerLoop(scheduler, executor, clock=monotonic, budget=budget),
        tensors=TensorRuntime(bundle, settings, tensor_scheduler, tensor_loop),
        max_requests=settings.queue_requests,
        max_length=bundle.manifest.max_length,
        reads=bundle.manifest.reads,
        characters_per_token=CHARACTERS_PER_TOKEN.get(bundle.manifest.reads.kind, 1),
        decoders=_decoders(bundle),
    )


def _scheduler(bundle: Bundle, settings: Settings, metrics: ModelMetrics) -> SequenceScheduler | DecodingScheduler:
    if isinstance(bundle.task, Decoding):
        limits = DecodingLimits(
            slots=settings.generation_slots, queue_items=settings.queue_items, queue_tokens=settings.queue_tokens
        )
        if isinstance(bundle.task, Translation):
            return DecodingScheduler(
                TranslationBatch(bundle.translator, limits=limits, clock=monotonic, metrics=metrics)
            )
        model = _language_model(bundle, bundle.task, slots=limits.slots)
        return DecodingScheduler(GenerationBatch(model, limits=limits, clock=monotonic, metrics=metrics))
    return SequenceScheduler(
        partial(_run_sequences, bundle),
        limits=SequenceLimits(
            queue_items=settings.queue_items,
            queue_tokens=settings.queue_tokens,
            queue_s=settings.queue_max_wait_s,
            batch_rows=settings.batch_rows,
            batch_tokens=settings.batch_tokens,
        ),
        cost=CostModel(),
        clock=monotonic,
        metrics=metrics,
    )


def _run_sequences(bundle: Bundle, items: Sequence[Any]) -> Sequence[Any]:
    """Run one batch of encoded inputs. Returns a row for each."""
    task = bundle.task
    assert not isinstance(task, Decoding)
    rows: Sequence[Any] = task.decode(items, bundle.model.run(task.collate(items)))
    return rows


def _language_model(bundle: Bundle, task: Generation, *, slots: int) -> LanguageModelRunner:
    model = bundle.model
    in_place = None
    if model.device == "cpu" and model.answer_width is not None:
        in_place = InPlaceDecoder(task, model.bind, slots=slots, vocabulary=model.answer_width)
    return LanguageModelRunner(task, model.run_list, in_place)


def _run_tensors(bundle: Bundle, tensors: TensorRequest) -> Arrays:
    try:
        return bundle.model.run_untrusted(tensors.arrays)
    except GraphRefused as error:
        name = bundle.manifest.name
        log.warning("the model %s cannot run tensors that passed the checks: %s", name, error)
        message = f"the model {name} cannot run these tensors; see its metadata for what it takes"
        raise InvalidRequest(message, field="inputs") from None


def _decoders(bundle: Bundle) -> dict[str, Decode]:
    if isinstance(bundle.task, Joint):
        return {"tag": bundle.task.tags, "classify": bundle.task.labels}
    return {} if isinstance(bundle.task, Decoding) else {bundle.manifest.task: bundle.task.answer}


def _field(index: int | None) -> str:
    return "inputs" if index is None else f"inputs[{index}]"


def _spec(tensor: Tensor) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) else None for size in tensor.shape)
    return TensorSpec(name=tensor.name, dtype=tensor.dtype, shape=shape)
