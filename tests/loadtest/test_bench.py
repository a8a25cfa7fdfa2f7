"""bench: medians, the best peer, gates and tables as functions; and one whole run against fake services."""

import dataclasses
import json
import os
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from loadtest import bench, bench_plot, bench_report, bench_turns, catalogue, closed_loop, open_loop
from loadtest.__main__ import main
from loadtest.bench_phases import Plan
from loadtest.bench_server import waste
from loadtest.catalogue import Entry


def point(connections: int = 32, per_s: float = 1000.0, **more: Any) -> dict[str, Any]:
    figures = {"p50_ms": 5.0, "p99_ms": 20.0, "cpu_ms_per_request": 0.4, "padding_waste": None, "foreign_share": 0.0}
    return {"connections": connections, "per_s": per_s, **figures, "failed": 0, **more}


def server(name: str, *rounds: dict[str, Any], ours: bool = False, variant: str = "fp32") -> dict[str, Any]:
    found = {"title": name, "of": name, "ours": ours, "variant": variant, "sweep": [point()], "closed": list(rounds)}
    return {**found, "medians": bench_report.medians(rounds), "setting": "batch 8", "open": []}


def result(ours: dict[str, Any], *peers: dict[str, Any]) -> dict[str, Any]:
    servers = {each["title"]: each for each in (ours, *peers)}
    found = bench_report.comparison(servers, "fp32")
    where = {"model": "m", "compared_at": 32, "server_core": 0, "client_core": 1}
    return {**where, "servers": servers, "comparisons": [found] if found else []}


FAST = server("ours", point(per_s=3000.0, p99_ms=9.0), ours=True)
PEER, SLOW = server("peer", point(per_s=1500.0)), server("slow", point(per_s=200.0))


def reasons(found: dict[str, Any], at_least: float | None = None) -> str:
    return "\n".join(bench_report.verdict(found, at_least=at_least, p99_share=0.5))


def test_medians_are_taken_over_rounds_and_failures_summed() -> None:
    rows = bench_report.medians(
        [point(per_s=1.0), point(per_s=9.0, failed=2), point(per_s=3.0, padding_waste=0.5), point(1, 7.0)]
    )
    assert [row["connections"] for row in rows] == [1, 32]
    assert (rows[1]["per_s"], rows[1]["failed"], rows[1]["padding_waste"], rows[1]["rounds"]) == (3.0, 2, 0.5, 3)


def test_the_best_setting_has_no_failures() -> None:
    sweep = [point(per_s=1.0, setting="a"), point(per_s=9.0, setting="b", failed=1), {"setting": "c", "error": "broke"}]
    assert bench_report.best_setting(sweep) == sweep[0]
    assert bench_report.best_setting(sweep[1:]) is None


def test_of_settings_about_as_fast_the_one_with_the_shortest_tail_is_the_best() -> None:
    settings = ((1000.0, 50.0), (960.0, 40.0), (940.0, 30.0))
    sweep = [point(per_s=per_s, p99_ms=p99_ms) for per_s, p99_ms in settings]
    assert bench_report.best_setting(sweep) == sweep[1]


def test_the_best_peer_is_the_fastest_on_the_same_file() -> None:
    other = server("quantised", point(per_s=9000.0), variant="int8")
    assert bench_report.best_peer({"ours": FAST, "slow": SLOW, "peer": PEER, "quantised": other}) == "peer"
    assert bench_report.best_peer({"ours": FAST}) is None


def test_the_gates_ask_for_speed_and_for_the_tail() -> None:
    found = result(FAST, SLOW, PEER)
    assert reasons(found, at_least=2.0) == ""
    assert "2.00 times the requests per second of peer, not 2.5" in reasons(found, at_least=2.5)
    long_tail = server("ours", point(per_s=3000.0, p99_ms=11.0), ours=True)
    assert "p99 is 0.55 times that of peer" in reasons(result(long_tail, PEER), at_least=1.5)


def test_without_gates_only_our_failures_count() -> None:
    failing = server("peer", point(failed=3))
    assert reasons(result(FAST, {**failing, "error": "broke"})) == ""
    assert "ours: 3 requests failed" in reasons(result(server("ours", point(failed=3), ours=True)))
    assert "ours: broke" in reasons(result({**FAST, "error": "broke\nlog"}))


def test_the_gates_believe_turns_before_rounds() -> None:
    turns = {"variant": "fp32", "peer": "peer", "ratios": {"per_s": 1.2, "p99_ms": 0.4}, "idle_share": 0.0}
    assert "1.20 times the requests" in reasons({**result(FAST, PEER), "turns": [turns]}, at_least=1.5)
    disturbed = {**turns, "ours": "ours", "idle_share": 0.2}
    (told,) = bench_report.warnings({**result(FAST, PEER), "turns": [disturbed]})
    assert "ours and peer in turns: the one that was idle, or others, took 20 %" in told


def test_who_refuses_in_turns_is_told() -> None:
    closed = {"ours": {"failed": 2}, "peer": {"failed": 0}}
    shed = {"statuses": {"200": 5, "429": 3}, "unanswered": 1}
    opened = {"ours": {"statuses": {"200": 9}, "unanswered": 0}, "peer": shed}
    turns = {"ours": "ours", "peer": "peer", "idle_share": 0.0, "pairs": [closed], "at_rate": {"pairs": [opened]}}
    found = {**result(FAST, PEER), "turns": [turns]}
    assert reasons(found) == "ours: 2 requests failed in turns with peer"
    assert bench_report.warnings(found) == ["peer: 4 requests failed in turns, so its figures say less"]


