"""The routes for clients of LibreTranslate: translation with a named or a detected language, and forms."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from libretranslatepy import LibreTranslateAPI

from models.manifest import LanguagePair
from service.api import schemas
from service.worker import LARGE_BYTES
from tests.support import bundles
from tests.support.oip import OIPSite
from tests.support.uvicorn_thread import served_in_thread

TEXT = "a cat sat"
GERMAN = "Eine Katze sitzt auf der Matte."


@pytest.fixture(scope="module")
def address(tiny_writers: Path) -> Iterator[str]:
    with served_in_thread(tiny_writers) as address:
        yield address


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address) as client:
        yield client


def translation(client: httpx.Client, text: str, model: str = "tiny-translate") -> str:
    """Return what the native route answers."""
    (found,) = client.post("/v1/translate", json={"inputs": text, "model": model}).json()
    return str(found["translation_text"])


def test_a_client_of_libretranslate_translates(address: str, client: httpx.Client) -> None:
    libre = LibreTranslateAPI(address)
    assert libre.translate("a cät & dog", "en", "de") == translation(client, "a cät & dog")
    assert libre.languages() == [
        {"code": "de", "name": "German", "targets": ["en"]},
        {"code": "en", "name": "English", "targets": ["de"]},
    ]


def test_alternatives_and_lists_are_answered(client: httpx.Client) -> None:
    body = {"q": [TEXT, "Paris"], "source": "auto", "target": "de", "format": "text", "alternatives": 2}
    answer = client.post("/translate", json=body).json()
    assert len(answer["translatedText"]) == 2
    assert list(map(len, answer["alternatives"])) == [2, 2]


def test_errors_have_the_shape_of_libretranslate(client: httpx.Client) -> None:
    answer = client.post("/translate", data={"q": TEXT, "source": "en", "target": "xx"})
    assert answer.status_code == 422
    assert list(answer.json()) == ["error"]
    many = client.post("/translate", data={f"q{number}": "" for number in range(3000)})
    assert many.status_code == 413


def test_a_client_detects_the_language(address: str) -> None:
    found = LibreTranslateAPI(address).detect(GERMAN)
    assert [each["language"] for each in found] == ["de", "en"]
    assert 100 >= found[0]["confidence"] > 50 > found[1]["confidence"] >= 0


def test_auto_translates_from_the_detected_language(address: str, client: httpx.Client) -> None:
    assert LibreTranslateAPI(address).translate(GERMAN, "auto", "en") == translation(client, GERMAN, "tiny-back")
    answer = client.post("/translate", json={"q": GERMAN, "source": "auto", "target": "en"}).json()
    assert answer["detectedLanguage"]["language"] == "de"
    assert answer["detectedLanguage"]["confidence"] > 50


def test_auto_chooses_among_several_sources(tmp_path: Path) -> None:
    for source in ("aa", "de", "en"):
        pairs = [LanguagePair(source=source, target="xx")]
        bundles.translator(tmp_path, name=f"tiny-{source}", pairs=pairs)
    with served_in_thread(tmp_path) as address, httpx.Client(base_url=address) as client:
        for text, language in ((GERMAN, "de"), ("The dog is in the house.", "en")):
            answer = client.post("/translate", json={"q": text, "source": "auto", "target": "xx"})
            assert answer.json()["detectedLanguage"]["language"] == language
            assert answer.headers["x-model"].startswith(f"tiny-{language}@")


@pytest.mark.parametrize("texts", [GERMAN, [GERMAN, "Hund"]])
def test_a_text_in_the_language_of_the_target_stays(client: httpx.Client, texts: Any) -> None:
    answer = client.post("/translate", json={"q": texts, "source": "auto", "target": "de", "alternatives": 1}).json()
    assert answer["translatedText"] == texts
    assert answer["alternatives"] == ([] if isinstance(texts, str) else [[], []])
    detected = answer["detectedLanguage"]
    assert {each["language"] for each in ([detected] if isinstance(texts, str) else detected)} == {"de"}


def test_a_word_is_translated_whatever_its_language(client: httpx.Client) -> None:
    answer = client.post("/translate", json={"q": "Katze", "source": "auto", "target": "de"}).json()
    assert (answer["detectedLanguage"]["language"], answer["translatedText"]) == ("en", translation(client, "Katze"))


@pytest.mark.parametrize("text", ["", "☃", "123"])
def test_no_language_is_certain_without_letters(client: httpx.Client, text: str) -> None:
    assert {each["confidence"] for each in client.post("/detect", json={"q": text}).json()} == {0}
    answer = client.post("/translate", json={"q": text, "source": "auto", "target": "de"}).json()
    assert answer["detectedLanguage"] == {"language": "en", "confidence": 0}


@pytest.mark.parametrize("body", [{}, {"q": ["a"]}, {"q": 1}, {"q": "a", "source": "en"}])
def test_other_fields_than_a_text_have_no_language(client: httpx.Client, body: Any) -> None:
    answer = client.post("/detect", json=body)
    assert (answer.status_code, list(answer.json())) == (422, ["error"])


async def test_a_form_that_takes_long_to_decode_is_read_in_the_parser_thread(
    tiny_writers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    parse = schemas.parse_body

    def noted(*args: Any) -> Any:
        threads.append(threading.current_thread().name.partition("_")[0])
        return parse(*args)

    monkeypatch.setattr(schemas, "parse_body", noted)
    site = OIPSite(tiny_writers)
    for length in (10, LARGE_BYTES // 40):  # characters of six bytes each
        answer = await site.client.post("/translate", data={"q": "é" * length, "source": "en", "target": "xx"})
        assert answer.status_code == 422
    await site.close()
    assert threads == [threading.current_thread().name, "parse"]
