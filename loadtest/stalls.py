"""`python -m loadtest stalls`: healthy load alone, then among clients that stall, hang up or dawdle.

Healthy requests arrive at random at a moderate rate, texts that are generated beside texts that are read. Their p99
may grow by half at most, every one is answered, and when the others are gone nothing is left of them: no slot, no
queue, no socket, no file, no memory.
"""

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import psutil  # type: ignore[import-untyped]
from rich.console import Console
from rich.table import Table

from loadtest import payloads, report
from loadtest.bench import cores
from loadtest.closed_loop import run_loop
from loadtest.limits_stand import check
from loadtest.open_loop import Arrivals, allow_connections, drive_open
from loadtest.payloads import Card
from loadtest.server import Server, serving, workers
from loadtest.stalls_clients import Asked, crowd
from loadtest.websocket import frame, handshake
from loadtest.wire import Address, Connection, fetch, request_bytes

RATIO_MOST = 1.5
MEMORY_MOST = 1.1  # of what it was after the same load alone: caches and arenas fill up a little further
SETTLE_S = 15.0  # for what the service still has to notice: a reset, a timer of a stalled head
POLL_S = 1.2  # metrics are up to a second old
NEW_TOKENS = 20  # of a healthy text
# What the others ask for is little work, a few per cent of a core for 200 of them: their work would slow the healthy
# down as anybody's does, and that is not what is tested here.
PLAIN_TOKENS = 50
STREAM_TOKENS = 400  # some 50 KB of events: more than a slow reader's side takes
ARRIVE_S = 10.0
GENERATE_SHARE = 0.1
GAUGES = re.compile(r"^(seqserve_(?:active_\w+|queue_items))\S* (\S+)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Left:
    """What a service holds while nobody asks it anything. None: cannot be seen from here."""

    gauges: Mapping[str, float]  # active slots, active streams, queued inputs
    sockets: int | None
    files: int | None
    memory_mb: float | None


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", default="http://127.0.0.1:3000", help="the service (default: %(default)s)")
    parser.add_argument("--serve", metavar="COMMAND", help="start the service with this first, stop it afterwards")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each of the two loads")
    parser.add_argument("--clients", type=int, default=200, help="that stall, hang up or dawdle")
    parser.add_argument("--rate", type=float, default=200.0, help="healthy requests a second")
    parser.add_argument("--quick", action="store_true", help="see in seconds whether everything works")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path, default=Path("build/stalls.json"), metavar="FILE")


def command(arguments: argparse.Namespace) -> int:
    """0 if the healthy hardly noticed and nothing is left, else 1."""
    if arguments.quick:
        arguments.seconds, arguments.clients, arguments.rate = 2.0, 24, 40.0
    console, address = report.console(), Address.parse(arguments.url)
    allow_connections()
    with contextlib.ExitStack() as stack:
        log = arguments.report.with_suffix(".log")
        server = stack.enter_context(pinned(arguments.serve, address, log)) if arguments.serve else None
        result = _measure(address, server, arguments, console)
    report.write_json(arguments.report, result)
    console.print(table(result))
    for each in result["checks"]:
        if not each["met"]:
            console.print(f"FAILED: {each['what']}: {each['is']:.4g} ({each['wanted']})", style="red", markup=False)
    return 0 if all(each["met"] for each in result["checks"]) else 1


@contextlib.contextmanager
def pinned(command: str, address: Address, log: Path) -> Iterator[Server]:
    """The service on its own core, and this client on the other, where there are two."""
    ours = os.sched_getaffinity(0)
    server_core, client_core = cores() if len(ours) > 1 else (None, None)
    with serving(command, address, log=log, core=server_core) as server:
        try:
            if client_core is not None:
                os.sched_setaffinity(0, {client_core})
            yield server
        finally:
            os.sched_setaffinity(0, ours)


