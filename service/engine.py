"""Runs requests on the loaded bundles: one coroutine per task, which admits, encodes, submits, waits and decodes."""

import asyncio
import contextlib
import logging
import secrets
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from models import state as states
from models.codecs import InputError
from models.inputs import Chunk, Frames, Inputs
from models.manifest import StateTensor
from models.state import State
from models.tasks import (
    EmbeddingInput,
    Filling,
    Forecast,
    Forecasting,
    GenerationResult,
    Joint,
    LabelScore,
    StreamChunk,
    TaggedInput,
    Tagging,
    Translation,
    TranslationResult,
)
from models.tasks.beam_search import TranslateOptions
from models.tasks.fill import EncodedGaps, FillAnswer
from models.tasks.generate import GeneratedText
from models.tasks.translate import TranslatedSource
from service.catalog import Catalog, ModelName
from service.errors import InvalidRequest, TooLarge, Unavailable
from service.generation import GenerationParameters, GenerationStream
from service.model_runtime import ModelRuntime
from service.model_store import ModelStore, stream_subject
from service.repository import Release, read_release
from service.resting_thread import RestingThread
from service.scheduling.job import InferenceRequest, Job
from service.scheduling.tensors import Arrays
from service.scheduling.translation_batch import search_tokens
from service.settings import Settings
from service.state_tokens import StateSigner
from service.telemetry import Telemetry
from service.translation import DETAILS, TranslationParameters

log = logging.getLogger(__name__)

DRAIN_POLL_S = 0.01
# Long requests yield to the event loop after this much work.
ENCODE_SLICE = 4_096  # characters: about 2 ms for cached words, and 20 ms for new ones with n-grams
DECODE_SLICE = 8_192  # words, characters, or values of a forecast: about 5 ms
FORECAST_VALUES_MAX = 1 << 18  # in one answer, of all series and quantiles: about 3 MB of JSON
FILLED_CHARACTERS_MAX = 1 << 22  # in one answer: each word for a gap has the whole text
ATTENTION_VALUES_MAX = 1 << 18  # in the details of one answer: likewise
STREAM_STEPS = struct.Struct("<Q")


@dataclass(slots=True, weakref_slot=True, kw_only=True, eq=False)
class TaggingStream:
    """The state of a stream. A successful chunk updates it; a failed chunk leaves it unchanged."""

    runtime: ModelRuntime  # the version that it began with, which answers it to its end
    state: State  # arrays (1, width): this size however long the stream is
    steps: int = 0
    ended: bool = False

    def pack(self) -> bytes:
        """Return the steps and the state as bytes."""
        return STREAM_STEPS.pack(self.steps) + states.pack(self.state)

    @classmethod
    def unpack(cls, runtime: ModelRuntime, payload: bytes, tensors: Sequence[StateTensor]) -> Self:
        """Return the stream that was packed. Raises ValueError for a payload of another size."""
        if len(payload) != packed_size(tensors):
            raise ValueError(f"a packed stream has {packed_size(tensors)} bytes, not {len(payload)}")
        (steps,) = STREAM_STEPS.unpack_from(payload)
        return cls(runtime=runtime, state=states.unpack(payload, tensors, STREAM_STEPS.size), steps=steps)


def packed_size(tensors: Sequence[StateTensor]) -> int:
    """Return the bytes of a packed stream."""
    return STREAM_STEPS.size + states.packed_size(tensors)


