"""Tests of loadtest.bench_servers: bodies, answers and commands of every server, and their selection."""

import importlib.util
import json
import string
from pathlib import Path
from typing import Any

import pytest

from loadtest import bench_servers
from loadtest.bench_phases import generation_servers
from loadtest.bench_servers import CATALOG, TRANSLATORS, BatchSetting, BenchServer, padding_waste

PEERS = Path(bench_servers.__file__).with_name("peers")
TAGS: Any = [{"entity": "NOUN", "score": 0.9, "word": "x", "start": 0, "end": 1}]
V2 = {"model_name": "tagger", "outputs": [{"name": "tags", "datatype": "BYTES", "data": [json.dumps(TAGS)]}]}
ANSWERS = {"bentoml": [TAGS], "mlserver": V2}
TEXTS = {"bentoml": ("inputs", 0), "mlserver": ("inputs", 0, "data", 0)}
ALL = [*CATALOG, *TRANSLATORS, *generation_servers(Path("none"))]


@pytest.mark.parametrize("server", CATALOG, ids=lambda server: server.name)
def test_body_holds_the_text_and_answer_gives_tags(server: BenchServer) -> None:
    body = server.body("Café .")
    for step in TEXTS.get(server.name, ("inputs",)):
        body = body[step]
    assert body == "Café ."
    assert server.read(ANSWERS.get(server.name, TAGS)) == [("NOUN", "x")]


@pytest.mark.parametrize("server", TRANSLATORS, ids=lambda server: server.name)
def test_translators_read_a_text_and_answer_one(server: BenchServer) -> None:
    assert server.body("Café .") == {"inputs": "Café ."}
    assert server.read([{"translation_text": "Kaffee ."}]) == [("text", "Kaffee .")]


@pytest.mark.parametrize("server", ALL, ids=lambda server: f"{server.name}{server.path}")
def test_command_is_complete_and_names_an_existing_program(server: BenchServer) -> None:
    words = server.fill({"ours": "python", "peers": "python", "host": "127.0.0.1", "port": "3000"})
    assert words[0] == "python"
    assert {"127.0.0.1", "3000"} <= set(words)
    assert not any(name for word in words for _, name, _, _ in string.Formatter().parse(word))
    for module in [word.partition(":")[0] for word in words if word.startswith("loadtest.peers.")]:
        assert importlib.util.find_spec(module)


def test_every_peer_is_in_the_catalog() -> None:
    commands = " ".join(" ".join(server.command) for server in ALL)
    programs = {path.stem for path in PEERS.glob("*.py")} - {"__init__", "tagger", "in_process"}
    assert {name for name in programs if f"loadtest.peers.{name}" not in commands} == set()


def test_names_are_unique() -> None:
    assert len({server.name for server in CATALOG}) == len(CATALOG)


def test_settings_of_a_sweep_have_different_names() -> None:
    for server in CATALOG:
        assert len({str(setting) for setting in server.settings}) == len(server.settings)


def test_setting_becomes_environment_variables() -> None:
    assert BatchSetting(max_batch=8, wait_ms=0.5).environment == {"PEER_MAX_BATCH": "8", "PEER_WAIT_MS": "0.5"}
    assert BatchSetting(max_batch=8).environment == {"PEER_MAX_BATCH": "8"}
    assert BatchSetting().environment == {}


def test_seqserve_selects_both_variants() -> None:
    names = [server.name for server in bench_servers.select("mosec, seqserve")]
    assert names == ["seqserve-fp32", "seqserve-int8", "mosec"]


def test_unknown_server_raises() -> None:
    with pytest.raises(LookupError, match="triton"):
        bench_servers.select("triton,mosec")
    with pytest.raises(LookupError, match="mosec"):
        bench_servers.select("mosec", "translate")


def test_translators_are_selected_for_their_task() -> None:
    assert bench_servers.select(None, "translate") == list(TRANSLATORS)


def test_int8_peer_has_the_same_command() -> None:
    server = next(server for server in CATALOG if server.name == "mosec")
    again = bench_servers.with_int8(server)
    assert (again.name, again.variant, again.command) == ("mosec-int8", "int8", server.command)


def test_padding_waste_is_the_share_between_two_counts() -> None:
    assert padding_waste((100, 50), (300, 100)) == 0.75
    assert padding_waste((100, 50), (100, 50)) is None
