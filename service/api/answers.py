"""The typed answers of the tasks as what orjson can write. Written out field by field: these run for every token."""

from collections.abc import Sequence
from typing import Any

from models.tasks import EntitySpan, GenerationResult, LabelScore


def entities(answer: Sequence[Any]) -> list[dict[str, Any]]:
    """Return the entities of one input."""
    if answer and isinstance(answer[0], EntitySpan):
        return [
            {"entity_group": label, "score": score, "word": word, "start": start, "end": end}
            for label, score, word, start, end in answer
        ]
    return [
        {"entity": label, "score": score, "word": word, "start": start, "end": end}
        for label, score, word, start, end in answer
    ]


def tags(answer: Sequence[Any]) -> list[Any]:
    """Return the answer of `Engine.tag`: the entities of one input, or a list of them."""
    return list(map(entities, answer)) if answer and isinstance(answer[0], list) else entities(answer)


def labels(answer: Sequence[LabelScore]) -> list[dict[str, Any]]:
    """Return the labels of one input."""
    return [{"label": label, "score": score} for label, score in answer]


def generated(answer: GenerationResult, *, with_state: bool) -> dict[str, Any]:
    """Return a generated text. `with_state` adds the state that the request asked for, null if there is none."""
    found: dict[str, Any] = {"generated_text": answer.generated_text}
    if (details := answer.details) is not None:
        found["details"] = {**details._asdict(), "tokens": [token._asdict() for token in details.tokens]}
    if with_state:
        found["state"] = answer.state
    return found


def generations(answer: GenerationResult | Sequence[GenerationResult], *, with_state: bool) -> Any:
    """Return the answer of `Engine.generate`: one text, or a list of them."""
    if isinstance(answer, GenerationResult):
        return generated(answer, with_state=with_state)
    return [generated(each, with_state=with_state) for each in answer]
