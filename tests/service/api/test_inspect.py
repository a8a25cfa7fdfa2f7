"""/v1/inspect: the gates of the command `seqserve inspect` as JSON, and what cannot be inspected."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from models.inspect import inspect
from models.inspect.units import rank
from service.api.inspect import STEPS_MAX, UNITS
from tests.support import bundles
from tests.support.uvicorn_thread import served_in_thread

SENTENCE = "the cat sat on the mat"
FRAMES = [[0.1, 0.2, 0.3]] * 5


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("kinds")
    bundles.tagger(root)
    bundles.generator(root)
    bundles.of_frames(root, "tag")
    return root


@pytest.fixture(scope="module")
def client(kinds: Path) -> Iterator[httpx.Client]:
    with served_in_thread(kinds) as address, httpx.Client(base_url=address) as client:
        yield client


def post(client: httpx.Client, model: str, inputs: Any, **parameters: Any) -> httpx.Response:
    return client.post("/v1/inspect", json={"model": model, "inputs": inputs, "parameters": parameters})


@pytest.mark.parametrize("model", ["tiny-tag", "tiny-generate"])
def test_the_answer_has_the_values_of_the_command(client: httpx.Client, kinds: Path, model: str) -> None:
    wanted = inspect(bundles.opened(kinds / model), SENTENCE)
    found = post(client, model, SENTENCE).json()
    assert (found["model"], found["steps"]) == (model, list(wanted.steps))
    for layer, given in zip(wanted.layers, found["layers"], strict=True):
        assert (given["kind"], given["direction"], given["hidden"]) == (layer.kind, layer.direction, layer.hidden)
        assert given["units"] == rank(layer.parts[layer.memory], "varying")[:UNITS]
        for part, values in layer.parts.items():
            np.testing.assert_allclose(np.array(given["parts"][part]).T, values[:, given["units"]], atol=1e-4)
        assert given["influence"] == pytest.approx(layer.influence, abs=1e-4)


def test_units_are_limited(client: httpx.Client) -> None:
    for layer in post(client, "tiny-tag", SENTENCE, units=2).json()["layers"]:
        assert len(layer["units"]) == len(layer["parts"]["state"]) == 2


@pytest.mark.parametrize(
    ("model", "inputs", "status", "field"),
    [
        ("tiny-tag", "", 422, "inputs"),
        ("tiny-tag", FRAMES, 422, "inputs"),
        ("tiny-generate", "a" * (STEPS_MAX + 1), 413, "inputs"),
        ("tiny-tags", SENTENCE, 404, "model"),
        ("tiny-tag", 3, 422, "inputs"),
        ("tiny-tag", [SENTENCE, SENTENCE], 422, "inputs"),
    ],
)
def test_what_cannot_be_inspected_is_refused_by_name(
    client: httpx.Client, model: str, inputs: Any, status: int, field: str | None
) -> None:
    answer = post(client, model, inputs)
    assert (answer.status_code, answer.json().get("field")) == (status, field)


def test_a_request_after_another_model_has_its_own_graph(client: httpx.Client) -> None:
    first = post(client, "tiny-tag", SENTENCE).json()
    assert post(client, "tiny-generate", SENTENCE).json() != first
    assert post(client, "tiny-tag", SENTENCE).json() == first
