"""The tables in docs/ say what the code says: nothing is missing, nothing is made up."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from models.codecs import Codec, InputError
from models.codecs.characters import CharactersCodec
from models.codecs.dna import DnaCodec
from models.codecs.frames import FramesCodec
from models.manifest import CharactersSpec, DnaSpec, FramesSpec
from service.api import openai_completions, openai_embeddings, schemas
from service.api.bentoml_routes import APIS
from service.api.native import ROUTES
from service.api.problems import PREFIX, TABLE
from service.api.websocket import PATH
from service.settings import ELSEWHERE, Settings, is_secret, variable
from service.telemetry import METRICS

DOCS = Path(__file__).resolve().parents[2] / "docs"
OF_BENTOML = {"/livez", "/readyz", "/healthz", "/metrics", "/docs.json", "/schema.json", "/"}


def rows(name: str) -> dict[str, list[str]]:
    """Return the rows of the page's table by their first cell, without its backticks."""
    lines = (DOCS / name).read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| `")]
    return {row[0].strip("`"): row[1:] for row in cells}


def test_every_setting_is_documented_with_its_default_and_effect() -> None:
    documented = rows("settings.md")
    assert set(documented) == {variable(field) for field in Settings.model_fields}
    for field, info in Settings.model_fields.items():
        default, about = documented[variable(field)]
        value = info.get_default()
        text = ",".join(value) if isinstance(value, tuple) else str(value)
        assert (default, about) == (text or "none", info.description)
        assert not (is_secret(field) and value)


def test_every_metric_is_documented_with_its_kind_and_labels() -> None:
    expected = {metric.name: [metric.kind, ", ".join(metric.labels), metric.about] for metric in METRICS}
    assert rows("metrics.md") == expected


def test_every_error_is_documented_with_its_status() -> None:
    expected = {
        PREFIX + kind.slug: [str(kind.status), kind.grpc_status, kind.title, f"`{error.__name__}`"]
        for error, kind in TABLE.items()
    }
    assert rows("errors.md") == expected


def test_every_route_is_documented_with_its_methods() -> None:
    documented = {route: cells[0] for route, cells in rows("routes.md").items()}
    ours = {route.pattern: ", ".join(route.methods) for route in ROUTES.all}
    assert documented == ours | dict.fromkeys(APIS, "POST") | dict.fromkeys(OF_BENTOML, "GET, HEAD") | {
        PATH: "WebSocket"
    }


CURLS = re.findall(r"curl -sN? localhost:3000/v1/(\w+) --json '(.*)'", (DOCS / "routes.md").read_text())
ADAPTERS: dict[str, TypeAdapter[Any]] = {"tag": schemas.TAG, "classify": schemas.CLASSIFY, "generate": schemas.GENERATE}
ADAPTERS["generate_stream"] = schemas.GENERATE
ADAPTERS |= {"completions": openai_completions.COMPLETION, "embeddings": openai_embeddings.EMBEDDING}


@pytest.mark.parametrize(("task", "body"), CURLS)
def test_every_request_that_is_shown_is_a_valid_one(task: str, body: str) -> None:
    assert schemas.parse_body(ADAPTERS[task], body.encode()).model


def test_every_route_that_takes_inputs_is_shown() -> None:
    assert {task for task, _ in CURLS} == set(ADAPTERS)


FRAMES = FramesCodec(FramesSpec(features=12))
SPLICE = DnaCodec(DnaSpec(positions=60))
NAMES = CharactersCodec(CharactersSpec(), "ab")
GOOD = [[0.0] * 12]


@pytest.mark.parametrize(
    ("codec", "raw"),
    [
        (SPLICE, "A" * 61),
        (SPLICE, "ACXT"),
        (NAMES, ["a", "cd"]),
        (FRAMES, [*GOOD * 3, [0.0] * 11]),
        (FRAMES, [*GOOD * 5, [math.nan] * 12]),
        (FRAMES, "text"),
    ],
)
def test_what_is_said_of_a_bad_input_is_on_the_page_of_errors(codec: Codec, raw: Any) -> None:
    with pytest.raises(InputError) as caught:
        codec.encode(raw)
    assert f": {caught.value} |\n" in (DOCS / "errors.md").read_text()


def test_no_page_names_a_setting_that_does_not_exist() -> None:
    text = "".join(page.read_text() for page in DOCS.glob("*.md"))
    known = {variable(field) for field in Settings.model_fields} | ELSEWHERE
    assert set(re.findall(r"SEQSERVE_[A-Z_]*[A-Z]", text)) <= known
