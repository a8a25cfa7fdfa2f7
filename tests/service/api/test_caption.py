"""Captions over HTTP: of pictures as files, in base64 and as pixels, of vectors, and what is refused by name."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from huggingface_hub import InferenceClient

from models import load
from models.codecs.images import MOST_PIXELS, ImageCodec
from models.manifest import ImageSpec
from service.resting_thread import QUEUE
from tests.support.oip import OIPSite, texts
from tests.support.pictures import encoded, picture_file, png_header
from tests.support.uvicorn_thread import served_in_thread

VECTORS = [[0.5, -1.0, 2.0], [0.25, 0.0, -0.5]]
PICTURES = "tiny-picture"
PNG = picture_file(5)
CODEC = ImageCodec(ImageSpec(size=16, patch=4))


@pytest.fixture(scope="module")
def address(tiny_writers: Path) -> Iterator[str]:
    with served_in_thread(tiny_writers) as address:
        yield address


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address) as client:
        yield client


def in_process(root: Path, inputs: Any, *, model: str = PICTURES, **parameters: Any) -> Any:
    return load(root / model)(inputs, **parameters)


def pixels_of(file: bytes) -> Any:
    return CODEC.read(file).tolist()


def caption(client: httpx.Client, inputs: Any, *, model: str = PICTURES, **search: Any) -> httpx.Response:
    return client.post(
        "/v1/caption", json={"inputs": inputs, "model": model, "parameters": {"generate_parameters": search}}
    )


@pytest.mark.parametrize("inputs", [VECTORS[0], VECTORS, [VECTORS]])
def test_vectors_get_captions(client: httpx.Client, tiny_writers: Path, inputs: Any) -> None:
    found = caption(client, inputs, model="tiny-caption", max_new_tokens=6).json()
    single = in_process(tiny_writers, inputs, model="tiny-caption", max_new_tokens=6)
    expected = single[0] if isinstance(single, list) else single
    assert found == [{"generated_text": expected.translation_text}]


@pytest.mark.parametrize(
    "path", ["models/tiny-picture", "models/tiny-picture/caption", "v1/caption?model=tiny-picture"]
)
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
@pytest.mark.parametrize("as_bytes", [True, False])
def test_the_client_of_hugging_face_sends_a_picture(
    address: str, tiny_writers: Path, tmp_path: Path, path: str, form: str, as_bytes: bool
) -> None:
    file, content = tmp_path / f"picture.{form.lower()}", picture_file(5, form=form)
    file.write_bytes(content)
    found = InferenceClient().image_to_text(content if as_bytes else str(file), model=f"{address}/{path}")
    assert found.generated_text == in_process(tiny_writers, content).translation_text


def test_a_file_its_base64_and_its_pixels_have_the_same_caption(client: httpx.Client, tiny_writers: Path) -> None:
    expected = [{"generated_text": in_process(tiny_writers, PNG, max_new_tokens=9).translation_text}]
    for inputs in (encoded(PNG), f"data:image/png;base64,{encoded(PNG)}", pixels_of(PNG)):
        assert caption(client, inputs, max_new_tokens=9).json() == expected
    for several in ([encoded(PNG)], [pixels_of(PNG)]):
        assert caption(client, several, max_new_tokens=9).json() == expected


def test_several_captions_come_best_first_with_the_attention_of_each_patch(client: httpx.Client) -> None:
    found = caption(client, encoded(PNG), num_beams=4, num_return_sequences=4, details=True, max_new_tokens=9).json()
    scores = [each["details"]["score"] for each in found]
    assert len(scores) == 4
    assert scores == sorted(scores, reverse=True)
    for each in found:
        attention = np.array(each["details"]["attention"])
        assert attention.shape == (each["details"]["generated_tokens"], 16)
        np.testing.assert_allclose(attention.sum(1), 1, atol=0.001)


def test_sixty_three_neighbors_change_no_caption(client: httpx.Client) -> None:
    pictures = [encoded(picture_file(seed)) for seed in range(64)]
    together = caption(client, pictures, num_beams=3, max_new_tokens=12).json()
    for number in (0, 17, 63):
        assert caption(client, pictures[number], num_beams=3, max_new_tokens=12).json() == [together[number]]


@pytest.mark.parametrize("as_file", [True, False])
def test_a_stream_is_the_greedy_caption(client: httpx.Client, tiny_writers: Path, as_file: bool) -> None:
    if as_file:
        media = {"content-type": "image/png"}
        answer = client.post(f"/v1/caption_stream?model={PICTURES}", content=PNG, headers=media)
    else:
        answer = client.post("/v1/caption_stream", json={"inputs": encoded(PNG), "model": PICTURES})
    events = [json.loads(line[5:]) for line in answer.text.splitlines() if line.startswith("data:")]
    expected = in_process(tiny_writers, PNG).translation_text
    assert "".join(event["token"]["text"] for event in events) == expected == events[-1]["generated_text"]
    assert events[-1]["details"]["input_length"] == 16


@pytest.mark.parametrize(("inputs", "search"), [([encoded(PNG)], {}), (encoded(PNG), {"num_beams": 2}), ("a text", {})])
def test_a_stream_of_several_captions_or_beams_is_refused(client: httpx.Client, inputs: Any, search: Any) -> None:
    body = {"inputs": inputs, "model": PICTURES, "parameters": {"generate_parameters": search}}
    assert client.post("/v1/caption_stream", json=body).status_code == 422


@pytest.mark.parametrize(
    ("inputs", "field"),
    [
        ("a text", "inputs"),
        ("", "inputs"),
        ([[1.0, 2.0]], "inputs"),
        ([1.0, 2.0], "inputs"),
        ([[[1.0, 2.0, 300.0]]], "inputs"),
        (encoded(b"GIF89a" + bytes(40)), "inputs"),
        (encoded(PNG[:70]), "inputs"),
        (encoded(picture_file(form="JPEG", mode="CMYK")), "inputs"),
        ([encoded(PNG), "a text"], "inputs[1]"),
        ([pixels_of(PNG), [[[1.0]]]], "inputs[1]"),
        ([[], pixels_of(PNG)], "inputs[0]"),
        ([[]], "inputs[0]"),
    ],
)
def test_what_is_no_picture_is_refused_by_name(client: httpx.Client, inputs: Any, field: str) -> None:
    answer = caption(client, inputs)
    assert (answer.status_code, answer.json()["field"]) == (422, field)


@pytest.mark.parametrize("body", [b"", b"a text", PNG[:20], png_header(16, 16)])
def test_a_body_that_is_no_picture_is_refused(client: httpx.Client, body: bytes) -> None:
    answer = client.post("/models/tiny-picture", content=body, headers={"content-type": "image/png"})
    assert (answer.status_code, answer.json()["field"]) == (422, "inputs")


@pytest.mark.parametrize("as_file", [True, False])
def test_a_decompression_bomb_is_too_large(client: httpx.Client, as_file: bool) -> None:
    bomb = png_header(30_000, 3_000)
    if as_file:
        answer = client.post("/models/tiny-picture", content=bomb, headers={"content-type": "image/png"})
    else:
        answer = caption(client, encoded(bomb))
    problem = answer.json()
    assert (answer.status_code, problem["field"], problem["limit"]) == (413, "inputs", MOST_PIXELS)


@pytest.mark.parametrize("model", ["tiny-caption", "tiny-translate"])
def test_a_file_for_another_model_is_refused(client: httpx.Client, model: str) -> None:
    answer = client.post(f"/models/{model}", content=PNG, headers={"content-type": "image/png"})
    assert answer.status_code == (422 if model == "tiny-caption" else 415)


@pytest.mark.parametrize("inputs", ["a text", [[1.0, 2.0]], [[1e39, 0.0, 0.0]], [["a"]]])
def test_other_inputs_have_no_caption_of_vectors(client: httpx.Client, inputs: Any) -> None:
    assert caption(client, inputs, model="tiny-caption").status_code == 422


def test_other_media_types_are_refused_with_those_that_are_read(client: httpx.Client) -> None:
    answer = client.post("/v1/caption", content=PNG, headers={"content-type": "image/gif"})
    assert answer.status_code == 415
    assert answer.json()["available"] == ["application/json", "image/png", "image/jpeg"]


@pytest.fixture
def reading_threads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that gets the kind of thread that reads each picture."""
    threads: list[str] = []
    read = ImageCodec.read

    def noted(codec: ImageCodec, raw: Any) -> Any:
        threads.append(threading.current_thread().name.partition("_")[0])
        return read(codec, raw)

    monkeypatch.setattr(ImageCodec, "read", noted)
    return threads


