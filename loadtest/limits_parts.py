"""The parts of `loadtest limits`: each starts what it needs, measures, and says what was wanted.

A part returns its figures and `checks`: what, is, wanted, met. Servers and references are limits_stand.py's affair.
"""

import asyncio
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from random import Random

from loadtest.bench_server import waste
from loadtest.closed_loop import run_loop
from loadtest.limits_stand import CAPACITY_AT, TEXTS, Figures, Reference, Service, Stand, check
from loadtest.open_loop import Arrivals, drive_open

BULK, BULK_CONNECTIONS = 64, 8
CONNECTIONS = 32
WORKERS_BULK = 16
WAYS = {
    "one": {"workers": "1"},
    "two": {"workers": "2"},
}
STREAMS, NEW_TOKENS = 64, 200
TURN_S, TURNS_A_ROUND = 1.0, 5
PROBES_PER_S = 20.0
OVERLOAD, OVERLOAD_CONNECTIONS = 2.0, 1024


def bulk(stand: Stand) -> Figures:
    """Requests of many inputs, and the same session called in process on the same sentences, sorted."""
    figures: Figures = {"checks": []}
    for variant in ("fp32", "int8"):
        with stand.serving(bundles=str(stand.defaults["tag"]), variant=variant) as service:
            texts = service.texts()
            groups = [texts[at : at + BULK] for at in range(0, TEXTS - BULK + 1, BULK)]
            requests = service.tagging(groups)
            with stand.reference("bulk", service.model("tag").id, variant, texts) as reference:
                turns = _in_turns(stand, partial(_sentences_per_s, service, requests), reference)
        figures[variant] = turns
        share = turns["share_of"]["session_per_s"]
        figures["checks"].append(check(f"{variant}: share of the sorted session alone", share, least=0.85))
    return figures


def _sentences_per_s(service: Service, requests: Sequence[bytes]) -> float:
    return BULK * service.closed(requests, connections=BULK_CONNECTIONS, seconds=TURN_S).per_s


def _in_turns(stand: Stand, ours: Callable[[], float], reference: Reference) -> Figures:
    """What is done per second, by us and by the reference, by turns: seconds apart the machine is the same for both.

    Medians, the share of each figure of the reference as a median of turns, and the turns themselves.
    """
    ours()  # it has learned what batches cost
    turns = [{"ours_per_s": ours(), **reference.turn()} for _ in range(stand.rounds * TURNS_A_ROUND)]
    names = list(turns[0])
    return {
        **{name: statistics.median(turn[name] for turn in turns) for name in names},
        "share_of": {name: statistics.median(turn["ours_per_s"] / turn[name] for turn in turns) for name in names[1:]},
        "turns": turns,
    }


def padding(stand: Stand) -> Figures:
    """Padding of requests of 1 to 8 inputs, beside first-come batches of the same inputs."""
    figures: Figures = {"checks": []}
    for variant in ("fp32", "int8"):
        with stand.serving(bundles=str(stand.defaults["tag"]), variant=variant) as service:
            texts, random = service.texts(), Random(f"sizes {stand.seed}")
            groups = [random.choices(texts, k=random.randint(1, 8)) for _ in range(1000)]
            requests = service.tagging(groups)
            before = service.padding()
            loop = service.closed(requests, connections=CONNECTIONS, seconds=stand.seconds)
            share = waste(before, service.padding()) or 0.0
            model = service.model("tag").id
        asked = [text for group in groups for text in group]
        with stand.reference("bulk", model, variant, asked[:TEXTS]) as reference:
            first_come = reference.about["first_come_waste"]
        figures[variant] = {
            "waste": share,
            "first_come_waste": first_come,
            "requests_per_s": loop.per_s,
            "p50_ms": loop.percentile_ms(50),
            "p99_ms": loop.percentile_ms(99),
            "longest_ms": loop.percentile_ms(100),
        }
        figures["checks"].append(check(f"{variant}: padding, share of all tokens", share, most=0.15))
    return figures


