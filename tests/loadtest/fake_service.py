"""A service that obeys the HTTP contract without any model: `python -m tests.loadtest.fake_service --port N`.

What `--broken` breaks: `answers` (an eighth of the tags are wrong), `statuses` (500 for an unknown model), `start`
(it ends at once), `ready` (it is never ready), `states` (a continuation leaves out a character), `forged` (any state
is believed), `leak` (a gauge stays above 0), `cut` (a stream ends too early). Answers depend on the request alone.
"""

import argparse
import base64
import hashlib
import json
import random
import sys
from typing import Any

import uvicorn

BODY_BYTES = 1 << 20
MAX_LENGTH = 4096
TASKS = {"pos-fake": "tag", "sentiment-fake": "classify", "shakespeare-fake": "generate"}
LABELS = {"tag": ["NOUN", "VERB"], "classify": ["positive", "negative"], "generate": []}
EXAMPLES = ["Harry met Hermione in London .", ["a lovely film", "a dull one"], [["To", "be"]]]
PARAMETERS = {
    "tag": {"aggregation_strategy": lambda value: value in ("none", "simple")},
    "classify": {"top_k": lambda value: type(value) is int and value >= 1},
    "generate": {
        "max_new_tokens": lambda value: type(value) is int and 1 <= value <= 4096,
        "temperature": lambda value: type(value) in (int, float) and value >= 0,
        "top_p": lambda value: type(value) in (int, float) and 0 < value <= 1,
        "top_k": lambda value: type(value) is int and value >= 0,
        "seed": lambda value: type(value) is int,
        "stop": lambda value: isinstance(value, list),
        "details": lambda value: isinstance(value, bool),
        "state": lambda value: isinstance(value, str),
        "return_state": lambda value: isinstance(value, bool),
    },
}


class Refused(Exception):
    def __init__(self, status: int, detail: str) -> None:
        self.status, self.detail = status, detail


