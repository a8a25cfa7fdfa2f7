"""An engine without models, with fixed answers, that fails on request.

These inputs make it fail or wait: ``!bug``, ``!full``, ``!late``, ``!gone``, ``!too-long``, ``!hang``,
``!slow <seconds>`` and ``!wait``. After ``then `` a stream does so after its first token, as in ``then !late``.
"""

import asyncio
import threading
import time
from collections.abc import Sequence
from datetime import date
from types import SimpleNamespace
from typing import Any

import numpy as np

from models.inputs import are_one
from models.sampling import SamplingOptions
from models.tasks import GenerationDetails, GenerationResult, LabelScore, TaggedInput
from service.catalog import Catalog, ModelVersions
from service.engine import TaggingStream
from service.errors import ClientGone, DeadlinePassed, Overloaded, TooLarge, Unavailable, UnknownModel
from service.generation import GenerationParameters, TokenDelta
from service.scheduling.job import InferenceRequest, ModelIdentity
from service.settings import Settings
from service.telemetry import ModelMetrics, Telemetry

NAMES = {
    "tag": "pos-en",
    "classify": "sentiment-en",
    "generate": "shakespeare",
    "embed": "sentiment-en",
    "stream": "pos-en-live",
}
TEXT = " ünd so"
STATE = "c28gd2VpdA=="


def _runtime(task: str, name: str) -> Any:
    """Return what a model card needs of a ModelRuntime."""
    manifest = SimpleNamespace(
        **{"name": name, "version": "1", "task": task, "description": "", "languages": [], "metric": "accuracy"},
        **{"labels": ["A"], "text_labels": [], "streams": False, "embedding_width": 0, "max_length": 100},
        provenance=SimpleNamespace(created=date(2026, 1, 1)),
        codec=SimpleNamespace(kind="words"),
        reads=SimpleNamespace(kind="words"),
        pairs=(),
        forecast=None,
        variants={"int8": SimpleNamespace(scores={"accuracy": 50.0})},
        examples=[SimpleNamespace(inputs="a b")],
    )
    tasks = tuple(each for each, answers in NAMES.items() if answers == name)
    bundle = SimpleNamespace(manifest=manifest, digest="0" * 64, variant="int8")
    return SimpleNamespace(name=name, version="1", tasks=tasks, ready=True, bundle=bundle, identity=_identity(name))


def _identity(name: str) -> ModelIdentity:
    return ModelIdentity(name, "1", b"%b@1;digest=sha256:00;variant=int8" % name.encode())


def _catalog() -> Catalog:
    runtimes = [_runtime(task, name) for task, name in NAMES.items() if task != "embed"]
    return Catalog([ModelVersions(name=each.name, versions={"1": each}, default="1") for each in runtimes])


