"""The Open Inference Protocol V2 in process, over tiny bundles of every kind."""

import asyncio
import struct
import tracemalloc
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import orjson
import pytest

from models import self_test
from models.onnx_session import OnnxModel
from models.tasks import as_json
from service.api.oip_inference import from_values
from service.errors import InvalidRequest
from tests.support import bundles
from tests.support.engines import draining
from tests.support.oip import RAW, OIPSite, array, feeds_of, refusal, texts

TEXTS = ["the cat sat on zebras .", "", "Paris"]


@pytest.fixture
async def site(tiny_zoo: Path, tiny_kinds: Path) -> AsyncIterator[OIPSite]:
    site = OIPSite(tiny_zoo, tiny_kinds)
    yield site
    await site.close()


async def test_entities_of_all_texts_are_in_one_row_with_offsets(site: OIPSite) -> None:
    found = await site.infer("tiny-tag-spans", texts(*TEXTS), parameters={"aggregation_strategy": "none"})
    parameters = {"aggregation_strategy": "none"}
    expected = [as_json(self_test.answer(site.bundle("tiny-tag-spans"), text, parameters)) for text in TEXTS]
    offsets = found["offsets"]["data"]
    assert offsets == [0, 6, 6, 7]
    for row, (first, end) in zip(expected, pairwise(offsets), strict=True):
        for key, name in (("entity", "label"), ("word", "word"), ("start", "start"), ("end", "end")):
            assert found[name]["data"][first:end] == [entity[key] for entity in row]
        assert found["score"]["data"][first:end] == pytest.approx([entity["score"] for entity in row])


async def test_offsets_count_code_points_on_every_route(site: OIPSite) -> None:
    text = "😀 the 👩‍👩‍👧 cat 𐍈 zebras"
    (entities,) = (await site.client.post("/v1/tag", json={"inputs": [text], "model": "tiny-tag"})).json()
    assert [text[entity["start"] : entity["end"]] for entity in entities] == [entity["word"] for entity in entities]
    found = await site.infer("tiny-tag", texts(text))
    for name in ("start", "end", "word"):
        assert found[name]["data"] == [entity[name] for entity in entities]
    # As the guide converts them for languages that count UTF-16 code units.
    units = text.encode("utf-16-le")
    for entity in entities:
        start, end = (len(text[: entity[name]].encode("utf-16-le")) for name in ("start", "end"))
        assert units[start:end].decode("utf-16-le") == entity["word"]


async def test_labels_are_a_matrix_padded_for_empty_texts(site: OIPSite) -> None:
    found = await site.infer("tiny-classify", texts(*TEXTS), parameters={"top_k": 2})
    expected = [as_json(self_test.answer(site.bundle("tiny-classify"), text, {"top_k": 2})) for text in TEXTS]
    assert (found["label"]["shape"], found["score"]["datatype"]) == ([3, 2], "FP32")
    labels = [label["label"] for row in expected for label in row or [{"label": ""}] * 2]
    assert found["label"]["data"] == labels
    assert found["score"]["data"][2:4] == [0, 0]


async def test_a_joint_bundle_returns_tags_and_labels(site: OIPSite) -> None:
    found = await site.infer("tiny-joint", texts("the cat"), parameters={"top_k": 1, "aggregation_strategy": "none"})
    expected = as_json(self_test.answer(site.bundle("tiny-joint"), "the cat", {"aggregation_strategy": "none"}))
    assert found["label"]["data"] == [entity["entity"] for entity in expected["tags"]]
    assert found["text_label"]["data"] == [expected["labels"][0]["label"]]


@pytest.mark.parametrize("outputs", [(), ("json",), ("label", "text_label")])
async def test_a_joint_bundle_runs_once_for_both_of_its_tasks(site: OIPSite, outputs: tuple[str, ...]) -> None:
    def ran() -> float:
        site.worker.telemetry.flush()
        assert site.worker.telemetry.registry is not None
        labels = {"model": "tiny-joint", "version": "1"}
        return site.worker.telemetry.registry.get_sample_value("seqserve_batch_items_sum", labels) or 0

    before = ran()
    await site.infer("tiny-joint", texts("the cat", "a dog"), outputs=[{"name": name} for name in outputs])
    assert ran() - before == 2


