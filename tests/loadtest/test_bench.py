"""Tests of loadtest.bench: medians, the best peer, gates, tables, ratios of pairs, and one run against fakes."""

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

from loadtest import bench, bench_phases, bench_report, bench_servers, load_loops
from loadtest.__main__ import main
from loadtest.bench_against import RunFigures, summarize
from loadtest.bench_phases import BenchPlan
from loadtest.bench_servers import BenchServer


def point(connections: int = 32, per_s: float = 1000.0, **more: Any) -> dict[str, Any]:
    figures = {"p50_ms": 5.0, "p99_ms": 20.0, "cpu_ms_per_request": 0.4, "padding_waste": None, "foreign_share": 0.0}
    return {"connections": connections, "per_s": per_s, **figures, "failed": 0, **more}


def server(name: str, *rounds: dict[str, Any], ours: bool = False, variant: str = "fp32") -> dict[str, Any]:
    found = {"title": name, "of": name, "ours": ours, "variant": variant, "sweep": [point()], "closed": list(rounds)}
    return {**found, "medians": bench_report.medians(rounds), "setting": "batch 8", "open": []}


def result(ours: dict[str, Any], *peers: dict[str, Any], **more: Any) -> dict[str, Any]:
    servers = {each["title"]: each for each in (ours, *peers)}
    return {"model": "m", "compared_at": 32, "server_core": 0, "client_core": 1, "servers": servers, **more}


FAST = server("ours", point(per_s=3000.0, p99_ms=9.0), ours=True)
PEER, SLOW = server("peer", point(per_s=1500.0)), server("slow", point(per_s=200.0))


def turns(per_s: float = 2.0, p99_ms: float = 0.45, **more: Any) -> dict[str, Any]:
    ratios = {"per_s": per_s, "p50_ms": 0.5, "p99_ms": p99_ms, "cpu_ms_per_request": 0.5}
    return {"ours": "ours", "peer": "peer", "variant": "fp32", "ratios": ratios, "idle_share": 0.0, **more}


def failures(found: dict[str, Any], at_least: float | None = None) -> list[str]:
    return bench_report.failures(found, at_least=at_least, p99_share=0.5)


def test_medians_over_rounds_and_sum_of_failures() -> None:
    rows = bench_report.medians(
        [point(per_s=1.0), point(per_s=9.0, failed=2), point(per_s=3.0, padding_waste=0.5), point(1, 7.0)]
    )
    assert [row["connections"] for row in rows] == [1, 32]
    assert (rows[1]["per_s"], rows[1]["failed"], rows[1]["padding_waste"], rows[1]["rounds"]) == (3.0, 2, 0.5, 3)


def test_best_setting_has_no_failures() -> None:
    sweep = [point(per_s=1.0, setting="a"), point(per_s=9.0, setting="b", failed=1), {"setting": "c", "error": "broke"}]
    assert bench_report.best_setting(sweep) == sweep[0]
    assert bench_report.best_setting(sweep[1:]) is None


def test_best_setting_has_the_lowest_p99_of_the_fastest() -> None:
    settings = ((1000.0, 50.0), (960.0, 40.0), (940.0, 30.0))
    sweep = [point(per_s=per_s, p99_ms=p99_ms) for per_s, p99_ms in settings]
    assert bench_report.best_setting(sweep) == sweep[1]


def test_best_peer_is_the_fastest_with_the_same_variant() -> None:
    other = server("quantised", point(per_s=9000.0), variant="int8")
    assert bench_report.best_peer({"ours": FAST, "slow": SLOW, "peer": PEER, "quantised": other}) == "peer"
    assert bench_report.best_peer({"ours": FAST}) is None


def test_gates_check_throughput_and_p99() -> None:
    assert failures(result(FAST, PEER, turns=[turns()]), at_least=2.0) == []
    assert len(failures(result(FAST, PEER, turns=[turns()]), at_least=2.5)) == 1
    assert len(failures(result(FAST, PEER, turns=[turns(p99_ms=0.55)]), at_least=1.5)) == 1
    assert len(failures(result(FAST, PEER, turns=[turns(per_s=1.0, p99_ms=0.55)]), at_least=1.5)) == 2