class Engine:
    """All models of one worker process. Except for `load`, use it on the event loop only."""

    def __init__(self, settings: Settings, telemetry: Telemetry) -> None:
        # One thread: batches of several bundles queue rather than compete for this worker's cores.
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="compute")
        keys = settings.state_key or (secrets.token_urlsafe(),)  # app.py sets one key for all workers of a service
        self._signer = StateSigner(keys, ttl_s=settings.state_ttl_s, clock=time.time)
        self._request_tokens = settings.request_tokens
        self._pictures = RestingThread("pictures", "pictures", queue=settings.queue_requests)
        self.models = ModelStore(settings, telemetry, self._executor, self._signer)
        self._open = True

    @classmethod
    def load(cls, settings: Settings, telemetry: Telemetry, *, release: Release | None = None) -> "Engine":
        """Open the versions of a release, by default that on disk, and run their self-tests.

        Blocks. Raises BundleError or BadSetting. A worker that starts later gets the release of the others, and refuses
        a bundle that was replaced in between.
        """
        engine = cls(settings, telemetry)
        release = release or read_release(settings)
        engine.models.serve(release, engine.models.load_missing(release))
        return engine

    @property
    def ready(self) -> bool:
        """Whether every bundle can answer requests."""
        return self._open and all(runtime.ready for runtime in self.runtimes.values())

    @property
    def catalog(self) -> Catalog:
        """What is served now."""
        return self.models.catalog

    @property
    def runtimes(self) -> Mapping[str, ModelRuntime]:
        """The default version of each model by name, in the order of the settings."""
        return self.models.catalog.runtimes

    def defaults(self) -> dict[str, str]:
        """Return, for each task, the model that answers a request that names none."""
        return self.models.catalog.defaults()

    def runtime_for(self, task: str, model: ModelName) -> ModelRuntime:
        """Return the named version of a model, or the first model for the task. Raises UnknownModel."""
        catalog = self.models.catalog
        return catalog.by_task[task].get(model) or catalog.find_for(task, model)  # usually one lookup

    async def tag(
        self,
        inputs: Inputs,
        *,
        model: ModelName = None,
        aggregation: str | None = None,
        frame_rate: float | None = None,
        request: InferenceRequest,
    ) -> TaggedInput | list[TaggedInput]:
        """Return the entities of one input, or a list of them for a list of inputs.

        `frame_rate` is for merged frames. Raises InvalidRequest if it has no effect.
        """
        runtime = self.runtime_for("tag", model)
        decode = partial(runtime.decoders["tag"], aggregation=aggregation)
        if frame_rate is not None:
            _check_frame_rate(runtime, aggregation, frame_rate)
            decode = partial(decode, frame_rate=frame_rate)
        if isinstance(inputs, str) or runtime.is_single(inputs):
            item, row = await self._run_one(runtime, inputs, request)
            return cast(TaggedInput, decode(item, row))
        items, rows = await self._run_all(runtime, inputs, request)
        return await _decode_all(items, rows, decode)

    async def classify(
        self,
        inputs: str | list[str] | Frames | list[Frames],
        *,
        model: ModelName = None,
        top_k: int | None = None,
        truncate: bool = False,
        request: InferenceRequest,
    ) -> list[list[LabelScore]]:
        """Return the labels of each input, best first. `truncate` cuts inputs that are too long."""
        runtime = self.runtime_for("classify", model)
        decode = runtime.decoders["classify"]
        if isinstance(inputs, str) or runtime.is_single(inputs):
            item, row = await self._run_one(runtime, inputs, request, truncate=truncate)
            return [decode(item, row, top_k=top_k)]
        items, rows = await self._run_all(runtime, inputs, request, truncate=truncate)
        return await _decode_all(items, rows, lambda item, row: decode(item, row, top_k=top_k))

    async def tag_and_classify(
        self,
        inputs: Sequence[Any],
        *,
        model: ModelName,
        aggregation: str | None = None,
        top_k: int | None = None,
        request: InferenceRequest,
    ) -> tuple[list[TaggedInput], list[list[LabelScore]]]:
        """Return the entities and the labels of each input of a list, from one run of a joint bundle."""
        runtime = self.runtime_for("tag", model)
        tags, labels = runtime.decoders["tag"], runtime.decoders["classify"]
        items, rows = await self._run_all(runtime, inputs, request)
        return (
            await _decode_all(items, rows, lambda item, row: tags(item, row, aggregation=aggregation)),
            await _decode_all(items, rows, lambda item, row: labels(item, row, top_k=top_k)),
        )

    async def forecast(
        self,
        series: Sequence[list[float | None]],
        *,
        names: Sequence[str],
        model: ModelName = None,
        length: int,
        levels: Sequence[float],
        fields: tuple[str, str],
        request: InferenceRequest,
    ) -> list[Forecast]:
        """Return the next `length` values of each series, with quantiles of these levels.

        `names` are the fields of the request that the series come from, and `fields` those of `length` and `levels`.
        Raises InvalidRequest for what the bundle cannot forecast or read, and TooLarge for a large answer.
        """
        runtime = self.runtime_for("forecast", model)
        task = cast(Forecasting, runtime.bundle.task)
        for field, error in zip(fields, (task.check_horizon(length), task.check_levels(levels)), strict=True):
            if error is not None:
                raise InvalidRequest(str(error), field=field, value=error.value, limit=error.limit)
        values = length * (1 + len(levels))  # in the answer for one series
        if len(series) * values > FORECAST_VALUES_MAX:
            raise TooLarge(
                f"{len(series)} series times {length} values, with {len(levels)} quantiles each, are "
                f"{len(series) * values} values; the limit is {FORECAST_VALUES_MAX}; send several requests",
                limit=FORECAST_VALUES_MAX,
                value=len(series) * values,
                field="inputs",
            )
        items, rows = await self._run_all(runtime, series, request, names=names)
        return await _decode_all(
            items,
            rows,
            lambda item, row: task.answer(item, row, prediction_length=length, quantile_levels=levels),
            new_tokens=values,
        )

    async def fill(
        self,
        inputs: str | Sequence[str],
        *,
        model: ModelName = None,
        top_k: int | None = None,
        targets: Sequence[str] = (),
        fields: tuple[str, str],
        request: InferenceRequest,
    ) -> FillAnswer | list[FillAnswer]:
        """Return the words for the gaps of one text, or a list of them for a list of texts.

        `fields` are those of `top_k` and `targets`. Raises InvalidRequest for parameters that the bundle does not take
        and for a text that it cannot read, and TooLarge for a large answer.
        """
        runtime = self.runtime_for("fill", model)
        task = cast(Filling, runtime.bundle.task)
        if error := task.check_top_k(top_k):
            raise InvalidRequest(str(error), field=fields[0], value=error.value, limit=error.limit)
        try:
            rows = task.rows_of(targets)
        except InputError as error:
            raise InvalidRequest(str(error), field=fields[1], value=error.value, limit=error.limit) from None

        def prepare(item: EncodedGaps) -> EncodedGaps:
            return task.with_targets(item, rows)

        raws = [inputs] if isinstance(inputs, str) else inputs
        items, found = await self._run_all(runtime, raws, request, single=isinstance(inputs, str), prepare=prepare)
        characters = sum(len(item.text) * len(item.steps) * task.count(item, top_k) for item in items)
        if characters > FILLED_CHARACTERS_MAX:
            raise TooLarge(
                f"the answer has {characters} characters, because each word comes with its text; the limit is "
                f"{FILLED_CHARACTERS_MAX}; send fewer gaps, or a lower top_k",
                limit=FILLED_CHARACTERS_MAX,
                value=characters,
                field="inputs",
            )
        answers = await _decode_all(items, found, lambda item, row: task.answer(item, row, top_k=top_k))
        return answers[0] if isinstance(inputs, str) else answers

    async def embed(
        self,
        inputs: str | Sequence[Any],
        *,
        model: ModelName = None,
        truncate: bool = False,
        request: InferenceRequest,
    ) -> list[tuple[NDArray[np.float32], int]]:
        """Return the vector (W,) of each input and the number of its steps.

        `truncate` cuts inputs that are too long.
        """
        runtime = self.runtime_for("embed", model)
        single = isinstance(inputs, str) or runtime.is_single(list(inputs))
        raws = [inputs] if single else inputs
        with runtime.admit(request, len(raws), sum(map(runtime.estimated_tokens, raws))) as job:
            items = await self._encode_all(runtime, job, raws, single=single, truncate=truncate)
            for index, item in enumerate(items):
                if not item.length:
                    field = "inputs" if single else f"inputs[{index}]"
                    raise InvalidRequest(f"has no {runtime.unit}, so it has no vector", field=field)
            if not items:
                return []
            runtime.submit(job, [EmbeddingInput(item) for item in items])
            vectors = await job
        return [(vector, item.length) for vector, item in zip(vectors, items, strict=True)]

    def open_stream(self, model: ModelName = None, *, state: str | None = None) -> TaggingStream:
        """Return a new stream, or the one that `state_token` saved. Raises InvalidRequest."""
        runtime = self.models.find_for("stream", model, state=state)
        task = cast(Tagging, runtime.bundle.task)
        if state is None:
            stream = TaggingStream(runtime=runtime, state=task.start())
        else:
            payload = self._signer.verify(state, stream_subject(runtime), max_bytes=packed_size(task.stream_state))
            stream = TaggingStream.unpack(runtime, payload, task.stream_state)
        self.models.users.add(stream)
        return stream

    def state_token(self, stream: TaggingStream) -> str:
        """Return a token for `open_stream`, here or on any replica that has the key."""
        return self._signer.sign(stream.pack(), stream_subject(stream.runtime))

    async def advance(
        self, stream: TaggingStream, inputs: Chunk, *, end: bool = False, request: InferenceRequest
    ) -> TaggedInput:
        """Return the entity of each step of the next chunk. Positions count steps since the stream began.

        A bundle with a delay labels frames of earlier chunks, and none of the latest. `end`: `inputs` are the last
        chunk, so label all frames. Raises InvalidRequest if the stream has ended.
        """
        if stream.ended:
            raise InvalidRequest("this stream has ended; open another", field="inputs")
        runtime = stream.runtime
        task = cast(Tagging, runtime.bundle.task)
        is_frame = isinstance(inputs, list) and bool(inputs) and isinstance(inputs[0], int | float)
        with runtime.admit(request, 1) as job:
            runtime.check_kind([inputs])
            item = runtime.encode([inputs] if is_frame else inputs)
            self._check_tokens(runtime, item.length)
            steps = stream.steps + item.length
            if end and task.delay and steps:
                item = task.last_chunk(item if item.length else None, stream.state)
            if not item.length:
                stream.ended = end
                return TaggedInput()
            runtime.submit(job, (StreamChunk(item, stream.state),))
            (row,) = await job
        first = stream.steps - task.delay  # the step that the chunk's first label is for
        stream.state, stream.steps, stream.ended = row.state, steps, end
        tagged = task.answer(item, row, aggregation="none")
        return tagged.placed_at(first)

    async def generate(
        self,
        inputs: str | list[str],
        *,
        model: ModelName = None,
        options: GenerationParameters,
        request: InferenceRequest,
    ) -> GenerationResult | list[GenerationResult]:
        """Return the generated text of one prompt, or a list of them. An empty prompt has an empty text."""
        runtime = self.models.find_for("generate", model, state=options.state)
        single = isinstance(inputs, str)
        prompts = [inputs] if isinstance(inputs, str) else inputs
        service, new_tokens = self.models.generation(runtime), options.max_new_tokens
        tokens = sum(map(runtime.estimated_tokens, prompts)) + new_tokens * len(prompts)
        with runtime.admit(request, len(prompts), tokens) as job:
            items = await self._encode_all(runtime, job, prompts, new_tokens=new_tokens, single=single)
            jobs = service.start(prompts, items, [options] * len(prompts))
            if queued := [(each.tokens, each.text) for each in jobs if len(each.tokens)]:
                runtime.submit(job, queued)
                await job
        texts = [each.text for each in jobs]
        results = await _decode_all(items, texts, lambda _, text: service.result(text), new_tokens=new_tokens)
        return results[0] if single else results

    async def generate_stream(
        self,
        prompts: Sequence[str],
        *,
        model: ModelName = None,
        options: Sequence[GenerationParameters],
        request: InferenceRequest,
    ) -> GenerationStream[GeneratedText]:
        """Return the texts while they are generated. Each prompt has its own parameters."""
        state = options[0].state if options else None
        runtime = self.models.find_for("generate", model, state=state)
        new_tokens = max((each.max_new_tokens for each in options), default=0)
        service = self.models.generation(runtime)
        job = runtime.admit(
            request, len(prompts), sum(map(runtime.estimated_tokens, prompts)) + new_tokens * len(prompts)
        )
        try:
            items = await self._encode_all(runtime, job, prompts, new_tokens=new_tokens, single=len(prompts) == 1)
            return GenerationStream(runtime, service.start(prompts, items, options), job, result=service.result)
        except BaseException:
            job.cancel()
            raise

    def translator_for(self, source: str | None, target: str | None) -> str | None:
        """Return the first model that translates between these languages, or None. None of them: any language."""
        for name, runtime in self.runtimes.items():
            if "translate" not in runtime.tasks:
                continue
            with contextlib.suppress(InputError):
                cast(Translation, runtime.bundle.task).find_pair(source, target)
                return name
        return None

    async def translate(
        self,
        inputs: Sequence[Any],
        *,
        task: str = "translate",
        model: ModelName = None,
        parameters: TranslationParameters,
        single: bool = False,
        request: InferenceRequest,
    ) -> list[TranslationResult]:
        """Return the translation of each text, or with the task `caption` the caption of each input."""
        runtime = self.runtime_for(task, model)
        search = parameters.search(runtime)
        new_tokens = search_tokens(search.options)
        tokens = sum(map(runtime.estimated_tokens, inputs)) + new_tokens * len(inputs)
        with runtime.admit(request, len(inputs), tokens) as job:
            items = await self._encode_all(runtime, job, inputs, new_tokens=new_tokens, single=single, pair=search.pair)
            if search.options.details:
                _check_attention(search.options, items)
            jobs = search.start(items)
            if queued := [(each.tokens, each.text) for each in jobs if len(each.tokens)]:
                runtime.submit(job, queued)
                await job
        texts = [each.text for each in jobs]
        return await _decode_all(items, texts, lambda _, text: text.answer(), new_tokens=new_tokens)

    async def translate_stream(
        self,
        raw: Any,
        *,
        task: str = "translate",
        model: ModelName = None,
        parameters: TranslationParameters,
        request: InferenceRequest,
    ) -> GenerationStream[TranslatedSource]:
        """Return the greedy translation of a text, or the caption of an input, while it is written."""
        runtime = self.runtime_for(task, model)
        search = parameters.search(runtime)
        new_tokens = search_tokens(search.options)
        job = runtime.admit(request, 1, runtime.estimated_tokens(raw) + new_tokens)
        try:
            items = await self._encode_all(runtime, job, [raw], new_tokens=new_tokens, single=True, pair=search.pair)
            return GenerationStream(runtime, search.start(items), job, result=TranslatedSource.answer)
        except BaseException:
            job.cancel()
            raise

    async def run_tensors(self, arrays: Arrays, *, runtime: ModelRuntime, request: InferenceRequest) -> Arrays:
        """Run the model of a bundle on tensors and return all its outputs, by name."""
        with runtime.admit(request, 1, as_tensors=True) as job:
            runtime.submit(job, runtime.tensors.check(arrays))
            (outputs,) = await job
        return cast(Arrays, outputs)

    async def drain(self, timeout_s: float) -> None:
        """Refuse new requests and answer those in progress. After `timeout_s` they fail with Unavailable."""
        self._open = False
        for runtime in self.models.loaded:
            runtime.close()
        until_s = time.monotonic() + timeout_s
        while self._jobs_in_progress() and time.monotonic() < until_s:
            await asyncio.sleep(DRAIN_POLL_S)
        for job in self._jobs_in_progress():
            job.fail(Unavailable("the service shut down before the answer was ready; send the request again"))
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _jobs_in_progress(self) -> list[Any]:
        return [job for runtime in self.models.loaded for job in runtime.jobs]

    async def _run_one(
        self, runtime: ModelRuntime, raw: Any, request: InferenceRequest, *, truncate: bool = False
    ) -> tuple[Any, Any]:
        """Return one encoded input and its row. An input without steps is not run."""
        with runtime.admit(request, 1, runtime.estimated_tokens(raw)) as job:
            item = runtime.encode(raw, truncate=truncate)
            self._check_tokens(runtime, item.length)
            if not item.length:
                return item, runtime.empty_row
            runtime.submit(job, (item,))
            (row,) = await job
        return item, row

    async def _run_all(
        self,
        runtime: ModelRuntime,
        inputs: Sequence[Any],
        request: InferenceRequest,
        *,
        names: Sequence[str] | None = None,
        single: bool = False,
        truncate: bool = False,
        prepare: Callable[[Any], Any] | None = None,
    ) -> tuple[list[Any], list[Any]]:
        """Return the encoded inputs and the row of each. Inputs without steps are not run.

        `names` are the fields of the inputs, for errors; the default is `inputs[0]` and so on, or `inputs` if it was
        a `single` one. `prepare` is applied to each encoded input.
        """
        with runtime.admit(request, len(inputs), sum(map(runtime.estimated_tokens, inputs))) as job:
            items = await self._encode_all(runtime, job, inputs, names=names, single=single, truncate=truncate)
            items = list(map(prepare, items)) if prepare else items
            filled = [item for item in items if item.length]
            if not filled:
                return items, [runtime.empty_row] * len(items)
            runtime.submit(job, filled)
            found = await job
        if len(filled) == len(items):
            return items, found
        rows = iter(found)
        return items, [next(rows) if item.length else runtime.empty_row for item in items]

    async def _encode_all(
        self,
        runtime: ModelRuntime,
        job: Job,
        inputs: Sequence[Any],
        *,
        new_tokens: int = 0,
        single: bool = False,
        names: Sequence[str] | None = None,
        truncate: bool = False,
        **options: Any,
    ) -> list[Any]:
        """Encode every input, and yield to the event loop regularly. `single`: the input was not in a list.

        `new_tokens` are requested for each input, and `truncate` cuts inputs that are too long. Raises TooLarge for an
        input that is too long, or too many tokens in the request, and InvalidRequest for an input that cannot be read.
        If the job is over before all inputs are encoded, raises its error.
        """
        runtime.check_kind(inputs)

        def encode(index: int) -> Any:
            place, name = None if single else index, names[index] if names else None
            return runtime.encode(inputs[index], place, name=name, truncate=truncate, **options)

        def encode_in_time(index: int) -> Any:
            return encode(index) if time.monotonic() < job.request.deadline_s else None

        is_picture = runtime.reads.kind == "image"
        items: list[Any] = []
        unyielded, tokens = 0, new_tokens * len(inputs)
        for index, raw in enumerate(inputs):
            if is_picture:
                # A file of 600 bytes can have millions of pixels. Between two pictures, other requests have their turn.
                item = await self._pictures.call(encode_in_time, index)
                if job.is_over(time.monotonic()):
                    await job
            else:
                item = encode(index)
            tokens += item.length
            self._check_tokens(runtime, tokens)
            items.append(item)
            unyielded += len(raw) if isinstance(raw, str) else 8 * len(raw)
            if unyielded > ENCODE_SLICE:
                unyielded = 0
                await asyncio.sleep(0)
                if job.is_over(time.monotonic()):
                    await job
        return items

    def _check_tokens(self, runtime: ModelRuntime, tokens: int) -> None:
        limit = self._request_tokens
        if tokens > limit:
            raise TooLarge(
                f"the request has more than {limit} {runtime.unit}, sent and requested; split it",
                limit=limit,
                field="inputs",
            )


