"""The README is executed: its requests and answers, its table of bundles, its commands and its map."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from models import bundle, manifest, self_test
from models.tasks import as_json
from service.settings import Settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
ZOO = sorted(path.parent for path in (ROOT / "models/zoo").glob("*/manifest.json"))
EXCHANGE = re.compile(r"```\ncurl localhost:3000/v1/(\w+) [^\n]*-d '([^\n]*)'\n```\n```json\n(.*?)\n```", re.DOTALL)


def answer(task: str, request: dict[str, Any]) -> Any:
    """What the first bundle of the task answers, by the plain path."""
    (found, *_) = [path for path in Settings().bundle_paths() if task in manifest.SERVES[manifest.read(path).task]]
    plain = as_json(self_test.answer(bundle.load(found), request["inputs"], request.get("parameters")))
    return [plain] if task == "classify" else plain


@pytest.mark.parametrize(("task", "request_body", "expected"), EXCHANGE.findall(README))
def test_every_curl_has_the_answer_that_the_readme_shows(task: str, request_body: str, expected: str) -> None:
    found = answer(task, json.loads(request_body))
    assert self_test.same(found, json.loads(expected), 0.02), found


def test_the_three_tasks_are_shown() -> None:
    assert {task for task, _, _ in EXCHANGE.findall(README)} == {"tag", "classify", "generate"}


def test_the_first_curl_and_its_answer_stand_before_line_25() -> None:
    lines = README.splitlines()
    first_answer = lines.index("```json")
    assert lines[first_answer - 2].startswith("curl ")
    assert first_answer < 24


@pytest.mark.parametrize("path", ZOO, ids=lambda path: path.name)
def test_the_table_has_the_scores_of_every_variant(path: Path) -> None:
    told = manifest.read(path)
    (row,) = [line for line in README.splitlines() if line.startswith(f"| `{told.name}`")]
    for variant in told.variants.values():
        assert str(variant.scores[told.metric]) in row


@pytest.mark.parametrize("verb", sorted(set(re.findall(r"\bmake ([a-z]+)\b", README))))
def test_every_make_verb_of_the_readme_exists(verb: str) -> None:
    assert re.search(rf"^{verb}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_every_link_of_the_readme_leads_to_a_file(link: str) -> None:
    assert (ROOT / link).exists()


BENCH: dict[str, Any] = json.loads((ROOT / "docs/results/bench.json").read_text("utf-8"))


@pytest.mark.parametrize("name", [name for name, server in BENCH["servers"].items() if server.get("medians")])
def test_the_table_of_speed_is_that_of_the_result_file(name: str) -> None:
    server = BENCH["servers"][name]
    alone, median = (next(row for row in server["medians"] if row["connections"] == count) for count in (1, 32))
    cells = [
        *(server["title"], server.get("setting") or "-", server["variant"], f"{median['per_s']:,.0f}"),
        *(f"{median['p50_ms']:.1f} ms", f"{median['p99_ms']:.0f} ms", f"{median['padding_waste'] * 100:.0f} %"),
        *(f"{median['cpu_ms_per_request']:.2f} ms", f"{alone['p50_ms']:.2f} ms"),
    ]
    assert f"| {' | '.join(cells)} |" in README


def test_what_is_said_of_the_best_peer_is_in_the_result_file() -> None:
    fp32, int8, default = BENCH["turns"]
    assert (fp32["variant"], int8["variant"], default["peer"]) == ("fp32", "int8", fp32["peer"])
    said = " ".join(README.replace("**", "").split())
    lower, upper = fp32["quartiles"]["per_s"]
    ratios = fp32["ratios"]
    assert f"best peer, {fp32['peer']}, {ratios['per_s']:.2f} times its requests per second" in said
    assert f"same fp32 file (quartiles {lower:.2f} and {upper:.2f}) at {ratios['p99_ms']:.2f} of its p99" in said
    assert f"{int8['ratios']['per_s']:.2f} with the same int8 file" in said
    assert f"its fp32, {default['ratios']['per_s']:.2f} at {default['ratios']['p99_ms']:.2f}." in said
    again = json.loads((ROOT / "docs/results/bench-best.json").read_text("utf-8"))["turns"]
    rates = [f"{each['ratios']['per_s']:.2f}" for each in again]
    assert f"the same three were {rates[0]}, {rates[1]} and {rates[2]} at {again[2]['ratios']['p99_ms']:.2f}" in said
    tails = [f"{each['at_rate']['ratios']['p99_ms']:.2f}" for each in again]
    assert f"p99 was {tails[0]}, {tails[1]} and {tails[2]} of its" in said
    assert {each["at_rate"]["share"] for each in again} == {0.7}
    written = {name: server["median"]["tokens_per_s"] for name, server in BENCH["generate"]["servers"].items()}
    assert f"int8 {round(written['seqserve-int8'], -2):,.0f} characters" in README
    assert f"PyTorch loop {written['torch-loop']:,.0f}, the fastest of three ways" in README
    assert f"write it {max(written[name] for name in written if 'torch' in name):,.0f}." in README
