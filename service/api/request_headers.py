"""Parsing and validation of request headers, and the rate-limit headers of answers."""

import contextlib
import math
import zlib
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Self

import zstandard

from service.api.problems import Headers
from service.errors import InvalidRequest, TooLarge, Unauthorized, UnsupportedMedia, shown
from service.rate_limits import RateLimitStatus

PNG, JPEG = "image/png", "image/jpeg"
JSON, OCTETS, FORM = "application/json", "application/octet-stream", "application/x-www-form-urlencoded"
# The zlib formats of each content coding that is read, in the order to try them: some clients send raw deflate.
CODINGS = {"gzip": (31,), "x-gzip": (31,), "deflate": (15, -15)}
ZSTD = "zstd"
ZSTD_WINDOW = 1 << 23  # bytes of memory for one body, the limit of RFC 9659
ACCEPTED_CODINGS = ("gzip", "deflate", ZSTD, "identity")
HEADER_LENGTH = b"inference-header-content-length"  # bytes of JSON in a body that continues with tensors


class RequestHeaders(dict[bytes, bytes]):
    """The header fields of a request, by lower-case name, with the last value of a repeated field.

    Intermediaries disagree about which value counts, so the checks below reject a repeated field that matters.
    """

    repeated: Collection[bytes] = ()

    @classmethod
    def of(cls, fields: Headers) -> Self:
        """Return the headers of a request."""
        headers = cls(fields)
        if len(headers) < len(fields):
            headers.repeated = {name for name, count in Counter(name for name, _ in fields).items() if count > 1}
        return headers


def media_of(headers: RequestHeaders) -> str:
    """Return the media type of the body in lower case, "" without one."""
    return (headers.get(b"content-type") or b"").partition(b";")[0].strip().lower().decode("latin-1")


def check_media(headers: RequestHeaders, available: Sequence[str]) -> None:
    """Raise UnsupportedMedia unless the body has one of the ``available`` media types.

    A body without a media type is read as the first of them.
    """
    if headers.repeated:
        _check_repeated(headers, available)
    if headers.get(b"content-type") == b"application/json":
        return
    media = media_of(headers)
    if media and media not in available:
        raise UnsupportedMedia(
            f"the media type {shown(media)} is not supported; send {' or '.join(available)}",
            value=media,
            available=available,
        )


def foreign_origin(
    headers: RequestHeaders, allowed: Collection[str], *, schemes: Sequence[str] = ("http", "https")
) -> str | None:
    """Return the origin of a page that is neither ``allowed`` nor the service's own, or None.

    ``schemes`` are those of the service, unless a proxy says which it has: a page cannot set X-Forwarded-Proto.
    """
    sent = headers.get(b"origin")
    if sent is None:
        return None
    origin = sent.decode("latin-1")
    if b"origin" in headers.repeated:
        return origin
    if "*" in allowed or origin in allowed:
        return None
    forwarded = headers.get(b"x-forwarded-proto")
    if forwarded:
        schemes = ("https",) if forwarded.partition(b",")[0].strip().lower() in (b"https", b"wss") else ("http",)
    scheme, _, host = origin.lower().partition("://")
    own = headers.get(b"host", b"").decode("latin-1").lower()
    port = ":443" if scheme == "https" else ":80"
    is_own = scheme in schemes and bool(own) and host.removesuffix(port) == own.removesuffix(port)
    return None if is_own else origin


def check_origin_of_body(headers: RequestHeaders, allowed: Collection[str]) -> None:
    """Raise UnsupportedMedia for a body without a media type that another site's page sent.

    Browsers ask first before they send JSON to another site, but not before they send a body without a media type.
    """
    if not headers.get(b"content-type", b"").partition(b";")[0].strip():
        origin = foreign_origin(headers, allowed)
        if origin is not None:
            raise UnsupportedMedia(
                f"a page of {shown(origin)} sent a body without a media type; send Content-Type: {JSON}",
                value="",
                available=[JSON],
            )


def content_coding(headers: RequestHeaders) -> str:
    """Return the content coding of the body, "" for none. Raises UnsupportedMedia for one that is not read."""
    sent = headers.get(b"content-encoding")
    coding = "" if sent is None else sent.strip().lower().decode("latin-1")
    if coding in ("", "identity"):
        return ""
    if coding not in CODINGS and coding != ZSTD:
        raise UnsupportedMedia(
            f"the content encoding {shown(coding)} is not supported; send {', '.join(ACCEPTED_CODINGS)}",
            value=coding,
            available=ACCEPTED_CODINGS,
        )
    return coding