def steps(stand: Stand) -> Figures:
    """Tokens/s of many texts at once, beside the bare loop of steps at that size."""
    figures: Figures = {"checks": []}
    for variant in ("fp32", "int8"):
        with stand.serving(bundles=str(stand.defaults["generate"]), variant=variant) as service:
            requests, model = service.writing(STREAMS * 4, NEW_TOKENS), service.model("generate").id
            with stand.reference("steps", model, variant, STREAMS) as reference:
                turns = _in_turns(stand, partial(_tokens_per_s, service, requests, TURN_S), reference)
        figures[variant] = turns
        share = turns["share_of"]["network_per_s"]
        figures["checks"].append(check(f"{variant}: share of the bare step loop", share, least=0.7))
    return figures


def _tokens_per_s(service: Service, requests: Sequence[bytes], seconds: float) -> float:
    """By the service's own count, from the first request to the last answer: no text is cut by a window."""
    before, started = service.generated(), time.perf_counter()
    service.closed(requests, connections=STREAMS, seconds=seconds)
    # The last texts are written by ever fewer rows: that, too, is time.
    taken_s = time.perf_counter() - started
    return (service.generated() - before) / taken_s


def first_token(stand: Stand) -> Figures:
    """The time to the first token while others are in mid-stream, at half the load that is borne."""
    with stand.serving() as service:
        texts, probes = service.writing(STREAMS * 4, NEW_TOKENS), service.writing(STREAMS, 1)
        capacity = _tokens_per_s(service, texts, stand.seconds) / NEW_TOKENS

        async def both() -> tuple[Arrivals, Arrivals]:
            return await asyncio.gather(
                drive_open(service.address, texts, rate_per_s=capacity / 2, seconds=stand.seconds, seed=stand.seed),
                drive_open(service.address, probes, rate_per_s=PROBES_PER_S, seconds=stand.seconds, seed=1),
            )

        writing, probing = run_loop(both())
    found = probing.summary()["ok"]
    return {
        "texts_per_s": capacity,
        "rate_per_s": capacity / 2,
        "whole_texts": writing.summary(),
        "first_token": probing.summary(),
        "checks": [check("p99 of the first token, ms", found["p99_ms"], most=50.0)],
    }


def tail(stand: Stand) -> Figures:
    """p99 beside p50 at 70 % of the load that was borne a moment before, requests arriving at random."""
    with stand.serving() as service:
        requests = service.tagging(service.texts())
        connections = _fastest(service, requests, stand.seconds / 2)
        loops = []
        for number in range(stand.rounds):
            rate = 0.7 * _closed_per_s(service, requests, connections, stand.seconds)
            load = drive_open(service.address, requests, rate_per_s=rate, seconds=stand.seconds, seed=number)
            loops.append(run_loop(load).summary())
    shares = [loop["ok"]["p99_ms"] / loop["ok"]["p50_ms"] for loop in loops]
    return {
        "connections_of_the_capacity": connections,
        "rounds": loops,
        "checks": [check("p99 over p50", statistics.median(shares), most=3.0)],
    }


def overload(stand: Stand) -> Figures:
    """Twice the load that is borne: what is answered, how fast is refused, what it leaves behind."""
    with stand.serving() as service:
        requests = service.tagging(service.texts())
        connections = _fastest(service, requests, stand.seconds)
        # So that the memory that such a load takes has been taken before it is looked at.
        peak = _closed_per_s(service, requests, connections, stand.seconds)
        _overloaded(service, requests, OVERLOAD * peak, stand.seconds)
        rounds = [_overload_round(stand, service, requests, connections) for _ in range(stand.rounds)]

    def median(figure: Callable[[Figures], float]) -> float:
        return statistics.median(figure(each) for each in rounds)

    def lost(load: Figures) -> int:
        others = (count for status, count in load["statuses"].items() if status not in ("200", "429"))
        return int(load["unanswered"] + sum(others))

    goodput = median(lambda each: each["load"]["goodput_per_s"] / each["peak_per_s"])
    refused = median(lambda each: (each["load"]["refused"] or {"p99_ms": 0.0})["p99_ms"])
    memory = median(lambda each: each["memory_mb"][1] / each["memory_mb"][0])
    recovered = median(lambda each: each["a_second_after"]["ok"]["p99_ms"])
    return {
        "connections_of_the_peak": connections,
        "rounds": rounds,
        "checks": [
            check("goodput, share of the peak", goodput, least=0.9),
            check("p99 of refusals, ms", refused, most=10.0),
            check("neither answered nor refused with 429", sum(lost(each["load"]) for each in rounds), most=0),
            check("memory after over before", memory, most=1.05),
            check("p99 a second after its end, ms", recovered, most=20.0),
        ],
    }


