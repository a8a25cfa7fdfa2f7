"""A service with the routes of the real one but no model: `python -m tests.support.fake_service --port N`.

`--broken` makes it fail: `answers` (an eighth of the tags are wrong), `start` (it ends at once), `ready` (it is never
ready). Otherwise answers depend on the request alone.
"""

import argparse
import json
import random
import sys
from typing import Any

import uvicorn

TASKS = {"pos-fake": "tag", "sentiment-fake": "classify", "shakespeare-fake": "generate"}
LABELS = {"tag": ["NOUN", "VERB"], "classify": ["positive", "negative"], "generate": []}
EXAMPLES = ["Harry met Hermione in London .", ["a lovely film", "a dull one"], [["To", "be"]]]


class FakeService:
    def __init__(self, broken: str) -> None:
        self.broken = broken

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        status, answer = self.route(scope["path"], await read_body(receive))
        content = json.dumps(answer).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    def route(self, path: str, body: bytes) -> tuple[int, Any]:
        if path == "/readyz":
            return (503 if self.broken == "ready" else 200), {}
        if path == "/metrics":
            return 200, {}
        if path == "/v1/models":
            return 200, {"object": "list", "data": [model(name) for name in TASKS]}
        task = path.removeprefix("/v1/")
        if task not in TASKS.values():
            return 404, {"title": "no such route"}
        return 200, self.answer(task, json.loads(body))

    def answer(self, task: str, body: dict[str, Any]) -> Any:
        inputs, parameters = body["inputs"], body.get("parameters") or {}
        one = {"tag": tag, "classify": classify, "generate": generate}[task]
        answers = [one(text, parameters) for text in (inputs if isinstance(inputs, list) else [inputs])]
        if self.broken == "answers" and task == "tag" and random.random() < 0.125:
            answers = [[{**entry, "word": "?"} for entry in tags] for tags in answers]
        return answers if isinstance(inputs, list) or task == "classify" else answers[0]


def model(name: str) -> dict[str, Any]:
    task, limits = TASKS[name], {"max_length": 4096}
    return {"id": name, "task": task, "labels": LABELS[task], "limits": limits, "examples": EXAMPLES, "variant": "fake"}


async def read_body(receive: Any) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


def tag(text: str | list[str], _: dict[str, Any]) -> list[dict[str, Any]]:
    tokens, tags, end = (text.split() if isinstance(text, str) else text), [], 0
    for number, token in enumerate(tokens):
        start = text.index(token, end) if isinstance(text, str) else number
        end = start + len(token) if isinstance(text, str) else number + 1
        label = LABELS["tag"][len(token) % 2]
        tags.append({"entity": label, "score": 0.5, "word": token, "start": start, "end": end})
    return tags


def classify(text: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    scores = [{"label": "positive", "score": 0.75}, {"label": "negative", "score": 0.25}]
    return scores[: parameters.get("top_k", 2)] if text else []


def generate(text: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Return letters that depend on the prompt, the seed and their position."""
    tokens, seed = parameters.get("max_new_tokens", 20), parameters.get("seed", 0)
    letters = [chr(97 + sum(f"{text} {seed} {at}".encode()) % 26) for at in range(tokens)]
    answer: dict[str, Any] = {"generated_text": "".join(letters)}
    if parameters.get("details"):
        answer["details"] = {"finish_reason": "length", "generated_tokens": tokens, "seed": 0}
    return answer


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--broken", default="")
    arguments = parser.parse_args()
    if arguments.broken == "start":
        sys.exit("cannot start: the bundle is broken")
    uvicorn.run(FakeService(arguments.broken), host=arguments.host, port=arguments.port, access_log=False)
