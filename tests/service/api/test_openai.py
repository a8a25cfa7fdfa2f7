"""The official client of OpenAI against ``bentoml serve`` with tiny bundles: completions, models, embeddings."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from openai import OpenAI
from openai.types import Completion

from tests.support.bentoml_server import served

PROMPT = "ROMEO:"
KEY = "a-key-of-the-test"
SEEDED: dict[str, Any] = {"model": "tiny-generate", "prompt": PROMPT, "max_tokens": 24, "seed": 7}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, tiny_zoo: Path, tiny_live: Path) -> Iterator[str]:
    bundles = f"{tiny_zoo},{tiny_live}"
    home = tmp_path_factory.mktemp("openai")
    with served(home, service="service.app:Seqserve", SEQSERVE_BUNDLES=bundles, SEQSERVE_API_KEYS=KEY) as (
        address,
        _,
        _,
    ):
        yield address


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def joined(chunks: list[Completion], index: int = 0) -> str:
    return "".join(choice.text for chunk in chunks for choice in chunk.choices if choice.index == index)


def test_a_completion_equals_v1_generate(client: OpenAI, address: str) -> None:
    found = client.completions.create(**SEEDED)
    body = {"inputs": PROMPT, "parameters": {"max_new_tokens": 24, "seed": 7}}
    plain = httpx.post(f"{address}/v1/generate", json=body, headers={"authorization": f"Bearer {KEY}"}).json()
    (choice,) = found.choices
    assert (choice.text, choice.finish_reason, found.model) == (plain["generated_text"], "length", "tiny-generate")
    assert found.usage is not None
    assert (found.usage.prompt_tokens, found.usage.completion_tokens, found.usage.total_tokens) == (6, 24, 30)


def test_choices_differ_and_repeat_with_their_seed(client: OpenAI) -> None:
    first, again = (client.completions.create(**SEEDED | {"prompt": [PROMPT, "a cat"]}, n=3) for _ in range(2))
    texts = [choice.text for choice in first.choices]
    assert texts == [choice.text for choice in again.choices]
    assert (len(set(texts)), [choice.index for choice in first.choices]) == (6, list(range(6)))
    assert texts[0] == client.completions.create(**SEEDED).choices[0].text


def test_best_of_returns_the_most_likely_texts(client: OpenAI) -> None:
    every = client.completions.create(**SEEDED, n=4, logprobs=0).choices
    means = {c.text: sum(c.logprobs.token_logprobs or []) / 24 for c in every if c.logprobs}
    best = client.completions.create(**SEEDED, n=2, best_of=4)
    assert [choice.text for choice in best.choices] == sorted(means, key=lambda text: -means[text])[:2]
    assert best.usage
    assert best.usage.completion_tokens == 4 * 24


def test_returnedinclude_the_top_tokens_and_the_sampled_one(client: OpenAI) -> None:
    returned = client.completions.create(**SEEDED | {"temperature": 0}, logprobs=3).choices[0].logprobs
    assert returned
    assert returned.text_offset == list(range(24))
    for token, logprob, top in zip(
        returned.tokens or [], returned.token_logprobs or [], returned.top_logprobs or [], strict=True
    ):
        assert (len(top), top[token], max(top.values())) == (3, logprob, logprob)


def test_echo_prepends_the_prompt(client: OpenAI) -> None:
    text = client.completions.create(**SEEDED).choices[0].text
    assert client.completions.create(**SEEDED, echo=True).choices[0].text == PROMPT + text
    assert joined(list(client.completions.create(**SEEDED, echo=True, stream=True))) == PROMPT + text


@pytest.mark.parametrize("length", [1, 3])
def test_a_text_ends_before_its_stop_string(client: OpenAI, length: int) -> None:
    text = client.completions.create(**SEEDED).choices[0].text
    stop = text[10 : 10 + length]
    found = client.completions.create(**SEEDED, stop=[stop, "never there"], logprobs=0).choices[0]
    assert (found.text, found.finish_reason) == (text[: text.index(stop)], "stop")
    assert found.logprobs
    assert "".join(found.logprobs.tokens or []) == found.text
    chunks = list(client.completions.create(**SEEDED, stop=stop, stream=True))
    assert (joined(chunks), chunks[-1].choices[0].finish_reason) == (found.text, "stop")


def test_a_stream_has_every_choice_and_ends_with_the_usage(client: OpenAI) -> None:
    options: Any = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(client.completions.create(**SEEDED, n=2, **options))
    whole = client.completions.create(**SEEDED, n=2)
    assert [joined(chunks, index) for index in (0, 1)] == [choice.text for choice in whole.choices]
    assert (chunks[-1].choices, chunks[-1].usage, chunks[0].usage) == ([], whole.usage, None)


def test_an_error_after_the_first_event_is_raised_by_the_client(address: str) -> None:
    late = {"x-request-timeout-s": "0.15"}
    with OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0, default_headers=late) as client:
        chunks = client.completions.create(**SEEDED | {"max_tokens": 4000}, n=15, stream=True)
        with pytest.raises(openai.APIError) as caught:
            list(chunks)
    assert caught.value.code == "deadline-passed"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": [1, 2, 3]}, "prompt"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 100_000}, "max_tokens"),
        ({"n": 3, "best_of": 2}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"suffix": "x"}, "suffix"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"logit_bias": {"50256": -100}}, "logit_bias"),
        ({"echo": True, "logprobs": 1}, "logprobs"),
        ({"extra_body": {"made_up": 1}}, "made_up"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_unsupported_field_is_rejected_by_name(client: OpenAI, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        client.completions.create(**SEEDED | fields)
    assert (caught.value.param, caught.value.type, caught.value.code) == (
        param,
        "invalid_request_error",
        "invalid-request",
    )


def test_neutral_values_of_unsupported_fields_are_accepted(client: OpenAI) -> None:
    neutral: Any = {"suffix": None, "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "user": "u"}
    assert client.completions.create(**SEEDED, **neutral, stream=False).choices[0].text


def test_each_status_raises_the_clients_exception(client: OpenAI, address: str) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.completions.create(**SEEDED | {"model": "made-up"})
    assert (unknown.value.param, unknown.value.code) == ("model", "unknown-model")
    with pytest.raises(openai.AuthenticationError) as closed:
        OpenAI(base_url=f"{address}/v1", api_key="wrong-key", max_retries=0).completions.create(**SEEDED)
    assert closed.value.type == "authentication_error"
    with pytest.raises(openai.APIStatusError) as long:
        client.completions.create(**SEEDED | {"prompt": ["a", "b" * 500]}, n=2)
    assert (long.value.status_code, long.value.param) == (413, "prompt[1]")


def test_models_are_listed_and_retrieved(client: OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert {"tiny-generate", "tiny-embed"} <= set(names)
    assert client.models.retrieve("tiny-generate").owned_by == "seqserve"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("made-up")


def test_chat_is_refused_with_the_route_to_use_instead(client: OpenAI, address: str) -> None:
    messages: list[Any] = [{"role": "user", "content": "ROMEO:"}]
    with pytest.raises(openai.NotFoundError, match="/v1/completions") as chat:
        client.chat.completions.create(model="tiny-generate", messages=messages)
    assert (chat.value.type, chat.value.code) == ("invalid_request_error", "not-found")
    with pytest.raises(openai.NotFoundError, match="/v1/completions"):
        client.responses.create(model="tiny-generate", input="ROMEO:")
    with pytest.raises(HfHubHTTPError, match="/v1/completions"):
        InferenceClient(model=f"{address}/models/tiny-generate", token=KEY).chat_completion(messages)


def test_float_and_base64_embeddings_are_equal(client: OpenAI) -> None:
    texts = ["the cat sat on a mat .", "a lovely film"]
    plain = client.embeddings.create(model="tiny-embed", input=texts, encoding_format="float")
    coded = client.embeddings.create(model="tiny-embed", input=texts)  # the client asks for base64 and decodes it
    for one, other in zip(plain.data, coded.data, strict=True):
        assert np.array_equal(np.float32(one.embedding), np.float32(other.embedding))
    assert (len(plain.data), plain.usage.prompt_tokens, plain.model) == (2, 10, "tiny-embed")
    raw = client.embeddings.with_raw_response.create(model="tiny-embed", input=texts[0], encoding_format="base64")
    (found,) = raw.http_response.json()["data"]
    assert len(base64.b64decode(found["embedding"])) == 4 * len(plain.data[0].embedding)


def test_dimensions_must_be_the_models_width(client: OpenAI) -> None:
    width = len(client.embeddings.create(model="tiny-embed", input="a").data[0].embedding)
    assert client.embeddings.create(model="tiny-embed", input="a", dimensions=width).data
    with pytest.raises(openai.UnprocessableEntityError) as narrow:
        client.embeddings.create(model="tiny-embed", input="a", dimensions=width - 1)
    assert narrow.value.param == "dimensions"
    with pytest.raises(openai.NotFoundError) as other:
        client.embeddings.create(model="tiny-generate", input="a")
    assert other.value.param == "model"
    with pytest.raises(openai.UnprocessableEntityError) as empty:
        client.embeddings.create(model="tiny-embed", input=["a", ""])
    assert empty.value.param == "input[1]"