def _overload_round(stand: Stand, service: Service, requests: Sequence[bytes], connections: int) -> Figures:
    """The peak before and after it: where others share the machine, it is not the same from minute to minute."""
    before, memory_before = _closed_per_s(service, requests, connections, stand.seconds), service.memory_mb()
    seen = _overloaded(service, requests, OVERLOAD * before, stand.overload_seconds)
    memory_after = service.memory_mb()
    # Its first second is not measured: what is, begins a second after the load has ended.
    recovered = run_loop(drive_open(service.address, requests, rate_per_s=0.3 * before, seconds=3.0)).summary()
    return {
        "peak_per_s": (before + _closed_per_s(service, requests, connections, stand.seconds)) / 2,
        "load": seen.summary(),
        "by_second": [[each.second, each.goodput, each.refused] for each in seen.per_second()],
        "memory_mb": [memory_before, memory_after],
        "a_second_after": recovered,
    }


def _fastest(service: Service, requests: Sequence[bytes], seconds: float) -> int:
    """The number of connections of the closed loop that gets most."""
    closed = {count: _closed_per_s(service, requests, count, seconds) for count in CAPACITY_AT}
    return max(closed, key=lambda count: closed[count])


def _closed_per_s(service: Service, requests: Sequence[bytes], connections: int, seconds: float) -> float:
    return service.closed(requests, connections=connections, seconds=seconds).per_s


def _overloaded(service: Service, requests: Sequence[bytes], rate_per_s: float, seconds: float) -> Arrivals:
    """Over connections that are open already, as those of a pool are."""
    most = OVERLOAD_CONNECTIONS
    load = drive_open(service.address, requests, rate_per_s=rate_per_s, seconds=seconds, most=most, opened=most)
    return run_loop(load)


def workers(stand: Stand) -> Figures:
    """Two worker processes beside one, on all cores, which the client shares: single inputs, and many in a request.

    The client takes its part of the cores from two workers but not from one; of requests of many inputs it is small.
    """
    per_s: dict[str, dict[str, list[float]]] = {kind: {way: [] for way in WAYS} for kind in ("single", "many")}
    client: dict[str, list[float]] = {kind: [] for kind in per_s}
    for _ in range(stand.rounds):
        for way, settings in WAYS.items():
            with stand.serving(pinned=False, **settings) as service:
                texts = service.texts()
                groups = [texts[at : at + WORKERS_BULK] for at in range(0, TEXTS - WORKERS_BULK + 1, WORKERS_BULK)]
                # One that is ready answers for all: connections of the first seconds are all its own.
                service.closed(service.tagging(texts), connections=CONNECTIONS, seconds=stand.seconds)
                for kind, inputs in (("single", texts), ("many", groups)):
                    requests = service.tagging(inputs)
                    cpu_s, started = time.process_time(), time.perf_counter()
                    loop = service.closed(requests, connections=2 * CONNECTIONS, seconds=stand.seconds)
                    per_s[kind][way].append(loop.per_s)
                    if way == "two":
                        client[kind].append((time.process_time() - cpu_s) / (time.perf_counter() - started))
    medians = {kind: {way: statistics.median(found) for way, found in ways.items()} for kind, ways in per_s.items()}
    shares = {kind: statistics.median(found) for kind, found in client.items()}
    return {
        "requests_per_s": per_s,
        "client_share_of_a_core": shares,
        "checks": [
            check(
                f"{kind} inputs: two workers over one (client: {shares[kind]:.0%} of a core)",
                each["two"] / each["one"],
                least=1.8,
            )
            for kind, each in medians.items()
        ],
    }


PARTS: Mapping[str, Callable[[Stand], Figures]] = {
    each.__name__.replace("_", "-"): each for each in (bulk, padding, steps, first_token, tail, overload, workers)
}
