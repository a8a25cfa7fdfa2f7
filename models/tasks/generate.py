"""One-to-many: a text that grows step by step out of a recurrent state.  T steps, B rows, V vocabulary.

Holds one text's progress and advances a batch of states by a graph that it is handed. Knows no table of
slots and no clock: the service's scheduler and the reference path both drive it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import sampling
from models import state as states
from models.codecs.characters import CharactersCodec
from models.codecs.symbols import EncodedSymbols
from models.manifest import StateTensor
from models.sampling import SamplingOptions
from models.state import State
from models.tasks.answers import FinishReason, GeneratedToken, GenerationDetails, GenerationResult
from models.tasks.snapshot import TAIL_CHARACTERS, GenerationSnapshot

Run = Callable[[Mapping[str, NDArray[Any]]], Sequence[NDArray[Any]]]
Bind = Callable[[Mapping[str, NDArray[Any]], Mapping[str, NDArray[Any]]], Callable[[], None]]  # see OnnxModel.bind


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateOptions:
    """What a caller may ask of one generation."""

    max_new_tokens: int = 100
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    stop: tuple[str, ...] = ()
    return_full_text: bool = False
    details: bool = False
    logprobs: bool = False  # whether those of the tokens are noted, which `details` needs too
    return_state: bool = False  # whether the text keeps where it stands when it is done
    alternatives: int = 0  # of each step, how many of the likeliest tokens are noted


class Generation:
    """Encodes prompts, advances states and starts continuations for a language model."""

    def __init__(self, codec: CharactersCodec, state: Sequence[StateTensor]) -> None:
        self.codec, self.state = codec, tuple(state)

    def encode(self, raw: str, *, limit: int | None = None) -> EncodedSymbols:
        """`limit`: see CharactersCodec.encode."""
        return self.codec.encode(raw, limit=limit)

    def start(self, prompt: str, options: GenerateOptions, *, sampled: int = 0, tail: str = "") -> "GeneratedText":
        return GeneratedText(self.codec, prompt, options, sampled=sampled, tail=tail)

    def advance(
        self, run: Run, tokens: NDArray[np.int32], lengths: NDArray[np.int32], state: State
    ) -> tuple[NDArray[np.float32], State]:
        """Consume tokens (T, B), ragged by lengths (B,) >= 1, from `state`.

        Returns (log-probabilities (B, V) of the token after each row's last, state after it).
        `run` takes feeds and returns the graph's outputs, log_probabilities (T, B, V) first, then the state.
        """
        feeds: dict[str, NDArray[Any]] = {"characters": tokens, "lengths": lengths}
        for tensor, array in zip(self.state, state, strict=True):
            feeds[tensor.input] = array
        log_probabilities, *after = run(feeds)
        if len(tokens) == 1:
            return log_probabilities[0], tuple(after)
        return log_probabilities[lengths - 1, np.arange(len(lengths))], tuple(after)


class GeneratedText:
    """One text being generated: what was asked, what has come, and whether it is done.

    One that goes on has made `sampled` draws before and ended with `tail`. `initial_state` is the
    state that it begins with, None for zeros.
    """

    __slots__ = (
        "_before",
        "_block",
        "_block_index",
        "_codec",
        "_longest_stop",
        "_tail",
        "alternatives",
        "finish_reason",
        "initial_state",
        "last_prompt_token",
        "log_probabilities",
        "options",
        "prompt",
        "sampled",
        "snapshot",
        "token_texts",
        "tokens",
    )

    def __init__(
        self, codec: CharactersCodec, prompt: str, options: GenerateOptions, *, sampled: int = 0, tail: str = ""
    ) -> None:
        self.prompt, self.options = prompt, options
        self.tokens: list[int] = []
        self.log_probabilities: list[float] = []
        self.alternatives: list[list[tuple[str, float]]] = []  # what each step might have said, likeliest first
        self.finish_reason: FinishReason | None = None
        self.sampled = sampled
        self.initial_state: State | None = None
        self.last_prompt_token = 0
        self.snapshot: GenerationSnapshot | None = None  # set when the text is done, if it was asked for
        self._codec = codec
        self.token_texts: list[str] = []  # what each token stands for; the last to grow when a token is pushed
        self._before = self._tail = tail
        self._longest_stop = max((len(stop) for stop in options.stop), default=0)
        self._block, self._block_index = (
            sampling.uniforms(options.sampling.seed, sampled),
            sampled // sampling.UNIFORMS_BLOCK,
        )

    def block(self, sampled: int) -> NDArray[np.float64]:
        """The random numbers (UNIFORMS_BLOCK,) that a draw takes one of, the `sampled` % UNIFORMS_BLOCK-th.

        They are a function of the seed and of `sampled`, the number of draws before.
        """
        index = sampled // sampling.UNIFORMS_BLOCK
        if index != self._block_index:
            self._block, self._block_index = sampling.uniforms(self.options.sampling.seed, sampled), index
        return self._block

    @property
    def has_stop_strings(self) -> bool:
        """Whether any token may end it: those must be pushed one by one."""
        return bool(self._longest_stop)

    @property
    def remaining_tokens(self) -> int:
        """Tokens until its length ends it."""
        return self.options.max_new_tokens - len(self.tokens)

    def rank(self, log_probabilities: NDArray[np.float32]) -> None:
        """Note the likeliest of the tokens (V,) that might come next; none that never can."""
        best = np.argsort(-log_probabilities, kind="stable")[: self.options.alternatives].tolist()
        found = [(self._codec.decode(token), float(log_probabilities[token])) for token in best]
        self.alternatives.append([(piece, logprob) for piece, logprob in found if np.isfinite(logprob)])

    def append(self, token: int) -> bool:
        """Take the token that was sampled; True when the text is done."""
        self.sampled += 1
        self.tokens.append(token)
        piece = self._codec.decode(token)
        self.token_texts.append(piece)
        if self._longest_stop:
            # Only the newest piece can complete a stop string, so a tail of that length is enough. What is complete
            # before it, in the text that this one goes on with, ended that or was not asked for.
            self._tail = (self._tail + piece)[-(self._longest_stop + len(piece) - 1) :]
            if piece and any(stop in self._tail[-(len(stop) + len(piece) - 1) :] for stop in self.options.stop):
                self.finish_reason = "stop"
                return True
        return self._ends()

    def extend(self, tokens: list[int]) -> bool:
        """As `push` of each, for a text that is not `watched`, at most as many as are `left`."""
        self.sampled += len(tokens)
        self.tokens += tokens
        self.token_texts += map(self._codec.decode, tokens)
        return self._ends()

    def _ends(self) -> bool:
        if self.remaining_tokens > 0:
            return False
        self.finish_reason = "length"
        return True

    def take_snapshot(self, state: State) -> None:
        """Keep where the text stands; `rows` (1, width) have read all but its newest token."""
        tail = "" if self.finish_reason == "stop" else (self._before + self.text)[-TAIL_CHARACTERS:]
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
            tokens=tuple(GeneratedToken(token, piece, round(logprob, 6)) for token, piece, logprob in tokens),
        )
        return GenerationResult(text, details)


class InPlaceDecoder:
    """Advances a table of states by a token each without copying them: two sets of arrays take turns, one read, one
    written. `room` is where a table begins.
    """

    def __init__(self, task: Generation, bind: Bind, *, slots: int, vocabulary: int) -> None:
        self._task, self._bind = task, bind
        self._sets = (states.zeros(task.state, slots), states.zeros(task.state, slots))  # arrays (slots, width)
        self._tokens, self._lengths = np.empty(slots, np.int32), np.ones(slots, np.int32)
        self._following = np.empty(slots * vocabulary, np.float32)
        self._runs: dict[tuple[int, int], Callable[[], None]] = {}  # by the set that is read and the rows

    @property
    def empty_state(self) -> State:
        """Arrays of no rows that have room for `slots`."""
        return tuple(array[:0] for array in self._sets[0])

    def step(self, tokens: NDArray[np.int32], state: State) -> tuple[NDArray[np.float32], State] | None:
        """As Generation.advance for one token (B,) a row; None for a state that is not in `room`.

        What is returned is overwritten by the next step but one (the state), or the next (the log-probabilities).
        """
        base, rows = state[0].base, len(tokens)
        source = next((number for number in (0, 1) if base is self._sets[number][0]), None)
        if source is None:
            return None
        run = self._runs.get((source, rows))
        if run is None:
            run = self._runs[source, rows] = self._make(source, rows)
        self._tokens[:rows] = tokens
        run()
        return self._answers(rows)[0], tuple(array[:rows] for array in self._sets[1 - source])

    def _answers(self, rows: int) -> NDArray[np.float32]:
        return self._following[: rows * (len(self._following) // len(self._tokens))].reshape(1, rows, -1)  # (1, B, V)

    def _make(self, source: int, rows: int) -> Callable[[], None]:
        """A run of `rows` rows from one set into the other."""
        inputs: dict[str, NDArray[Any]] = {"characters": self._tokens[None, :rows], "lengths": self._lengths[:rows]}
        outputs: dict[str, NDArray[Any]] = {"log_probabilities": self._answers(rows)}
        read, written = self._sets[source], self._sets[1 - source]
        for tensor, before, after in zip(self._task.state, read, written, strict=True):
            inputs[tensor.input], outputs[tensor.output] = before[:rows], after[:rows]
        return self._bind(inputs, outputs)


class TokenSampler:
    """Draws the next token of several texts at once; to be made anew when one of them leaves or another joins.

    Each token that was chosen must have been pushed to its text before another is made for it.
    """

    def __init__(self, texts: Sequence[GeneratedText]) -> None:
        self._texts = tuple(texts)
        self._settings = sampling.SamplingBatch.of([text.options.sampling for text in texts])
        noting = (text.options.details or text.options.logprobs for text in texts)
        self._noting = [(row, texts[row].log_probabilities) for row, notes in enumerate(noting) if notes]
        self._ranking = [(row, text) for row, text in enumerate(texts) if text.options.alternatives]
        self._row = np.arange(len(texts))  # (B,)
        if not self._settings.all_greedy:
            self._drawn, self._chosen = [text.sampled for text in texts], 0
            blocks = np.concatenate([text.block(text.sampled) for text in texts])  # np.stack takes three times as long
            self._blocks = blocks.reshape(len(texts), sampling.UNIFORMS_BLOCK)  # (B, UNIFORMS_BLOCK)
            self._place = np.array([text.sampled % sampling.UNIFORMS_BLOCK for text in texts])  # (B,)

    def sample(self, log_probabilities: NDArray[np.float32]) -> NDArray[np.int64]:
        """The next token (B,) of each text, from log-probabilities (B, V); noted by the texts that give details."""
        if self._settings.all_greedy:
            tokens = sampling.sample(log_probabilities, self._settings, _NO_DRAW)
        else:
            for row in np.flatnonzero(self._place == sampling.UNIFORMS_BLOCK).tolist():
                self._blocks[row] = self._texts[row].block(self._drawn[row] + self._chosen)
                self._place[row] = 0
            tokens = sampling.sample(log_probabilities, self._settings, self._blocks[self._row, self._place])
            self._place += 1
            self._chosen += 1
        for row, noted in self._noting:
            noted.append(float(log_probabilities[row, tokens[row]]))
        for row, text in self._ranking:
            text.rank(log_probabilities[row])
        return tokens


_NO_DRAW = np.empty(0)
