"""`python -m loadtest states`: a text split at a random point goes on as if it had not been; a forged state is refused.

Texts are written whole, then their beginnings, with a state; half of the states are continued at once, the others after
the service was started anew. Every request has a connection of its own, so that any worker may get it. Then valid
states are changed in one place each: all of them have to be refused, and fast.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from rich.progress import Progress
from rich.table import Table

from loadtest import payloads, report
from loadtest.closed_loop import run_loop
from loadtest.limits_stand import check
from loadtest.open_loop import percentiles
from loadtest.payloads import Card
from loadtest.server import serving
from loadtest.wire import Address, Connection, Reply, request_bytes

T = TypeVar("T")
R = TypeVar("R")
AT_ONCE = 32
FORGERS = 8  # connections; more would measure their own queue
LONGEST = 64  # tokens of a whole text
TIMEOUT_S = 30.0
SLOWEST_MS = 100.0
P99_MS = 20.0
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@dataclass(frozen=True, kw_only=True)
class Split:
    """A text of `tokens` and where it is cut."""

    model: str
    prompt: str
    tokens: int
    cut: int
    parameters: Mapping[str, Any]  # of the draw
    seed: int | None

    def body(self, tokens: int, **more: Any) -> bytes:
        """The request for the first `tokens`; with `state`, for those behind it."""
        seed = {} if self.seed is None or "state" in more else {"seed": self.seed}
        parameters = {**self.parameters, **seed, "max_new_tokens": tokens, "details": True, **more}
        inputs = "" if "state" in more else self.prompt
        return json.dumps({"inputs": inputs, "model": self.model, "parameters": parameters}).encode()


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A split of which the whole and the first part are written."""

    split: Split
    whole: str
    first: str
    state: str
    ended: bool  # the model has ended the text before the cut: there is no rest
    worker: str  # that wrote the first part


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--serve", metavar="COMMAND", required=True, help="starts the service, with a key for states")
    parser.add_argument("--url", default="http://127.0.0.1:3000", help="where it listens then (default: %(default)s)")
    parser.add_argument("--splits", type=int, default=10_000)
    parser.add_argument("--forged", type=int, default=100_000)
    parser.add_argument("--quick", action="store_true", help="see in seconds whether everything works")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path, default=Path("build/states.json"), metavar="FILE")


def command(arguments: argparse.Namespace) -> int:
    """0 if every continuation was the rest of its text and every forged state was refused, else 1."""
    if arguments.quick:
        arguments.splits, arguments.forged = 60, 300
    console, address = report.console(), Address.parse(arguments.url)
    log = arguments.report.with_suffix(".log")
    with Progress(console=console, transient=True) as progress:
        with serving(arguments.serve, address, log=log):
            cards = payloads.read_cards(address.url)
            splits = list(draw(cards, arguments.splits, Random(f"splits {arguments.seed}")))
            begun = _each(splits, AT_ONCE, lambda split: begin(address, split), progress, "beginnings")
            half = len(begun) // 2
            found = _each(begun[:half], AT_ONCE, lambda one: go_on(address, one), progress, "continued")
        with serving(arguments.serve, address, log=log):
            found += _each(begun[half:], AT_ONCE, lambda one: go_on(address, one), progress, "after a restart")
            refusals = _forge(address, begun, arguments, progress)
    result = {**report.circumstances(), **conclude(begun, found, refusals)}
    report.write_json(arguments.report, result)
    console.print(table(result))
    return 0 if all(each["met"] for each in result["checks"]) else 1


def draw(cards: Sequence[Card], count: int, random: Random) -> Iterator[Split]:
    """Splits of texts of all models that write, greedy or drawn with a seed."""
    writers = [card for card in cards if card.task == "generate"]
    if not writers:
        raise LookupError("no model of this service writes: there is no state of one to split at")
    for _ in range(count):
        card, tokens = random.choice(writers), random.randint(2, LONGEST)
        greedy = random.random() < 0.3
        drawn = {"temperature": random.choice((0.7, 1.0)), "top_p": random.choice((0.9, 1.0))}
        yield Split(
            model=card.id,
            prompt=" ".join(random.choices(card.words, k=random.randint(1, 6))),
            tokens=tokens,
            cut=random.randint(1, tokens - 1),
            parameters={"temperature": 0.0} if greedy else drawn,
            seed=None if greedy else random.randrange(1 << 32),
        )


async def begin(address: Address, split: Split) -> Begun:
    """The whole text and its first part; ConnectionError where the service does not offer states."""
    whole, _ = await _written(address, split.body(split.tokens))
    first, reply = await _written(address, split.body(split.cut, return_state=True))
    state = first.get("state")
    if not isinstance(state, str):
        raise ConnectionError(f"return_state was asked for, but there is no state in the answer: {sorted(first)}")
    return Begun(
        split=split,
        whole=whole["generated_text"],
        first=first["generated_text"],
        state=state,
        ended=first["details"]["finish_reason"] == "eos",
        worker=_worker(reply),
    )


