"""The OpenAPI document is complete, and the service answers as it says."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.config import SchemathesisConfig

from service.api import openapi
from service.api.application import ROUTES
from tests.support.uvicorn_thread import served_in_thread

OF_BENTOML = {"/metrics", "/schema.json"}
ROOT = Path(__file__).resolve().parents[3]
CONFIG = SchemathesisConfig.from_path(ROOT / "schemathesis.toml")
EXAMPLES = 12  # of each operation; more, over the whole service: see CONTRIBUTING.md


def test_every_route_has_docs() -> None:
    assert [route.pattern for route in ROUTES if route.docs is None] == []


def test_the_document_lists_every_route_and_page_with_its_methods() -> None:
    paths = openapi.document(ROUTES, (), keys=False)["paths"]
    expected: dict[str, set[str]] = {path: {"get", "head"} for path in OF_BENTOML}
    for route in ROUTES:
        expected.setdefault(route.pattern, set()).update(method.lower() for method in route.methods)
    assert {path: set(operations) for path, operations in paths.items()} == expected


def test_the_server_is_relative_to_the_document() -> None:
    assert openapi.document(ROUTES, (), keys=False)["servers"] == [{"url": "."}]


def test_security_requires_a_key_only_if_keys_are_set() -> None:
    open_to_all, keyed = (openapi.document(ROUTES, (), keys=keys) for keys in (False, True))
    assert ({} in open_to_all["security"], {} in keyed["security"]) == (True, False)
    assert keyed["paths"]["/livez"]["get"]["security"] == keyed["paths"]["/v2/health/live"]["get"]["security"] == []


@pytest.fixture(scope="module")
def schema(
    tiny_zoo: Path, tiny_kinds: Path, tiny_live: Path, tiny_forecaster: Path, tiny_filler: Path
) -> Iterator[Any]:
    with served_in_thread(tiny_zoo, tiny_kinds, tiny_live, tiny_forecaster, tiny_filler) as address:
        document = httpx.get(f"{address}/docs.json").json()
        # BentoML's pages are not here.
        document["paths"] = {path: of for path, of in document["paths"].items() if path not in OF_BENTOML}
        loaded = schemathesis.openapi.from_dict(document, config=CONFIG)
        loaded.config.update(base_url=address)
        yield loaded


def test_every_documented_example_is_answered(schema: Any) -> None:
    url, sent = schema.config.base_url, 0
    for path, operations in schema.raw_schema["paths"].items():
        operation = operations.get("post", {})
        content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
        parameters = {each["name"]: each for each in operation.get("parameters", ()) if each.get("in") == "path"}
        for name, example in content.get("examples", {}).items():
            values = {parameter: each["examples"][name]["value"] for parameter, each in parameters.items()}
            answer = httpx.post(url + path.format(**values), json=example["value"])
            assert answer.status_code == 200, (path, name, answer.text)
            assert not ("id" in values and "model" in example["value"])  # once is enough
            documented = operation["responses"]["200"]["headers"]
            assert ("X-Model" in documented) == ("X-Model" in answer.headers), path
            sent += 1
    assert sent > 20


OPERATIONS = [
    (route.pattern, method) for route in ROUTES if route.pattern not in OF_BENTOML for method in route.methods
]


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_answers_conform_to_the_document(schema: Any, path: str, method: str, mode: GenerationMode) -> None:
    operation = schema[path][method]

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: schemathesis.Case) -> None:
        case.call_and_validate()

    check()
