"""`python -m loadtest streams`: what it costs to send a text as it is written.

The time to the first event beside that of one step, on an idle service; 64 streams at once beside 64 plain requests
for the same texts, in turns; where a model answers word by word, the cost of a word along one stream.
"""

import argparse
import asyncio
import contextlib
import json
import re
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.progress import Progress
from rich.table import Table

from loadtest import report, streams_words
from loadtest.closed_loop import run_loop
from loadtest.limits_stand import check
from loadtest.open_loop import percentiles
from loadtest.stalls import POLL_S, pinned
from loadtest.wire import Address, Connection, fetch, request_bytes

FIRST_EVENT_MS = 5.0  # over one step
SHARE_LEAST = 0.75
STREAMS, NEW_TOKENS = 64, 200
PROMPT = "R"  # one character, so that the first event is one step away
TIMEOUT_S = 120.0
STEP = re.compile(r"^seqserve_step_seconds_(sum|count)\{[^}]*\} (\S+)$", re.MULTILINE)
PLAIN, STREAMED = "/v1/generate", "/v1/generate_stream"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", default="http://127.0.0.1:3000", help="the service (default: %(default)s)")
    parser.add_argument("--serve", metavar="COMMAND", help="start the service with this first, stop it afterwards")
    parser.add_argument("--probes", type=int, default=300, help="first events that are timed")
    parser.add_argument("--texts", type=int, default=512, help="of one round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--words", type=int, default=100_000, help="of one stream, if a model streams")
    parser.add_argument("--quick", action="store_true", help="see in seconds whether everything works")
    parser.add_argument("--report", type=Path, default=Path("build/streams.json"), metavar="FILE")


def command(arguments: argparse.Namespace) -> int:
    """0 if the first event came in time and streaming cost no more than it may, else 1."""
    if arguments.quick:
        arguments.probes, arguments.texts, arguments.rounds, arguments.words = 10, 64, 1, 300
    console, address = report.console(), Address.parse(arguments.url)
    with contextlib.ExitStack() as stack:
        if arguments.serve:
            stack.enter_context(pinned(arguments.serve, address, arguments.report.with_suffix(".log")))
        with Progress(console=console, transient=True) as progress:
            first = first_events(address, arguments.probes, progress)
            rounds = _rounds(address, arguments, progress)
            name = streams_words.model(address)
            words = streams_words.measure(address, name, arguments.words, progress) if name else None
    result = {**report.circumstances(), **conclude(first, rounds, words)}
    report.write_json(arguments.report, result)
    draw(result, arguments.report.with_suffix(".png"))
    console.print(table(result))
    return 0 if all(each["met"] for each in result["checks"]) else 1


def _request(address: Address, path: str, tokens: int, seed: int) -> bytes:
    parameters = {"max_new_tokens": tokens, "temperature": 0.8, "seed": seed}
    return request_bytes(address, path, json.dumps({"inputs": PROMPT, "parameters": parameters}).encode())


def first_events(address: Address, probes: int, progress: Progress) -> dict[str, Any]:
    """Milliseconds to the first event, to the whole answer of one token, and of a step as the service counts it."""
    shown = progress.add_task("first events", total=probes)
    before = _steps(address)

    async def ask() -> tuple[list[float], list[float]]:
        stream, plain = await Connection.open(address), await Connection.open(address)
        events, answers = [], []
        for seed in range(probes):
            events.append(await _until(stream, _request(address, STREAMED, 2, seed), b"data:"))
            started_s = time.perf_counter()
            await plain.ask(_request(address, PLAIN, 1, seed), timeout_s=TIMEOUT_S)
            answers.append((time.perf_counter() - started_s) * 1000)
            progress.advance(shown)
        stream.close()
        plain.close()
        return events, answers

    events, answers = run_loop(ask())
    after = _steps(address)
    steps = after[1] - before[1]
    step_ms = (after[0] - before[0]) / steps * 1000 if steps else 0.0
    return {"first_event": percentiles(sorted(events)), "one_token": percentiles(sorted(answers)), "step_ms": step_ms}


async def _until(connection: Connection, request: bytes, wanted: bytes) -> float:
    """Milliseconds until `wanted` has come; then the rest of the answer is read."""
    started_s, data, at_ms = time.perf_counter(), b"", None
    await connection.send(request)
    async with asyncio.timeout(TIMEOUT_S):
        while not data.endswith(b"0\r\n\r\n"):
            block = await connection.receive()
            if not block:
                raise ConnectionError(f"the stream ended too early: {data[:300]!r}")
            data += block
            if data.startswith(b"HTTP/1.1 ") and len(data) > 12 and data[9:12] != b"200":
                raise ConnectionError(f"a stream was wanted, but the answer is: {data[:300]!r}")
            if at_ms is None and wanted in data:
                at_ms = (time.perf_counter() - started_s) * 1000
    assert at_ms is not None  # what ends well has had an event
    return at_ms


def _steps(address: Address) -> tuple[float, float]:
    """Seconds in steps and how many, so far."""
    time.sleep(POLL_S)
    found = {"sum": 0.0, "count": 0.0}
    for name, value in STEP.findall(fetch(f"{address.url}/metrics").body.decode()):
        found[name] += float(value)
    return found["sum"], found["count"]


