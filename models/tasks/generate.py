"""Generation: a text that grows one token at a time from a recurrent state.

The self-test and the service's decoding scheduler both drive these classes. T steps, B batch, V vocabulary.
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import sampling
from models import state as states
from models.codecs.characters import CharactersCodec, EncodedSymbols
from models.manifest import StateTensor
from models.sampling import SamplingOptions
from models.state import State
from models.tasks.types import FinishReason, GeneratedToken, GenerationDetails, GenerationResult

Run = Callable[[Mapping[str, NDArray[Any]]], Sequence[NDArray[Any]]]  # OnnxModel.run_list
Bind = Callable[[Mapping[str, NDArray[Any]], Mapping[str, NDArray[Any]]], Callable[[], None]]  # OnnxModel.bind

TAIL_CHARACTERS = 255  # one less than the longest stop string that a request can have
_HEADER = struct.Struct("<iQQH")  # token, seed, sampled, bytes of the tail
_UTF8_BYTES = 4  # per character, at most


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateOptions:
    """The options of one generation."""

    max_new_tokens: int = 100
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    stop: tuple[str, ...] = ()
    return_full_text: bool = False
    details: bool = False
    logprobs: bool = False  # record the log-probability of each token, as `details` does
    return_state: bool = False  # take a snapshot at the end
    alternatives: int = 0  # how many of the most likely tokens to record at each step


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationSnapshot:
    """Everything needed to continue a text as if it had not stopped, as a value of bounded size.

    `state` holds arrays (1, width) that have read all tokens but the newest, `token`.
    """

    state: State
    token: int
    seed: int
    sampled: int  # how many numbers of the stream `seed` are used
    tail: str = ""  # the end of the text, for a stop string that spans the interruption

    def pack(self) -> bytes:
        """Return the snapshot as at most `snapshot_bytes` bytes."""
        tail = self.tail.encode("utf-8", "surrogatepass")
        header = _HEADER.pack(self.token, self.seed, self.sampled, len(tail))
        return header + tail + states.pack(self.state)

    @classmethod
    def unpack(cls, data: bytes, tensors: Sequence[StateTensor]) -> "GenerationSnapshot":
        """Read a packed snapshot of a model with these state tensors."""
        token, seed, sampled, length = _HEADER.unpack_from(data)
        offset = _HEADER.size + length
        tail = data[_HEADER.size : offset].decode("utf-8", "surrogatepass")
        return cls(state=states.unpack(data, tensors, offset), token=token, seed=seed, sampled=sampled, tail=tail)


def snapshot_bytes(tensors: Sequence[StateTensor]) -> int:
    """Return the size of the largest packed snapshot."""
    return _HEADER.size + TAIL_CHARACTERS * _UTF8_BYTES + states.packed_size(tensors)


class Generation:
    """Encodes prompts, starts texts and advances states for a language model."""

    def __init__(self, codec: CharactersCodec, state: Sequence[StateTensor]) -> None:
        self.codec, self.state = codec, tuple(state)

    def encode(self, raw: str, *, limit: int | None = None) -> EncodedSymbols:
        return self.codec.encode(raw, limit=limit)

    def start(self, prompt: str, options: GenerateOptions, *, sampled: int = 0, tail: str = "") -> "GeneratedText":
        """Start a text. One that continues a snapshot takes `sampled` and `tail` from there."""
        return GeneratedText(self.codec, prompt, options, sampled=sampled, tail=tail)

    def advance(
        self, run: Run, tokens: NDArray[np.int32], lengths: NDArray[np.int32], state: State
    ) -> tuple[NDArray[np.float32], State]:
        """Feed tokens (T, B), each row `lengths` (B,) >= 1 long, starting from `state`.

        Returns the log-probabilities (B, V) of the token after the last one of each row, and the state there.
        """
        feeds: dict[str, NDArray[Any]] = {"characters": tokens, "lengths": lengths}
        for tensor, array in zip(self.state, state, strict=True):
            feeds[tensor.input] = array
        log_probabilities, *after = run(feeds)  # (T, B, V)
        if len(tokens) == 1:
            return log_probabilities[0], tuple(after)
        return log_probabilities[lengths - 1, np.arange(len(lengths))], tuple(after)


class GeneratedText:
    """One text during generation: its options, its tokens so far, and whether it is finished.

    A text that continues a snapshot has sampled `sampled` tokens before and ended with `tail`. `initial_state` is its
    state before the prompt, None for zeros.
    """

    def __init__(
        self, codec: CharactersCodec, prompt: str, options: GenerateOptions, *, sampled: int = 0, tail: str = ""
    ) -> None:
        self.prompt, self.options = prompt, options
        self.tokens: list[int] = []
        self.log_probabilities: list[float] = []
        self.alternatives: list[list[tuple[str, float]]] = []  # most likely tokens of each step, best first
        self.finish_reason: FinishReason | None = None
        self.sampled = sampled
        self.initial_state: State | None = None
        self.last_prompt_token = 0
        self.snapshot: GenerationSnapshot | None = None
        self._codec = codec
        self.token_texts: list[str] = []  # grows last: the other lists are at least as long
        self._previous_tail = self._tail = tail
        self._longest_stop = max((len(stop) for stop in options.stop), default=0)
        self._block = sampling.uniforms(options.sampling.seed, sampled)
        self._block_index = sampled // sampling.UNIFORMS_BLOCK

    def block(self, sampled: int) -> NDArray[np.float64]:
        """Return the random numbers (UNIFORMS_BLOCK,) around number `sampled` of the stream of this text."""
        index = sampled // sampling.UNIFORMS_BLOCK
        if index != self._block_index:
            self._block, self._block_index = sampling.uniforms(self.options.sampling.seed, sampled), index
        return self._block

    @property
    def has_stop_strings(self) -> bool:
        """Whether any token can finish the text, so that tokens must be appended one by one."""
        return bool(self._longest_stop)

    @property
    def remaining_tokens(self) -> int:
        """Tokens until the text reaches its maximum length."""
        return self.options.max_new_tokens - len(self.tokens)

    def record_alternatives(self, log_probabilities: NDArray[np.float32]) -> None:
        """Record the most likely of the next tokens, from log-probabilities (V,). Impossible tokens are left out."""
        best = np.argsort(-log_probabilities, kind="stable")[: self.options.alternatives].tolist()
        found = [(self._codec.decode(token), float(log_probabilities[token])) for token in best]
        self.alternatives.append([(text, logprob) for text, logprob in found if np.isfinite(logprob)])

    def append(self, token: int) -> bool:
        """Append a sampled token. Returns whether the text is finished."""
        self.sampled += 1
        self.tokens.append(token)
        text = self._codec.decode(token)
        self.token_texts.append(text)
        if self._longest_stop:
            # Only the newest token can complete a stop string, so the tail must be just long enough for one. A stop
            # string that was complete before the snapshot has ended that text, or was not requested there.
            self._tail = (self._tail + text)[-(self._longest_stop + len(text) - 1) :]
            if text and any(stop in self._tail[-(len(stop) + len(text) - 1) :] for stop in self.options.stop):
                self.finish_reason = "stop"
                return True
        return self._reached_length()

    def extend(self, tokens: list[int]) -> bool:
        """Append at most `remaining_tokens` tokens to a text without stop strings. Returns whether it is finished."""
        self.sampled += len(tokens)
        self.tokens += tokens
        self.token_texts += map(self._codec.decode, tokens)
        return self._reached_length()

    def _reached_length(self) -> bool:
        if self.remaining_tokens > 0:
            return False
        self.finish_reason = "length"
        return True

    def take_snapshot(self, state: State) -> None:
        """Store a snapshot. `state` holds arrays (1, width) that have read all tokens but the newest."""
        tail = "" if self.finish_reason == "stop" else (self._previous_tail + self.text)[-TAIL_CHARACTERS:]
        self.snapshot = GenerationSnapshot(
            state=state,
            token=self.tokens[-1] if self.tokens else self.last_prompt_token,
            seed=self.options.sampling.seed,
            sampled=self.sampled,
            tail=tail,
        )

    @property
    def text(self) -> str:
        return "".join(self.token_texts)

    def answer(self) -> GenerationResult:
        """Return the text so far. As in Text Generation Inference, a stop string stays in the text."""
        options = self.options
        text = self.prompt + self.text if options.return_full_text else self.text
        if not options.details:
            return GenerationResult(text)
        tokens = zip(self.tokens, self.token_texts, self.log_probabilities, strict=True)
        details = GenerationDetails(
            finish_reason=self.finish_reason or "length",
            generated_tokens=len(self.tokens),
            seed=options.sampling.seed,
            tokens=tuple(GeneratedToken(token, text, round(logprob, 6)) for token, text, logprob in tokens),
        )
        return GenerationResult(text, details)


class InPlaceDecoder:
    """Advances a batch of states by one token without copying: one set of arrays is read, the other written."""

    def __init__(self, task: Generation, bind: Bind, *, slots: int, vocabulary: int) -> None:
        self._task, self._bind = task, bind
        self._sets = (states.zeros(task.state, slots), states.zeros(task.state, slots))  # arrays (slots, width)
        self._tokens, self._lengths = np.empty(slots, np.int32), np.ones(slots, np.int32)
        self._outputs = np.empty(slots * vocabulary, np.float32)
        self._runs: dict[tuple[int, int], Callable[[], None]] = {}  # by (set that is read, rows)

    @property
    def empty_state(self) -> State:
        """A state of no rows, whose arrays have capacity for `slots` rows. `states.append` fills it in place."""
        return tuple(array[:0] for array in self._sets[0])

    def step(self, tokens: NDArray[np.int32], state: State) -> tuple[NDArray[np.float32], State] | None:
        """Advance by one token per row, tokens (B,), as Generation.advance does.

        Returns None for a state that is not in these arrays. The returned log-probabilities are overwritten by the next
        step, the state by the step after that.
        """
        base, rows = state[0].base, len(tokens)
        source = next((number for number in (0, 1) if base is self._sets[number][0]), None)
        if source is None:
            return None
        run = self._runs.get((source, rows))
        if run is None:
            run = self._runs[source, rows] = self._make_run(source, rows)
        self._tokens[:rows] = tokens
        run()
        return self._log_probabilities(rows)[0], tuple(array[:rows] for array in self._sets[1 - source])

    def _log_probabilities(self, rows: int) -> NDArray[np.float32]:
        return self._outputs[: rows * (len(self._outputs) // len(self._tokens))].reshape(1, rows, -1)  # (1, B, V)

    def _make_run(self, source: int, rows: int) -> Callable[[], None]:
        inputs: dict[str, NDArray[Any]] = {"characters": self._tokens[None, :rows], "lengths": self._lengths[:rows]}
        outputs: dict[str, NDArray[Any]] = {"log_probabilities": self._log_probabilities(rows)}
        read, written = self._sets[source], self._sets[1 - source]
        for tensor, before, after in zip(self._task.state, read, written, strict=True):
            inputs[tensor.input], outputs[tensor.output] = before[:rows], after[:rows]
        return self._bind(inputs, outputs)


class TokenSampler:
    """Samples the next token of several texts at once. Make a new one whenever a text joins or leaves.

    Append every sampled token to its text before you make the next sampler for that text.
    """

    def __init__(self, texts: Sequence[GeneratedText]) -> None:
        self._texts = tuple(texts)
        self._settings = sampling.SamplingBatch.of([text.options.sampling for text in texts])
        records = (text.options.details or text.options.logprobs for text in texts)
        self._recording = [(row, texts[row].log_probabilities) for row, wanted in enumerate(records) if wanted]
        self._ranking = [(row, text) for row, text in enumerate(texts) if text.options.alternatives]
        self._row = np.arange(len(texts))  # (B,)
        if not self._settings.all_greedy:
            self._sampled, self._steps = [text.sampled for text in texts], 0
            blocks = np.concatenate([text.block(text.sampled) for text in texts])  # np.stack takes three times as long
            self._blocks = blocks.reshape(len(texts), sampling.UNIFORMS_BLOCK)  # (B, UNIFORMS_BLOCK)
            self._place = np.array([text.sampled % sampling.UNIFORMS_BLOCK for text in texts])  # (B,)

    def sample(self, log_probabilities: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return the next token (B,) of each text from log-probabilities (B, V), and record requested logprobs."""
        if self._settings.all_greedy:
            tokens = sampling.sample(log_probabilities, self._settings, _NO_UNIFORMS)
        else:
            for row in np.flatnonzero(self._place == sampling.UNIFORMS_BLOCK).tolist():
                self._blocks[row] = self._texts[row].block(self._sampled[row] + self._steps)
                self._place[row] = 0
            tokens = sampling.sample(log_probabilities, self._settings, self._blocks[self._row, self._place])
            self._place += 1
            self._steps += 1
        for row, recorded in self._recording:
            recorded.append(float(log_probabilities[row, tokens[row]]))
        for row, text in self._ranking:
            text.record_alternatives(log_probabilities[row])
        return tokens


_NO_UNIFORMS = np.empty(0)
