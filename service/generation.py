"""Generation jobs, and generated texts for one reader while they grow.

The texts keep their tokens, which `max_new_tokens` bounds, and the reader copies those that are new. No queue grows
for a slow reader, and no scheduler waits for it.
"""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from models import state as states
from models.bundle import Bundle
from models.codecs.characters import EncodedSymbols
from models.sampling import SamplingOptions
from models.tasks import Generation
from models.tasks.generate import GeneratedText, GenerateOptions, GenerationSnapshot, snapshot_bytes
from models.tasks.translate import TranslatedSource
from models.tasks.types import FinishReason, GenerationResult
from service.model_runtime import ModelRuntime
from service.scheduling.job import Job
from service.state_tokens import StateSigner

SEED_BITS = 53  # of a random seed: the integers that a JavaScript number holds exactly


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationParameters:
    """The parameters of one generation request."""

    max_new_tokens: int = 100  # 0 only reads the prompt
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None  # None: random, or that of `state`
    stop: tuple[str, ...] = ()
    return_full_text: bool = False
    details: bool = False
    logprobs: bool = False  # of the tokens of a stream; `details` includes them
    alternatives: int = 0  # the number of most likely tokens of each step of a stream
    state: str | None = None  # the state token of a text to continue, before the prompt
    return_state: bool = False

    def with_seed(self, seed: int) -> GenerateOptions:
        """Return the options of the model, with this seed."""
        return GenerateOptions(
            max_new_tokens=self.max_new_tokens,
            sampling=SamplingOptions(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, seed=seed),
            stop=self.stop,
            return_full_text=self.return_full_text,
            details=self.details,
            logprobs=self.logprobs,
            alternatives=self.alternatives,
            return_state=self.return_state,
        )


Text = TypeVar("Text", bound=GeneratedText | TranslatedSource)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationJob(Generic[Text]):
    """One prompt before its first step. A job without tokens to read is already done."""

    prompt_tokens: int
    tokens: NDArray[Any]  # (T,) or (T, F) to read before the first token is sampled
    text: Text


class GenerationService:
    """Makes the generation jobs and the results of one bundle."""

    def __init__(self, bundle: Bundle, task: Generation, signer: StateSigner) -> None:
        self._task, self._signer = task, signer
        manifest = bundle.manifest
        self.subject = f"generate {manifest.name} {bundle.digest} {bundle.variant}"
        self.state_bytes = snapshot_bytes(task.state)

    def start(
        self, prompts: Sequence[str], items: Sequence[EncodedSymbols], parameters: Sequence[GenerationParameters]
    ) -> list[GenerationJob[GeneratedText]]:
        """Return a job for each prompt. Raises InvalidRequest for an invalid state token.

        When several prompts continue from one state without a seed, the first one also continues its random numbers.
        Each of the others gets a random seed, as prompts without a state do.
        """
        known: dict[str, GenerationSnapshot] = {}
        jobs = []
        for prompt, item, wanted in zip(prompts, items, parameters, strict=True):
            snapshot, seed, sampled = None, wanted.seed, 0
            if wanted.state is not None:
                first = wanted.state not in known
                snapshot = known[wanted.state] = self._verify(wanted.state) if first else known[wanted.state]
                if first and seed is None:
                    seed, sampled = snapshot.seed, snapshot.sampled
            options = wanted.with_seed(secrets.randbits(SEED_BITS) if seed is None else seed)
            jobs.append(self._start(prompt, item, options, snapshot, sampled))
        return jobs

    def result(self, text: GeneratedText) -> GenerationResult:
        """Return the result of a text, with a state token if one was requested and there is a state."""
        result = text.answer()
        if text.options.return_state and text.snapshot is not None:
            result = result._replace(state=self._signer.sign(text.snapshot.pack(), self.subject))
        return result

    def _start(
        self,
        prompt: str,
        item: EncodedSymbols,
        options: GenerateOptions,
        snapshot: GenerationSnapshot | None,
        sampled: int,
    ) -> GenerationJob[GeneratedText]:
        tail = snapshot.tail if snapshot is not None and not item.length else ""
        text = self._task.start(prompt, options, sampled=sampled, tail=tail)
        text.initial_state = None if snapshot is None else snapshot.state
        tokens = item.rows if snapshot is None else np.append(np.int32(snapshot.token), item.rows)  # (T,)
        if not len(tokens):
            return GenerationJob(prompt_tokens=0, tokens=tokens, text=text)
        text.last_prompt_token = int(tokens[-1])
        if not options.max_new_tokens:  # the request that continues from the state reads the last token
            tokens = tokens[:-1] if options.return_state else tokens[:0]
            if not len(tokens):
                text.take_snapshot(states.zeros(self._task.state, 1) if snapshot is None else snapshot.state)
        return GenerationJob(prompt_tokens=item.length, tokens=tokens, text=text)

    def _verify(self, token: str) -> GenerationSnapshot:
        payload = self._signer.verify(token, self.subject, max_bytes=self.state_bytes)
        return GenerationSnapshot.unpack(payload, self._task.state)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenDelta:
    """The new tokens of one text. All lists have one entry for each token, or none if they were not requested."""

    index: int  # of the prompt
    tokens: list[int]
    token_texts: list[str]
    logprobs: list[float]
    finish_reason: FinishReason | None  # set once, with the last tokens
    alternatives: list[list[tuple[str, float]]] = field(default_factory=list)  # token text and logprob, best first