class _Texts(asyncio.Protocol):
    """One connection that asks for one text after the other, and looks at as little of them as it can.

    A stream is some fifty thousand events a second: a client that read each of them would be what is measured.
    """

    def __init__(self, requests: "list[bytes]") -> None:
        self._requests = requests  # shared by all connections
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.events = 0
        self._end = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._next()

    def _next(self) -> None:
        if self._requests:
            self._transport.write(self._requests.pop())
        else:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        self.events += data.count(b"data:")
        self._end = (self._end + data)[-7:]
        # The last chunk, or the brace that ends an answer with a length.
        if self._end.endswith(b"\r\n0\r\n\r\n") or (self._end.endswith(b"}") and not self.events):
            self._end = b""
            self._next()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


def _rounds(address: Address, how: argparse.Namespace, progress: Progress) -> dict[str, list[float]]:
    """Tokens a second of each round, plain and streamed in turns; the first, by which all gets warm, is left out."""
    shown = progress.add_task("64 at once", total=2 * (how.rounds + 1))
    found: dict[str, list[float]] = {PLAIN: [], STREAMED: []}
    for _ in range(how.rounds + 1):
        for path, rates in found.items():
            rates.append(run_loop(_tokens_per_s(address, path, how.texts)))
            progress.advance(shown)
    return {path: rates[1:] for path, rates in found.items()}


async def _tokens_per_s(address: Address, path: str, texts: int) -> float:
    requests = [_request(address, path, NEW_TOKENS, seed) for seed in range(texts)]
    loop, started_s = asyncio.get_running_loop(), time.perf_counter()
    clients = [_Texts(requests) for _ in range(STREAMS)]
    for client in clients:
        await loop.create_connection(lambda client=client: client, address.host, address.port)  # type: ignore[misc]
    async with asyncio.timeout(TIMEOUT_S):
        await asyncio.gather(*(client.done for client in clients))
    taken_s = time.perf_counter() - started_s
    events = sum(client.events for client in clients)
    if requests or (path == STREAMED and events < texts * NEW_TOKENS):
        raise ConnectionError(
            f"{path}: {events} events of {texts} texts of {NEW_TOKENS} tokens, {len(requests)} unasked"
        )
    return texts * NEW_TOKENS / taken_s


def conclude(
    first: Mapping[str, Any], rounds: Mapping[str, Sequence[float]], words: Mapping[str, Any] | None
) -> dict[str, Any]:
    plain, streamed = (statistics.median(rounds[path]) for path in (PLAIN, STREAMED))
    over_ms = first["first_event"]["p50_ms"] - first["step_ms"]
    return {
        "first": first,
        "tokens_per_s": {path: list(rates) for path, rates in rounds.items()},
        "medians": {PLAIN: plain, STREAMED: streamed},
        "words": words,
        "checks": [
            check("first event, ms over one step", over_ms, most=FIRST_EVENT_MS),
            check("tokens/s of 64 streams over 64 plain requests", streamed / plain, least=SHARE_LEAST),
            *(streams_words.checks(words) if words else ()),
        ],
    }


def draw(result: Mapping[str, Any], path: Path) -> None:
    """The measurements side by side."""
    words = result["words"]
    figure = Figure(figsize=(13 if words else 9, 3.5), layout="constrained")
    left, right, *third = figure.subplots(1, 3 if words else 2)
    first = result["first"]
    times = {"one step": first["step_ms"]}
    times |= {"first event, p50": first["first_event"]["p50_ms"], "p99": first["first_event"]["p99_ms"]}
    left.bar(list(times), list(times.values()), color=["0.7", "tab:red", "tab:orange"])
    left.set(ylabel="ms", title="to the first event, idle service")
    rates = [result["tokens_per_s"][name] for name in (PLAIN, STREAMED)]
    right.boxplot(rates, tick_labels=["whole", "streamed"])
    right.set(ylabel="tokens/s", title="64 texts at once", ylim=(0, None))
    for axes in third:
        streams_words.draw(words, axes)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def table(result: Mapping[str, Any]) -> Table:
    drawn = Table(title="streams", title_justify="left")
    for column, justify in (("what", "left"), ("is", "right"), ("wanted", "right"), ("", "left")):
        drawn.add_column(column, justify=justify)  # type: ignore[arg-type]
    first = result["first"]
    for name in ("first_event", "one_token"):
        row = first[name]
        drawn.add_row(f"{name.replace('_', ' ')}: p50, p99 ms", f"{row['p50_ms']:.2f}, {row['p99_ms']:.2f}", "", "")
    drawn.add_row("one step, ms", f"{first['step_ms']:.2f}", "", "")
    for path, median in result["medians"].items():
        drawn.add_row(f"{path}, tokens/s", f"{median:,.0f}", "", "")
    for each in result["checks"]:
        drawn.add_row(each["what"], f"{each['is']:.4g}", each["wanted"], "" if each["met"] else "missed")
    return drawn