async def test_text_is_generated(site: OIPSite) -> None:
    parameters = {"max_new_tokens": 12, "temperature": 0, "stop": "never"}
    found = await site.infer("tiny-generate", texts("ROMEO:", ""), parameters=parameters)
    expected = as_json(self_test.answer(site.bundle("tiny-generate"), "ROMEO:", bundles.GENERATION))
    assert found["text"]["data"] == [expected["generated_text"], ""]


async def test_parameters_are_accepted_as_an_input(site: OIPSite) -> None:
    parameters = texts('{"max_new_tokens": 3, "stop": ["a", "b"]}', name="parameters")
    assert len((await site.infer("tiny-generate", texts("ROMEO:"), parameters))["text"]["data"][0]) <= 3


async def test_inputs_and_answers_can_be_json_documents(site: OIPSite) -> None:
    documents = [orjson.dumps(frames).decode() for frames in (bundles.FRAMES, [])]
    found = await site.infer("tiny-frames-tag", texts(*documents, name="json"), outputs=[{"name": "json"}])
    assert list(found) == ["json"]
    expected = [as_json(self_test.answer(site.bundle("tiny-frames-tag"), frames)) for frames in (bundles.FRAMES, [])]
    assert [orjson.loads(text) for text in found["json"]["data"]] == expected
    tokens = await site.infer("tiny-tag", texts('["the", "cat"]', name="json"))
    assert tokens["start"]["data"] == [0, 1]


@pytest.mark.parametrize("name", RAW)
async def test_raw_tensors_are_answered_by_the_graph(site: OIPSite, name: str) -> None:
    bundle = site.bundle(name)
    feeds = feeds_of(bundle, RAW[name])
    found = await site.infer(name, *(array(tensor, values) for tensor, values in feeds.items()))
    expected = bundle.model.run(feeds)
    assert list(found) == list(expected)
    for tensor, values in expected.items():
        assert found[tensor]["shape"] == list(values.shape)
        answered = np.array(found[tensor]["data"], values.dtype)
        assert np.array_equal(answered, np.nan_to_num(values).ravel()), tensor


async def test_metadata_describe_the_inputs_and_outputs(site: OIPSite) -> None:
    for graph in (runtime.tensors for runtime in site.worker.engine.runtimes.values()):
        described = (await site.client.get(f"/v2/models/{graph.name}/versions/1")).json()
        assert (described["name"], described["versions"]) == (graph.name, ["1"])
        raw = {port.name for port in (*graph.inputs, *graph.outputs)}
        outputs = [each for each in described["outputs"] if each["name"] not in raw]
        first = orjson.dumps(site.bundle(graph.name).manifest.examples[0].inputs).decode()
        names = [{"name": each["name"]} for each in outputs]
        found = await site.infer(graph.name, texts(first, name="json"), outputs=names)
        for each in outputs:
            assert found[each["name"]]["datatype"] == each["datatype"]
            assert len(found[each["name"]]["shape"]) == len(each["shape"])


async def test_outputs_keep_the_requested_order_and_the_id_is_returned(site: OIPSite) -> None:
    body = {"id": "a-7", "inputs": [texts("the cat")], "outputs": [{"name": "score"}, {"name": "label"}]}
    answer = (await site.client.post("/v2/models/tiny-classify/versions/1/infer", json=body)).json()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("a-7", "tiny-classify", "1")
    assert [tensor["name"] for tensor in answer["outputs"]] == ["score", "label"]


