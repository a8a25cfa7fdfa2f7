"""What may not hurt a service: every kind of bad, odd or huge request, with the answer that is documented for it.

The expectations are those of the HTTP contract: 4xx where something is wrong with the request, 200 with an answer
where it is only strange. Builds requests and sends none.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from loadtest import answers
from loadtest.payloads import TASKS, Card, Payload
from loadtest.wire import Address, request_bytes

BIG_BYTES = 10_000_000
LONG_CHARACTERS = 100_000
DEEP = 20_000
ODD_TEXTS = {
    "NUL bytes": "a\x00b \x00",
    "emoji": "I 💛 👩‍👩‍👧‍👦 and 🇩🇪 !",
    "combining marks": "e" + "\u0301" * 30 + " a\u0328\u0301 नमस्ते",
    "right-to-left text": "שלום \u202eabc\u202c مرحبا",
    "control characters": "a\x01\x7f\u2028b\ufeff\uffff",
}


@dataclass(frozen=True, kw_only=True)
class Poison:
    """One request. `expected` statuses are all right; none at all: we hang up after `sent` bytes of it."""

    kind: str
    task: str
    request: bytes
    expected: frozenset[int]
    sent: int | None = None
    reset: bool = False
    check: Callable[[object], None] | None = None  # of a 200's JSON; raises WrongAnswerError


@dataclass(frozen=True, kw_only=True)
class Target:
    """A route and the model that is asked there."""

    address: Address
    prefix: str
    card: Card

    @property
    def path(self) -> str:
        return f"{self.prefix}/{self.card.task}"

    def poison(self, kind: str, body: bytes, *expected: int, **rest: Any) -> Poison:
        """A POST of `body`."""
        return Poison(
            kind=kind,
            task=self.card.task,
            request=request_bytes(self.address, self.path, body),
            expected=frozenset(expected),
            **rest,
        )

    def refused(self, kind: str, status: int, **body: object) -> Poison:
        """A POST of a JSON object that has to be answered with `status`; inputs and model are filled in."""
        return self.poison(kind, _json({"inputs": "a b", "model": self.card.id, **body}), status)

    def answered(self, kind: str, inputs: object, parameters: Mapping[str, Any] | None = None) -> Poison:
        """A POST of strange but valid inputs, whose answer is checked like any other."""
        body = {"inputs": inputs, "model": self.card.id, **({"parameters": parameters} if parameters else {})}
        payload = Payload(task=self.card.task, body=body, labels=self.card.labels)
        return self.poison(kind, _json(body), 200, check=partial(answers.check, payload))


def build(address: Address, prefix: str, cards: Sequence[Card]) -> list[Poison]:
    """Every kind of poison for every route whose task has a model; LookupError when there is no model."""
    # Strange texts are for a model that reads text word by word; prompts are read letter by letter.
    readers = [card for card in cards if card.codec == "words" or card.task == "generate"]
    first = {card.task: card for card in reversed(readers)}
    targets = [Target(address=address, prefix=prefix, card=first[task]) for task in TASKS if task in first]
    if not targets:
        raise LookupError(f"{address.url} serves no model: there is nothing to poison")
    makers = (_not_json, _wrong_types, _wrong_http, _wrong_model, _huge, _odd_texts, _empty, _hang_ups)
    found = [poison for target in targets for maker in makers for poison in maker(target, cards)]
    return found + [p for t in targets for p in _BY_TASK[t.card.task](t)]


def _not_json(target: Target, _: Sequence[Card]) -> Iterator[Poison]:
    yield target.poison("invalid JSON", b'{"inputs": "a b"', 422)
    yield target.poison("invalid JSON", b"inputs=a+b", 422)
    yield target.poison("no body at all", b"", 422)
    yield target.poison("JSON, but no object", b'"a b"', 422)
    yield target.poison("JSON, but no object", b"[]", 422)
    yield target.poison("raw NUL byte in JSON", b'{"inputs": "a\x00b"}', 422)
    yield target.poison("no UTF-8", b'{"inputs": "\xff\xfe"}', 422)
    yield target.poison("lone surrogate, escaped", b'{"inputs": "a \\ud800 b"}', 422)
    yield target.poison("lone surrogate, escaped", b'{"inputs": ["\\udc00"]}', 422)
    yield target.poison("lone surrogate, as bytes", b'{"inputs": "a \xed\xa0\x80 b"}', 422)
    yield target.poison("deeply nested", b'{"inputs": ' + b"[" * DEEP + b"]" * DEEP + b"}", 422)


def _wrong_types(target: Target, _: Sequence[Card]) -> Iterator[Poison]:
    for inputs in (5, None, True, {"a": 1}, [1, 2], ["a", 5], [["a", None]], [[["a"]]]):
        yield target.refused("wrong type of inputs", 422, inputs=inputs)
    yield target.refused("wrong type of parameters", 422, parameters=7)
    yield target.refused("wrong type of model", 422, model=["a"])
    yield target.poison("inputs left out", b"{}", 422)
    yield target.refused("unknown field", 422, colour="red")
    yield target.refused("unknown parameter", 422, parameters={"colour": "red"})


def _wrong_http(target: Target, _: Sequence[Card]) -> Iterator[Poison]:
    body = _json({"inputs": "a b"})

    def poison(kind: str, status: int, path: str = target.path, **how: Any) -> Poison:
        request = request_bytes(target.address, path, body, **how)
        return Poison(kind=kind, task=target.card.task, request=request, expected=frozenset({status}))

    for method in ("GET", "PUT", "DELETE"):
        yield poison("wrong method", 405, method=method)
    for media in ("text/plain", "application/x-www-form-urlencoded", "application/octet-stream"):
        yield poison("wrong content type", 415, content_type=media)
    yield poison("made-up path", 404, path=target.path + "/x" * 200)


def _wrong_model(target: Target, cards: Sequence[Card]) -> Iterator[Poison]:
    yield target.refused("unknown model", 404, model="no-such-model")
    yield target.refused("unknown model", 404, model="../../etc/passwd")
    for other in [card for card in cards if target.card.task not in card.tasks][:1]:
        yield target.refused("model of another task", 404, model=other.id)


def _huge(target: Target, _: Sequence[Card]) -> Iterator[Poison]:
    task = target.card.task
    if task == "classify":  # each form once: they keep a loopback busy for milliseconds
        yield target.poison("10 MB body, many inputs", b'{"inputs": [' + b'"a",' * (BIG_BYTES // 4) + b'"a"]}', 413)
    elif task == "generate":
        yield target.poison("10 MB body, no JSON", b"\x00" * BIG_BYTES, 413)
    else:
        yield target.poison("10 MB body", b'{"inputs": "' + b"word " * (BIG_BYTES // 5) + b'"}', 413)
        part = b"word " * 20_000
        chunks = (b"%x\r\n%s\r\n" % (len(part), part)) * (BIG_BYTES // len(part))
        head = request_bytes(target.address, target.path, headers={"transfer-encoding": "chunked"})
        request = head + b'c\r\n{"inputs": "\r\n' + chunks + b'2\r\n"}\r\n0\r\n\r\n'
        yield Poison(kind="10 MB body, chunked", task=task, request=request, expected=frozenset({413}))
    if target.card.longest:
        unit, longest = ("a", LONG_CHARACTERS) if task == "generate" else ("a ", target.card.longest + 1)
        if longest > target.card.longest:
            yield target.refused("input over the model's limit", 413, inputs=unit * longest)


def _odd_texts(target: Target, _: Sequence[Card]) -> Iterator[Poison]:
    parameters = {"max_new_tokens": 5, "details": True} if target.card.task == "generate" else None
    for kind, text in ODD_TEXTS.items():
        yield target.answered(kind, text, parameters)
        yield target.answered(kind, ["plain", text], parameters)
    if target.card.task != "generate":  # where a long word is one step; a long prompt is "over the limit"
        yield target.answered("100,000-character word", "a" * LONG_CHARACTERS)
        yield target.answered("100,000-character word", "the " + "💛" * LONG_CHARACTERS + " end")


def _empty(target: Target, _: Sequence[Card]) -> Iterator[Poison]:
    yield target.answered("empty string", "")
    yield target.answered("empty list", [])
    yield target.answered("list of an empty string", ["", "a"])


def _hang_ups(target: Target, _: Sequence[Card]) -> Iterator[Poison]:
    parameters = {"parameters": {"max_new_tokens": 200}} if target.card.task == "generate" else {}
    body = _json({"inputs": " ".join(target.card.words * 5)[:500], "model": target.card.id, **parameters})
    whole = len(request_bytes(target.address, target.path, body))
    yield target.poison("disconnect in the headers", body, sent=40)
    yield target.poison("disconnect in the body", body, sent=whole - len(body) // 2)
    yield target.poison("reset in the body", body, sent=whole - 3, reset=True)
    yield target.poison("disconnect before the answer", body, sent=whole)
    yield target.poison("reset before the answer", body, sent=whole, reset=True)


def _tag_parameters(target: Target) -> Iterator[Poison]:
    yield target.refused("parameter out of range", 422, parameters={"aggregation_strategy": "max"})
    yield target.answered("list of an empty token list", [[], ["a"]])
    yield target.answered("empty token", [["", "a"]])


def _classify_parameters(target: Target) -> Iterator[Poison]:
    for top_k in (-1, 0, 1.5, "2"):
        yield target.refused("parameter out of range", 422, parameters={"top_k": top_k})


def _generate_parameters(target: Target) -> Iterator[Poison]:
    for tokens in (-1, -(10**30)):
        yield target.refused("negative max_new_tokens", 422, parameters={"max_new_tokens": tokens})
    for tokens in (10**9, 10**30):
        yield target.refused("huge max_new_tokens", 422, parameters={"max_new_tokens": tokens})
    for name, value in (("temperature", -1), ("top_p", 2), ("top_k", -5), ("seed", "x"), ("stop", 7)):
        yield target.refused("parameter out of range", 422, parameters={name: value})
    nan = b'{"inputs": "a", "parameters": {"temperature": NaN}}'
    yield target.poison("parameter out of range", nan, 422)


_BY_TASK: Mapping[str, Callable[[Target], Iterator[Poison]]] = {
    "tag": _tag_parameters,
    "classify": _classify_parameters,
    "generate": _generate_parameters,
}


def _json(body: object) -> bytes:
    return json.dumps(body, ensure_ascii=False).encode()
