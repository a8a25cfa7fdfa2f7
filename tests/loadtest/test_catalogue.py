"""catalogue.py: bodies and answers in every server's dialect, commands that name what exists, choice by name."""

import json
import string
from pathlib import Path
from typing import Any

import pytest

from loadtest import bench_generate, catalogue
from loadtest.catalogue import CATALOGUE, Entry, Setting

PEERS = Path(catalogue.__file__).with_name("peers")
TAGS: Any = [{"entity": "NOUN", "score": 0.9, "word": "x", "start": 0, "end": 1}]
V2 = {"model_name": "tagger", "outputs": [{"name": "tags", "datatype": "BYTES", "data": [json.dumps(TAGS)]}]}
ANSWERS = {"bentoml": [TAGS], "mlserver": V2}
TEXTS = {"bentoml": ("inputs", 0), "mlserver": ("inputs", 0, "data", 0)}


@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.name)
def test_a_text_goes_in_and_its_tags_come_out(entry: Entry) -> None:
    found = json.loads(entry.encode("Café ."))
    for step in TEXTS.get(entry.name, ("inputs",)):
        found = found[step]
    assert found == "Café ."
    assert entry.read(ANSWERS.get(entry.name, TAGS)) == [("NOUN", "x")]


@pytest.mark.parametrize(
    "entry", [*CATALOGUE, *bench_generate.entries(Path("none"))], ids=lambda entry: f"{entry.name}{entry.path}"
)
def test_a_command_is_whole_and_its_program_is_there(entry: Entry) -> None:
    words = entry.words({"ours": "python", "peers": "python", "host": "127.0.0.1", "port": "3000"})
    assert words[0] == "python"
    assert {"127.0.0.1", "3000"} <= set(words)
    assert not any(name for word in words for _, name, _, _ in string.Formatter().parse(word))
    for module in [word.partition(":")[0] for word in words if word.startswith("loadtest.peers.")]:
        assert (PEERS / f"{module.rpartition('.')[2]}.py").is_file()


def test_no_peer_is_forgotten() -> None:
    commands = " ".join(" ".join(e.command) for e in [*CATALOGUE, *bench_generate.entries(Path("none"))])
    programs = {path.stem for path in PEERS.glob("*.py")} - {"__init__", "tagger", "in_process"}
    assert {name for name in programs if f"loadtest.peers.{name}" not in commands} == set()


def test_names_are_unique() -> None:
    assert len({entry.name for entry in CATALOGUE}) == len(CATALOGUE)


def test_every_setting_of_a_sweep_can_be_told_from_the_others() -> None:
    for entry in CATALOGUE:
        assert len({str(setting) for setting in entry.settings}) == len(entry.settings)


def test_a_setting_is_handed_over_as_environment() -> None:
    assert Setting(max_batch=8, wait_ms=0.5).environment == {"PEER_MAX_BATCH": "8", "PEER_WAIT_MS": "0.5"}
    assert Setting(max_batch=8).environment == {"PEER_MAX_BATCH": "8"}
    assert Setting().environment == {}


def test_seqserve_means_both_of_ours() -> None:
    assert [entry.name for entry in catalogue.select("mosec, seqserve")] == ["seqserve-fp32", "seqserve-int8", "mosec"]


def test_an_unknown_server_is_named_with_those_that_there_are() -> None:
    with pytest.raises(LookupError, match=r"called triton: there are seqserve, .*mosec"):
        catalogue.select("triton,mosec")


def test_int8_is_the_same_server_with_the_other_file() -> None:
    entry = next(entry for entry in CATALOGUE if entry.name == "mosec")
    again = catalogue.on_int8(entry)
    assert (again.name, again.variant, again.command) == ("mosec-int8", "int8", entry.command)
