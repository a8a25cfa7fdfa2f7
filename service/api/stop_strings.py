"""A text on its way to somebody who must not see the stop string that ends it: what is safe to send, and what is not.

The engine's texts keep their stop string, as in Text Generation Inference; OpenAI's end before it. While a text grows,
what may yet turn out to be the beginning of a stop string is held back. Knows strings and tokens only.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Token(NamedTuple):
    """What one step said: `logprob` None and no `alternatives` if nobody asked for them."""

    text: str
    logprob: float | None
    alternatives: Sequence[tuple[str, float]]


class Parting:
    """One text, token by token."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held: list[Token] = []

    def take(self, tokens: Iterable[Token], *, stopped: bool, ended: bool) -> tuple[str, list[Token]]:
        """Return the text that may be sent now and the tokens that begin in it.

        ``ended``: there will be no more; ``stopped``: because a stop string came.
        """
        self._held += tokens
        text = "".join(token.text for token in self._held)
        if stopped:
            text = text[: min((place for stop in self._stops if (place := text.find(stop)) >= 0), default=len(text))]
            released = self._beginning_before(len(text))
        elif ended:
            released = self._held
        else:
            released = self._ending_by(len(text) - self._longest_beginning(text))
            text = "".join(token.text for token in released)
        self._held = self._held[len(released) :]
        return text, released

    def _longest_beginning(self, text: str) -> int:
        """How many characters at the end of `text` may be the beginning of a stop string."""
        lengths = (length for stop in self._stops for length in range(1, len(stop)) if text.endswith(stop[:length]))
        return max(lengths, default=0)

    def _ending_by(self, end: int) -> list[Token]:
        found, place = [], 0
        for token in self._held:
            place += len(token.text)
            if place > end:
                break
            found.append(token)
        return found

    def _beginning_before(self, end: int) -> list[Token]:
        found, place = [], 0
        for token in self._held:
            if place >= end:
                break
            found.append(token)
            place += len(token.text)
        return found
