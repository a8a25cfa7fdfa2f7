"""The cost of a word on WS /v1/stream, from the first word of one stream to its last.

What has been read is in a state of fixed size, so it must not grow. For services that have a model whose card says
`"streams": true`.
"""

import asyncio
import json
import statistics
import time
from collections.abc import Mapping
from random import Random
from typing import Any

import psutil  # type: ignore[import-untyped]
from matplotlib.axes import Axes
from rich.progress import Progress

from loadtest.closed_loop import run_loop
from loadtest.limits_stand import check
from loadtest.open_loop import percentiles
from loadtest.payloads import PLAIN_WORDS
from loadtest.server import workers
from loadtest.websocket import WebSocket
from loadtest.wire import Address, fetch

GROWTH_MOST = 1.1  # the last tenth's median over the first one's
MEMORY_MOST = 1.05
POINTS = 100  # of the picture
TIMEOUT_S = 30.0


def model(address: Address) -> str | None:
    """The first model that answers word by word."""
    cards = json.loads(fetch(f"{address.url}/v1/models").body)["data"]
    fitting = [card["id"] for card in cards if card.get("streams") and card.get("codec") == "words"]
    return fitting[0] if fitting else None


def measure(address: Address, name: str, count: int, progress: Progress) -> dict[str, Any]:
    """`count` words one by one on one stream."""
    shown = progress.add_task("words of one stream", total=count)
    memory: list[float | None] = []
    times = run_loop(_words(address, name, count, progress, shown, memory))
    tenth, point = max(1, count // 10), max(1, count // POINTS)
    first, last = (sorted(part) for part in (times[:tenth], times[-tenth:]))
    return {
        "model": name,
        "words": count,
        "first_tenth": percentiles(first),
        "last_tenth": percentiles(last),
        "first_tenth_s": sum(first) / 1000,
        "last_tenth_s": sum(last) / 1000,
        "memory_mb": memory,
        "medians_ms": [statistics.median(times[at : at + point]) for at in range(0, count - point + 1, point)],
    }


async def _words(
    address: Address, name: str, count: int, progress: Progress, shown: Any, memory: list[float | None]
) -> list[float]:
    """Milliseconds of each word; memory is looked at after the first tenth and at the end."""
    random, times, answer = Random(0), [], ""
    stream = await WebSocket.open(address, "/v1/stream")
    try:
        await stream.ask(json.dumps({"model": name}))
        for number in range(1, count + 1):
            message = json.dumps({"inputs": random.choice(PLAIN_WORDS)})
            started_s = time.perf_counter()
            async with asyncio.timeout(TIMEOUT_S):
                answer = await stream.ask(message)
            times.append((time.perf_counter() - started_s) * 1000)
            if '"entities"' not in answer:
                raise ConnectionError(f"word {number} was answered with {answer[:300]}")
            if number in (max(1, count // 10), count):
                memory.append(memory_mb(address))
            if number % 100 == 0:
                progress.advance(shown, 100)
    finally:
        stream.close()
    steps = json.loads(answer)["steps"]
    if steps != count:
        raise ConnectionError(f"{count} words were sent, but the stream counts {steps} steps")
    return times


def memory_mb(address: Address) -> float | None:
    """Of the processes that listen there; None where none is visible."""
    pids = workers(address)
    return sum(psutil.Process(pid).memory_info().rss for pid in pids) / 1e6 if pids else None


def checks(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    growth = found["last_tenth"]["p50_ms"] / found["first_tenth"]["p50_ms"]
    made = [check("median of a word, last tenth over first", growth, most=GROWTH_MOST)]
    before, after = found["memory_mb"]
    if before and after:
        made.append(check("memory at the end over that after a tenth", after / before, most=MEMORY_MOST))
    return made


def draw(found: Mapping[str, Any], axes: Axes) -> None:
    """Milliseconds a word along the stream."""
    medians = found["medians_ms"]
    places = [(at + 1) * found["words"] / len(medians) for at in range(len(medians))]
    axes.plot(places, medians, color="tab:red")
    axes.set(xlabel="words of one stream", ylabel="ms a word, median", title=found["model"], ylim=(0, None))
