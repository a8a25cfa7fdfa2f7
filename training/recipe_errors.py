"""What is wrong with a recipe, in the words of whoever wrote it: one sentence for each problem that pydantic finds.

Knows models of pydantic and what their problems are called. Does not know what a recipe is for.
"""

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

# What may stand in a field that cannot be left out.
EXAMPLES = {
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


def sentences(error: ValidationError, recipe: type[BaseModel], file: str, changed: Collection[str]) -> str:
    """All problems in one line: each with the option that made it, or with the recipe as it was asked for."""
    found = []
    for problem in error.errors(include_url=False):
        field = _field(problem, recipe)
        said = _said(problem, field, recipe)
        option = "--name" if field == "name" else f"--set {field}"
        found.append(f"{option}: {said}" if field in changed else f"{file}: {f'{field}: ' if field else ''}{said}")
    return "; ".join(found)


def _field(problem: Mapping[str, Any], recipe: type[BaseModel]) -> str:
    """Its dotted name as a recipe has it: of a choice of models pydantic's place names the one that was chosen too."""
    place = [str(part) for part in problem["loc"]]
    if len(place) > 1 and place[1] in _kinds(recipe, place[0]):
        del place[1]
    if problem["type"].startswith("union_tag"):
        place.append("kind")
    return ".".join(place)


def _said(problem: Mapping[str, Any], field: str, recipe: type[BaseModel]) -> str:
    kind, value, last = problem["type"], problem["input"], field.split(".")[-1]
    if kind in UNKNOWN:
        return _unknown([str(part) for part in problem["loc"]], field, recipe)
    if kind in MISSING:
        return f"is missing; for example {EXAMPLES.get(field, f'{last} = …')}"
    if kind == "union_tag_invalid":
        value, known = problem["ctx"]["tag"], list(_kinds(recipe, field.split(".")[0]))
        return f"{value!r} is none of {', '.join(known)}{_meant(value, known)}"
    message = problem["msg"].removeprefix("Value error, ")
    if field == "name":
        message = "lower-case letters, digits, dots, dashes and underscores only, at most 64"
    return f"{message} (got {str(value)[:80]!r})" if field else message


def _unknown(place: list[str], field: str, recipe: type[BaseModel]) -> str:
    kinds = _kinds(recipe, place[0])
    if len(place) < 3 or place[1] not in kinds:
        return f"there is no such field{_meant(field, list(names(recipe)))}"
    there = [name for name in _fields(kinds[place[1]]) if name != "kind"]
    return f"kind {place[1]!r} has no such field, it has {', '.join(there)}{_meant(place[-1], there)}"


def _meant(found: str, known: list[str]) -> str:
    """A question that names the likeliest of the known: the same field of another part, or one that is spelt alike."""
    elsewhere = [name for name in known if name.split(".")[-1] == found.split(".")[-1]]
    likely = elsewhere[:1] or get_close_matches(found, known, n=1)
    return f"; did you mean {likely[0]}?" if likely else ""


def names(recipe: type[BaseModel]) -> Iterator[str]:
    """The dotted names of all fields, and of those of its parts."""
    for name, field in recipe.model_fields.items():
        yield name
        for part in _parts(field.annotation):
            yield from (f"{name}.{inner}" for inner in _fields(part))


def _kinds(recipe: type[BaseModel], name: str) -> dict[str, type[BaseModel]]:
    """What `kind` can be, where a field is one of several models, and which of them it then is."""
    field = recipe.model_fields.get(name)
    models = [part for part in _parts(field.annotation if field else None) if issubclass(part, BaseModel)]
    return {part.model_fields["kind"].default: part for part in models if "kind" in part.model_fields}


def _parts(annotation: Any) -> Iterator[type]:
    """The models and data classes that an annotation names: one, one or None, or one of several."""
    for each in get_args(annotation) or (annotation,):
        if isinstance(each, type) and (issubclass(each, BaseModel) or dataclasses.is_dataclass(each)):
            yield each


def _fields(part: Any) -> list[str]:
    return (
        list(part.model_fields) if issubclass(part, BaseModel) else [field.name for field in dataclasses.fields(part)]
    )
