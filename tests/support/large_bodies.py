"""Bodies of about 1 MB that take long to read, and the routes that read them."""

from collections.abc import Iterator, Mapping

SIZE = (1 << 20) - 512
# Path -> the field with the inputs.
ROUTES = {
    "/v1/tag": b"inputs",
    "/v1/classify": b"inputs",
    "/v1/generate": b"inputs",
    "/v1/generate_stream": b"inputs",
    "/v1/completions": b"prompt",
    "/v1/embeddings": b"input",
    "/v2/models/tiny-tag/infer": b"inputs",
    "/v2/models/tiny-classify/infer": b"inputs",
}


def filled(item: bytes, size: int = SIZE, *, most: int | None = None) -> bytes:
    """Return the item again and again, with commas between, in at most `size` bytes."""
    count = size // (len(item) + 1)
    return b",".join([item] * (count if most is None else min(count, most)))


def values() -> dict[str, bytes]:
    """Return JSON values, of many small parts or of few long ones, and some that are cut off."""
    parts = {
        "numbers": filled(b"0"),
        "floats": filled(b"1.5e3"),
        "as many numbers as allowed": filled(b"0", most=262_000),
        "strings": filled(b'""'),
        "as many strings as allowed": filled(b'"a"', SIZE - 2, most=261_000) + b",1",
        "empty lists": filled(b"[]"),
        "lists": filled(b"[0]"),
        "as many lists as allowed": filled(b"[0,0]", most=65_000),
        "lists of lists": filled(b"[[0]]"),
        "objects": filled(b"{}"),
        "objects with members": filled(b'{"a":1}'),
        "as many objects as allowed": filled(b'{"a":"%b"}' % (b"b" * 100), most=2000),
        "digits": b"1" * SIZE,
        "integers of 4,000 digits": filled(b"1" * 4000),
        "infinite numbers": filled(b"1e400"),
        "tensors": filled(b'{"name":"x","datatype":"FP32","shape":[1],"data":[1]}'),
    }
    found = {
        f"{name}, {depth} deep": b"[" * depth + part + b"]" * depth
        for name, part in parts.items()
        for depth in (1, 2, 3)
    }
    texts = {
        "a word": b"a" * SIZE,
        "a number after a sign": b"_" + b"1" * SIZE,
        "a sign after a word": b"a" * SIZE + b"-",
        "an address": b"_" + b"a" * SIZE + b"@",
        "spaces": b" " * SIZE,
        "escapes": rb"\u00e9" * (SIZE // 6),
        "quotes": rb"\"" * (SIZE // 2),
        "brackets": b'[{\\"' * (SIZE // 4),
        "invalid at the end": b"a" * SIZE + b"\xff",
    }
    found |= {f"text: {name}": b'"%b"' % text for name, text in texts.items()}
    found |= {
        "nested": b"[" * (SIZE // 2) + b"]" * (SIZE // 2),
        "not closed": b"[" * SIZE,
        "strings not closed": b'["' * (SIZE // 2),
    }
    return found


def bodies(field: bytes, only: Mapping[str, bytes] | None = None) -> Iterator[tuple[str, bytes]]:
    """Yield named bodies with each value in the field of the inputs, and some that are large in another place."""
    for name, value in (values() if only is None else only).items():
        yield name, b'{"%b":%b}' % (field, value)
    keys = b",".join(b'"k%d":1' % number for number in range(SIZE // 14))
    yield "many members", b"{%b}" % keys
    yield "many parameters", b'{"%b":"a","parameters":{%b}}' % (field, keys)
    yield "a member again and again", b"{%b}" % filled(b'"%b":1' % field)
    yield "stop strings", b'{"%b":"a","stop":[%b],"parameters":{"stop":[]}}' % (field, filled(b'"a"'))
    yield "a long model", b'{"%b":"a","model":"%b"}' % (field, b"a" * SIZE)
    yield "a long state", b'{"%b":"a","parameters":{"state":"%b"}}' % (field, b"a" * SIZE)
    tensor = b'{"inputs":[{"name":"%b","datatype":"%b","shape":[%d],"data":[%b]}]}'
    yield "a tensor", tensor % (b"words", b"FP32", 260_000, filled(b"0", most=260_000))
    yield "texts", tensor % (b"text", b"BYTES", 260_000, filled(b'""', most=260_000))
    yield "a document", tensor % (b"json", b"BYTES", 1, b'"[%b]"' % filled(b"[[0]]"))
    yield "a shape", b'{"inputs":[{"name":"x","datatype":"FP32","shape":[%b],"data":[1]}]}' % filled(b"1")
    yield "outputs", b'{"inputs":[],"outputs":[%b]}' % filled(b'{"name":"x"}')
    yield "zeros", b"\0" * SIZE
    yield "space", b" " * SIZE + b"{}"