class GenerationStream(Generic[Text]):
    """An asynchronous iterator of lists of deltas, one for each text that has grown.

    With `keepalive_s`, an empty list means that nothing was generated for that long.

    Tokens that were generated before an error are returned first, and then the error is raised. (Not all of them, if a
    shutdown runs out of time.) Call `aclose`, or use contextlib.aclosing, to stop before the end.
    """

    def __init__(
        self,
        runtime: ModelRuntime,
        jobs: Sequence[GenerationJob[Text]],
        job: Job,
        *,
        result: Callable[[Text], Any],
    ) -> None:
        self.texts = tuple(each.text for each in jobs)
        self.prompt_tokens = tuple(each.prompt_tokens for each in jobs)
        self.keepalive_s: float | None = None
        self._result, self._job = result, job
        self._returned = dict.fromkeys(range(len(jobs)), 0)  # index of an unfinished text -> tokens returned so far
        queued = [index for index, each in enumerate(jobs) if len(each.tokens)]
        self._items = {index: item for item, index in enumerate(queued)}  # index of a text -> index of its result
        self._available = dict.fromkeys(queued, 0)  # index of a text -> tokens when the scheduler last notified
        self._has_news = len(queued) < len(jobs)
        self._waiting_since_s = 0.0
        self._keepalive: asyncio.TimerHandle | None = None
        self._wakeup: asyncio.Future[None] | None = None
        if queued:
            job.on_progress = job.on_done = self._notify
            runtime.submit(job, [(jobs[index].tokens, jobs[index].text) for index in queued])
        else:
            job.cancel()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[TokenDelta]:
        """Wait for new tokens. Raises the error that ended the texts early."""
        while self._returned:
            if self._has_news:
                self._has_news = False
                if deltas := self._new_deltas():
                    return deltas
            if self._job.error is not None:
                raise self._job.error
            await self._wait()
            if not self._has_news:
                return []
        self._stop_keepalive()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Stop generating. The slots are freed before the next step."""
        self._job.cancel()
        self._returned.clear()
        self._stop_keepalive()

    def generated_tokens(self, index: int) -> int:
        """Return the length of one text so far."""
        return len(self.texts[index].tokens)

    def result(self, index: int) -> Any:
        """Return the result of one text so far, as the engine returns it without a stream."""
        return self._result(self.texts[index])

    async def _wait(self) -> None:
        """Wait for new tokens or for the keepalive."""
        loop = asyncio.get_running_loop()
        self._waiting_since_s = loop.time()
        if self.keepalive_s is not None and self._keepalive is None:
            self._keepalive = loop.call_later(self.keepalive_s, self._check_keepalive)
        self._wakeup = loop.create_future()
        await self._wakeup

    def _check_keepalive(self) -> None:
        """Wake the reader if it has waited long enough. One timer serves the whole stream: most waits are short."""
        loop, keepalive_s = asyncio.get_running_loop(), self.keepalive_s or 0.0
        left_s = self._waiting_since_s + keepalive_s - loop.time()
        if left_s <= 0:
            self._wake()
        self._keepalive = loop.call_later(left_s if left_s > 0 else keepalive_s, self._check_keepalive)

    def _stop_keepalive(self) -> None:
        if self._keepalive is not None:
            self._keepalive.cancel()
            self._keepalive = None

    def _notify(self) -> None:
        # Count now, on the event loop: while a step runs in a thread, a text may have a token but not yet its end.
        for index in self._available:
            self._available[index] = len(self.texts[index].token_texts)
        self._has_news = True
        self._wake()

    def _wake(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)

    def _new_deltas(self) -> list[TokenDelta]:
        deltas = []
        for index, first in list(self._returned.items()):
            text, done = self.texts[index], self._is_done(index)
            end = len(text.token_texts) if done else self._available[index]
            if end == first and not done:
                continue
            deltas.append(
                TokenDelta(
                    index=index,
                    tokens=text.tokens[first:end],
                    token_texts=text.token_texts[first:end],
                    logprobs=text.log_probabilities[first:end],
                    alternatives=text.alternatives[first:end],
                    finish_reason=(text.finish_reason or "length") if done else None,
                )
            )
            self._returned[index] = end
            if done:
                del self._returned[index]
        return deltas

    def _is_done(self, index: int) -> bool:
        """Return whether a text is complete, or had nothing to generate."""
        item = self._items.get(index)
        return item is None or self._job.results[item] is not None
