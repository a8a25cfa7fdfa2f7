"""`python -m loadtest poison`: healthy load with bad requests mixed in; nobody may notice but their senders.

Every poisoned request has to get its documented status, every healthy one the answer that it got alone, before the
load began, and no worker may restart. Bounded in connections and time.
"""

import argparse
import asyncio
import contextlib
import itertools
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from rich.table import Table

from loadtest import answers, payloads, poison_kinds, report
from loadtest.answers import WrongAnswerError
from loadtest.payloads import Card
from loadtest.poison_kinds import Poison
from loadtest.server import serving, workers
from loadtest.wire import Address, Connection, Reply, fetch, request_bytes

TIMEOUT_S = 60.0
# Servers close idle connections after seconds: one that has rested longer than this is opened anew, so that a
# healthy request is never sent into a connection that is being closed.
IDLE_S = 2.0
HEALTHY = {"tag": 60, "classify": 30, "generate": 15}  # different healthy requests a task
EXAMPLES_SHOWN, COMPLAINTS_KEPT = 5, 100
GONE, NO_ANSWER, TIMED_OUT = "hung up", "no answer", "timeout"


@dataclass(frozen=True, kw_only=True)
class Healthy:
    """A good request and its answer when nothing else was going on."""

    request: bytes
    answer: object


@dataclass(kw_only=True)
class Tally:
    """What has been seen so far; the connections write into it."""

    statuses: dict[str, Counter[int | str]] = field(default_factory=lambda: defaultdict(Counter))
    deviations: Counter[str] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)
    healthy: int = 0
    wrong: int = 0

    def complain(self, who: str, what: str) -> None:
        if len(self.complaints) < COMPLAINTS_KEPT:
            self.complaints.append(f"{who}: {what}")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", default="http://127.0.0.1:3000", help="the service (default: %(default)s)")
    parser.add_argument("--serve", metavar="COMMAND", help="start the service with this first, stop it afterwards")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--share", type=float, default=0.1, help="of all requests, how many are poisoned")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--prefix", default="/v1", help="/v1 for the lean path, '' for the BentoML routes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path, default=Path("build/poison"), metavar="DIR")


def command(arguments: argparse.Namespace) -> int:
    """0 if every poison got its status, every healthy request its answer and no worker restarted; else 1."""
    if not 0.0 < arguments.share < 1.0:
        raise ValueError(f"--share {arguments.share:g} is no share: give it between 0 and 1, such as 0.1")
    console = report.console()
    address = Address.parse(arguments.url)
    arguments.report.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        if arguments.serve:
            console.print(f"starting the service: {arguments.serve}", markup=False)
            stack.enter_context(serving(arguments.serve, address, log=arguments.report / "server.log"))
        cards = payloads.read_cards(address.url)
        kinds = poison_kinds.build(address, arguments.prefix, cards)
        before = started(address)
        tally = asyncio.run(_load(address, kinds, cards, arguments))
        after = started(address)
    console.print(table(kinds, tally))
    reasons = verdict(kinds, tally, before, after)
    if before is None:
        console.print("restarts cannot be seen from here: run this on the service's machine", style="yellow")
    for line in [*tally.complaints[:EXAMPLES_SHOWN], *(f"FAILED: {reason}" for reason in reasons)]:
        console.print(line, style="red", markup=False, highlight=False)
    report.write_json(arguments.report / "poison.json", _result(kinds, tally, reasons, arguments.seconds))
    return 1 if reasons else 0


async def _load(address: Address, kinds: Sequence[Poison], cards: Sequence[Card], how: argparse.Namespace) -> Tally:
    """Reference answers alone, then the mixed load, then the same healthy requests alone once more."""
    healthy = await _references(address, how.prefix, cards, how.seed)
    random = Random(how.seed)
    deck = _shuffled_for_ever(kinds, random)
    tally, end_s = Tally(), time.monotonic() + how.seconds
    async with asyncio.TaskGroup() as group:
        for number in range(how.connections):
            group.create_task(_user(address, healthy, deck, tally, (Random(f"{how.seed} {number}"), how.share, end_s)))
    try:
        connection = await Connection.open(address)
    except OSError as error:
        tally.wrong += 1
        tally.complain("after the load", f"cannot connect: {error}")
        return tally
    for one in healthy:
        await _ask_healthy(connection, one, tally)
    connection.close()
    return tally