@pytest.mark.parametrize(
    "more",
    [
        {"parameters": None, "outputs": None, "id": None},
        {"parameters": {"content_type": "str", "headers": {"a": "b"}, "timeout": None, "binary_data_output": None}},
        {"parameters": {"priority": 0, "sequence_id": 0, "sequence_start": False, "top_k": None}},
        {"outputs": [{"name": name, "parameters": None} for name in ("label", "score")]},
        {"outputs": [{"name": name, "parameters": {"content_type": "str"}} for name in ("label", "score")]},
        {"outputs": [{"name": name, "parameters": {"classification": 0}} for name in ("label", "score")]},
    ],
)
async def test_what_changes_no_answer_is_left_alone(site: OIPSite, more: dict[str, Any]) -> None:
    plain = await site.infer("tiny-classify", texts(*TEXTS))
    assert await site.infer("tiny-classify", texts(*TEXTS), **more) == plain


@pytest.mark.parametrize("parameters", [None, {}, {"content_type": "str", "headers": None}, {"trace": {"a": [1]}}])
async def test_parameters_of_an_input_are_free_form(site: OIPSite, parameters: Any) -> None:
    plain = await site.infer("tiny-classify", texts(*TEXTS))
    assert await site.infer("tiny-classify", texts(*TEXTS) | {"parameters": parameters}) == plain
    raw = array("tokens", np.array([1], np.int32)) | {"parameters": parameters}
    assert (await site.refused("tiny-classify", raw))[1] != "inputs[0].parameters"


async def test_base64_content_is_rejected(site: OIPSite) -> None:
    given = texts("YQ==") | {"parameters": {"content_type": "base64"}}
    assert await site.refused("tiny-tag", given) == (422, "inputs[0].parameters.content_type")


@pytest.mark.parametrize(
    "body",
    [
        '{"id":null,"parameters":null,"inputs":[{"name":"text","shape":[2,1],"datatype":"BYTES","parameters":'
        '{"content_type":"str","headers":null},"data":["a b","é"]}],"outputs":null}',
        '{"id":null,"parameters":{"content_type":"str","headers":null},"inputs":[{"name":"text","shape":[2,1],'
        '"datatype":"BYTES","parameters":{"content_type":"str","headers":null},"data":["a b","é"]}],"outputs":null}',
        '{"inputs":[{"name":"text","shape":[2,1],"datatype":"BYTES","parameters":{"content_type":"str"},'
        '"data":["a b","é"]}]}',
    ],
    ids=["json", "json of a request codec", "model_dump_json"],
)
async def test_the_payload_of_the_string_codec_of_mlserver(site: OIPSite, body: str) -> None:
    """`StringCodec.encode_input("text", ["a b", "é"])` in an `InferenceRequest`, recorded from mlserver 1.7.1.

    The package itself needs older releases of FastAPI and protobuf than this environment has.
    """
    answer = await site.client.post("/v2/models/tiny-classify/infer", content=body.encode())
    assert answer.status_code == 200
    found = {tensor["name"]: tensor for tensor in answer.json()["outputs"]}
    assert found == await site.infer("tiny-classify", texts("a b", "é"))


async def test_the_model_in_the_body_must_match_the_path(site: OIPSite) -> None:
    given = texts("the cat")
    assert await site.infer("tiny-tag", given, model_name="tiny-tag", model_version="1")
    for name, value in (("model_name", "tiny-path"), ("model_version", "2")):
        assert await site.refused("tiny-tag", given, **{name: value}) == (422, name)


def packed(*values: str) -> bytes:
    return b"".join(struct.pack("<I", len(value.encode())) + value.encode() for value in values)


async def test_binary_tensors_in_both_directions(site: OIPSite) -> None:
    content = packed("the cat", "ü")
    tensor = {"name": "text", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": len(content)}}
    outputs = [{"name": "label"}, {"name": "score", "parameters": {"binary_data": False}}]
    body = {"inputs": [tensor], "outputs": outputs, "parameters": {"binary_data_output": True}}
    head = orjson.dumps(body)
    headers = {"inference-header-content-length": str(len(head)), "content-type": "application/octet-stream"}
    response = await site.client.post("/v2/models/tiny-classify/infer", content=head + content, headers=headers)
    length = int(response.headers["inference-header-content-length"])
    label, score = orjson.loads(response.content[:length])["outputs"]
    plain = await site.infer("tiny-classify", texts("the cat", "ü"))
    assert response.content[length:] == packed(*plain["label"]["data"])
    assert (label["parameters"], score["data"]) == (
        {"binary_data_size": len(response.content) - length},
        plain["score"]["data"],
    )


GOOD = {"name": "text", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 7}}


