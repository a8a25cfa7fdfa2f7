"""Between what a request for generation asks and the texts that a scheduler writes: how they begin, and their answers.

Knows states and prompts. Knows no HTTP, and neither slots nor turns.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models import state as rows_of
from models.bundle import Bundle
from models.codecs.symbols import EncodedSymbols
from models.sampling import SamplingOptions
from models.tasks import Generation, GenerationResult
from models.tasks.generate import GeneratedText
from models.tasks.generate import GenerateOptions as WriteOptions
from models.tasks.snapshot import GenerationSnapshot, size
from service.state_tokens import StateSigner

SEED_BITS = 53  # of a seed that is drawn here: what a JavaScript number still holds exactly


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateOptions:
    """What one request for generation asks; `seed` None draws one, or goes on with that of the `state`."""

    max_new_tokens: int = 100  # 0: the prompt is only read
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    return_full_text: bool = False
    details: bool = False
    logprobs: bool = False  # of the tokens, for who reads them as they come; `details` has them anyway
    alternatives: int = 0  # likewise, of the likeliest tokens of each step
    state: str | None = None  # of a text to go on with, before the prompt
    return_state: bool = False

    def of_model(self, seed: int) -> WriteOptions:
        """The same for models/."""
        return WriteOptions(
            max_new_tokens=self.max_new_tokens,
            sampling=SamplingOptions(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, seed=seed),
            stop=self.stop,
            return_full_text=self.return_full_text,
            details=self.details,
            logprobs=self.logprobs,
            alternatives=self.alternatives,
            return_state=self.return_state,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A text before its first step. What has nothing to read is done as it is."""

    length: int  # of the prompt
    reading: NDArray[np.int32]  # (T,) what is read before the first draw
    text: GeneratedText


class Texts:
    """The texts of one bundle and their states."""

    def __init__(self, bundle: Bundle, task: Generation, states: StateSigner) -> None:
        self._task, self._states = task, states
        manifest = bundle.manifest
        self._owner = f"generate {manifest.name} {bundle.digest} {bundle.variant}"
        self.state_bytes = size(task.state)

    def begin(
        self, prompts: Sequence[str], items: Sequence[EncodedSymbols], options: Sequence[GenerateOptions]
    ) -> list[Start]:
        """One text for each prompt. Raises InvalidRequest for a state that is not good.

        Of several that go on from one state without a seed, the first goes on with its random numbers as well; each
        other draws a seed of its own, as texts without a state do.
        """
        known: dict[str, GenerationSnapshot] = {}
        starts = []
        for prompt, item, asked in zip(prompts, items, options, strict=True):
            before, seed, sampled = None, asked.seed, 0
            if asked.state is not None:
                first = asked.state not in known
                before = known[asked.state] = self._open(asked.state) if first else known[asked.state]
                if first and seed is None:
                    seed, sampled = before.seed, before.sampled
            of_model = asked.of_model(secrets.randbits(SEED_BITS) if seed is None else seed)
            starts.append(self._start(prompt, item, of_model, before, sampled))
        return starts

    def _start(
        self, prompt: str, item: EncodedSymbols, asked: WriteOptions, before: GenerationSnapshot | None, sampled: int
    ) -> Start:
        tail = before.tail if before is not None and not item.length else ""
        text = self._task.start(prompt, asked, sampled=sampled, tail=tail)
        text.initial_state = None if before is None else before.state
        reading = item.rows if before is None else np.append(np.int32(before.token), item.rows)
        if not len(reading):
            return Start(length=0, reading=reading, text=text)
        text.last_prompt_token = int(reading[-1])
        if not asked.max_new_tokens:  # the last one is read by who goes on
            reading = reading[:-1] if asked.return_state else reading[:0]
            if not len(reading):
                text.take_snapshot(rows_of.zeros(self._task.state, 1) if before is None else before.state)
        return Start(length=item.length, reading=reading, text=text)

    def _open(self, state: str) -> GenerationSnapshot:
        return GenerationSnapshot.unpack(
            self._states.open(state, self._owner, most_bytes=self.state_bytes), self._task.state
        )

    def answer(self, text: GeneratedText) -> GenerationResult:
        """Return the result with its signed state, if that was asked for and there is something to continue from."""
        result = text.answer()
        if text.options.return_state and text.snapshot is not None:
            result = result._replace(state=self._states.seal(text.snapshot.pack(), self._owner))
        return result