class Service:
    def __init__(self, broken: str) -> None:
        self.broken = broken

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] == "/metrics":
            await plain(send, metrics(self.broken))
            return
        status, answer = 200, b""
        try:
            if scope["path"] == "/v1/generate_stream":
                body = parse("generate", await read(receive), self.broken)
                await stream(send, generate(body["inputs"], body.get("parameters") or {}), self.broken)
                return
            answer = json.dumps(await self.route(scope, receive)).encode()
        except Refused as refused:
            status = refused.status
            problem = {"type": "about:blank", "title": refused.detail, "status": status, "detail": refused.detail}
            answer = json.dumps(problem).encode()
        media = b"application/json" if status == 200 else b"application/problem+json"
        headers = [(b"content-type", media), (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    async def route(self, scope: Any, receive: Any) -> Any:
        path = scope["path"]
        if path == "/readyz":
            if self.broken == "ready":
                raise Refused(503, "not ready")
            return {}
        if path == "/v1/models":
            return {"object": "list", "data": [card(name) for name in TASKS]}
        task = path.removeprefix("/v1").removeprefix("/")  # the BentoML routes have the same bodies
        if task not in PARAMETERS:
            raise Refused(404, "no such route")
        if scope["method"] != "POST":
            raise Refused(405, "wrong method")
        if dict(scope["headers"]).get(b"content-type") != b"application/json":
            raise Refused(415, "wrong content type")
        return self.answer(task, parse(task, await read(receive), self.broken))

    def answer(self, task: str, body: dict[str, Any]) -> Any:
        inputs, parameters = body["inputs"], body.get("parameters") or {}
        one = {"tag": tag, "classify": classify, "generate": generate}[task]
        parameters = {**parameters, "broken": self.broken}
        answers = [one(text, parameters) for text in (inputs if isinstance(inputs, list) else [inputs])]
        if self.broken == "answers" and task == "tag" and random.random() < 0.125:
            answers = [[{**entry, "word": "?"} for entry in tags] for tags in answers]
        return answers if isinstance(inputs, list) or task == "classify" else answers[0]


def card(name: str) -> dict[str, Any]:
    task = TASKS[name]
    limits = {"max_length": MAX_LENGTH}
    return {"id": name, "task": task, "labels": LABELS[task], "limits": limits, "examples": EXAMPLES, "variant": "fake"}


async def read(receive: Any) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > BODY_BYTES:
            raise Refused(413, "body too large")
        if not message.get("more_body"):
            return bytes(body)


def parse(task: str, data: bytes, broken: str) -> dict[str, Any]:
    try:
        body = json.loads(data, parse_constant=lambda name: name)
        json.dumps(body, ensure_ascii=False).encode()  # lone surrogates end here
    except (ValueError, RecursionError):
        raise Refused(422, "no JSON") from None
    if not isinstance(body, dict) or "inputs" not in body or body.keys() - {"inputs", "model", "parameters"}:
        raise Refused(422, "wrong fields")
    if not allowed(body["inputs"], task) or not isinstance(body.get("parameters", {}), dict):
        raise Refused(422, "wrong type")
    if not isinstance(body.get("model", ""), str):
        raise Refused(422, "wrong type of model")
    for name, value in body.get("parameters", {}).items():
        if name not in PARAMETERS[task] or not PARAMETERS[task][name](value):
            raise Refused(422, "parameter out of range")
    if "model" in body and TASKS.get(body["model"]) != task:
        raise Refused(500 if broken == "statuses" else 404, "no such model")
    inputs = body["inputs"] if isinstance(body["inputs"], list) else [body["inputs"]]
    if any(len(text if task == "generate" or isinstance(text, list) else text.split()) > MAX_LENGTH for text in inputs):
        raise Refused(413, "input too long")
    return body


def allowed(inputs: Any, task: str) -> bool:
    if isinstance(inputs, list) and inputs and task == "tag" and all(isinstance(part, list) for part in inputs):
        return all(isinstance(token, str) for part in inputs for token in part)
    return isinstance(inputs, str) or (isinstance(inputs, list) and all(isinstance(part, str) for part in inputs))


def tag(text: str | list[str], _: dict[str, Any]) -> list[dict[str, Any]]:
    tokens, found, end = (text.split() if isinstance(text, str) else text), [], 0
    for number, token in enumerate(tokens):
        start = text.index(token, end) if isinstance(text, str) else number
        end = start + len(token) if isinstance(text, str) else number + 1
        label = LABELS["tag"][len(token) % 2]
        found.append({"entity": label, "score": 0.5, "word": token, "start": start, "end": end})
    return found


def classify(text: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    scores = [{"label": "positive", "score": 0.75}, {"label": "negative", "score": 0.25}]
    return scores[: parameters.get("top_k", 2)] if text else []


def generate(text: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Letters that depend on the prompt, the seed and their place alone."""
    tokens, broken = parameters.get("max_new_tokens", 20), parameters.get("broken")
    prompt, seed, place = text, parameters.get("seed", 0), 0
    if "state" in parameters:
        prompt, seed, place = opened(parameters["state"], broken)
        place += broken == "states"
    letters = [chr(97 + sum(f"{prompt} {seed} {at}".encode()) % 26) for at in range(place, place + tokens)]
    answer: dict[str, Any] = {"generated_text": "".join(letters)}
    if parameters.get("details"):
        answer["details"] = {"finish_reason": "length", "generated_tokens": tokens, "seed": 0}
    if parameters.get("return_state"):
        answer["state"] = sealed(json.dumps([prompt, seed, place + tokens]).encode())
    return answer


def sealed(payload: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(payload).digest() + payload).decode().rstrip("=")


def opened(state: str, broken: str | None) -> Any:
    """What was sealed; a state of another spelling is none, even if it stands for the same bytes."""
    try:
        data = base64.urlsafe_b64decode(state + "=" * (-len(state) % 4))
        if sealed(data[32:]) == state:
            return json.loads(data[32:])
    except ValueError:
        pass
    if broken == "forged":
        return "", 0, 0
    raise Refused(422, "no such state")


async def stream(send: Any, answer: dict[str, Any], broken: str) -> None:
    text = answer["generated_text"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    for at, letter in enumerate(text):
        last = at == len(text) - 1
        if last and broken == "cut":
            break
        token = {"id": 1, "text": letter, "logprob": -1.0, "special": False}
        event = {"token": token, "generated_text": text if last else None, "details": None}
        chunk = b"data: %s\n\n" % json.dumps(event).encode()
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def plain(send: Any, text: str) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(text))]})
    await send({"type": "http.response.body", "body": text.encode()})


def metrics(broken: str) -> str:
    slots = 1 if broken == "leak" else 0
    return f"""seqserve_active_slots{{model="shakespeare-fake"}} {slots}.0
seqserve_step_seconds_sum{{model="shakespeare-fake"}} 0.5
seqserve_step_seconds_count{{model="shakespeare-fake"}} 1000.0
"""


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--broken", default="")
    arguments = parser.parse_args()
    if arguments.broken == "start":
        sys.exit("cannot start: the bundle is broken")
    uvicorn.run(Service(arguments.broken), host=arguments.host, port=arguments.port, access_log=False)
