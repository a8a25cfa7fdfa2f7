"""The README is executed: its requests and answers, its table of bundles, its commands and its map."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from models import bundle, manifest, reference

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
ZOO = sorted(path.parent for path in (ROOT / "models/zoo").glob("*/manifest.json"))
EXCHANGE = re.compile(r"```\ncurl localhost:3000/v1/(\w+) [^\n]*-d '([^\n]*)'\n```\n```json\n(.*?)\n```", re.DOTALL)


def answer(task: str, request: dict[str, Any]) -> Any:
    """What the first bundle of the task answers, by the plain path."""
    (found, *_) = [path for path in ZOO if manifest.read(path).task == task]
    plain = reference.answer(bundle.load(found), request["inputs"], request.get("parameters"))
    return [plain] if task == "classify" else plain


@pytest.mark.parametrize(("task", "request_body", "expected"), EXCHANGE.findall(README))
def test_every_curl_has_the_answer_that_the_readme_shows(task: str, request_body: str, expected: str) -> None:
    found = answer(task, json.loads(request_body))
    assert reference.same(found, json.loads(expected), 0.02), found


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


@pytest.mark.parametrize("server", ["seqserve /v1/tag", "BentoML batchable=True"])
def test_the_table_of_speed_is_that_of_the_result_file(server: str) -> None:
    median = json.loads((ROOT / "docs/results/versus.json").read_text("utf-8"))["medians"][server]
    cells = [f"{median['per_s']:,.0f}", f"{median['p50_ms']:.1f} ms", f"{median['p99_ms']:.0f} ms"]
    assert f"| {' | '.join(cells)} |" in README
