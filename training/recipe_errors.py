"""Messages about wrong recipes: one sentence for each problem that pydantic finds, in terms of recipe fields."""

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

EXAMPLES = {  # values of required fields
    "name": 'name = "mine"',
    "task": 'task = "classify"',
    "description": 'description = "what it does"',
    "data": '[data] and below it path = "mine.csv"',
    "codec": '[codec] and below it kind = "words"',
    "codec.kind": 'kind = "words"',
    "codec.features": "features = 12",
}
MISSING = ("missing", "union_tag_not_found")
UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")


def explain(error: ValidationError, recipe: type[BaseModel], file: str, changed: Collection[str]) -> str:
    """Return all problems in one line. Each starts with the option that caused it, or with the recipe."""
    messages = []
    for problem in error.errors(include_url=False):
        # Pydantic's location in a union also names the chosen member.
        place = [str(part) for part in problem["loc"]]
        member = place[1] if len(place) > 1 and place[1] in _kinds(recipe, place[0]) else None
        parts = [*place[:1], *place[2:]] if member else place
        field = ".".join([*parts, "kind"] if problem["type"].startswith("union_tag") else parts)
        message = _message(problem, field, member, recipe)
        option = "--name" if field == "name" else f"--set {field}"
        origin = option if field in changed else f"{file}: {field}" if field else file
        messages.append(f"{origin}: {message}")
    return "; ".join(messages)


def field_names(recipe: type[BaseModel]) -> Iterator[str]:
    """Yield the dotted names of all fields and of their fields."""
    for name, field in recipe.model_fields.items():
        yield name
        for part in _parts(field.annotation):
            yield from (f"{name}.{inner}" for inner in _part_fields(part))


def _message(problem: Mapping[str, Any], field: str, member: str | None, recipe: type[BaseModel]) -> str:
    kind, value, last = problem["type"], problem["input"], field.split(".")[-1]
    if kind in UNKNOWN:
        if member is None:
            return f"unknown field{_suggestion(field, list(field_names(recipe)))}"
        known = [name for name in _part_fields(_kinds(recipe, field.split(".")[0])[member]) if name != "kind"]
        return f"unknown field of kind {member!r}, which has {', '.join(known)}{_suggestion(last, known)}"
    if kind in MISSING:
        return f"is missing; for example {EXAMPLES.get(field, f'{last} = …')}"
    if kind == "union_tag_invalid":
        value, known = problem["ctx"]["tag"], list(_kinds(recipe, field.split(".")[0]))
        return f"{value!r} is not one of {', '.join(known)}{_suggestion(value, known)}"
    message = problem["msg"].removeprefix("Value error, ")
    if field == "name":
        message = "use at most 64 lower-case letters, digits, dots, dashes and underscores"
    return f"{message} (got {str(value)[:80]!r})" if field else message


def _suggestion(wrong: str, known: list[str]) -> str:
    """Suggest the same field of another part, or one with a similar name."""
    elsewhere = [name for name in known if name.split(".")[-1] == wrong.split(".")[-1]]
    likely = elsewhere[:1] or get_close_matches(wrong, known, n=1)
    return f"; did you mean {likely[0]}?" if likely else ""


def _kinds(recipe: type[BaseModel], name: str) -> dict[str, type[BaseModel]]:
    """Return the members of a discriminated union by their `kind`; {} for another field."""
    field = recipe.model_fields.get(name)
    models = [part for part in _parts(field.annotation if field else None) if issubclass(part, BaseModel)]
    return {part.model_fields["kind"].default: part for part in models if "kind" in part.model_fields}


def _parts(annotation: Any) -> Iterator[type]:
    """Yield the models and dataclasses in an annotation: one, an optional one, or a union."""
    for each in get_args(annotation) or (annotation,):
        if isinstance(each, type) and (issubclass(each, BaseModel) or dataclasses.is_dataclass(each)):
            yield each


def _part_fields(part: Any) -> list[str]:
    if issubclass(part, BaseModel):
        return list(part.model_fields)
    return [field.name for field in dataclasses.fields(part)]
