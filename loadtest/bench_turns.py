"""The bench's comparison: two servers side by side on one core, loaded in turns, and the ratios of neighbouring turns.

A machine that is shared gives a server a third more or less from one minute to the next: what was measured minutes
apart says as much of the minute as of the server. Two turns of a second in a row mostly have the same machine, and the
one of the two servers that has nothing to do takes (almost) nothing of the core: `idle_share` says how much.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from loadtest.bench_report import COMPARED_AT, FIGURES
from loadtest.bench_server import Closed, Ground, Running, running
from loadtest.catalogue import Entry, Setting

TURN_S = 1.0
COMPARED = FIGURES[:4]  # what both have


def compare_in_turns(
    ground: Ground, ours: tuple[Entry, Setting], peer: tuple[Entry, Setting], *, pairs: int
) -> dict[str, Any]:
    """Medians, and quartiles, of the ratios of `pairs` pairs of turns; who goes first changes from pair to pair.

    ConnectionError where one of them answers nothing.
    """
    with running(*ours, ground) as mine, running(*peer, ground) as theirs:
        found = [_pair(mine, theirs, number) for number in range(pairs)]
    return {
        "ours": ours[0].name,
        "peer": peer[0].name,
        "variant": ours[0].variant,
        "connections": COMPARED_AT,
        "ratios": {figure: statistics.median(ratios_of(found, figure)) for figure in COMPARED},
        "quartiles": {figure: _quartiles(ratios_of(found, figure)) for figure in COMPARED},
        "failed": sum(one.failed for one, _ in found),
        "idle_share": statistics.median(each.foreign_share for pair in found for each in pair),
        "pairs": [{"ours": asdict(one), "peer": asdict(other)} for one, other in found],
    }


def _pair(mine: Running, theirs: Running, number: int) -> tuple[Closed, Closed]:
    order = (mine, theirs) if number % 2 == 0 else (theirs, mine)
    first, second = (each.closed(connections=COMPARED_AT, seconds=TURN_S) for each in order)
    return (first, second) if number % 2 == 0 else (second, first)


def ratios_of(pairs: Sequence[tuple[Closed, Closed]], figure: str) -> list[float]:
    """Ours over theirs, pair by pair."""
    return [getattr(one, figure) / getattr(other, figure) for one, other in pairs]


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    """The lower and the upper; of a single value, that."""
    if len(values) == 1:
        return values[0], values[0]
    lower, _, upper = statistics.quantiles(values, n=4, method="inclusive")
    return lower, upper


def told(found: Mapping[str, Any]) -> str:
    """A line for who waits."""
    (lower, upper), ratios = found["quartiles"]["per_s"], found["ratios"]
    pair = f"{found['ours']} / {found['peer']}"
    return (
        f"in turns: {pair}: requests/s {ratios['per_s']:.2f} ({lower:.2f} to {upper:.2f}), p99 {ratios['p99_ms']:.2f}"
    )