class FakeEngine:
    """Duck-types service.engine.Engine."""

    def __init__(self, settings: Settings, telemetry: Telemetry) -> None:
        self.ready, self.full, self.full_for_any_size = True, False, False
        self.calls: list[tuple[str, Any, Any, InferenceRequest]] = []
        self.running = 0
        self.proceed = asyncio.Event()  # what "!wait" waits for
        self.telemetry = telemetry
        self.catalog = _catalog()
        for name in NAMES.values():
            telemetry.bundle(name, "1", "int8", 0.1)

    @property
    def runtimes(self) -> dict[str, Any]:
        return {name: each for name, each in self.catalog.runtimes.items() if name != NAMES["stream"]}

    def runtime_for(self, task: str, model: str | None) -> Any:
        name = NAMES.get(task)
        if name is None or model not in (None, name):
            raise UnknownModel(f"no model {model!r}", value=str(model), available=[name] if name else [])
        return self.catalog.find(name)

    def defaults(self) -> dict[str, str]:
        return dict(NAMES)

    async def tag(
        self,
        inputs: Any,
        *,
        model: str | None,
        aggregation: str | None,
        frame_rate: float | None = None,
        request: InferenceRequest,
    ) -> TaggedInput | list[TaggedInput]:
        await self._work("tag", inputs, model, aggregation, request)

        def one(text: Any) -> TaggedInput:
            words, start, starts, ends = text.split() if isinstance(text, str) else text, 0, [], []
            words = ["" if isinstance(word, list) else word for word in words]  # a frame has no word
            for index, word in enumerate(words):
                start = text.index(word, start) if isinstance(text, str) else index
                starts.append(start)
                ends.append(start + (len(word) if isinstance(text, str) else 1))
            return _tagged(words, starts, ends, are_spans=aggregation == "simple")

        return one(inputs) if isinstance(inputs, str) or are_one(inputs) else [one(text) for text in inputs]

    async def classify(
        self,
        inputs: Any,
        *,
        model: str | None,
        top_k: int | None = None,
        truncate: bool = False,
        request: InferenceRequest,
    ) -> list[list[LabelScore]]:
        await self._work("classify", inputs, model, top_k, request)
        labels = [LabelScore("positive", 0.75), LabelScore("negative", 0.25)][:top_k]
        return [labels for _ in ([inputs] if isinstance(inputs, str) or are_one(inputs) else inputs)]

    async def embed(
        self, inputs: Any, *, model: str | None, truncate: bool = False, request: InferenceRequest
    ) -> list[tuple[Any, int]]:
        await self._work("embed", inputs, model, None, request)
        texts = [inputs] if isinstance(inputs, str) else inputs
        return [(np.array([0.5, -1.0, len(text)], np.float32), len(text.split())) for text in texts]

    def state_token(self, stream: TaggingStream) -> str:
        return f"after {stream.steps}"

    def open_stream(self, model: str | None = None, *, state: str | None = None) -> TaggingStream:
        runtime = self.runtime_for("stream", model)
        return TaggingStream(runtime=runtime, state=(), steps=int(state.split()[1]) if state else 0)

    async def advance(
        self, stream: TaggingStream, inputs: Any, *, end: bool = False, request: InferenceRequest
    ) -> TaggedInput:
        await self._work("stream", inputs, None, None, request)
        stream.ended = end
        words = inputs.split() if isinstance(inputs, str) else inputs
        stream.steps += len(words)
        first = stream.steps - len(words)
        return _tagged(words, range(first, stream.steps), range(first + 1, stream.steps + 1))

    async def generate(
        self, inputs: Any, *, model: str | None, options: GenerationParameters, request: InferenceRequest
    ) -> Any:
        await self._work("generate", inputs, model, options, request)

        def one(prompt: str) -> GenerationResult:
            return _result(prompt, TEXT, 7, options)

        return one(inputs) if isinstance(inputs, str) else [one(prompt) for prompt in inputs]

    async def generate_stream(
        self,
        prompts: Sequence[str],
        *,
        model: str | None,
        options: Sequence[GenerationParameters],
        request: InferenceRequest,
    ) -> "FakeGenerationStream":
        await self._work("write", list(prompts), model, list(options), request)
        if len(prompts) == 1:
            await _misbehave(prompts[0], request)
        return FakeGenerationStream(self, prompts, options, request)

    async def drain(self, timeout_s: float) -> None:
        self.ready = False
        async with asyncio.timeout(timeout_s):
            while self.running:
                await asyncio.sleep(0.01)

    async def _work(self, task: str, inputs: Any, model: str | None, asked: Any, request: InferenceRequest) -> None:
        if not self.ready:
            raise Unavailable("draining", retry_after_s=2)
        task_of_model = "generate" if task == "write" else task
        name = NAMES[task_of_model]
        self.runtime_for(task_of_model, model)
        request.model = _identity(name)
        if self.full:
            raise Overloaded("full", retry_after_s=1.0, limit=1, any_size=self.full_for_any_size)
        self.calls.append((task, inputs, asked, request))
        self.running += 1
        try:
            request.queue_s, request.compute_s, request.batch_items = 0.0015, 0.0005, 4
            request.compute_started_s = time.monotonic()
            ModelMetrics(self.telemetry, name, "1").batch(
                items=1, padded_tokens=4, real_tokens=3, reason="idle", compute_s=0.0005, queue_s=[0.0015]
            )
            if inputs == "!wait":
                await self.proceed.wait()
            await _misbehave(inputs if isinstance(inputs, str) else "", request)
        finally:
            self.running -= 1


