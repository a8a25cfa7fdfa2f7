"""`python -m loadtest versus`: /v1/tag against the same bundle behind BentoML's batchable=True, in one run.

Both servers on one core, the client on another, the same requests, in alternation, medians over the rounds. The
client's own ceiling is measured in the same run.
"""

import argparse
import json
import os
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from loadtest import payloads, report
from loadtest.closed_loop import WARMUP_S, Drive, drive, free_port, measure_ceiling, run_loop
from loadtest.payloads import Card, Payload
from loadtest.server import Server, serving
from loadtest.wire import Address, Connection, request_bytes

POOL_SIZE = 2000
SAME_ANSWERS = 50  # requests whose answers are compared before anything is measured
OURS, PEER = "seqserve /v1/tag", "BentoML batchable=True"


@dataclass(frozen=True, kw_only=True)
class Rival:
    """A running server and the requests that it gets."""

    name: str
    address: Address
    server: Server
    requests: Sequence[bytes]


@dataclass(frozen=True, kw_only=True)
class Round:
    """One measurement of one server."""

    name: str
    per_s: float
    p50_ms: float
    p99_ms: float
    failed: int
    server_cpu_ms_per_request: float
    other_cpu_s: float  # spent meanwhile by the server that was not asked: it shares the core


def configure(parser: argparse.ArgumentParser) -> None:
    bento = f"{sys.executable} -m bentoml serve"
    parser.add_argument("--ours", default=f"{bento} service.app:Seqserve", metavar="COMMAND", help="starts seqserve")
    parser.add_argument("--peer", default=f"{bento} loadtest.peers.bentoml_batchable:Tagger", metavar="COMMAND")
    parser.add_argument("--zoo", type=Path, default=Path("models/zoo"), help="where the peer finds the bundle")
    parser.add_argument("--variant", default="auto", help="auto: what seqserve ships by default; or fp32, int8")
    parser.add_argument("--seconds", type=float, default=15.0, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at-least", type=float, help="fail if the ratio of requests per second is below this")
    parser.add_argument("--ceiling", action=argparse.BooleanOptionalAction, default=True, help="measure the client too")
    parser.add_argument("--report", type=Path, default=Path("build/versus.json"), metavar="FILE")


def command(arguments: argparse.Namespace) -> int:
    """0 if every answer was right (and, with --at-least, the ratio reached with a lower p99), else 1."""
    console = report.console()
    server_core, client_core = cores()
    os.sched_setaffinity(0, {client_core})
    logs = arguments.report.parent
    with ExitStack() as stack:
        environment = {} if arguments.variant == "auto" else {"SEQSERVE_VARIANT": arguments.variant}
        address, server = _start(stack, arguments.ours, logs / "versus-ours.log", server_core, environment)
        card = next((card for card in payloads.read_cards(address.url) if card.task == "tag"), None)
        if card is None:
            raise LookupError(f"{address.url} has no tagger: there is nothing to compare")
        singles = payloads.build_single(card, count=POOL_SIZE, seed=arguments.seed)
        requests = [request_bytes(address, "/v1/tag", payload.encoded) for payload in singles]
        ours = Rival(name=OURS, address=address, server=server, requests=requests)
        environment = {"PEER_BUNDLE": str(arguments.zoo / card.id), "PEER_VARIANT": card.variant or "auto"}
        address, server = _start(stack, arguments.peer, logs / "versus-peer.log", server_core, environment)
        requests = [request_bytes(address, "/tag", _listed(payload)) for payload in singles]
        peer = Rival(name=PEER, address=address, server=server, requests=requests)
        answer_bytes = run_loop(_compare_answers(ours, peer))
        rounds = []
        for number in range(arguments.rounds):
            for rival, other in ((ours, peer), (peer, ours)):
                rounds.append(_measure(rival, other, arguments))
                console.print(f"round {number + 1}: {rival.name}: {rounds[-1].per_s:,.0f} requests/s", markup=False)
    result = _result(arguments, card, rounds, (server_core, client_core))
    if arguments.ceiling:
        result["client_ceiling_per_s"] = _ceiling(ours.requests, arguments, server_core, answer_bytes)
    reasons = result["failed"] = verdict(result, at_least=arguments.at_least)
    report.write_json(arguments.report, result)
    console.print(table(result))
    for reason in reasons:
        console.print(f"FAILED: {reason}", style="red", markup=False, highlight=False)
    return 1 if reasons else 0


def cores() -> tuple[int, int]:
    """(server's, client's): the first and the last core that this process may use; one core has to serve both."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[-1]


def _start(stack: ExitStack, command: str, log: Path, core: int, environment: dict[str, str]) -> tuple[Address, Server]:
    address = Address(host="127.0.0.1", port=free_port())
    words = [*shlex.split(command), "--host", address.host, "--port", str(address.port)]
    return address, stack.enter_context(serving(words, address, log=log, core=core, environment=environment))


def _listed(payload: Payload) -> bytes:
    """The same input as a batchable BentoML method wants it: a list of one."""
    return json.dumps({"inputs": [payload.inputs]}, ensure_ascii=False).encode()


async def _compare_answers(ours: Rival, peer: Rival) -> int:
    """ValueError unless both give the same tags to the same texts; returns the mean length of our answers, bytes."""
    first, second = await Connection.open(ours.address), await Connection.open(peer.address)
    length = 0
    for asked, asked_peer in zip(ours.requests[:SAME_ANSWERS], peer.requests[:SAME_ANSWERS], strict=True):
        reply, reply_peer = await first.ask(asked, timeout_s=30.0), await second.ask(asked_peer, timeout_s=30.0)
        if reply.status != 200 or reply_peer.status != 200:
            raise ValueError(f"statuses {reply.status} and {reply_peer.status}: {reply.body!r} {reply_peer.body!r}")
        tags, peer_tags = (_tags(body) for body in (json.loads(reply.body), json.loads(reply_peer.body)[0]))
        if tags != peer_tags:
            raise ValueError(f"the servers do not do the same work: {tags} and {peer_tags}")
        length += len(reply.body)
    first.close()
    second.close()
    return length // SAME_ANSWERS


def _tags(answer: list[dict[str, object]]) -> list[tuple[object, object]]:
    """Scores are left out: int8 of plain dynamic quantisation changes them with the batch."""
    return [(tag.get("entity", tag.get("entity_group")), tag["word"]) for tag in answer]


def _measure(rival: Rival, other: Rival, how: argparse.Namespace) -> Round:
    before_s, other_before_s = rival.server.cpu_s(), other.server.cpu_s()
    seen: Drive = run_loop(drive(rival.address, rival.requests, connections=how.connections, seconds=how.seconds))
    cpu_s, other_cpu_s = rival.server.cpu_s() - before_s, other.server.cpu_s() - other_before_s
    if not seen.latencies_ms:
        raise ConnectionError(f"{rival.name} has answered nothing: {dict(seen.statuses)}")
    # The server works through the warm-up as well: its CPU time is spread over those requests too.
    answers = len(seen.latencies_ms) * (1 + WARMUP_S / seen.seconds)
    return Round(
        name=rival.name,
        per_s=seen.per_s,
        p50_ms=seen.percentile_ms(50),
        p99_ms=seen.percentile_ms(99),
        failed=seen.failed,
        server_cpu_ms_per_request=cpu_s * 1000 / answers,
        other_cpu_s=other_cpu_s,
    )


def _ceiling(requests: Sequence[bytes], how: argparse.Namespace, core: int, answer_bytes: int) -> float:
    seconds = min(5.0, how.seconds)
    seen = measure_ceiling(requests, connections=how.connections, seconds=seconds, core=core, answer_bytes=answer_bytes)
    return seen.per_s


def _result(how: argparse.Namespace, card: Card, rounds: Sequence[Round], pinned: tuple[int, int]) -> dict[str, Any]:
    """What goes into the file: the medians over the rounds, the ratio, and every round."""
    medians = {
        name: {
            key: statistics.median(getattr(each, key) for each in rounds if each.name == name)
            for key in ("per_s", "p50_ms", "p99_ms", "server_cpu_ms_per_request")
        }
        for name in (OURS, PEER)
    }
    return {
        **report.circumstances(),
        "server_core": pinned[0],
        "client_core": pinned[1],
        "connections": how.connections,
        "seconds": how.seconds,
        "model": card.id,
        "variant": card.variant,
        "medians": medians,
        "ratio": medians[OURS]["per_s"] / medians[PEER]["per_s"],
        "rounds": [asdict(each) for each in rounds],
    }


def verdict(result: Mapping[str, Any], *, at_least: float | None) -> list[str]:
    """Why this is a failure, a sentence each; empty when it is none."""
    reasons = [
        f"{each['name']}: {each['failed']} requests failed in one round" for each in result["rounds"] if each["failed"]
    ]
    if at_least is None:
        return reasons
    if result["ratio"] < at_least:
        reasons.append(f"{result['ratio']:.2f} times the peer's requests per second, not {at_least:g}")
    if result["medians"][OURS]["p99_ms"] >= result["medians"][PEER]["p99_ms"]:
        reasons.append("p99 is not lower than the peer's")
    return reasons


def table(result: Mapping[str, Any]) -> Table:
    """The medians, the ratios and the client's ceiling for a terminal."""
    drawn = Table(
        title=f"{result['model']} ({result['variant']}), {result['connections']} connections, "
        f"server on core {result['server_core']}, client on core {result['client_core']}",
        title_justify="left",
    )
    drawn.add_column("server")
    for column in ("requests/s", "p50 ms", "p99 ms", "CPU ms/request"):
        drawn.add_column(column, justify="right")
    for name, row in result["medians"].items():
        drawn.add_row(name, f"{row['per_s']:,.0f}", *(f"{row[key]:.2f}" for key in list(row)[1:]))
    ours, peer = result["medians"][OURS], result["medians"][PEER]
    drawn.add_section()
    drawn.add_row("ratio", *(f"{ours[key] / max(peer[key], 1e-9):.2f}" for key in ours))
    if "client_ceiling_per_s" in result:
        drawn.add_row("client, trivial server", f"{result['client_ceiling_per_s']:,.0f}")
    return drawn