@pytest.mark.parametrize(
    ("tensor", "content", "length", "field"),
    [
        (GOOD, packed("abc") + b"more", None, "inputs"),
        (GOOD, packed("ab"), None, "inputs[0].parameters.binary_data_size"),
        (GOOD | {"shape": [2]}, packed("abc"), None, "inputs[0]"),
        (GOOD, struct.pack("<I", 99) + b"abc", None, "inputs[0]"),
        (GOOD | {"parameters": {"binary_data_size": 2}}, b"ab", None, "inputs[0]"),
        (GOOD | {"datatype": "FP32"}, packed("abc"), None, "inputs[0]"),
        (GOOD | {"data": ["a"]}, packed("abc"), None, "inputs[0]"),
        (GOOD, packed("abc"), "999", "Inference-Header-Content-Length"),
        (GOOD, packed("abc"), "-1", "Inference-Header-Content-Length"),
        (GOOD, packed("abc"), "3", ""),
    ],
)
async def test_inconsistent_binary_data_is_rejected(
    site: OIPSite, tensor: dict[str, Any], content: bytes, length: str | None, field: str
) -> None:
    head = orjson.dumps({"inputs": [tensor]})
    headers = {"inference-header-content-length": length or str(len(head))}
    response = await site.client.post("/v2/models/tiny-tag/infer", content=head + content, headers=headers)
    assert refusal(response) == (422, field)


BASES, LENGTHS = array("bases", np.full((2, 1), 3, np.int32)), array("lengths", np.full(1, 2, np.int32))


@pytest.mark.parametrize(
    ("inputs", "more", "status", "field"),
    [
        ([], {}, 422, "inputs"),
        ([texts("A"), texts("A")], {}, 422, "inputs"),
        ([texts("A"), BASES], {}, 422, "inputs"),
        ([texts("A"), texts('"A"', name="json")], {}, 422, "inputs"),
        ([texts("A", name="nope")], {}, 422, "inputs"),
        ([texts("A") | {"shape": [2]}], {}, 422, "inputs[0].data"),
        ([texts("A") | {"shape": [1, 1, 1], "data": [[["A"]]]}], {}, 422, "inputs"),
        ([texts("A") | {"data": [1]}], {}, 422, "inputs[0].data"),
        ([texts("A") | {"data": None}], {}, 422, "inputs[0].data"),
        ([texts("A") | {"shape": [-1]}], {}, 422, "inputs[0].shape"),
        ([texts("A") | {"shape": [2**40, 2**40]}], {}, 422, "inputs[0].shape"),
        ([texts("A") | {"datatype": "FP16"}], {}, 422, "inputs[0].datatype"),
        ([texts("A") | {"nope": 1}], {}, 422, "inputs[0].nope"),
        (
            [texts("A") | {"parameters": {"shared_memory_region": "a"}}],
            {},
            422,
            "inputs[0].parameters.shared_memory_region",
        ),
        ([texts("X")], {}, 422, "inputs[0]"),
        ([texts("A" * 21)], {}, 413, "inputs[0]"),
        ([texts("A")], {"outputs": [{"name": "probabilities"}]}, 422, "outputs[0].name"),
        ([texts("A")], {"parameters": {"top_k": 1}}, 422, "parameters.top_k"),
        ([texts("A")], {"parameters": {"aggregation_strategy": 1}}, 422, "parameters.aggregation_strategy"),
        ([texts("A")], {"parameters": {"timeout": -1}}, 422, "parameters.timeout"),
        ([texts("A")], {"parameters": {"binary_data_output": 1}}, 422, "parameters.binary_data_output"),
        ([texts("A"), texts("[]", name="parameters")], {}, 422, "inputs"),
        ([texts("{", name="json")], {}, 422, "inputs"),
        ([texts("3", name="json")], {}, 422, "inputs"),
        ([BASES], {}, 422, "inputs"),
        ([BASES, LENGTHS], {"parameters": {"priority": 1}}, 422, "parameters.priority"),
        ([BASES, LENGTHS], {"outputs": [{"name": "label"}]}, 422, "outputs[0].name"),
        ([BASES, LENGTHS | {"datatype": "FP32"}], {}, 422, "inputs"),
        ([BASES, LENGTHS | {"data": [2**40]}], {}, 422, "inputs[1].data"),
        ([BASES, LENGTHS | {"data": [True]}], {}, 422, "inputs[1].data"),
        ([BASES, LENGTHS | {"data": ["a" * 500]}], {}, 422, "inputs[1].data"),
        ([BASES, LENGTHS | {"data": [[2], 3]}], {}, 422, "inputs[1].data"),
        ([BASES | {"data": [3, 999]}, LENGTHS], {}, 422, "inputs"),
        ([array("bases", np.ones((20, 200), np.int32)), LENGTHS], {}, 422, "inputs"),
    ],
)
async def test_an_invalid_request_is_rejected_with_its_field(
    site: OIPSite, inputs: list[Any], more: dict[str, Any], status: int, field: str
) -> None:
    assert await site.refused("tiny-dna-tag", *inputs, **more) == (status, field)


