"""The answers of the tasks as JSON objects: their types for the OpenAPI document, and the functions that build them.

The functions name every field, because that is the fastest way: they run for every token.
"""

from collections.abc import Sequence
from typing import Any, NotRequired

from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from models.tasks import Entity, EntitySpan, GenerationResult, LabelScore


class EntityObject(TypedDict):
    """One token (``entity``) or one span (``entity_group``). ``start`` and ``end`` are character offsets."""

    entity: NotRequired[str]
    entity_group: NotRequired[str]
    score: float
    word: str
    start: int
    end: int


class LabelObject(TypedDict):
    """One label and its probability."""

    label: str
    score: float


class GeneratedObject(TypedDict):
    """One generated text."""

    generated_text: str
    details: NotRequired[dict[str, Any]]
    state: NotRequired[str | None]


def entity_objects(entities: Sequence[Entity | EntitySpan]) -> list[EntityObject]:
    """Return the entities of one input."""
    if entities and isinstance(entities[0], EntitySpan):
        return [
            {"entity_group": label, "score": score, "word": word, "start": start, "end": end}
            for label, score, word, start, end in entities
        ]
    return [
        {"entity": label, "score": score, "word": word, "start": start, "end": end}
        for label, score, word, start, end in entities
    ]


def tag_answer(answer: Sequence[Any]) -> list[EntityObject] | list[list[EntityObject]]:
    """Return the answer of `Engine.tag`: the entities of one input, or of each input of a list."""
    return (
        [entity_objects(each) for each in answer] if answer and isinstance(answer[0], list) else entity_objects(answer)
    )


def label_objects(labels: Sequence[LabelScore]) -> list[LabelObject]:
    """Return the labels of one input."""
    return [{"label": label, "score": score} for label, score in labels]


def generated_object(result: GenerationResult, *, with_state: bool) -> GeneratedObject:
    """Return one generated text. ``with_state``: include the state, null if there is none."""
    answer: GeneratedObject = {"generated_text": result.generated_text}
    if (details := result.details) is not None:
        answer["details"] = {**details._asdict(), "tokens": [token._asdict() for token in details.tokens]}
    if with_state:
        answer["state"] = result.state
    return answer


def generate_answer(
    answer: GenerationResult | Sequence[GenerationResult], *, with_state: bool
) -> GeneratedObject | list[GeneratedObject]:
    """Return the answer of `Engine.generate`: one text, or one for each prompt of a list."""
    if isinstance(answer, GenerationResult):
        return generated_object(answer, with_state=with_state)
    return [generated_object(each, with_state=with_state) for each in answer]
