"""What the headers of a request ask and announce, checked: media type, length, deadline. Knows no server."""

import math
from collections.abc import Sequence

from service.api.request_headers import HEADER_LENGTH, Head
from service.errors import InvalidRequest, TooLarge, UnsupportedMedia, shown


def check_media(head: Head, available: Sequence[str]) -> None:
    """Raise UnsupportedMedia unless the body is of one of these media types, as it is; none named is the first."""
    for name, values in ((b"content-type", available), (b"content-encoding", ["identity"]), (HEADER_LENGTH, [])):
        if name in head.repeated:
            raise UnsupportedMedia(
                f"{name.decode()} came more than once; send it once", value="several", available=values
            )
    media = head.fields.get(b"content-type", b"").partition(b";")[0].strip().lower()
    sent = media.decode("latin-1")
    if media and sent not in available:
        wanted = " or ".join(available)
        raise UnsupportedMedia(f"the body is {shown(sent)}; send {wanted}", value=sent, available=available)
    encoding = head.fields.get(b"content-encoding", b"identity").strip().lower()
    if encoding != b"identity":
        sent = encoding.decode("latin-1")
        raise UnsupportedMedia(
            f"the body is encoded as {shown(sent)}; send it as it is", value=sent, available=["identity"]
        )


def check_length(head: Head, limit: int) -> None:
    """Raise TooLarge for a body that is announced as more than ``limit`` bytes, InvalidRequest for two lengths."""
    if b"content-length" in head.repeated:
        raise InvalidRequest("came more than once; send it once", field="Content-Length")
    length = int(head.fields.get(b"content-length", b"0"))
    if length > limit:
        raise too_large(limit, length)


def seconds_of(head: Head) -> float | None:
    """Return the seconds that the client allows, None if it says nothing. Raises InvalidRequest."""
    if b"x-request-timeout-s" in head.repeated:
        raise InvalidRequest("came more than once; send it once", field="X-Request-Timeout-S")
    sent = head.fields.get(b"x-request-timeout-s")
    if sent is None:
        return None
    try:
        seconds = float(sent)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise InvalidRequest(
            "must be a number of seconds above 0",
            field="X-Request-Timeout-S",
            limit=0,
            value=sent.decode("latin-1"),
        )
    return seconds


def too_large(limit: int, length: int | None = None) -> TooLarge:
    """Return the error for a body of more than ``limit`` bytes; ``length`` if it was announced."""
    return TooLarge(
        f"the body is over {limit} bytes, the limit; send less text in one request", limit=limit, value=length
    )