def test_gate_without_comparison_fails() -> None:
    assert len(failures(result(FAST), at_least=1.5)) == 1


def test_only_our_failures_count() -> None:
    failing = server("peer", point(failed=3))
    assert failures(result(FAST, {**failing, "error": "broke"})) == []
    assert len(failures(result(server("ours", point(failed=3), ours=True)))) == 1
    assert len(failures(result({**FAST, "error": "broke\nlog"}))) == 1
    generation = {"servers": {"seqserve-int8": {"ours": True, "error": "broke"}, "loop": {"ours": False, "error": "x"}}}
    assert len(failures(result(FAST, generate=generation))) == 1


def test_unanswered_requests_in_turns_are_reported() -> None:
    closed = {"ours": {"failed": 2}, "peer": {"failed": 0}}
    shed = {"statuses": {"200": 5, "429": 3}, "unanswered": 1}
    opened = {"ours": {"statuses": {"200": 9}, "unanswered": 0}, "peer": shed}
    found = turns(pairs=[closed], at_rate={"pairs": [opened]})
    assert bench_report.unanswered(found, "ours") == 2
    assert bench_report.unanswered(found, "peer") == 4
    assert len(failures(result(FAST, PEER, turns=[found]))) == 1
    assert len(bench_report.warnings(result(FAST, PEER, turns=[found]))) == 1


def test_runs_alternate_in_order() -> None:
    runs: list[tuple[str, int]] = []

    def run(side: str, number: int) -> float:
        runs.append((side, number))
        return float(number)

    assert bench_report.alternate(run, "ours", "peer", 2) == [(0.0, 0.0), (1.0, 1.0)]
    assert runs == [("ours", 0), ("peer", 0), ("peer", 1), ("ours", 1)]


def test_ratios_are_taken_within_pairs() -> None:
    slow, fast, half, fifth = ({"per_s": per_s} for per_s in (100.0, 200.0, 50.0, 40.0))
    # The machine is twice as fast during the second pair. The ratio of the medians would be 3.3.
    assert bench_report.ratio_quartiles([(slow, half), (fast, fifth)], ("per_s",)) == {"per_s": (2.75, 3.5, 4.25)}
    assert bench_report.ratio_quartiles([(slow, half)], ("per_s",)) == {"per_s": (2.0, 2.0, 2.0)}


def test_warnings_name_disturbed_and_broken_servers() -> None:
    disturbed = server("peer", point(foreign_share=0.3))
    found = bench_report.warnings(
        result(FAST, disturbed, {**SLOW, "error": "broke\nlog"}, turns=[turns(idle_share=0.2)])
    )
    assert [line.split()[0].strip(":") for line in found] == ["peer", "slow", "ours"]


def test_tables_and_plot_of_a_result(tmp_path: Path) -> None:
    found = result(FAST, PEER, {**server("broken"), "sweep": [], "error": "broke"}, turns=[turns()])
    FAST["open"][:] = [{"rate_per_s": 10, "skipped": "over its capacity"}]
    PEER["open"][:] = [{"rate_per_s": 10, "goodput_per_s": 9.0, "ok": None, "statuses": {"503": 4}, "unanswered": 2}]
    console = Console(width=110, record=True, file=(tmp_path / "out").open("w"))
    console.print(bench_report.closed_table(found), bench_report.open_table(found))
    text = console.export_text()
    assert "3,000" in text
    assert "ours / peer" in text
    assert "over its capacity" in text
    bench_report.draw_bench(found, tmp_path / "bench.png")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
    console.file.close()


def fake(server: BenchServer, broken: str = "") -> BenchServer:
    """Return the server with a fake service behind it."""
    command = ("{ours}", "-m", "tests.support.fake_service", "--host", "{host}", "--port", "{port}", "--broken", broken)
    body, read = bench_servers.plain_body, bench_servers.plain_tags
    return dataclasses.replace(
        server, command=command, ready="/readyz", path="/v1/tag", body=body, read=read, settings=server.settings[:1]
    )


