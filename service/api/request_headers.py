"""What is read of a request's head, whatever server took it. Knows header fields and nothing of what they ask for."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from service.api.problems import Headers

JSON, OCTETS = "application/json", "application/octet-stream"
HEADER_LENGTH = b"inference-header-content-length"  # of the JSON in a body, where the bytes of tensors follow it
HEADS = frozenset(
    (
        *(b"content-length", b"content-type", b"content-encoding", b"authorization"),
        *(b"x-request-id", b"x-request-timeout-s", b"traceparent", HEADER_LENGTH),
    )
)
PLAIN = frozenset((b"content-type", b"x-request-id", b"traceparent"))


@dataclass(frozen=True, slots=True)
class Head:
    """What is read of a request's head. Of a field that came several times, ``fields`` has the last."""

    method: str
    path: str
    fields: Mapping[bytes, bytes]
    repeated: Collection[bytes]
    plain: bool  # nothing in it that has to be checked: ids and, perhaps, a media type, and that is JSON

    @classmethod
    def of(cls, method: str, path: str, headers: Headers) -> "Head":
        """Pick the fields that are read from ``headers``, whose names are in lower case."""
        heads = [(name, value) for name, value in headers if name in HEADS]
        fields = dict(heads)
        # Of a header that comes twice, one reader takes the first and another the last: none may be believed.
        repeated = [name for name, times in Counter(name for name, _ in heads).items() if times > 1]
        plain = not repeated and fields.keys() <= PLAIN and fields.get(b"content-type", b"") in (b"", JSON.encode())
        return cls(method, path, fields, repeated, plain)