async def _decode_all(
    items: Sequence[Any], rows: Sequence[Any], decode: Callable[[Any, Any], Any], *, new_tokens: int = 0
) -> list[Any]:
    """Decode every row, and yield to the event loop regularly."""
    answers = []
    unyielded = 0
    for item, row in zip(items, rows, strict=True):
        answers.append(decode(item, row))
        unyielded += item.length + new_tokens
        if unyielded > DECODE_SLICE:
            unyielded = 0
            await asyncio.sleep(0)
    return answers


def _check_attention(options: TranslateOptions, items: Sequence[Any]) -> None:
    longest = len(options.prefix) + options.max_new_tokens
    values = options.num_return_sequences * longest * sum([item.length for item in items])
    if values > ATTENTION_VALUES_MAX:
        raise TooLarge(
            f"the attention of up to {values} pairs of tokens; the limit is {ATTENTION_VALUES_MAX}; send fewer inputs"
            " or a lower max_new_tokens",
            limit=ATTENTION_VALUES_MAX,
            value=values,
            field=DETAILS,
        )


def _check_frame_rate(runtime: ModelRuntime, aggregation: str | None, frame_rate: float) -> None:
    task = runtime.bundle.task
    tagging = cast(Tagging, task.tagging if isinstance(task, Joint) else task)
    if wrong := tagging.check_frame_rate(aggregation):
        raise InvalidRequest(wrong, field="parameters.frame_rate", value=frame_rate)
