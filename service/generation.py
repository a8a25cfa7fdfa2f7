"""Turns generation requests into jobs for the scheduler, and finished jobs into results."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models import state as states
from models.bundle import Bundle
from models.codecs.characters import EncodedSymbols
from models.sampling import SamplingOptions
from models.tasks import Generation, GenerationResult
from models.tasks.generate import GeneratedText, GenerateOptions, GenerationSnapshot, snapshot_bytes
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


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationJob:
    """One prompt before its first step. A job without tokens to read is already done."""

    prompt_tokens: int
    tokens: NDArray[np.int32]  # (T,) to read before the first token is sampled
    text: GeneratedText


class GenerationService:
    """Makes the generation jobs and the results of one bundle."""

    def __init__(self, bundle: Bundle, task: Generation, signer: StateSigner) -> None:
        self._task, self._signer = task, signer
        manifest = bundle.manifest
        self._subject = f"generate {manifest.name} {bundle.digest} {bundle.variant}"
        self.state_bytes = snapshot_bytes(task.state)

    def start(
        self, prompts: Sequence[str], items: Sequence[EncodedSymbols], parameters: Sequence[GenerationParameters]
    ) -> list[GenerationJob]:
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
            result = result._replace(state=self._signer.sign(text.snapshot.pack(), self._subject))
        return result

    def _start(
        self,
        prompt: str,
        item: EncodedSymbols,
        options: GenerateOptions,
        snapshot: GenerationSnapshot | None,
        sampled: int,
    ) -> GenerationJob:
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
        payload = self._signer.verify(token, self._subject, max_bytes=self.state_bytes)
        return GenerationSnapshot.unpack(payload, self._task.state)