def _tagged(words: Sequence[str], starts: Sequence[int], ends: Sequence[int], are_spans: bool = False) -> TaggedInput:
    return TaggedInput(["A"] * len(words), [0.75] * len(words), words, starts, ends, are_spans=are_spans)


def _result(prompt: str, text: str, tokens: int, options: GenerationParameters) -> GenerationResult:
    details = GenerationDetails("length", tokens, options.seed or 0) if options.details else None
    text = (prompt if options.return_full_text else "") + text
    return GenerationResult(text, details, STATE if options.return_state else None)


class FakeGenerationStream:
    """Duck-types GenerationStream: TEXT for each prompt, a character a look; nothing after an empty one."""

    def __init__(
        self,
        engine: FakeEngine,
        prompts: Sequence[str],
        options: Sequence[GenerationParameters],
        request: InferenceRequest,
    ) -> None:
        self.prompt_tokens = tuple(map(len, prompts))
        samplings = [SamplingOptions(seed=each.seed or 0) for each in options]
        self.texts = [SimpleNamespace(options=SimpleNamespace(sampling=sampling)) for sampling in samplings]
        self.keepalive_s: float | None = None
        self.closed = False
        self._engine, self._prompts, self._options, self._request = engine, prompts, options, request
        self._looks = 0
        engine.running += 1

    def __aiter__(self) -> "FakeGenerationStream":
        return self

    async def __anext__(self) -> list[TokenDelta]:
        await asyncio.sleep(0)
        if self._looks == 1 and self._prompts[0].startswith("then "):
            if self._prompts[0] == "then !wait":
                await self._engine.proceed.wait()
            await _misbehave(self._prompts[0].removeprefix("then "), self._request)
        look, self._looks = self._looks, self._looks + 1
        deltas = [self._delta(index, look) for index, _ in enumerate(self._prompts) if look < self._count(index)]
        if not look:  # an empty prompt has an empty text
            empty = [index for index, _ in enumerate(self._prompts) if not self._count(index)]
            deltas += [
                TokenDelta(index=i, tokens=[], token_texts=[], logprobs=[], finish_reason="length") for i in empty
            ]
        if not deltas:
            raise StopAsyncIteration
        return deltas

    async def aclose(self) -> None:
        self._engine.running -= not self.closed
        self.closed = True

    def generated_tokens(self, index: int) -> int:
        return min(self._looks, self._count(index))

    def result(self, index: int) -> GenerationResult:
        count = self._count(index)
        return _result(self._prompts[index], TEXT[: min(self._looks, count)], count, self._options[index])

    def _count(self, index: int) -> int:
        return min(self._options[index].max_new_tokens, len(TEXT)) if self._prompts[index] else 0

    def _delta(self, index: int, look: int) -> TokenDelta:
        reason: Any = "length" if look + 1 == self._count(index) else None
        logprobs = [-0.5] if self._options[index].logprobs else []
        return TokenDelta(
            index=index, tokens=[look + 2], token_texts=[TEXT[look]], logprobs=logprobs, finish_reason=reason
        )


def _hang() -> None:
    """Block the event loop until the process is killed."""
    threading.Event().wait()


async def _misbehave(text: str, request: InferenceRequest) -> None:
    if text == "!bug":
        raise ValueError("secret text of a user")
    if text == "!full":
        raise Overloaded("the queue is full: 4096 inputs", retry_after_s=0.2, limit=4096)
    if text == "!late":
        raise DeadlinePassed("the deadline of 30 s passed", limit=30)
    if text == "!gone":
        raise ClientGone
    if text == "!too-long":
        raise TooLarge("inputs has 9999 tokens; the limit is 512", field="inputs", limit=512, value=9999)
    if text == "!hang":
        _hang()
    if text.startswith("!slow"):
        for _ in range(int(float(text.split()[1]) / 0.01)):
            await asyncio.sleep(0.01)
            if request.is_disconnected():
                raise ClientGone
