"""The locustfile: users that tag, classify, generate, forecast, translate, caption, and fill, or do some of it.

They send one request after the other. Every answer is checked. An answer that differs from an earlier one to the same
request is a failure, because answers do not depend on load. Only Locust may import this module: it patches the
interpreter.

`seqserve load` starts it, and so does `locust -f loadtest/users.py --host http://127.0.0.1:3000`.
"""

import itertools
import json
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from locust import FastHttpUser, events, task
from locust.env import Environment

from loadtest import answers, payloads
from loadtest.payloads import Payload

POOL_SIZE = 1000  # different requests per task
FLUSH_S = 0.5
MIX = {"tag": 6, "classify": 3, "generate": 1, "forecast": 1, "translate": 1, "caption": 1, "fill": 1}  # weights
HEADERS = {"content-type": "application/json", "accept-encoding": "identity"}


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--prefix", default="/v1", help="Path before the task; '' for the BentoML routes.")
    parser.add_argument("--tasks", default="", help=f"Tasks to request (default: those served of {','.join(MIX)}).")
    parser.add_argument("--payload-seed", type=int, default=0, help="Seed of the request contents.")
    parser.add_argument("--samples", default="", help="File to write, one JSON line per request.")


@events.init.add_listener  # type: ignore[untyped-decorator]
def _prepare(environment: Environment, **_: Any) -> None:
    options = environment.parsed_options
    if options is None or not environment.host:
        raise SystemExit("no service address. Pass --host http://HOST:PORT.")
    try:
        models = payloads.read_models(environment.host)
        served = {task for model in models for task in model.tasks}
        wanted = options.tasks.split(",") if options.tasks else [name for name in MIX if name in served]
        if not wanted:
            raise LookupError(f"the service has no model for any of {', '.join(MIX)}")
        seed = options.payload_seed
        pools = {name: payloads.build(models, name, count=POOL_SIZE, seed=seed) for name in wanted}
    except (ConnectionError, ValueError, LookupError) as error:
        raise SystemExit(str(error)) from None
    CheckingUser.pools, CheckingUser.prefix = pools, options.prefix
    if options.samples:
        samples = SampleWriter(Path(options.samples))
        environment.events.request.add_listener(samples.add)  # type: ignore[no-untyped-call]
        environment.events.quit.add_listener(samples.close)  # type: ignore[no-untyped-call]


class SampleWriter:
    """A writer of one JSON line per request, with the fields of report.LoadSample."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")
        self._started_s = self._flushed_s = time.time()

    def add(self, *, name: str, response_time: float, start_time: float, response: Any, **event: Any) -> None:
        sample = {
            "at_s": round(start_time - self._started_s, 4),
            "endpoint": name,
            "latency_ms": round(response_time, 3),
            "status": int(getattr(response, "status_code", 0) or 0),
            "error": str(event["exception"] or ""),
            **event["context"],
        }
        self._file.write(json.dumps(sample) + "\n")
        if start_time - self._flushed_s > FLUSH_S:
            self._flushed_s = start_time
            self._file.flush()

    def close(self, **_: Any) -> None:
        self._file.close()


class CheckingUser(FastHttpUser):
    """A user that sends one request after the other and checks each answer."""

    pools: ClassVar[dict[str, list[Payload]]] = {}
    prefix = "/v1"
    first_answers: ClassVar[dict[bytes, bytes]] = {}  # by request, over all users
    numbers: ClassVar[Iterator[int]] = itertools.count()
    network_timeout = 60.0

    def on_start(self) -> None:
        self._random = Random(next(self.numbers))
        self._mix = {name: weight for name, weight in MIX.items() if name in self.pools}

    @task
    def ask(self) -> None:
        name = self._random.choices(list(self._mix), weights=list(self._mix.values()))[0]
        payload = self._random.choice(self.pools[name])
        with self.client.post(
            f"{self.prefix}/{payload.task}",
            data=payload.encoded,  # type: ignore[arg-type]  # Locust's type is str, but it sends bytes unchanged
            headers=HEADERS,
            name=payload.name(self.prefix),
            context={"model": payload.body["model"], "inputs": payload.input_count},
            catch_response=True,
        ) as response:
            content = response.content or b""
            if response.status_code != 200:
                response.failure(_error_title(response.status_code, content))
                return
            first = self.first_answers.get(payload.encoded)
            if content == first:
                return  # already checked
            try:
                if first is not None:
                    raise answers.WrongAnswerError("the same request had a different answer before")
                answers.check(payload, json.loads(content))
                self.first_answers[payload.encoded] = content
            except ValueError as error:
                response.failure(f"wrong answer: {error}")


def _error_title(status: int, content: bytes) -> str:
    """Return the constant part of an error answer."""
    try:
        return f"{status} {json.loads(content)['title']}"
    except (ValueError, KeyError, TypeError):
        return f"{status}" if status else "no reply"
