"""Fields of request bodies: their true defaults, and the parameters that are not offered.

The OpenAPI document and docs/reference/parameters.md show what is declared here.
"""

import json
import typing
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema
from pydantic_core.core_schema import no_info_after_validator_function

UNSET = "x-unset"  # in the JSON Schema of a field: what it means to leave it out, where that is not a constant


class Only:
    """Marks a field that is not offered. ``values`` have no effect, so they are accepted like a missing field."""

    def __init__(self, *values: object) -> None:
        self.values = values

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "enum": list(self.values)}

    def _check(self, value: object) -> object:
        if value not in self.values:
            send = "" if self.values[0] is None else f"send {json.dumps(self.values[0])} or "
            raise ValueError(f"not offered; {send}leave it out")
        return value


Null = Annotated[Any, Only(None)]
Zero = Annotated[float, Only(0)]
One = Annotated[float, Only(1)]
AlwaysFalse = Annotated[bool, Only(False)]
NoText = Annotated[str, Only("")]
NoStrings = Annotated[list[str], Only([])]


def parameter(about: str, default: Any = None, *, unset: str | int = "") -> Any:
    """Return a documented field. ``default`` is its true default.

    ``unset`` is the default where it depends on more than the field: a description, or a number that a setting limits.
    """
    extra: dict[str, Any] = {"default": unset} if isinstance(unset, int) else {UNSET: unset} if unset else {}
    return Field(default=default, description=about, json_schema_extra=extra)


class RequestModel(BaseModel):
    """An object in a request body. It rejects unknown fields, unless they are null, and values of another type."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        json_schema_extra={"additionalProperties": {"type": "null"}},
    )
    # Parameters of the protocol that are not offered, in addition to the fields that are Only.
    not_offered: ClassVar[frozenset[str]] = frozenset()

    def value_of(self, name: str) -> Any:
        """Return a field, or its default if it is null."""
        value = getattr(self, name)
        return type(self).model_fields[name].default if value is None else value

    @classmethod
    def neutral_values(cls) -> dict[str, tuple[object, ...]]:
        """Return the fields that are not offered, each with its values without an effect."""
        found = {}
        for name, info in cls.model_fields.items():
            marks = [mark for mark in _metadata(info.rebuild_annotation()) if isinstance(mark, Only)]
            if marks:
                found[name] = marks[0].values
        return found

    @classmethod
    def offered(cls) -> list[str]:
        """Return the names of the fields that have an effect."""
        return [name for name in cls.model_fields if name not in cls.neutral_values()]

    @classmethod
    def place_of(cls, name: str) -> str | None:
        """Return where an object inside this one offers a field, such as ``generate_parameters.num_beams``."""
        for field in cls.offered():
            for model in _models(cls.model_fields[field].annotation):
                place = name if name in model.offered() else model.place_of(name)
                if place:
                    return f"{field}.{place}"
        return None

    @classmethod
    def at(cls, location: Sequence[int | str]) -> "type[RequestModel]":
        """Return the type of the object at a place in the body, such as ``("inputs", 0)``."""
        model: type[RequestModel] = cls
        for part in location:
            if isinstance(part, str):
                model = next(_models(model.model_fields[part].annotation))
        return model


def _metadata(hint: Any) -> Iterator[Any]:
    """Yield the marks of all parts of a type."""
    yield from getattr(hint, "__metadata__", ())
    for part in typing.get_args(hint):
        yield from _metadata(part)


def _models(hint: Any) -> Iterator[type[RequestModel]]:
    """Yield the request models in a type."""
    if isinstance(hint, type) and issubclass(hint, RequestModel):
        yield hint
    for part in typing.get_args(hint):
        yield from _models(part)