async def _references(address: Address, prefix: str, cards: Sequence[Card], seed: int) -> list[Healthy]:
    """Ask every healthy request alone; WrongAnswerError if the service is not well to begin with."""
    found = []
    connection = await Connection.open(address)
    tasks = sorted({task for card in cards for task in card.tasks} & HEALTHY.keys())
    for payload in [p for task in tasks for p in payloads.build(cards, task, count=HEALTHY[task], seed=seed)]:
        request = request_bytes(address, f"{prefix}/{payload.task}", payload.encoded)
        reply = await connection.ask(request, timeout_s=TIMEOUT_S)
        asked = f"before any load, {payload.name(prefix)}"
        if reply.status != 200:
            raise WrongAnswerError(f"{asked} answered {reply.status}: {reply.body[:200]!r}")
        try:
            answers.check(payload, reply.json())
        except ValueError as error:
            raise WrongAnswerError(f"{asked} answered wrongly: {error}") from None
        found.append(Healthy(request=request, answer=reply.json()))
    connection.close()
    return found


def _shuffled_for_ever(kinds: Sequence[Poison], random: Random) -> Iterator[Poison]:
    """Every poison once in random order, then again in another: none is left out by chance."""
    while True:
        yield from random.sample(kinds, len(kinds))


async def _user(
    address: Address,
    healthy: Sequence[Healthy],
    deck: Iterator[Poison],
    tally: Tally,
    how: tuple[Random, float, float],
) -> None:
    """One connection's closed loop until the time is up; each poison gets a connection of its own."""
    random, share, end_s = how
    connection: Connection | None = None
    used_s = 0.0
    while (now_s := time.monotonic()) < end_s:
        if random.random() < share:
            await _send_poison(address, next(deck), tally)
            continue
        try:
            if connection is not None and now_s - used_s > IDLE_S:
                connection.close()
                connection = None
            connection = connection or await Connection.open(address)
            if not await _ask_healthy(connection, random.choice(healthy), tally):
                connection.close()
                connection = None
        except OSError as error:
            tally.wrong += 1
            tally.complain("healthy", f"cannot connect: {error}")
            await asyncio.sleep(0.05)
        used_s = time.monotonic()
    if connection is not None:
        connection.close()


async def _ask_healthy(connection: Connection, one: Healthy, tally: Tally) -> bool:
    """Ask and compare with the reference; False when the connection is of no more use."""
    tally.healthy += 1
    try:
        reply = await connection.ask(one.request, timeout_s=TIMEOUT_S)
        right = reply.status == 200 and reply.json() == one.answer
    except (OSError, ValueError) as error:
        tally.wrong += 1
        tally.complain("healthy", f"{type(error).__name__}: {error}")
        return False
    if not right:
        tally.wrong += 1
        tally.complain("healthy", f"status {reply.status}, {reply.body[:160]!r} to {one.request[-160:]!r}")
    return reply.headers.get("connection", "").lower() != "close"


async def _send_poison(address: Address, poison: Poison, tally: Tally) -> None:
    status: int | str
    try:
        connection = await Connection.open(address)
        try:
            if poison.sent is not None:
                await connection.send(poison.request[: poison.sent])
                status, complaint = GONE, ""
            else:
                reply = await connection.ask(poison.request, timeout_s=TIMEOUT_S)
                status, complaint = reply.status, _complaint(poison, reply)
        finally:
            connection.close(reset=poison.reset)
    except TimeoutError:
        status, complaint = TIMED_OUT, f"nothing for {TIMEOUT_S:g} s"
    except (OSError, ValueError) as error:
        status, complaint = NO_ANSWER, f"{type(error).__name__}: {error}"
    tally.statuses[poison.kind][status] += 1
    if complaint:
        tally.deviations[poison.kind] += 1
        tally.complain(f"{poison.kind} ({poison.task})", complaint)


