"""What tasks take in addition to encoded inputs, and what they answer.

Field names of answers are the keys of the JSON that clients receive.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from models.state import State

SECONDS_DECIMALS = 6
FinishReason = Literal["length", "stop", "eos"]


@dataclass(frozen=True, slots=True)
class WrappedInput:
    """An encoded input for which something other than its labels is computed."""

    item: Any

    @property
    def length(self) -> int:
        return int(self.item.length)

    @property
    def extra(self) -> int:
        return int(self.item.extra)


@dataclass(frozen=True, slots=True)
class StreamChunk(WrappedInput):
    """A piece of a longer sequence. Its result carries the state after it. For taggers that have a state."""

    state: State  # arrays (1, width)


class EmbeddingInput(WrappedInput):
    """An input whose embedding is requested instead of its labels. For bundles with the output `embedding`."""


def unwrap(items: Sequence[Any]) -> list[Any]:
    """Return the encoded inputs without their wrappers."""
    return [item.item if isinstance(item, WrappedInput) else item for item in items]


class Entity(NamedTuple):
    """The label of one token. `start` and `end` are character offsets, or token numbers for input without text."""

    entity: str
    score: float
    word: str
    start: int
    end: int


class EntitySpan(NamedTuple):
    """Neighboring tokens merged into one span. The score is the mean over its tokens.

    `start` and `end` are as for a token, or seconds for frames with a known rate.
    """

    entity_group: str
    score: float
    word: str
    start: float
    end: float


@dataclass(slots=True, eq=False)
class TaggedInput(Sequence[Entity | EntitySpan]):
    """The answer to one tagged input: a sequence of entities, stored as columns because there is one for every token.

    `labels`, `scores`, `words`, `starts` and `ends` have one element for each token, or for each span (`are_spans`).
    With `frame_rate`, in frames per second, the entities begin and end at seconds, although `starts` and `ends` count
    frames.
    """

    labels: Sequence[str] = ()
    scores: Sequence[float] = ()
    words: Sequence[str] = ()
    starts: Sequence[int] = ()
    ends: Sequence[int] = ()
    are_spans: bool = field(default=False, kw_only=True)
    frame_rate: float | None = field(default=None, kw_only=True)

    def rows(self) -> Iterator[tuple[str, float, str, float, float]]:
        """Return the label, score, word, start and end of each entity."""
        starts, ends = self._seconds(self.starts), self._seconds(self.ends)
        return zip(self.labels, self.scores, self.words, starts, ends, strict=True)

    def _seconds(self, places: Sequence[int]) -> Sequence[float]:
        rate = self.frame_rate
        return places if rate is None else [round(place / rate, SECONDS_DECIMALS) for place in places]

    def placed_at(self, first: int) -> "TaggedInput":
        """Return the entities as steps of a longer input, the first of which is number `first`. Drop negative ones."""
        skipped, end = max(0, -first), first + len(self)
        columns = (self.labels[skipped:], self.scores[skipped:], self.words[skipped:])
        return TaggedInput(*columns, range(first + skipped, end), range(first + skipped + 1, end + 1))

    def entities(self) -> list[Entity] | list[EntitySpan]:
        kind: Any = EntitySpan if self.are_spans else Entity
        return [kind(*row) for row in self.rows()]

    def __repr__(self) -> str:
        return repr(self.entities())

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.entities())

    def __getitem__(self, index: Any) -> Any:
        return self.entities()[index]

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, Sequence) else NotImplemented


class Forecast(NamedTuple):
    """The values that follow a series. `quantiles` maps a level, such as "0.1", to as many values as `mean` has."""

    mean: list[float]
    quantiles: dict[str, list[float]]


class FilledGap(NamedTuple):
    """One word for a gap: its probability, its row in the vocabulary, and the text with the word in the gap."""

    score: float
    token: int
    token_str: str
    sequence: str


class LabelScore(NamedTuple):
    """One label of the whole input with its probability."""

    label: str
    score: float


class JointAnswer(NamedTuple):
    """Both answers of a joint bundle."""

    tags: TaggedInput
    labels: list[LabelScore]


class GeneratedToken(NamedTuple):
    """One generated token. `logprob` is its log-probability in nats, before temperature and truncation."""

    id: int
    text: str
    logprob: float
    special: bool = False


class GenerationDetails(NamedTuple):
    """How a generation ended. `prefill` is always empty; clients of Text Generation Inference expect the key."""

    finish_reason: FinishReason
    generated_tokens: int
    seed: int
    prefill: tuple[()] = ()
    tokens: tuple[GeneratedToken, ...] = ()


class GenerationResult(NamedTuple):
    """A generated text. `details` and the signed `state` are None unless the request asked for them."""

    generated_text: str
    details: GenerationDetails | None = None
    state: str | None = None


class TargetToken(NamedTuple):
    """One token of a translation, with its log-probability in nats. The texts of all tokens are the translation."""

    id: int
    text: str
    logprob: float


class SourceToken(NamedTuple):
    """One token that was read. `start` and `end` are character offsets."""

    text: str
    start: int
    end: int


class TranslationDetails(NamedTuple):
    """How a translation was found.

    `score` is the log-probability over the length penalty. `alignment` has pairs of a source token and a token, counted
    from 0: what each token attends to most. `source_tokens` is None for a source without text. `attention` has the
    weights of the source tokens (or vectors) for each token; the rest up to 1 is on the end of the source.
    """

    score: float
    finish_reason: FinishReason
    tokens: tuple[TargetToken, ...]
    source_tokens: tuple[SourceToken, ...] | None
    alignment: tuple[tuple[int, int], ...]
    attention: tuple[tuple[float, ...], ...]


class TranslationResult(NamedTuple):
    """A translation, or the caption of vectors. `details` are None unless the request asked for them.

    `alternatives` are the next best translations, best first, if it asked for several.
    """

    translation_text: str
    details: TranslationDetails | None = None
    alternatives: "tuple[TranslationResult, ...] | None" = None


def as_json(answer: Any) -> Any:
    """Return an answer, or a list of answers, as the dicts and lists of its JSON. Fields that are None are left out.

    For manifests and tests. The service has faster encoders.
    """
    if hasattr(answer, "_asdict"):
        return {name: as_json(value) for name, value in answer._asdict().items() if value is not None}
    return [as_json(each) for each in answer] if isinstance(answer, list | tuple | TaggedInput) else answer
