"""Generated texts for one reader, while they grow.

The texts keep their tokens, which `max_new_tokens` bounds, and the reader copies those that are new. No queue grows
for a slow reader, and no scheduler waits for it.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from models.tasks.types import FinishReason, GenerationResult
from service.generation import GenerationJob, GenerationService
from service.model_runtime import ModelRuntime
from service.scheduling.job import Job


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenDelta:
    """The new tokens of one text. All lists have one entry for each token, or none if they were not requested."""

    index: int  # of the prompt
    tokens: list[int]
    token_texts: list[str]
    logprobs: list[float]
    finish_reason: FinishReason | None  # set once, with the last tokens
    alternatives: list[list[tuple[str, float]]] = field(default_factory=list)  # token text and logprob, best first


class GenerationStream:
    """An asynchronous iterator of lists of deltas, one for each text that has grown.

    With `keepalive_s`, an empty list means that nothing was generated for that long.

    Tokens that were generated before an error are returned first, and then the error is raised. (Not all of them, if a
    shutdown runs out of time.) Call `aclose`, or use contextlib.aclosing, to stop before the end.
    """

    def __init__(
        self, runtime: ModelRuntime, service: GenerationService, jobs: Sequence[GenerationJob], job: Job
    ) -> None:
        self.texts = tuple(each.text for each in jobs)
        self.prompt_tokens = tuple(each.prompt_tokens for each in jobs)
        self.seeds = tuple(text.options.sampling.seed for text in self.texts)
        self.keepalive_s: float | None = None
        self._service, self._job = service, job
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

    def __aiter__(self) -> "GenerationStream":
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

    def result(self, index: int) -> GenerationResult:
        """Return the result of one text so far, as `Engine.generate` returns it."""
        return self._service.result(self.texts[index])

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