async def test_invalid_utf8_is_rejected(site: OIPSite) -> None:
    tensor = {"name": "text", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 5}}
    head = orjson.dumps({"inputs": [tensor]})
    headers = {"inference-header-content-length": str(len(head))}
    content = head + b"\1\0\0\0\xff"
    response = await site.client.post("/v2/models/tiny-tag/infer", content=content, headers=headers)
    assert refusal(response) == (422, "inputs")


@pytest.mark.parametrize(
    ("method", "path", "status", "field"),
    [
        ("GET", "/v2/models/nope", 404, "model"),
        ("GET", "/v2/models/tiny-tag/versions/2", 404, "model"),
        ("GET", "/v2/models/tiny-tag/versions/2/ready", 404, "model"),
        ("POST", "/v2/models/nope/infer", 404, "model"),
        ("POST", "/v2/models/tiny-tag/versions/2/infer", 404, "model"),
        ("GET", "/v2/models/tiny-tag/infer", 405, ""),
        ("GET", "/v2/models/tiny-tag/stats", 404, ""),
        ("POST", "/v2/repository/models/tiny-tag/load", 403, ""),
        ("GET", "/v2/nope", 404, ""),
    ],
)
async def test_an_unknown_model_or_route_is_reported_in_the_protocols_format(
    site: OIPSite, method: str, path: str, status: int, field: str
) -> None:
    response = await site.client.request(method, path, content=b"{}" if method == "POST" else None)
    assert refusal(response) == (status, field)


async def test_only_health_works_without_a_key(tiny_zoo: Path) -> None:
    site = OIPSite(tiny_zoo / "tiny-tag", api_keys=("right-key",))
    for path in ("/v2/health/live", "/v2/health/ready"):
        assert (await site.client.get(path)).status_code == 200
    for path in ("/v2", "/v2/models/tiny-tag", "/v2/models/tiny-tag/ready"):
        assert refusal(await site.client.get(path))[0] == 401
        headers = {"authorization": "Bearer right-key"}
        assert (await site.client.get(path, headers=headers)).status_code == 200
    await site.close()


async def test_a_draining_worker_is_live_but_not_ready(site: OIPSite) -> None:
    with draining(site.worker):
        assert (await site.client.get("/v2/health/live")).status_code == 200
        assert refusal(await site.client.get("/v2/health/ready"))[0] == 503
        assert refusal(await site.client.get("/v2/models/tiny-tag/ready"))[0] == 503


async def test_a_failed_model_and_its_service_are_not_ready(site: OIPSite) -> None:
    site.worker.engine.runtime_for("tag", "tiny-tag").loop.healthy = False
    assert refusal(await site.client.get("/v2/models/tiny-tag/ready"))[0] == 503
    assert refusal(await site.client.get("/v2/health/ready"))[0] == 503
    assert (await site.client.get("/v2/models/tiny-classify/ready")).json()["ready"]