@pytest.fixture
def _fakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(load_loops, "WARMUP_S", 0.05)
    monkeypatch.setattr(bench_phases, "TURN_S", 0.1)
    plan = BenchPlan(seconds=0.2, sweep_seconds=0.1, rounds=1, connections=(1, 32), shares=(0.1,), points=1, pairs=2)
    monkeypatch.setattr(bench, "QUICK", plan)
    ours, known = tuple(map(fake, bench_servers.OUR_SERVERS)), {server.name: server for server in bench_servers.CATALOG}
    broken = [fake(known["mosec"]), fake(known["ray"], "start"), fake(known["litserve"], "answers")]
    monkeypatch.setattr(bench_servers, "OUR_SERVERS", ours)
    monkeypatch.setattr(bench_servers, "CATALOG", (*ours, *broken))
    usable = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, usable)


@pytest.mark.usefixtures("_fakes")
def test_broken_peers_do_not_affect_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bench.json"
    words = ["bench", "--quick", "--task", "tag", "--peers", sys.executable, "--report", str(file)]
    assert main(words) == 0, capsys.readouterr()
    found = json.loads(file.read_text("utf-8"))
    servers = found["servers"]
    assert "cannot start" in servers["ray"]["error"]
    assert "error" in servers["litserve"]
    for name in ("seqserve-fp32", "seqserve-int8", "mosec", "mosec-int8"):
        assert [row["connections"] for row in servers[name]["medians"]] == [1, 32]
        assert servers[name]["open"][0]["statuses"].keys() == {"200"}
    assert [(turn["ours"], turn["peer"]) for turn in found["turns"]] == [
        *(("seqserve-fp32", "mosec"), ("seqserve-int8", "mosec-int8"), ("seqserve-int8", "mosec"))
    ]
    for turn in found["turns"]:
        assert len(turn["pairs"]) == len(turn["at_rate"]["pairs"]) == 2
        per_s = statistics.median(pair["peer"]["per_s"] for pair in turn["pairs"])
        assert turn["at_rate"]["rate_per_s"] == pytest.approx(0.7 * per_s)
        assert [pair["peer"]["statuses"].keys() for pair in turn["at_rate"]["pairs"]] == [{"200"}] * 2
        assert set(turn["at_rate"]["ratios"]) == {"p50_ms", "p99_ms"}
    assert found["client_ceiling_per_s"] > 0
    assert any("ray" in line for line in found["warnings"])


@pytest.mark.usefixtures("_fakes")
def test_our_servers_alone_need_no_environment_of_the_peers(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    words = ["bench", "--quick", "--task", "tag", "--only", "seqserve", "--peers", "no-such-python"]
    assert main([*words, "--report", str(file)]) == 0
    assert set(json.loads(file.read_text("utf-8"))["servers"]) == {"seqserve-fp32", "seqserve-int8"}


def test_missing_environment_of_the_peers_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--peers", "no-such-python"]) == 2
    assert "no-such-python" in capsys.readouterr().err


def figures(per_s: float, p99_ms: float = 1.0, failed: int = 0) -> RunFigures:
    return RunFigures(per_s=per_s, p99_ms=p99_ms, cpu_us=1e6 / per_s, failed=failed)


def test_ratios_are_taken_pair_by_pair() -> None:
    # The machine is twice as fast during the second pair. The ratio of the medians would be 3.3.
    found = summarize([(figures(100.0, 4.0, failed=2), figures(50.0, 2.0)), (figures(200.0, 1.0), figures(40.0, 2.0))])
    assert found["ratios"]["per_s"] == (2.75, 3.5, 4.25)
    assert found["ratios"]["p99_ms"][1] == 1.25
    assert found["ratios"]["cpu_us"][1] == 0.35
    assert found["medians"]["old"]["per_s"] == 45.0
    assert found["failed"] == {"new": 2, "old": 0}
