"""Parts of error messages that all packages share. Uses the standard library only."""

from __future__ import annotations  # seqserve.py imports this file, also in old versions of Python

from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

LONGEST_NAME = 100  # characters
# What a value must be, by the type of pydantic's error. The names in braces are those of the error's context.
_NEEDED = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "decimal_parsing": "a number",
    "dict_type": "a table",
    "finite_number": "a number",
    "float_parsing": "a number",
    "float_type": "a number",
    "greater_than": "over {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a number with fewer digits",
    "int_type": "a whole number",
    "less_than": "under {lt:g}",
    "less_than_equal": "at most {le:g}",
    "list_type": "a list",
    "literal_error": "{expected}",
    "model_attributes_type": "a table",
    "model_type": "a table",
    "path_type": "a path",
    "string_too_long": "at most {max_length} characters long",
    "string_too_short": "at least {min_length} characters long",
    "string_type": "a string",
    "too_long": "a list of at most {max_length} values",
    "too_short": "a list of at least {min_length} values",
    "tuple_type": "a list",
}


def closest(name: str, names: Iterable[str]) -> str | None:
    """Return the one of `names` that a misspelled name probably means, or None."""
    by_lower = {each.lower(): each for each in names}
    # Long names take long to compare. With the usual cutoff of 0.6, "nowhere" would be like "ner-en".
    found = get_close_matches(name[:LONGEST_NAME].lower(), by_lower, n=1, cutoff=0.64)
    return by_lower[found[0]] if found else None


def suggest(wrong: str, known: Collection[str], *, others: bool = True) -> str:
    """Return "did you mean …?" for a misspelled name, or with `others` the names to choose from."""
    if near := closest(wrong, known):
        return f"did you mean {near}?"
    return f"choose one of {', '.join(known)}" if others and known else ""


def plain(error: Exception) -> str:
    """Return the message of an error. One of the operating system names its file, without a number."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror[0].lower()}{error.strerror[1:]}; check the path"
    return str(error)


def needed(problem: Mapping[str, Any]) -> str:
    """Return what a value must be, for one error of pydantic, such as "must be a whole number".

    The message of one of our validators is returned unchanged.
    """
    context = problem.get("ctx", {})
    if problem["type"] == "value_error":
        return str(context["error"])
    if problem["type"] in _NEEDED:
        return f"must be {_NEEDED[problem['type']].format_map(context)}"
    message = str(problem["msg"])  # of a type that no field here has
    return f"must {message.partition(' should ')[2] or 'be valid'}"