def decompress(body: bytes, coding: str, limit: int) -> bytes:
    """Return the body without its content coding. Raises TooLarge if over ``limit`` bytes come out, and InvalidRequest.

    One stream is read. A body of thousands of empty ones would take seconds.
    """
    if coding == ZSTD:
        return _decompress_zstd(body, limit)
    for wbits in CODINGS[coding]:
        stream = zlib.decompressobj(wbits)
        with contextlib.suppress(zlib.error):
            out = stream.decompress(body, limit + 1)
            if len(out) > limit:
                raise body_too_large(limit)
            if stream.eof and not stream.unused_data:
                return out
    raise InvalidRequest(f"the body is not one complete {coding} stream", field="Content-Encoding", value=coding)


def _decompress_zstd(body: bytes, limit: int) -> bytes:
    decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW)
    with contextlib.suppress(zstandard.ZstdError):
        out = decompressor.stream_reader(body).read(limit + 1)
        if len(out) > limit:
            raise body_too_large(limit)
        stream = decompressor.decompressobj()  # within the limit: the reader does not say whether the frame is complete
        stream.decompress(body)
        if stream.eof and not stream.unused_data:
            return out
    raise InvalidRequest("the body is not one complete zstd frame", field="Content-Encoding", value=ZSTD)


def _check_repeated(headers: RequestHeaders, available: Sequence[str]) -> None:
    for name, values in ((b"content-type", available), (b"content-encoding", ACCEPTED_CODINGS), (HEADER_LENGTH, [])):
        if name in headers.repeated:
            raise UnsupportedMedia(
                f"the header {name.decode()} is repeated; send it once", value="repeated", available=values
            )


def check_length(headers: RequestHeaders, limit: int) -> None:
    """Raise TooLarge if Content-Length is over ``limit`` bytes, and InvalidRequest if it is repeated."""
    if b"content-length" in headers.repeated:
        raise InvalidRequest("repeated; send it once", field="Content-Length")
    length = int(headers.get(b"content-length") or b"0")
    if length > limit:
        raise body_too_large(limit, length)


def body_too_large(limit: int, length: int | None = None) -> TooLarge:
    """Return the error for a body over ``limit`` bytes. ``length`` is its size, where it is known."""
    size = "the body" if length is None else f"the body has {length} bytes, which"
    return TooLarge(f"{size} is over the limit of {limit} bytes; send less in one request", limit=limit, value=length)


def timeout_of(headers: RequestHeaders) -> float | None:
    """Return the seconds of X-Request-Timeout-S, or None. Raises InvalidRequest."""
    sent = headers.get(b"x-request-timeout-s")
    if sent is None:
        return None
    if b"x-request-timeout-s" in headers.repeated:
        raise InvalidRequest("repeated; send it once", field="X-Request-Timeout-S")
    try:
        seconds = math.nan if b"_" in sent else float(sent)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        value = sent.decode("latin-1")
        raise InvalidRequest(
            f"{shown(value)!r} is not a number of seconds above 0; send one",
            field="X-Request-Timeout-S",
            limit=0,
            value=value,
        )
    return seconds


def api_key_of(headers: RequestHeaders) -> bytes | None:
    """Return the API key of a request, or None. Raises Unauthorized for a repeated Authorization header."""
    if b"authorization" in headers.repeated:
        raise Unauthorized("the header Authorization is repeated; send one API key")
    scheme, _, key = (headers.get(b"authorization") or b"").partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" else None


def rate_limit_headers(statuses: Sequence[RateLimitStatus]) -> Headers:
    """Return the RateLimit fields of an answer, as in draft-ietf-httpapi-ratelimit-headers-10."""
    policies = ", ".join(f'"{each.policy}";q={each.count};w={each.window_s}' for each in statuses)
    left = ", ".join(f'"{each.policy}";r={each.remaining};t={math.ceil(each.reset_s)}' for each in statuses)
    return [(b"ratelimit-policy", policies.encode()), (b"ratelimit", left.encode())]
