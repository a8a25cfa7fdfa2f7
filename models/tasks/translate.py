"""Translation and captions: a reader encodes a source once, and a decoder writes the target piece by piece.

S steps of the longest source, M sources, B rows (the hypotheses of all sources), V pieces, W width of a memory.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.codecs.base import InputError, Ints, pad
from models.codecs.frames import FramesCodec
from models.codecs.images import ImageCodec
from models.codecs.pieces import END, PiecesCodec, PiecesDecoder
from models.inputs import is_vector
from models.manifest import LanguagePair, MemoryTensor, StateTensor
from models.state import State
from models.tasks.beam_search import BeamSearch, Hypothesis, StepOutputs, TranslateOptions
from models.tasks.types import SourceToken, TargetToken, TranslationDetails, TranslationResult

RunNamed = Callable[[Mapping[str, NDArray[Any]], Sequence[str]], Sequence[NDArray[Any]]]  # OnnxModel.run_named
Source = NDArray[Any]  # (T,) or (T, F): the rows of an EncodedSource
DIGITS, ATTENTION_DIGITS = 6, 4  # of scores and of weights in answers
OPTIONS = ("max_new_tokens", "num_beams", "num_return_sequences", "length_penalty", "details")


class Memory(NamedTuple):
    """What the decoder reads of sources, one in each column."""

    arrays: tuple[NDArray[np.float32], ...]  # (S, M, W) each
    lengths: Ints  # (M,)


class ReadSource(NamedTuple):
    """One source as the reader leaves it."""

    state: State  # (1, width) each, before the first step
    memory: tuple[NDArray[np.float32], ...]  # (S, W) each


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedSource:
    """One encoded source. `rows` are what the reader reads: a mark before and an end after the pieces of `item`."""

    item: Any
    rows: NDArray[Any]  # (T,) or (T, F)
    marks: int  # rows before those of the item

    @property
    def length(self) -> int:
        return int(self.item.length)

    @property
    def extra(self) -> int:
        return 0


class Translation:
    """Encodes sources and starts the search for their targets. A caption is that of vectors or a picture."""

    def __init__(
        self,
        source: PiecesCodec | FramesCodec | ImageCodec,
        codec: PiecesCodec,
        *,
        state: Sequence[StateTensor],
        memory: Sequence[MemoryTensor],
        pairs: Sequence[LanguagePair] = (),
    ) -> None:
        self.source, self.codec = source, codec
        self.state, self.memory, self.pairs = tuple(state), tuple(memory), tuple(pairs)

    def find_pair(self, source: str | None, target: str | None) -> LanguagePair | None:
        """Return the pair of these languages; None if the model has no languages.

        A language that is not given can be any. Raises InputError unless exactly one pair is left.
        """
        found = [pair for pair in self.pairs if source in (None, pair.source) and target in (None, pair.target)]
        if len(found) == 1:
            return found[0]
        if not self.pairs and source is None and target is None:
            return None
        known = ", ".join(f"{pair.source} to {pair.target}" for pair in self.pairs) or "no languages"
        wanted = f"{source or 'any language'} to {target or 'any language'}"
        problem = "is one of several pairs" if found else "is not a pair"
        raise InputError(f"{wanted} {problem} of this model, which has {known}; name one", value=wanted)

    def encode(self, raw: Any, *, limit: int | None = None, pair: LanguagePair | None = None) -> EncodedSource:
        """Encode one source. Raises InputError, as its codec does.

        Without `pair`, it is the first of the model.
        """
        if isinstance(self.source, FramesCodec):
            item: Any = self.source.encode([raw] if is_vector(raw) else raw, limit=limit)
            return EncodedSource(item=item, rows=item.rows, marks=0)
        if isinstance(self.source, ImageCodec):
            item = self.source.encode(raw)
            return EncodedSource(item=item, rows=item.rows.astype(np.float32), marks=0)
        item = self.source.encode(raw, limit=limit)
        pair = pair or (self.pairs[0] if self.pairs else None)
        mark = [] if pair is None or pair.mark is None else [self.source.row_of(pair.mark)]
        rows = np.concatenate([np.array(mark, np.int32), item.rows, np.array([END], np.int32)])
        return EncodedSource(item=item, rows=rows, marks=len(mark))

    def encode_for(self, raw: Any, parameters: Mapping[str, Any], *, limit: int | None = None) -> EncodedSource:
        """Encode one source in the language that the parameters of a request name."""
        return self.encode(
            raw, limit=limit, pair=self.find_pair(parameters.get("src_lang"), parameters.get("tgt_lang"))
        )

    def start_for(self, source: EncodedSource, parameters: Mapping[str, Any]) -> "TranslatedSource":
        """Start a search with the parameters of a request. Those that it lacks have their defaults."""
        options = TranslateOptions(**{name: parameters[name] for name in OPTIONS if name in parameters})
        return self.start(source, options, prefix=parameters.get("target_prefix", ""))

    def start(self, source: EncodedSource, options: TranslateOptions, *, prefix: str = "") -> "TranslatedSource":
        """Start the search for the targets of one source. They begin with `prefix`."""
        if prefix:
            options = replace(options, prefix=tuple(self.codec.encode(prefix).rows.tolist()))
        return TranslatedSource(self.codec, source, options)


class Translator:
    """The reader and the decoder of a loaded translator."""

    def __init__(self, task: Translation, read: RunNamed, step: RunNamed) -> None:
        self._task, self._read, self._step = task, read, step
        self._states = [tensor.output for tensor in task.state]
        self._memories = [tensor.name for tensor in task.memory]

    def read(self, sources: Sequence[Source]) -> list[ReadSource]:
        """Read sources in one ragged call. Raises ValueError unless the reader returns all of them."""
        padded, lengths = pad(sources)  # (S, M) or (S, M, F)
        found = self._read({"source": padded, "lengths": lengths}, [*self._states, *self._memories])
        state, memory = found[: len(self._states)], found[len(self._states) :]
        if len(state[0]) != len(sources):
            raise ValueError(f"{len(state[0])} rows of results for {len(sources)} sources")
        return [
            ReadSource(
                tuple(array[place : place + 1] for array in state), tuple(array[:length, place] for array in memory)
            )
            for place, length in enumerate(lengths.tolist())
        ]

    def step(
        self,
        pieces: Ints,
        state: State,
        memory: Memory,
        owners: Ints,
        *,
        attention: bool = False,
        log_probabilities: bool = False,
    ) -> tuple[StepOutputs, State]:
        """Feed the newest piece (B,) of each row, whose source is column `owners` (B,) of the memory.

        Returns what follows, with the outputs that are wanted, and the state (B, width) there.
        """
        feeds: dict[str, NDArray[Any]] = {"pieces": pieces, "memory_lengths": memory.lengths, "owners": owners}
        feeds.update(zip((tensor.input for tensor in self._task.state), state, strict=True))
        feeds.update(zip(self._memories, memory.arrays, strict=True))
        wanted = {"attention": attention, "log_probabilities": log_probabilities}
        optional = [name for name, is_wanted in wanted.items() if is_wanted]
        found = self._step(feeds, ["best_scores", "best_pieces", *optional, *self._states])
        outputs = StepOutputs(found[0], found[1], **dict(zip(optional, found[2:], strict=False)))
        return outputs, tuple(found[2 + len(optional) :])


class TranslatedSource(BeamSearch):
    """The targets of one source while they are written.

    A greedy target can be read while it grows: `tokens`, `token_texts` and `log_probabilities`.
    """

    alternatives: ClassVar[list[list[tuple[str, float]]]] = []  # a stream of translations has none

    def __init__(self, codec: PiecesCodec, source: EncodedSource, options: TranslateOptions) -> None:
        super().__init__(options)
        self.source = source
        self._codec = codec
        self._decoder = PiecesDecoder(codec)
        self._texts: list[str] = []  # of the tokens that were read
        if not source.length:
            self.finish_reason = "eos"

    @property
    def token_texts(self) -> list[str]:
        """The text of each token of a greedy target. Together they are the text."""
        is_over = self.finish_reason is not None  # read before the tokens, which may grow in another thread
        new = self.tokens[len(self._texts) :]
        self._texts += self._decoder.texts(new)
        if is_over and self._texts:
            self._texts[-1] += self._decoder.end()
        return self._texts

    def answer(self) -> TranslationResult:
        """Return the best target, with the others as its alternatives. That of an empty source is empty."""
        if not self.source.length:
            return self._result(Hypothesis(pieces=[], log_probabilities=[], score=0.0, finish_reason="eos"))
        best, *others = map(self._result, self.finished)
        return best._replace(alternatives=tuple(others)) if others else best

    def _result(self, found: Hypothesis) -> TranslationResult:
        text = self._codec.decode(found.pieces)
        if not self.options.details:
            return TranslationResult(text)
        texts = self._codec.texts(found.pieces)
        tokens = zip(found.pieces, texts, found.log_probabilities, strict=False)
        details = TranslationDetails(
            score=round(found.score, DIGITS),
            finish_reason=found.finish_reason,
            tokens=tuple(TargetToken(piece, text, round(logprob, DIGITS)) for piece, text, logprob in tokens),
            source_tokens=self._source_tokens(),
            alignment=self._alignment(found),
            attention=self._attention(found, len(texts)),
        )
        return TranslationResult(text, details)

    def _source_tokens(self) -> tuple[SourceToken, ...] | None:
        item = self.source.item
        if item.text is None:
            return None
        spans = zip(item.starts, item.ends, strict=True)
        return tuple(SourceToken(item.text[start:end], start, end) for start, end in spans)

    def _attention(self, found: Hypothesis, tokens: int) -> tuple[tuple[float, ...], ...]:
        """Return the weights of the source tokens for each of the first `tokens` tokens."""
        first, end = self.source.marks, self.source.marks + self.source.length
        rows = (weights[first:end].tolist() for weights in found.attention[:tokens])
        return tuple(tuple(round(weight, ATTENTION_DIGITS) for weight in row) for row in rows)

    def _alignment(self, found: Hypothesis) -> tuple[tuple[int, int], ...]:
        """Return the source token that each token attends to most. One that attends to the end has none."""
        first, steps = self.source.marks, len(self.source.rows)
        pairs = ((int(weights[:steps].argmax()) - first, place) for place, weights in enumerate(found.attention))
        return tuple((source, target) for source, target in pairs if 0 <= source < self.source.length)