def _measure(address: Address, server: Server | None, how: argparse.Namespace, console: Console) -> dict[str, Any]:
    cards = payloads.read_cards(address.url)
    asked = run_loop(_asked(address, cards))
    fresh = look(address, server)
    # What the first of them ever make the service take (arenas, tables, buffers) is no leak; what the next ones add is.
    first_s = min(ARRIVE_S, how.seconds / 4)
    console.print(f"{2 * first_s:g} s of clients that nobody wants, so that memory is where they bring it")
    with _crowded(asked, how, first_s):
        time.sleep(2 * first_s)
    console.print(f"{how.seconds:g} s of healthy load alone")
    alone = _healthy(address, cards, how)
    before = settle(address, server, None)
    console.print(f"{how.seconds:g} s beside {how.clients} clients that nobody wants")
    with _crowded(asked, how, first_s) as visits:
        beside = _healthy(address, cards, how)
    console.print("all of them are gone: what is left?")
    after = settle(address, server, before)
    return {
        **report.circumstances(),
        "seconds": how.seconds,
        "clients": how.clients,
        "visits": dict(visits),
        "alone": {name: seen.summary() for name, seen in alone.items()},
        "beside": {name: seen.summary() for name, seen in beside.items()},
        "fresh": asdict(fresh),
        "before": asdict(before),
        "after": asdict(after),
        "checks": [*ratios(alone, beside), *left_over(before, after)],
    }


def _healthy(address: Address, cards: tuple[Card, ...], how: argparse.Namespace) -> dict[str, Arrivals]:
    """Reading (tag and classify) and writing, each an open loop of its own: p99 of both together would be writing's."""
    able = {task for card in cards for task in card.tasks}
    reading = [
        p for task in ("tag", "classify") if task in able for p in payloads.build(cards, task, count=500, seed=1)
    ]
    loads = {"read": ([request_bytes(address, f"/v1/{p.task}", p.encoded) for p in reading], 1 - GENERATE_SHARE)}
    if "generate" in able:
        body = {"inputs": "ROMEO:", "parameters": {"max_new_tokens": NEW_TOKENS, "seed": 7}}
        loads["write"] = ([request_bytes(address, "/v1/generate", json.dumps(body).encode())], GENERATE_SHARE)
    Random(how.seed).shuffle(loads["read"][0])

    async def drive() -> list[Arrivals]:
        return await asyncio.gather(
            *(
                drive_open(address, requests, rate_per_s=how.rate * share, seconds=how.seconds, seed=how.seed)
                for requests, share in loads.values()
            )
        )

    return dict(zip(loads, run_loop(drive()), strict=True))


async def _asked(address: Address, cards: tuple[Card, ...]) -> Asked:
    """What the others send: a long text to be written, where there is a route for it; both streams, if there are."""
    able = {task for card in cards for task in card.tasks}
    task = "generate" if "generate" in able else min(able)
    text = "the king and a good old film "
    parameters = {"parameters": {"max_new_tokens": PLAIN_TOKENS}} if task == "generate" else {}
    plain = json.dumps({"inputs": text, **parameters}).encode()
    long = json.dumps({"inputs": text, "parameters": {"max_new_tokens": STREAM_TOKENS}}).encode()
    stream = request_bytes(address, "/v1/generate_stream", long)
    opening = handshake(address, "/v1/stream")
    words = b"".join(
        frame(b'{"inputs": "%b"}' % word, b"mask") for word in (b"the", b"king", b"and", b"a", b"film") * 40
    )
    return Asked(
        address=address,
        plain=request_bytes(address, f"/v1/{task}", plain),
        stream=stream if await _status(address, stream) == 200 else None,
        socket=opening + words if await _status(address, opening) == 101 else None,
    )


async def _status(address: Address, request: bytes) -> int:
    connection = await Connection.open(address)
    try:
        await connection.send(request)
        async with asyncio.timeout(10.0):
            return int((await connection.receive())[9:12])
    finally:
        connection.close()


