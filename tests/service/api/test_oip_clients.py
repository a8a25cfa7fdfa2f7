"""tritonclient over HTTP against ``bentoml serve`` with tiny bundles."""

import asyncio
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from models import self_test
from models.bundle import Bundle
from models.tasks import as_json
from tests.support import bundles
from tests.support.bentoml_server import served
from tests.support.oip import RAW, feeds_of


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("v2-zoo")
    for make in (bundles.tagger, bundles.classifier, bundles.generator, bundles.of_every_kind):
        make(root)
    return root


@pytest.fixture(scope="module")
def address(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    environ = {"SEQSERVE_BUNDLES": str(zoo), "SEQSERVE_WORKERS": "2", "SEQSERVE_DEVICE": "cpu"}
    with served(tmp_path_factory.mktemp("bentoml"), service="service.app:Seqserve", **environ) as (address, _, _):
        yield address.removeprefix("http://")
    gc.collect()  # tritonclient's objects must be destroyed in the thread that made them


@pytest.fixture
def client(address: str) -> Iterator[Any]:
    with triton.InferenceServerClient(address) as client:
        yield client


def tensor(name: str, values: Any, *, binary: bool = True) -> Any:
    """Return an input of tritonclient."""
    datatype = {"f": "FP32", "i": "INT32"}.get(values.dtype.kind, "BYTES")
    made = triton.InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values, binary_data=binary)
    return made


def texts(*values: str) -> Any:
    return np.array([value.encode() for value in values], np.object_)


def test_health_and_metadata(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny-tag")
    assert client.is_model_ready("tiny-tag", "1")
    assert not client.is_model_ready("tiny-tag", "2")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    assert client.get_model_metadata("tiny-tag")["inputs"][0] == {"name": "text", "datatype": "BYTES", "shape": [-1]}
    assert client.get_model_config("tiny-tag", "1")["input"][0]["data_type"] == "TYPE_STRING"
    names = {model["name"] for model in client.get_model_repository_index()}
    assert {"tiny-tag", "tiny-generate", "tiny-joint"} <= names


@pytest.mark.parametrize("binary", [True, False])
def test_classify(client: Any, zoo: Path, binary: bool) -> None:
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("score", "label")]
    given = tensor("text", texts("a lovely film", "ü"), binary=binary)
    found = client.infer("tiny-classify", [given], outputs=outputs, request_id="a-1")
    expected = as_json(self_test.answer(bundles.opened(zoo / "tiny-classify"), "a lovely film"))
    assert [np.array(label).item() for label in found.as_numpy("label")[0]] in (
        [each["label"].encode() for each in expected],
        [each["label"] for each in expected],
    )
    assert found.as_numpy("score")[0] == pytest.approx([each["score"] for each in expected])
    assert found.get_response()["id"] == "a-1"


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compression(client: Any, algorithm: str) -> None:
    given = tensor("text", texts("a lovely film", "ü"))  # this release cannot compress requests of JSON alone
    plain = client.infer("tiny-classify", [given])
    found = client.infer(
        "tiny-classify",
        [given],
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    for name in ("label", "score"):
        assert np.array_equal(found.as_numpy(name), plain.as_numpy(name))


def test_tag_and_generate(client: Any, zoo: Path) -> None:
    found = client.infer("tiny-tag", [tensor("text", texts("the cat", ""))])
    assert found.as_numpy("offsets").tolist() == [0, 2, 2]
    assert found.as_numpy("word").tolist() == [b"the", b"cat"]
    parameters = tensor("parameters", texts('{"max_new_tokens": 12, "temperature": 0}'))
    written = client.infer("tiny-generate", [tensor("text", texts("ROMEO:")), parameters]).as_numpy("text")
    expected = as_json(self_test.answer(bundles.opened(zoo / "tiny-generate"), "ROMEO:", bundles.GENERATION))
    assert written.tolist() == [expected["generated_text"].encode()]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("name", RAW)
def test_tensors_of_every_kind_of_bundle(client: Any, zoo: Path, name: str, binary: bool) -> None:
    bundle: Bundle = bundles.opened(zoo / name)
    feeds = feeds_of(bundle, RAW[name])
    found = client.infer(name, [tensor(each, values, binary=binary) for each, values in feeds.items()])
    for output, values in bundle.model.run(feeds).items():
        assert np.array_equal(found.as_numpy(output), values), output


def test_the_client_raises_errors_with_their_field(client: Any) -> None:
    given = [tensor("text", texts("a"))]
    for field, call in (
        ("model", lambda: client.infer("nope", given)),
        ("model", lambda: client.infer("tiny-tag", given, model_version="9")),
        ("parameters.priority", lambda: client.infer("tiny-tag", given, priority=1)),
    ):
        with pytest.raises(InferenceServerException) as caught:
            call()
        assert caught.value.message().partition(": ")[0] == field


async def test_concurrent_requests(address: str) -> None:
    body = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["the cat sat"]}]}
    async with httpx.AsyncClient(base_url=f"http://{address}", timeout=30) as client:
        sent = [client.post("/v2/models/tiny-tag/infer", json={**body, "id": str(number)}) for number in range(100)]
        answers = [answer.json() for answer in await asyncio.gather(*sent)]
    assert [answer["id"] for answer in answers] == [str(number) for number in range(100)]
    assert all(answer["outputs"] == answers[0]["outputs"] for answer in answers)
