"""Inputs encoded and rows answered, many at a time, without keeping the loop from others. Knows no request."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from service.errors import TooLarge
from service.model_runtime import ModelRuntime

ENCODE_SLICE = 32_768  # characters encoded, at least, before the loop may serve others: about 5 ms of English
ANSWER_SLICE = 8_192  # words or characters answered, at least, before the loop may serve others


async def encode_all(
    runtime: ModelRuntime, inputs: Sequence[Any], most: int, *, beside: int = 0, alone: bool = False
) -> list[Any]:
    """Encode every input, giving way to the loop now and then; `alone`: the one input came without a list.

    Raises TooLarge for an input that is too long, or for more than `most` tokens in all of them together with `beside`
    tokens for each; InvalidRequest for one that cannot be read; Overloaded or Unavailable before anything is encoded
    in vain.
    """
    runtime.check_room(len(inputs))
    runtime.check_kind(inputs)
    items: list[Any] = []
    since, tokens = 0, beside * len(inputs)
    for place, raw in enumerate(inputs):
        item = runtime.encode(raw, None if alone else place)
        tokens += item.length
        _check_tokens(runtime, tokens, most)
        items.append(item)
        since += len(raw) if isinstance(raw, str) else 8 * len(raw)
        if since > ENCODE_SLICE:
            since = 0
            await asyncio.sleep(0)
    return items


def encode_one(runtime: ModelRuntime, raw: Any, most: int) -> Any:
    """As `encode_all`, for one input."""
    runtime.check_room(1)
    item = runtime.encode(raw)
    _check_tokens(runtime, item.length, most)
    return item


def _check_tokens(runtime: ModelRuntime, tokens: int, most: int) -> None:
    if tokens > most:
        raise TooLarge(
            f"the request comes to more than {most} {runtime.unit}, sent and asked for: split it into several requests",
            limit=most,
            field="inputs",
        )


async def answer_all(
    items: Sequence[Any], rows: Sequence[Any], answer: Callable[[Any, Any], Any], *, beside: int = 0
) -> list[Any]:
    """The answer for each item and its row, giving way to the loop now and then."""
    answers = []
    since = 0
    for item, row in zip(items, rows, strict=True):
        answers.append(answer(item, row))
        since += item.length + beside
        if since > ANSWER_SLICE:
            since = 0
            await asyncio.sleep(0)
    return answers
