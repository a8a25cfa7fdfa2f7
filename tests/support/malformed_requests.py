"""Bad, odd and huge requests with the answer that the HTTP contract documents for each.

4xx where the request is wrong; 200 with a checked answer where it is only unusual.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from loadtest import answers
from loadtest.answers import WrongAnswerError
from loadtest.http_client import HttpReply, ServiceAddress, request_bytes
from loadtest.payloads import GAP, TASKS, Payload, ServedModel
from tests.support.pictures import encoded, picture_file, png_header

BIG_BYTES = 10_000_000
LONG_CHARACTERS = 100_000
DEEP = 20_000
WHOLE = ("tag", "classify", "fill")  # tasks that read an input and write nothing
SHORT = {  # parameters of the tasks that write
    "generate": {"max_new_tokens": 5, "details": True},
    "translate": {"generate_parameters": {"num_return_sequences": 1, "max_new_tokens": 5, "details": True}},
}
ODD_TEXTS = {
    "NUL bytes": "a\x00b \x00",
    "emoji": "I 💛 👩‍👩‍👧‍👦 and 🇩🇪 !",
    "combining marks": "e" + "\u0301" * 30 + " a\u0328\u0301 नमस्ते",
    "right-to-left text": "שלום \u202eabc\u202c مرحبا",
    "control characters": "a\x01\x7f\u2028b\ufeff\uffff",
}


@dataclass(frozen=True, kw_only=True)
class MalformedRequest:
    """One request. Each of the `expected` statuses is correct; without any, the client hangs up after `sent` bytes."""

    kind: str
    task: str
    request: bytes
    expected: frozenset[int]
    sent: int | None = None
    reset: bool = False
    check: Callable[[object], None] | None = None  # of the JSON of a 200; raises WrongAnswerError

    def complaint(self, reply: HttpReply) -> str:
        """Return what is wrong with the reply, or "" if it is the documented one."""
        if reply.status not in self.expected:
            return f"status {reply.status} instead of {sorted(self.expected)}: {reply.body[:160]!r}"
        try:
            if reply.status == 200 and self.check:
                self.check(reply.json())
            if reply.status >= 400:
                check_problem(reply.status, reply.headers.get("content-type", ""), reply.json())
        except WrongAnswerError as error:
            return f"status {reply.status}, but {error}"
        except ValueError:
            return f"status {reply.status} with a body that is not JSON"
        return ""


def check_problem(status: int, content_type: str, problem: Any) -> None:
    """Raise WrongAnswerError unless this is a problem document (RFC 9457) for ``status``."""
    if not content_type.startswith("application/problem+json"):
        raise WrongAnswerError(f"an error of content type {content_type!r}")
    if not all(isinstance(problem.get(name), str) for name in ("type", "title", "detail")):
        raise WrongAnswerError(f"not a problem document: {problem!r}")
    if problem.get("status") != status:
        raise WrongAnswerError(f"a document of status {problem.get('status')!r}")


@dataclass(frozen=True, kw_only=True)
class Target:
    """A route and its model."""

    address: ServiceAddress
    prefix: str
    model: ServedModel

    @property
    def path(self) -> str:
        return f"{self.prefix}/{self.model.task}"

    def readable(self, text: str) -> str:
        """Return a text that the model can read: for a filler with a gap."""
        return f"{text} {GAP}" if self.model.task == "fill" else text

    def send(self, kind: str, body: bytes, *expected: int, **more: Any) -> MalformedRequest:
        """Return a POST of `body`."""
        request = request_bytes(self.address, self.path, body)
        return MalformedRequest(kind=kind, task=self.model.task, request=request, expected=frozenset(expected), **more)

    def refused(self, kind: str, status: int, **body: object) -> MalformedRequest:
        """Return a POST that must be answered with `status`. Missing inputs and model are filled in."""
        return self.send(kind, _json({"inputs": "a b", "model": self.model.id, **body}), status)

    def answered(self, kind: str, inputs: object, parameters: Mapping[str, Any] | None = None) -> MalformedRequest:
        """Return a POST of unusual but valid inputs, whose answer is checked."""
        body = {"inputs": inputs, "model": self.model.id, **({"parameters": parameters} if parameters else {})}
        payload = Payload(task=self.model.task, body=body, labels=self.model.labels)
        return self.send(kind, _json(body), 200, check=partial(answers.check, payload))


def build_malformed(address: ServiceAddress, prefix: str, models: Sequence[ServedModel]) -> list[MalformedRequest]:
    """Return every kind for every task that has a model which reads words, reads frames, or writes text.

    Without the prefix, the route of translations is that of LibreTranslate, which has another shape.
    """
    readers = [model for model in models if model.codec in ("words", "pieces") or model.task == "generate"]
    first = {model.task: model for model in reversed(readers) if prefix or model.task != "translate"}
    targets = [Target(address=address, prefix=prefix, model=first[task]) for task in TASKS if task in first]
    builders = (_not_json, _wrong_types, _wrong_http, _wrong_model, _huge, _odd_texts, _empty, _hang_ups)
    found = [request for target in targets for build in builders for request in build(target, models)]
    found += [request for target in targets for request in _BY_TASK[target.model.task](target)]
    of_frames = {model.task: model for model in reversed(models) if model.codec == "frames" and model.task in WHOLE}
    for model in of_frames.values():
        found += _wrong_frames(Target(address=address, prefix=prefix, model=model))
    for model in [model for model in models if model.codec == "image" and prefix][:1]:
        target = Target(address=address, prefix=prefix, model=model)
        for build in (_not_json, _wrong_types, _wrong_http, _wrong_model):
            found += build(target, models)
        found += _wrong_pictures(target)
    return found


def _not_json(target: Target, _: Sequence[ServedModel]) -> Iterator[MalformedRequest]:
    yield target.send("invalid JSON", b'{"inputs": "a b"', 422)
    yield target.send("invalid JSON", b"inputs=a+b", 422)
    yield target.send("no body at all", b"", 422)
    yield target.send("JSON, but no object", b'"a b"', 422)
    yield target.send("JSON, but no object", b"[]", 422)
    yield target.send("raw NUL byte in JSON", b'{"inputs": "a\x00b"}', 422)
    yield target.send("not UTF-8", b'{"inputs": "\xff\xfe"}', 422)
    yield target.send("lone surrogate, escaped", b'{"inputs": "a \\ud800 b"}', 422)
    yield target.send("lone surrogate, escaped", b'{"inputs": ["\\udc00"]}', 422)
    yield target.send("lone surrogate, as bytes", b'{"inputs": "a \xed\xa0\x80 b"}', 422)
    yield target.send("deeply nested", b'{"inputs": ' + b"[" * DEEP + b"]" * DEEP + b"}", 422)


def _wrong_types(target: Target, _: Sequence[ServedModel]) -> Iterator[MalformedRequest]:
    for inputs in (5, None, True, {"a": 1}, [1, 2], ["a", 5], [["a", None]], [[["a"]]]):
        yield target.refused("wrong type of inputs", 422, inputs=inputs)
    yield target.refused("wrong type of parameters", 422, parameters=7)
    yield target.refused("wrong type of model", 422, model=["a"])
    yield target.send("inputs left out", b"{}", 422)
    yield target.refused("unknown field", 422, color="red")
    yield target.refused("unknown parameter", 422, parameters={"color": "red"})


def _wrong_http(target: Target, _: Sequence[ServedModel]) -> Iterator[MalformedRequest]:
    body = _json({"inputs": "a b"})

    def send(kind: str, status: int, path: str = target.path, **more: Any) -> MalformedRequest:
        request = request_bytes(target.address, path, body, **more)
        return MalformedRequest(kind=kind, task=target.model.task, request=request, expected=frozenset({status}))

    for method in ("GET", "PUT", "DELETE"):
        yield send("wrong method", 405, method=method)
    for media in ("text/plain", "application/x-www-form-urlencoded", "application/octet-stream"):
        yield send("wrong content type", 415, content_type=media)
    yield send("unknown path", 404, path=target.path + "/x" * 200)


def _wrong_model(target: Target, models: Sequence[ServedModel]) -> Iterator[MalformedRequest]:
    yield target.refused("unknown model", 404, model="no-such-model")
    yield target.refused("unknown model", 404, model="../../etc/passwd")
    for other in [model for model in models if target.model.task not in model.tasks][:1]:
        yield target.refused("model of another task", 404, model=other.id)


def _huge(target: Target, _: Sequence[ServedModel]) -> Iterator[MalformedRequest]:
    task = target.model.task
    if task == "classify":  # each form once, because they take a long time to send
        yield target.send("10 MB body, many inputs", b'{"inputs": [' + b'"a",' * (BIG_BYTES // 4) + b'"a"]}', 413)
    elif task == "generate":
        yield target.send("10 MB body, no JSON", b"\x00" * BIG_BYTES, 413)
    else:
        yield target.send("10 MB body", b'{"inputs": "' + b"word " * (BIG_BYTES // 5) + b'"}', 413)
        part = b"word " * 20_000
        chunks = (b"%x\r\n%s\r\n" % (len(part), part)) * (BIG_BYTES // len(part))
        head = request_bytes(target.address, target.path, headers={"transfer-encoding": "chunked"})
        request = head + b'c\r\n{"inputs": "\r\n' + chunks + b'2\r\n"}\r\n0\r\n\r\n'
        yield MalformedRequest(kind="10 MB body, chunked", task=task, request=request, expected=frozenset({413}))
    if target.model.max_length:
        unit, length = ("a", LONG_CHARACTERS) if task == "generate" else ("a ", target.model.max_length + 1)
        if length > target.model.max_length:
            yield target.refused("input over the model's limit", 413, inputs=unit * length)


def _odd_texts(target: Target, _: Sequence[ServedModel]) -> Iterator[MalformedRequest]:
    parameters = SHORT.get(target.model.task)
    for kind, text in ODD_TEXTS.items():
        yield target.answered(kind, target.readable(text), parameters)
        yield target.answered(kind, [target.readable("plain"), target.readable(text)], parameters)
    if target.model.task in WHOLE:  # a long word is one token; a long prompt is over the limit
        yield target.answered("100,000-character word", target.readable("a" * LONG_CHARACTERS))
        yield target.answered("100,000-character word", target.readable("the " + "💛" * LONG_CHARACTERS + " end"))


def _empty(target: Target, _: Sequence[ServedModel]) -> Iterator[MalformedRequest]:
    parameters = SHORT["translate"] if target.model.task == "translate" else None
    yield target.answered("empty string", "", parameters)
    yield target.answered("empty list", [], parameters)
    yield target.answered("list of an empty string", ["", target.readable("a")], parameters)


def _hang_ups(target: Target, _: Sequence[ServedModel]) -> Iterator[MalformedRequest]:
    parameters = {"parameters": {"max_new_tokens": 200}} if target.model.task == "generate" else {}
    inputs = target.readable(" ".join(target.model.words * 5)[:500])
    body = _json({"inputs": inputs, "model": target.model.id, **parameters})
    size = len(request_bytes(target.address, target.path, body))
    yield target.send("disconnect in the headers", body, sent=40)
    yield target.send("disconnect in the body", body, sent=size - len(body) // 2)
    yield target.send("reset in the body", body, sent=size - 3, reset=True)
    yield target.send("disconnect before the answer", body, sent=size)
    yield target.send("reset before the answer", body, sent=size, reset=True)


def _tag_parameters(target: Target) -> Iterator[MalformedRequest]:
    yield target.refused("parameter out of range", 422, parameters={"aggregation_strategy": "max"})
    yield target.refused("frame rate of words", 422, parameters={"aggregation_strategy": "simple", "frame_rate": 25})
    yield target.answered("list of an empty token list", [[], ["a"]])
    yield target.answered("empty token", [["", "a"]])


def _wrong_frames(target: Target) -> Iterator[MalformedRequest]:
    model, frame = target.model, list(target.model.steps[0])
    width, merged = len(frame), {"aggregation_strategy": "simple"}
    for inputs in ("a b", ["a"], [["a"] * width], [[None] * width], [[True] * width], 5, {"frames": [frame]}):
        yield target.refused("frames without numbers", 422, inputs=inputs)
    for inputs in ([frame[:-1]], [[*frame, 0.0]], [frame, frame[:-1]], [[], frame], frame, [[[frame]]]):
        yield target.refused("frames of another shape", 422, inputs=inputs)
    for number in ("NaN", "-Infinity", "1e39", "1e999", "9" * 400):
        numbers = ",".join([number, *["0"] * (width - 1)])
        body = f'{{"inputs": [[{numbers}]], "model": "{model.id}"}}'
        yield target.send("numbers that float32 does not hold", body.encode(), 422)
    if model.max_length:
        yield target.refused("input over the model's limit", 413, inputs=[frame] * (model.max_length + 1))
    yield target.answered("empty list", [])
    yield target.answered("lists of no frame and of one", [[], [frame]])
    if model.task == "tag":
        for rate in (0, -25, 1e300, "25", True):
            yield target.refused("wrong frame rate", 422, inputs=[frame], parameters={**merged, "frame_rate": rate})
        yield target.refused("frame rate of single frames", 422, inputs=[frame], parameters={"frame_rate": 25})
        yield target.answered("merged frames", [frame] * 3, {**merged, "frame_rate": 25})


def _wrong_pictures(target: Target) -> Iterator[MalformedRequest]:
    picture, bomb = picture_file(), png_header(60_000, 60_000)
    for file in (b"", b"GIF89a" + bytes(40), picture[:60], png_header(64, 64), picture_file(form="JPEG", mode="CMYK")):
        yield target.refused("files that are no pictures", 422, inputs=encoded(file))
        yield target.refused("files that are no pictures", 422, inputs=[encoded(picture), encoded(file)])
        for media in ("image/png", "image/jpeg"):
            yield _file(target, "files that are no pictures", file, media, 422)
    yield target.refused("decompression bomb", 413, inputs=encoded(bomb))
    yield _file(target, "decompression bomb", bomb, "image/png", 413)
    yield _file(target, "picture of another format", picture, "image/gif", 415)
    yield _file(target, "picture as JSON", picture, "application/json", 422)
    yield _file(target, "10 MB picture", picture + bytes(BIG_BYTES), "image/png", 413)
    for pixels in ([[[1, 2]]], [[[1, 2, 3]], []], [[[1, 2, 256]]], [[[1, 2, -1]]], [[[1, 2, "3"]]], [[[]]], [[]]):
        yield target.refused("wrong pixels", 422, inputs=pixels)
    for number in ("NaN", "Infinity", "1e999", "9" * 400):
        body = f'{{"inputs": [[[0, 0, {number}]]], "model": "{target.model.id}"}}'
        yield target.send("wrong pixels", body.encode(), 422)
    for search in ({"num_beams": 0}, {"num_return_sequences": 2}, {"max_new_tokens": 0}, {"temperature": 1}):
        parameters = {"generate_parameters": search}
        yield target.refused("search parameter out of range", 422, inputs=encoded(picture), parameters=parameters)
    yield target.answered("one pixel", [[[0, 255, 0]]], SHORT["translate"])
    yield target.answered("a line of pixels", [[[0, 0, 0]] * 2000], SHORT["translate"])


def _file(target: Target, kind: str, file: bytes, media: str, status: int) -> MalformedRequest:
    """Return a POST whose body is a file."""
    request = request_bytes(target.address, f"{target.path}?model={target.model.id}", file, content_type=media)
    return MalformedRequest(kind=kind, task=target.model.task, request=request, expected=frozenset({status}))


def _classify_parameters(target: Target) -> Iterator[MalformedRequest]:
    for top_k in (-1, 0, 1.5, "2"):
        yield target.refused("parameter out of range", 422, parameters={"top_k": top_k})


def _generate_parameters(target: Target) -> Iterator[MalformedRequest]:
    for tokens in (-1, -(10**30)):
        yield target.refused("negative max_new_tokens", 422, parameters={"max_new_tokens": tokens})
    for tokens in (10**9, 10**30):
        yield target.refused("huge max_new_tokens", 422, parameters={"max_new_tokens": tokens})
    for name, value in (("temperature", -1), ("top_p", 2), ("top_k", -5), ("seed", "x"), ("stop", 7)):
        yield target.refused("parameter out of range", 422, parameters={name: value})
    yield target.send("parameter out of range", b'{"inputs": "a", "parameters": {"temperature": NaN}}', 422)


def _translate_parameters(target: Target) -> Iterator[MalformedRequest]:
    for name, value in (
        *(("num_beams", 0), ("num_beams", 33), ("num_beams", True), ("num_return_sequences", 2)),
        *(("length_penalty", 1e9), ("length_penalty", -1), ("max_new_tokens", 0), ("max_new_tokens", 10**9)),
        *(("temperature", 0.7), ("do_sample", True), ("target_prefix", 5), ("target_prefix", "a" * 5000)),
    ):
        parameters = {"generate_parameters": {name: value}}
        yield target.refused("search parameter out of range", 422, parameters=parameters)
    nan = b'{"inputs": "a", "parameters": {"generate_parameters": {"length_penalty": NaN}}}'
    yield target.send("search parameter out of range", nan, 422)
    for languages in ({"src_lang": "xx"}, {"tgt_lang": "xx"}, {"src_lang": "de", "tgt_lang": "de"}, {"src_lang": 1}):
        yield target.refused("languages that the model lacks", 422, parameters=languages)
    yield target.refused("truncation", 422, parameters={"truncation": "longest_first"})
    yield target.refused("10,000 times one character", 413, inputs="~" * 10_000)
    search = {"num_beams": 16, "max_new_tokens": 4096}
    yield target.refused("beams over the limit of tokens", 413, parameters={"generate_parameters": search})


def _fill_parameters(target: Target) -> Iterator[MalformedRequest]:
    for inputs in ("no gap", "a[MASK]", "<mask>s", "[MASK] " * 33, ["a [MASK]", "no gap"], "[mask]"):
        yield target.refused("gaps that cannot be filled", 422, inputs=inputs)
    wrong: list[tuple[str, object]] = [("top_k", value) for value in (-1, 0, 1.5, "2", 10**5, 10**30)]
    wrong += [("targets", value) for value in ("a", [5], ["a", "a"], ["a", "A"], ["no such word"], [""], ["a"] * 101)]
    for name, value in wrong:
        yield target.refused("parameter out of range", 422, inputs="a [MASK]", parameters={name: value})
    yield target.answered("gaps only", "[MASK]<mask>[MASK]")
    yield target.answered("most gaps", "[MASK] " * 32)


_BY_TASK: Mapping[str, Callable[[Target], Iterator[MalformedRequest]]] = {
    "tag": _tag_parameters,
    "classify": _classify_parameters,
    "generate": _generate_parameters,
    "translate": _translate_parameters,
    "fill": _fill_parameters,
}


def _json(body: object) -> bytes:
    return json.dumps(body, ensure_ascii=False).encode()
