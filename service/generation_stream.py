"""Texts while they are being written, for one reader: each look has the tokens that came since the last one.

Tokens are kept by their texts, which `max_new_tokens` bounds, and copied when the reader looks: nothing is queued for
it, and one that is slow holds nobody up. Knows no HTTP, and neither slots nor turns.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from models.tasks.answers import FinishReason, GenerationResult
from service.errors import ClientGone
from service.generation import Start, Texts
from service.model_runtime import ModelRuntime
from service.scheduling.job import InferenceRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenDelta:
    """What one text has got since the last look. Its lists are of equal length, but for what was not asked for."""

    index: int  # of the prompt
    tokens: list[int]
    pieces: list[str]  # what the tokens stand for
    logprobs: list[float]  # if they were asked for
    finish_reason: FinishReason | None  # set once, with the last tokens
    alternatives: list[list[tuple[str, float]]] = field(default_factory=list)  # if asked for: pieces, likeliest first


class GenerationStream:
    """An asynchronous iterator over looks; a look has a Delta for each text that has grown.

    A look that has none says that nothing has come for `remind_s`, where that is set.

    What was written before an error comes first, then the error is raised (but not all of it when the time of a
    shutdown is over). Whoever does not read to the end calls `aclose` (contextlib.aclosing does): nothing more is
    written then.
    """

    def __init__(self, runtime: ModelRuntime, texts: Texts, starts: Sequence[Start], request: InferenceRequest) -> None:
        self.texts = tuple(start.text for start in starts)
        self.prompt_tokens = tuple(start.length for start in starts)
        self.seeds = tuple(text.options.sampling.seed for text in self.texts)
        self._answer = texts.answer
        self.remind_s: float | None = None
        self._left = dict.fromkeys(range(len(starts)), 0)  # texts that go on -> how many of their tokens were seen
        filled = [index for index, start in enumerate(starts) if len(start.reading)]
        self._parts = {index: part for part, index in enumerate(filled)}  # what has nothing to read is none
        self._come = dict.fromkeys(filled, 0)  # how many of their tokens were there when they were told of last
        self._news = len(filled) < len(starts)
        self._looked_s = 0.0
        self._reminder: asyncio.TimerHandle | None = None
        self._waiting: asyncio.Future[None] | None = None
        parts = [(starts[index].reading, starts[index].text) for index in filled]
        self._ticket = runtime.submit(request, parts, self._wake, follow=self._wake) if parts else None

    def __aiter__(self) -> "GenerationStream":
        return self

    async def __anext__(self) -> list[TokenDelta]:
        """Wait until something has come since the last look. Raises what ends the texts before their end."""
        while self._left:
            if self._news:
                self._news = False
                if deltas := self._look():
                    return deltas
            if self._ticket is not None and self._ticket.error is not None:
                raise self._ticket.error
            await self._wait()
            if not self._news:
                return []
        self._put_by()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Stop writing: the slots are free before the next step."""
        if self._ticket is not None:
            self._ticket.fail(ClientGone())
        self._left.clear()
        self._put_by()

    def generated_tokens(self, index: int) -> int:
        """How long the text is so far."""
        return len(self.texts[index].tokens)

    def answer(self, index: int) -> GenerationResult:
        """The text so far, in the shape in which `Engine.generate` has it."""
        return self._answer(self.texts[index])

    async def _wait(self) -> None:
        """Until there is news, or it is time for a reminder."""
        loop = asyncio.get_running_loop()
        self._looked_s = loop.time()
        if self.remind_s is not None and self._reminder is None:
            self._reminder = loop.call_later(self.remind_s, self._remind)
        self._waiting = loop.create_future()
        await self._waiting

    def _remind(self) -> None:
        """One timer a text and not one a look: most looks come long before it, and it is set anew when it rings."""
        loop, remind_s = asyncio.get_running_loop(), self.remind_s or 0.0
        left_s = self._looked_s + remind_s - loop.time()
        if left_s <= 0 and self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
        self._reminder = loop.call_later(left_s if left_s > 0 else remind_s, self._remind)

    def _put_by(self) -> None:
        if self._reminder is not None:
            self._reminder.cancel()
            self._reminder = None

    def _wake(self) -> None:
        # Counted now, on the loop: while a step runs in a thread, a text may have a token and not yet its end.
        for index in self._come:
            self._come[index] = len(self.texts[index].token_texts)
        self._news = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _look(self) -> list[TokenDelta]:
        deltas = []
        for index, seen in list(self._left.items()):
            text, done = self.texts[index], self._is_done(index)
            end = len(text.token_texts) if done else self._come[index]
            if end == seen and not done:
                continue
            deltas.append(
                TokenDelta(
                    index=index,
                    tokens=text.tokens[seen:end],
                    pieces=text.token_texts[seen:end],
                    logprobs=text.log_probabilities[seen:end],
                    alternatives=text.alternatives[seen:end],
                    finish_reason=(text.finish_reason or "length") if done else None,
                )
            )
            self._left[index] = end
            if done:
                del self._left[index]
        return deltas

    def _is_done(self, index: int) -> bool:
        """Whether a text was handed out by its scheduler, or has nothing to continue."""
        if self._ticket is None or index not in self._parts:
            return True
        return self._ticket.results[self._parts[index]] is not None