async def test_input_and_size_limits(tiny_zoo: Path) -> None:
    site = OIPSite(tiny_zoo, inputs_max=2, batch_tokens=10, body_bytes=4000)
    assert await site.refused("tiny-tag", texts("a", "b", "c")) == (413, "inputs")
    feeds = feeds_of(site.bundle("tiny-classify"), ["a"] * 65)
    tensors = [array(name, values) for name, values in feeds.items()]
    assert await site.refused("tiny-classify", *tensors) == (413, "inputs")
    assert (await site.refused("tiny-tag", texts("a" * 4000)))[0] == 413
    await site.close()


async def test_a_request_over_its_timeout_is_not_run(site: OIPSite, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = list[Any]()
    monkeypatch.setattr(OnnxModel, "run_untrusted", lambda self, feeds: runs.append(feeds))
    assert await site.refused("tiny-dna-tag", BASES, LENGTHS, parameters={"timeout": 1}) == (504, "")
    assert not runs


async def test_concurrent_requests_are_all_answered(site: OIPSite) -> None:
    feeds = {name: feeds_of(site.bundle(name), RAW[name]) for name in RAW}
    raw = [site.infer(name, *(array(t, v) for t, v in feeds[name].items())) for name in RAW for _ in range(10)]
    text = [site.infer("tiny-tag", texts("the cat")) for _ in range(50)]
    answers = cast(list[Any], await asyncio.gather(*raw, *text))
    assert all(answer == answers[place - place % 10] for place, answer in enumerate(answers[:-50]))
    assert all(answer == answers[-1] for answer in answers[-50:])


@pytest.mark.parametrize("name", ["text", "json"])
async def test_text_for_a_model_of_tensors_only_is_answered_with_its_tensors(tmp_path: Path, name: str) -> None:
    site = OIPSite(bundles.forecaster(tmp_path))
    body = {"inputs": [texts("1", name=name)], "parameters": {"top_k": 1}}
    response = await site.client.post("/v2/models/tiny-forecast/infer", json=body)
    assert refusal(response) == (422, "inputs")
    named = [tensor.name for tensor in site.bundle("tiny-forecast").manifest.inputs]
    assert response.json()["error"].endswith(", ".join(named))
    await site.close()


async def test_a_translator_takes_texts_and_no_tensors(tiny_writers: Path) -> None:
    site = OIPSite(tiny_writers)
    asked = {"generate_parameters": {"num_beams": 2, "max_new_tokens": 6}}
    found = await site.infer("tiny-translate", texts(*TEXTS), texts(orjson.dumps(asked).decode(), name="parameters"))
    body = {"inputs": TEXTS, "model": "tiny-translate", "parameters": asked}
    expected = (await site.client.post("/v1/translate", json=body)).json()
    assert found["text"]["data"] == [each["translation_text"] for each in expected]
    metadata = (await site.client.get("/v2/models/tiny-translate")).json()
    assert [each["name"] for each in metadata["inputs"]] == ["text", "json"]
    assert [each["name"] for each in metadata["outputs"]] == ["text", "json"]
    answer = await site.client.post(
        "/v2/models/tiny-translate/infer", json={"inputs": [array("pieces", np.zeros(1, np.int32))]}
    )
    assert answer.status_code == 422
    await site.close()


async def test_a_captioner_takes_vectors_as_json(tiny_writers: Path) -> None:
    site = OIPSite(tiny_writers)
    found = await site.infer("tiny-caption", texts(orjson.dumps(bundles.FRAMES).decode(), name="json"))
    (expected,) = (await site.client.post("/v1/caption", json={"inputs": bundles.FRAMES})).json()
    assert found["text"]["data"] == [expected["generated_text"]]
    await site.close()


@pytest.mark.parametrize("data", [["a" * 20_000, *[""] * 5_000], [[[1]]], [1, True], [10**400]])
def test_elements_are_checked_before_numpy_allocates(data: list[Any]) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequest) as caught:
            from_values("inputs[0]", "x", "FP32", [len(data)], data)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.details["field"] == "inputs[0].data"
    assert most < 1_000_000
