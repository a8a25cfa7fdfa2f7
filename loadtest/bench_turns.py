"""The bench's comparison: two servers side by side on one core, loaded in turns, and the ratios of neighbouring turns.

A machine that is shared gives a server a third more or less from one minute to the next: what was measured minutes
apart says as much of the minute as of the server. Two turns of a second, with one to warm up, in a row mostly have the
same machine, and the one of the two servers that has nothing to do takes (almost) nothing of the core: `idle_share`
says how much.

First in a closed loop, which asks each server as fast as it answers: by Little's law its latency is little else than
its throughput once more. Then at the same rate of random arrivals, where who has time left answers sooner.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from loadtest.bench_report import COMPARED_AT, FIGURES
from loadtest.bench_server import Closed, Ground, Running, running
from loadtest.catalogue import Entry, Setting

TURN_S = 1.0
COMPARED = FIGURES[:4]  # what both have
RATE = 0.7  # of what the peer did in its closed loops: the rate at which both are asked
AT_RATE = ("p50_ms", "p99_ms")
Seen = TypeVar("Seen")


def compare_in_turns(
    ground: Ground, ours: tuple[Entry, Setting], peer: tuple[Entry, Setting], *, pairs: int
) -> dict[str, Any]:
    """Medians, and quartiles, of the ratios of `pairs` pairs of turns; who goes first changes from pair to pair.

    ConnectionError where one of them answers nothing.
    """
    with running(*ours, ground) as mine, running(*peer, ground) as theirs:
        found = _in_pairs(mine, theirs, pairs, _closed)
        rate_per_s = RATE * statistics.median(other.per_s for _, other in found)
        opened = _in_pairs(mine, theirs, pairs, lambda each, number: _open(each, rate_per_s, seed=number))
    return {
        "ours": ours[0].name,
        "peer": peer[0].name,
        "variant": ours[0].variant,
        "connections": COMPARED_AT,
        **_compared([(asdict(one), asdict(other)) for one, other in found], COMPARED),
        "idle_share": statistics.median(each.foreign_share for pair in found for each in pair),
        "at_rate": {"rate_per_s": rate_per_s, "share": RATE, **_compared(opened, AT_RATE)},
    }


def _in_pairs(
    mine: Running, theirs: Running, pairs: int, turn: Callable[[Running, int], Seen]
) -> list[tuple[Seen, Seen]]:
    """(ours, theirs) of every pair of turns, which are told their number."""
    found = []
    for number in range(pairs):
        if number % 2 == 0:
            one, other = turn(mine, number), turn(theirs, number)
        else:
            other, one = turn(theirs, number), turn(mine, number)
        found.append((one, other))
    return found


def _closed(server: Running, _: int) -> Closed:
    return server.closed(connections=COMPARED_AT, seconds=TURN_S)


def _open(server: Running, rate_per_s: float, *, seed: int) -> dict[str, Any]:
    """The latencies of what was answered, and how much was not; the same seed sends at the same times."""
    seen = server.open(rate_per_s=rate_per_s, seconds=TURN_S, seed=seed)
    if seen["ok"] is None:
        raise ConnectionError(f"{server.entry.name} has answered nothing of {rate_per_s:.0f} requests/s: {seen}")
    return {
        **{figure: seen["ok"][figure] for figure in AT_RATE},
        **{key: seen[key] for key in ("goodput_per_s", "statuses", "unanswered")},
    }


def _compared(pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], figures: Sequence[str]) -> dict[str, Any]:
    """Medians and quartiles of the ratios of each figure, and the pairs."""
    ratios = {figure: ratios_of(pairs, figure) for figure in figures}
    return {
        "ratios": {figure: statistics.median(found) for figure, found in ratios.items()},
        "quartiles": {figure: _quartiles(found) for figure, found in ratios.items()},
        "pairs": [{"ours": one, "peer": other} for one, other in pairs],
    }


def ratios_of(pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], figure: str) -> list[float]:
    """Ours over theirs, pair by pair."""
    return [one[figure] / other[figure] for one, other in pairs]


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    """The lower and the upper; of a single value, that."""
    if len(values) == 1:
        return values[0], values[0]
    lower, _, upper = statistics.quantiles(values, n=4, method="inclusive")
    return lower, upper


def told(found: Mapping[str, Any]) -> str:
    """A line for who waits."""
    (lower, upper), ratios, at_rate = found["quartiles"]["per_s"], found["ratios"], found["at_rate"]
    pair = f"{found['ours']} / {found['peer']}"
    return (
        f"in turns: {pair}: requests/s {ratios['per_s']:.2f} ({lower:.2f} to {upper:.2f}), p99 {ratios['p99_ms']:.2f}; "
        f"both at {at_rate['rate_per_s']:,.0f} requests/s: p99 {at_rate['ratios']['p99_ms']:.2f}"
    )