async def go_on(address: Address, begun: Begun) -> dict[str, Any]:
    """Whether the rest is that of the whole, and whether another worker wrote it."""
    split = begun.split
    if begun.ended:
        return {"equal": begun.first == begun.whole, "elsewhere": False}
    rest, reply = await _written(address, split.body(split.tokens - split.cut, state=begun.state))
    equal = begun.first + rest["generated_text"] == begun.whole
    return {"equal": equal, "elsewhere": _worker(reply) != begun.worker}


async def _written(address: Address, body: bytes) -> tuple[dict[str, Any], Reply]:
    connection = await Connection.open(address)
    try:
        reply = await connection.ask(request_bytes(address, "/v1/generate", body), timeout_s=TIMEOUT_S)
    finally:
        connection.close()
    answer = reply.json()
    if reply.status != 200 or not isinstance(answer, dict):
        raise ConnectionError(f"a text was wanted, but the answer is {reply.status}: {reply.body[:300]!r}")
    return answer, reply


def _worker(reply: Reply) -> str:
    """Ids of requests begin with the worker's own part."""
    return reply.headers.get("x-request-id", "").partition("-")[0]


def mutated(state: str, other: str, random: Random) -> str:
    """`state` with one change; `other` is a state, too."""
    while True:
        at = random.randrange(len(state))
        changes = (
            state[:at] + random.choice(ALPHABET) + state[at + 1 :],
            state[:-1] + random.choice(ALPHABET),  # its last bits may stand for nothing
            state[:at] + state[at + 1 :],
            state[:at] + random.choice(ALPHABET) + state[at:],
            state[:at],
            state[:at] + other[at:],
            state + random.choice(("=", "==", "A", " ", "\n")),
            state[at:] + state[:at],
            state.swapcase(),
        )
        found = random.choice(changes)
        if found not in (state, other):
            return found


def _forge(
    address: Address, begun: Sequence[Begun], how: argparse.Namespace, progress: Progress
) -> list[tuple[int, float]]:
    """(status, milliseconds) of every forged state."""
    random = Random(f"forged {how.seed}")
    parts = [how.forged // FORGERS + (number < how.forged % FORGERS) for number in range(FORGERS)]
    shown = progress.add_task("forged", total=how.forged)

    async def forger(count: int) -> list[tuple[int, float]]:
        connection, found = await Connection.open(address), []
        for _ in range(count):
            one, other = random.choices(begun, k=2)
            body = one.split.body(1, state=mutated(one.state, other.state, random))
            started_s = time.perf_counter()
            reply = await connection.ask(request_bytes(address, "/v1/generate", body), timeout_s=TIMEOUT_S)
            found.append((reply.status, (time.perf_counter() - started_s) * 1000))
            progress.advance(shown)
        connection.close()
        return found

    async def forgers() -> list[list[tuple[int, float]]]:
        return await asyncio.gather(*map(forger, parts))

    return [each for part in run_loop(forgers()) for each in part]


def _each(
    items: Sequence[T], at_once: int, run: Callable[[T], Awaitable[R]], progress: Progress, title: str
) -> list[R]:
    """`run` of every item, so many at once, in their order."""
    shown = progress.add_task(title, total=len(items))
    queue = iter(enumerate(items))
    found: dict[int, R] = {}

    async def work() -> None:
        for number, item in queue:
            found[number] = await run(item)
            progress.advance(shown)

    async def all_of_them() -> None:
        await asyncio.gather(*(work() for _ in range(at_once)))

    run_loop(all_of_them())
    return [found[number] for number in range(len(items))]


def conclude(
    begun: Sequence[Begun], found: Sequence[Mapping[str, Any]], refusals: Sequence[tuple[int, float]]
) -> dict[str, Any]:
    times = sorted(ms for _, ms in refusals)
    statuses = [status for status, _ in refusals]
    spread = percentiles(times) or {}
    return {
        "splits": len(found),
        "models": sorted({one.split.model for one in begun}),
        "workers": len({one.worker for one in begun}),
        "continued_by_another_process": sum(each["elsewhere"] for each in found),
        "state_bytes": {one.split.model: len(one.state) for one in begun},
        "forged": {"statuses": {str(status): statuses.count(status) for status in sorted(set(statuses))}, **spread},
        "checks": [
            check("continuations that are not the rest of their text", sum(not e["equal"] for e in found), most=0),
            check("forged states that were not refused with 422", sum(s != 422 for s in statuses), most=0),
            check("p99 of refusals, ms", spread["p99_ms"], most=P99_MS),
            check("slowest refusal, ms", spread["max_ms"], most=SLOWEST_MS),
        ],
    }


def table(result: Mapping[str, Any]) -> Table:
    drawn = Table(title=f"states: {result['splits']} splits, {result['workers']} workers", title_justify="left")
    for column, justify in (("what", "left"), ("is", "right"), ("wanted", "right"), ("", "left")):
        drawn.add_column(column, justify=justify)  # type: ignore[arg-type]
    for each in result["checks"]:
        drawn.add_row(each["what"], f"{each['is']:.4g}", each["wanted"], "" if each["met"] else "missed")
    return drawn
