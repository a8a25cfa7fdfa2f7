"""What is wrong with an input, in words for whoever sent it. Knows no codec, no request and no HTTP."""

SHOWN_CHARACTERS = 40  # of a value that is echoed: enough to recognise it


class InputError(ValueError):
    """An input that a codec cannot read. The message says what stands where, what is allowed and what to do.

    `value` is what was found, `limit` what is allowed, as far as a program can use them.
    """

    def __init__(self, message: str, *, value: object = None, limit: int | None = None) -> None:
        super().__init__(message)
        self.value, self.limit = value, limit


class TooLong(InputError):
    """An input of more steps than the codec has places for: `limit` of them."""


def shown(value: object) -> str:
    """A value as it is written, cut short."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"