@contextlib.contextmanager
def _crowded(asked: Asked, how: argparse.Namespace, arrive_s: float) -> Iterator[dict[str, int]]:
    """The unwanted clients, in a process of their own: what they cost this one would look like the service's time."""
    visits: dict[str, int] = {}
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=crowd, args=(theirs, asked, how.clients, how.seed, arrive_s), daemon=True)
    process.start()
    theirs.close()  # or a process that has died would not be noticed
    try:
        yield visits
        try:
            ours.send("enough")
            visits.update(ours.recv())
        except (OSError, EOFError):
            raise ConnectionError(
                "the clients that nobody wants have ended by themselves: nothing was tested"
            ) from None
    finally:
        ours.close()
        process.join(5.0)
        process.kill()
        process.join()


def settle(address: Address, server: Server | None, before: Left | None) -> Left:
    """What the service holds once it has come to rest, or after SETTLE_S: no more than `before`, no gauge above 0."""
    end_s = time.monotonic() + SETTLE_S
    while True:
        time.sleep(POLL_S)
        left = look(address, server)
        idle = not any(left.gauges.values()) and (
            before is None or all(each["met"] for each in left_over(before, left))
        )
        if idle or time.monotonic() > end_s:
            return left


def look(address: Address, server: Server | None) -> Left:
    text = fetch(f"{address.url}/metrics").body.decode("utf-8", "replace")
    gauges: dict[str, float] = {}
    for name, value in GAUGES.findall(text):
        gauges[name] = gauges.get(name, 0.0) + float(value)
    pids = workers(address) or {}
    processes = server.tree() if server else [psutil.Process(pid) for pid in pids]
    if not processes:
        return Left(gauges=gauges, sockets=None, files=None, memory_mb=None)
    sockets = files = 0
    memory = 0.0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            sockets += sum(each.laddr.port == address.port for each in process.net_connections("tcp"))
            files += process.num_fds()
            memory += process.memory_info().rss / 1e6
    return Left(gauges=gauges, sockets=sockets, files=files, memory_mb=memory)


def ratios(alone: Mapping[str, Arrivals], beside: Mapping[str, Arrivals]) -> list[dict[str, Any]]:
    found = []
    for name, load in beside.items():
        quiet, crowded = (seen.summary()["ok"] for seen in (alone[name], load))
        ratio = crowded["p99_ms"] / quiet["p99_ms"] if quiet and crowded else float("inf")
        found.append(check(f"{name}: p99 beside them over p99 alone", ratio, most=RATIO_MOST))
        failed = load.unanswered + sum(count for status, count in load.statuses().items() if status != 200)
        found.append(check(f"{name}: healthy requests without their answer", failed, most=0))
    return found


def left_over(before: Left, after: Left) -> list[dict[str, Any]]:
    found = [check(f"left over: {name}", value, most=0) for name, value in after.gauges.items()]
    for what in ("sockets", "files"):
        then, now = getattr(before, what), getattr(after, what)
        if then is not None and now is not None:
            found.append(check(f"left over: {what}", max(0, now - then), most=0))
    if before.memory_mb and after.memory_mb:
        found.append(check("memory after over before", after.memory_mb / before.memory_mb, most=MEMORY_MOST))
    return found


def table(result: Mapping[str, Any]) -> Table:
    """The loads, then every check."""
    drawn = Table(title="stalls", title_justify="left")
    for column, justify in (("what", "left"), ("is", "right"), ("wanted", "right"), ("", "left")):
        drawn.add_column(column, justify=justify)  # type: ignore[arg-type]
    for load in ("alone", "beside"):
        for name, summary in result[load].items():
            ok = summary["ok"] or {"p50_ms": 0.0, "p99_ms": 0.0}
            drawn.add_row(f"{name}, {load}: p50, p99 ms", f"{ok['p50_ms']:.1f}, {ok['p99_ms']:.1f}", "", "")
    for each in result["checks"]:
        drawn.add_row(each["what"], f"{each['is']:.4g}", each["wanted"], "" if each["met"] else "missed")
    return drawn
