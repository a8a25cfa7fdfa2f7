"""What tasks take in addition to encoded inputs, and what they answer.

Field names of answers are the keys of the JSON that clients receive.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from models.state import State

FinishReason = Literal["length", "stop", "eos"]


class StreamChunk(NamedTuple):
    """A piece of a longer sequence. Its result carries the state after it. For taggers that have a state."""

    item: Any
    state: State  # arrays (1, width)

    @property
    def length(self) -> int:
        return int(self.item.length)

    @property
    def extra(self) -> int:
        return int(self.item.extra)


class EmbeddingInput(NamedTuple):
    """An input whose embedding is wanted instead of its labels. For bundles with the output `embedding`."""

    item: Any

    @property
    def length(self) -> int:
        return int(self.item.length)

    @property
    def extra(self) -> int:
        return int(self.item.extra)


def unwrap(items: Sequence[Any]) -> list[Any]:
    """Return the encoded inputs without StreamChunk and EmbeddingInput."""
    return [item.item if isinstance(item, StreamChunk | EmbeddingInput) else item for item in items]


class Entity(NamedTuple):
    """The label of one token. `start` and `end` are character offsets, or token numbers for input without text."""

    entity: str
    score: float
    word: str
    start: int
    end: int


class EntitySpan(NamedTuple):
    """Neighboring tokens merged into one span. The score is the mean over its tokens."""

    entity_group: str
    score: float
    word: str
    start: int
    end: int


class LabelScore(NamedTuple):
    """One label of the whole input with its probability."""

    label: str
    score: float


class JointAnswer(NamedTuple):
    """Both answers of a joint bundle."""

    tags: list[Entity] | list[EntitySpan]
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


def as_json(answer: Any) -> Any:
    """Return an answer, or a list of answers, as the dicts and lists of its JSON. Fields that are None are left out.

    For manifests and tests. The service has faster encoders.
    """
    if hasattr(answer, "_asdict"):
        return {name: as_json(value) for name, value in answer._asdict().items() if value is not None}
    return [as_json(each) for each in answer] if isinstance(answer, list | tuple) else answer