async def test_pictures_are_decoded_in_a_thread(tiny_writers: Path, reading_threads: list[str]) -> None:
    site, pixels = OIPSite(tiny_writers), pixels_of(PNG)
    reading_threads.clear()
    for inputs in (encoded(PNG), [encoded(PNG), encoded(PNG)], pixels):
        answer = await site.client.post("/v1/caption", json={"inputs": inputs, "model": PICTURES})
        assert answer.status_code == 200
    await site.close()
    assert reading_threads == ["pictures"] * 4


async def test_no_picture_is_decoded_after_the_deadline(tiny_writers: Path, reading_threads: list[str]) -> None:
    site = OIPSite(tiny_writers)
    reading_threads.clear()
    body = {"inputs": [encoded(PNG)] * 3, "model": PICTURES}
    answer = await site.client.post("/v1/caption", json=body, headers={"x-request-timeout-s": "1e-6"})
    await site.close()
    assert (answer.status_code, reading_threads) == (504, [])


async def test_pictures_wait_for_their_thread_as_long_as_the_queue_admits_them(tiny_writers: Path) -> None:
    site = OIPSite(tiny_writers)
    body = {"inputs": encoded(PNG), "model": PICTURES, "parameters": {"generate_parameters": {"max_new_tokens": 1}}}
    answers = await asyncio.gather(*(site.client.post("/v1/caption", json=body) for _ in range(2 * QUEUE)))
    await site.close()
    assert {answer.status_code for answer in answers} == {200}


async def test_pictures_over_the_open_inference_protocol(tiny_writers: Path) -> None:
    site = OIPSite(tiny_writers)
    for inputs in (encoded(PNG), pixels_of(PNG)):
        found = await site.infer(PICTURES, texts(orjson.dumps(inputs).decode(), name="json"))
        (expected,) = (await site.client.post("/v1/caption", json={"inputs": inputs, "model": PICTURES})).json()
        assert found["text"]["data"] == [expected["generated_text"]]
    await site.close()


def test_examples_of_the_document_work(client: httpx.Client) -> None:
    content = client.get("/docs.json").json()["paths"]["/v1/caption"]["post"]["requestBody"]["content"]
    assert set(content) == {"application/json", "image/png", "image/jpeg"}
    examples = content["application/json"]["examples"]
    assert set(examples) == {"tiny-caption", PICTURES}
    for example in examples.values():
        assert client.post("/v1/caption", json=example["value"]).status_code == 200