def test_the_ratios_of_turns_are_those_of_neighbours() -> None:
    slow, fast, half, fifth = ({"per_s": per_s} for per_s in (100.0, 200.0, 50.0, 40.0))
    # The machine was twice as fast the second time: the medians of the two servers, 150 and 45, would say 3.3.
    assert bench_turns.ratios_of([(slow, half), (fast, fifth)], "per_s") == [2.0, 5.0]


def test_a_gate_without_a_peer_fails() -> None:
    assert "no comparison" in reasons(result(FAST), at_least=1.5)


def test_a_disturbed_or_broken_server_is_told() -> None:
    disturbed = server("peer", point(foreign_share=0.3))
    told = bench_report.warnings(result(FAST, disturbed, {**SLOW, "error": "broke\nlog"}))
    assert "peer: other processes took 30 % of its core" in told[0]
    assert told[1] == "slow could not be measured: broke"


def test_padding_is_what_was_computed_for_nothing() -> None:
    assert waste((100, 50), (300, 100)) == 0.75
    assert waste((100, 50), (100, 50)) is None


def test_tables_and_picture_show_what_is_there(tmp_path: Path) -> None:
    found = result(FAST, PEER, {**server("broken"), "sweep": [], "error": "broke"})
    FAST["open"][:] = [{"rate_per_s": 10, "skipped": "over its capacity"}]
    PEER["open"][:] = [{"rate_per_s": 10, "goodput_per_s": 9.0, "ok": None, "statuses": {"503": 4}, "unanswered": 2}]
    console = Console(width=110, record=True, file=(tmp_path / "out").open("w"))
    console.print(bench_report.closed_table(found), bench_report.open_table(found))
    text = console.export_text()
    assert "3,000" in text
    assert "ours / peer" in text
    assert "over its capacity" in text
    bench_plot.draw_bench(found, tmp_path / "bench.png")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
    console.file.close()


def fake(entry: Entry, broken: str = "") -> Entry:
    """The entry with a service that needs no model behind it."""
    command = (
        "{peers}",
        "-m",
        "tests.loadtest.fake_service",
        "--host",
        "{host}",
        "--port",
        "{port}",
        "--broken",
        broken,
    )
    body, read = catalogue.plain_body, catalogue.plain_tags
    return dataclasses.replace(
        entry, command=command, ready="/readyz", path="/v1/tag", body=body, read=read, settings=entry.settings[:1]
    )


@pytest.fixture
def _fakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(closed_loop, "WARMUP_S", 0.05)
    monkeypatch.setattr(bench_turns, "TURN_S", 0.1)
    monkeypatch.setattr(open_loop, "WARMUP_S", 0.05)
    plan = Plan(seconds=0.2, sweep_seconds=0.1, rounds=1, connections=(1, 32), shares=(0.1,), points=1, pairs=2)
    monkeypatch.setattr(bench, "QUICK", plan)
    ours, known = tuple(map(fake, catalogue.OURS_FIRST)), {entry.name: entry for entry in catalogue.CATALOGUE}
    broken = [fake(known["mosec"]), fake(known["ray"], "start"), fake(known["litserve"], "answers")]
    monkeypatch.setattr(catalogue, "OURS_FIRST", ours)
    monkeypatch.setattr(catalogue, "CATALOGUE", (*ours, *broken))
    usable = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, usable)


@pytest.mark.usefixtures("_fakes")
def test_what_breaks_one_peer_loses_nothing_of_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bench.json"
    words = ["bench", "--quick", "--task", "tag", "--peers", sys.executable, "--report", str(file)]
    assert main(words) == 0, capsys.readouterr()
    found = json.loads(file.read_text("utf-8"))
    servers = found["servers"]
    assert "cannot start" in servers["ray"]["error"]
    assert "does other work" in servers["litserve"]["error"]
    for name in ("seqserve-fp32", "seqserve-int8", "mosec", "mosec-int8"):
        assert [row["connections"] for row in servers[name]["medians"]] == [1, 32]
        assert servers[name]["open"][0]["statuses"].keys() == {"200"}
    assert [each["peer"] for each in found["comparisons"]] == ["mosec", "mosec-int8"]
    assert [(each["ours"], each["peer"]) for each in found["turns"]] == [
        *(("seqserve-fp32", "mosec"), ("seqserve-int8", "mosec-int8"), ("seqserve-int8", "mosec"))
    ]
    for each in found["turns"]:
        assert len(each["pairs"]) == len(each["at_rate"]["pairs"]) == 2
        per_s = statistics.median(pair["peer"]["per_s"] for pair in each["pairs"])
        assert each["at_rate"]["rate_per_s"] == pytest.approx(0.7 * per_s)
        assert [pair["peer"]["statuses"].keys() for pair in each["at_rate"]["pairs"]] == [{"200"}] * 2
        assert set(each["at_rate"]["ratios"]) == {"p50_ms", "p99_ms"}
    assert found["client_ceiling_per_s"] > 0
    assert "ray could not be measured" in capsys.readouterr().out


def test_a_missing_environment_is_named_with_its_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--peers", "no-such-python"]) == 2
    assert "no-such-python is not there: `make bench` makes it" in capsys.readouterr().err