def _complaint(poison: Poison, reply: Reply) -> str:
    """What is wrong with the answer to a poisoned request; empty if it is the documented one."""
    if reply.status not in poison.expected:
        return f"status {reply.status} instead of {_listed(poison.expected)}: {reply.body[:160]!r}"
    try:
        if reply.status == 200 and poison.check:
            poison.check(reply.json())
        if reply.status >= 400:
            answers.check_problem(reply.status, reply.headers.get("content-type", ""), reply.json())
    except ValueError as error:
        wrong = isinstance(error, WrongAnswerError)
        return f"status {reply.status}, but {error}" if wrong else f"status {reply.status} with a body that is no JSON"
    return ""


def started(address: Address) -> dict[str, float] | None:
    """When the service's processes began: those that listen here, or else as its metrics say; None if unknown."""
    if (listening := workers(address)) is not None:
        return {str(pid): start_s for pid, start_s in listening.items()}
    try:
        text = fetch(f"{address.url}/metrics").body.decode("utf-8", "replace")
    except ConnectionError:
        return None
    found = re.findall(r"^process_start_time_seconds(\S*) (\S+)$", text, re.MULTILINE)
    return {labels: float(value) for labels, value in found} or None


def verdict(
    kinds: Sequence[Poison], tally: Tally, before: dict[str, float] | None, after: dict[str, float] | None
) -> list[str]:
    """Why this is a failure, a sentence each; empty when it is none."""
    reasons = []
    if unsent := sorted({poison.kind for poison in kinds} - tally.statuses.keys()):
        reasons.append(f"too short a load: never sent {', '.join(unsent)}")
    if count := sum(tally.deviations.values()):
        reasons.append(f"{count} poisoned requests were not answered as documented")
    if tally.wrong or not tally.healthy:
        reasons.append(f"{tally.wrong} of {tally.healthy} healthy requests did not get their right answer")
    if before != after:
        reasons.append(f"processes have restarted: {before} before, {after} after")
    return reasons


def table(kinds: Sequence[Poison], tally: Tally) -> Table:
    """A row a kind, then the healthy requests."""
    drawn = Table(title="poison", title_justify="left")
    for column in ("kind", "sent", "expected", "seen", "ok"):
        drawn.add_column(column, justify="right" if column == "sent" else "left")
    for kind, same in itertools.groupby(sorted(kinds, key=lambda p: p.kind), key=lambda p: p.kind):
        expected = frozenset(itertools.chain.from_iterable(poison.expected for poison in same))
        seen = tally.statuses.get(kind, Counter())
        listed = ", ".join(f"{status}: {count}" for status, count in sorted(seen.items(), key=str))
        good = "yes" if seen and not tally.deviations[kind] else "NO"
        drawn.add_row(kind, str(sum(seen.values())), _listed(expected), listed, good)
    drawn.add_section()
    right = f"right: {tally.healthy - tally.wrong}, wrong: {tally.wrong}"
    drawn.add_row("healthy", str(tally.healthy), "200", right, "NO" if tally.wrong else "yes")
    return drawn


def _listed(expected: frozenset[int]) -> str:
    return ", ".join(str(status) for status in sorted(expected)) or GONE


def _result(kinds: Sequence[Poison], tally: Tally, reasons: list[str], seconds: float) -> dict[str, object]:
    return {
        **report.circumstances(),
        "seconds": seconds,
        "kinds": {
            kind: {"statuses": {str(s): n for s, n in tally.statuses[kind].items()}, "wrong": tally.deviations[kind]}
            for kind in sorted({poison.kind for poison in kinds})
        },
        "healthy": {"sent": tally.healthy, "wrong": tally.wrong},
        "complaints": tally.complaints,
        "failed": reasons,
    }
