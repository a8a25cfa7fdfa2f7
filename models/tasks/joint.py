"""Both at once: a label for every step and a label for the whole, out of one run of one network.

Puts tag.py and classify.py together and adds nothing to either.  T steps, B batch, K labels, L labels of the whole.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from numpy.typing import NDArray

from models.codecs import Codec
from models.tasks.answers import Entity, EntitySpan, JointAnswer, LabelScore
from models.tasks.classify import Classification, vectors
from models.tasks.request_types import unwrap
from models.tasks.tag import NOTHING, Tagging, TagRow


class JointRow(NamedTuple):
    """What the network says of one input: of its steps, and of the whole."""

    tags: TagRow
    text: Sequence[float]


class Joint:
    """Encodes, collates and decodes for a tagger that is a classifier too; `embeds`: as a classifier's."""

    empty_row = JointRow(NOTHING, ())  # the row of an input without a step, which no network sees

    def __init__(
        self,
        codec: Codec,
        labels: Sequence[str],
        text_labels: Sequence[str],
        scheme: str | None,
        *,
        embeds: bool = False,
    ) -> None:
        self.codec, self.embeds = codec, embeds
        self.tagging = Tagging(codec, labels, scheme)
        self.classification = Classification(codec, text_labels)

    def encode(self, raw: Any, *, limit: int | None = None) -> Any:
        """One input as its codec takes it; `limit` and what may be raised: see there."""
        return self.codec.encode(raw, limit=limit)

    def collate(self, items: Sequence[Any]) -> dict[str, NDArray[Any]]:
        return self.codec.collate(unwrap(items) if self.embeds else items)

    def decode(self, items: Sequence[Any], outputs: Mapping[str, NDArray[Any]]) -> list[Any]:
        """As a tagger's, with text_probabilities (B, L) beside; for a Whole its vector."""
        tags = self.tagging.decode(items, outputs)
        texts = self.classification.decode(items, outputs, output="text_probabilities")
        rows = list(map(JointRow, tags, texts))
        return vectors(items, rows, outputs) if self.embeds else rows

    def tags(self, item: Any, row: JointRow, *, aggregation: str | None = None) -> list[Entity] | list[EntitySpan]:
        """The entities of one input: see Tagging.answer."""
        return self.tagging.answer(item, row.tags, aggregation=aggregation)

    def labels(self, item: Any, row: JointRow, *, top_k: int | None = None) -> list[LabelScore]:
        """The labels of the whole: see Classification.answer."""
        return self.classification.answer(item, row.text, top_k=top_k)

    def answer(
        self, item: Any, row: JointRow, *, aggregation: str | None = None, top_k: int | None = None
    ) -> JointAnswer:
        """Return both answers, as the examples of a manifest record them."""
        return JointAnswer(
            tags=self.tags(item, row, aggregation=aggregation), labels=self.labels(item, row, top_k=top_k)
        )
