"""The routes of https://github.com/LibreTranslate/LibreTranslate, for its clients."""

from collections.abc import Sequence
from typing import Annotated, Any, NotRequired, TypeVar, cast
from urllib.parse import parse_qsl

import orjson
from pydantic import Field
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from models import languages
from models.languages import DetectedLanguage
from models.manifest import LanguagePair, TranslationSpec
from models.tasks.beam_search import CANDIDATES
from service.api import schemas
from service.api.fields import Only, RequestModel, parameter
from service.api.pipeline import RequestContext
from service.api.problems import OIP_ERROR
from service.api.request_headers import FORM, JSON, media_of
from service.api.routes import READ, Card, Docs, Route
from service.api.translate import SearchParameters, TranslateParameters, ask, choose_model
from service.errors import TooLarge
from service.settings import Settings
from service.translation import BEAMS, SOURCE, TARGET
from service.worker import Worker

R = TypeVar("R", bound=RequestModel)
GROUP = "LibreTranslate"
MOST_ALTERNATIVES = CANDIDATES - 1
FORM_FIELDS = 2048
FORM_COST = 16  # a byte of a form takes up to this many times as long to decode as one of JSON
NAMES = {"cs": "Czech", "de": "German", "en": "English", "fr": "French"}  # of codes; others have none
ANY_LANGUAGE = "auto"
PERCENT_DIGITS = 1  # of a confidence
FEWEST_CHARACTERS = 20  # of a text that is returned as it is, because it is in the target's language


class LibreRequest(RequestModel):
    """Body of ``/translate``, as JSON or as a form."""

    q: schemas.StringOrStrings
    source: str = parameter("language of `q`; `auto`: it is detected")
    target: str = parameter("language of the answer")
    format: Annotated[str, Only("text")] | None = None
    alternatives: Annotated[int, Field(ge=0, le=MOST_ALTERNATIVES)] | None = parameter("other translations to add", 0)
    api_key: str | None = parameter("ignored: send keys in the header `Authorization`", unset="")


class DetectRequest(RequestModel):
    """Body of ``/detect``, as JSON or as a form."""

    q: str
    api_key: str | None = parameter("ignored: send keys in the header `Authorization`", unset="")


class DetectedObject(TypedDict):
    """A language, with a confidence in percent."""

    confidence: float
    language: str


class LibreAnswer(TypedDict):
    """One translation, or one for each text of a list. ``detectedLanguage``: with the source ``auto``."""

    translatedText: str | list[str]
    alternatives: NotRequired[list[str] | list[list[str]]]
    detectedLanguage: NotRequired[DetectedObject | list[DetectedObject]]


class LibreLanguage(TypedDict):
    """A language that can be read, and those into which it is translated."""

    code: str
    name: str
    targets: list[str]


async def _translate(context: RequestContext, body: bytes) -> LibreAnswer:
    request = await _read(LibreRequest, context, body)
    texts = [request.q] if isinstance(request.q, str) else request.q
    schemas.check_input_count(len(texts), context.worker.settings, field="q")
    source: str | None = request.source
    detected = None
    if request.source == ANY_LANGUAGE:
        # A model that the URL names has its own language.
        detected = _detect_source(context.worker, texts, request.target) if context.model_in_url is None else None
        source = None if detected is None else detected.language
    if source == request.target and detected is not None:  # there is nothing to translate
        rows: list[list[str]] = [[text] for text in texts]
    else:
        rows = await _search(context, request, texts, source)
    answer: dict[str, Any] = {"translatedText": [row[0] for row in rows]}
    if request.value_of("alternatives"):
        answer["alternatives"] = [row[1:] for row in rows]
    if detected is not None:
        answer["detectedLanguage"] = [_detected_object(detected)] * len(rows)
    if isinstance(request.q, str):
        answer = {name: values[0] for name, values in answer.items()}
    return cast(LibreAnswer, answer)


async def _search(
    context: RequestContext, request: LibreRequest, texts: Sequence[str], source: str | None
) -> list[list[str]]:
    """Return the translation of each text, and its alternatives."""
    count = 1 + request.value_of("alternatives")
    given = TranslateParameters(
        src_lang=source,
        tgt_lang=request.target,
        generate_parameters=SearchParameters(num_beams=count, num_return_sequences=count),
    )
    found = await ask(
        context.worker,
        "translate",
        texts,
        given,
        model=choose_model(context, None, source, request.target),
        single=isinstance(request.q, str),
        rename=_field,
        request=context.request,
    )
    return [[each.translation_text for each in (best, *(best.alternatives or ()))] for best in found]


def _detect_source(worker: Worker, texts: Sequence[str], target: str) -> DetectedLanguage | None:
    """Return the most likely language of texts among those with a translation to `target`, and the target itself.

    None: no language has a translation. Languages without a profile are not detected, but the first one is the default.
    """
    sources = list(dict.fromkeys(pair.source for pair in _pairs(worker) if pair.target == target))
    if not sources:
        return None
    profiles = _profiles(worker)
    text = " ".join(texts)
    # A few letters do not show that a text needs no translation.
    candidates = sources if len(text) < FEWEST_CHARACTERS else [*sources, target]
    found = languages.detect(text, {code: profiles[code] for code in candidates if code in profiles})
    return found[0] if found else DetectedLanguage(sources[0], 0.0)


async def _detect(context: RequestContext, body: bytes) -> list[DetectedObject]:
    request = await _read(DetectRequest, context, body)
    return list(map(_detected_object, languages.detect(request.q, _profiles(context.worker))))


def _detected_object(found: DetectedLanguage) -> DetectedObject:
    return {"confidence": round(100 * found.confidence, PERCENT_DIGITS), "language": found.language}


def _specs(worker: Worker) -> list[TranslationSpec]:
    manifests = [runtime.bundle.manifest for runtime in worker.engine.runtimes.values()]
    return [manifest.translation for manifest in manifests if manifest.translation is not None]


def _pairs(worker: Worker) -> list[LanguagePair]:
    return [pair for spec in _specs(worker) for pair in spec.pairs]


def _profiles(worker: Worker) -> dict[str, languages.Profile]:
    """Return the profile of each language, of the first model that has one."""
    return {code: each for spec in reversed(_specs(worker)) for code, each in spec.profiles.items()}


async def _read(model: type[R], context: RequestContext, body: bytes) -> R:
    """Parse a body, JSON or a form, in the parser thread if it is large. Raises InvalidRequest."""
    worker, is_form = context.worker, media_of(context.headers) == FORM
    size = FORM_COST * len(body) if is_form else len(body)
    return await worker.parser.run(_parse, model, body, is_form, worker.settings, size=size)


def _parse(model: type[R], body: bytes, is_form: bool, settings: Settings) -> R:
    return schemas.parse_body(model, _json_of_form(body) if is_form else body, settings)


def _json_of_form(body: bytes) -> bytes:
    """Return a form as a JSON object. A repeated name has a list. Raises TooLarge for too many fields."""
    document: dict[str, Any] = {}
    try:
        pairs = parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=FORM_FIELDS)
    except ValueError:
        raise TooLarge(f"more than {FORM_FIELDS} fields; send several requests", limit=FORM_FIELDS) from None
    for name, value in pairs:
        is_number = name == "alternatives" and value.isascii() and value.isdigit() and len(value) < 9
        new: Any = int(value) if is_number else value
        old = document.get(name)
        document[name] = new if old is None else [*(old if isinstance(old, list) else [old]), new]
    return orjson.dumps(document)


def _field(name: str) -> str:
    names = {SOURCE: "source", TARGET: "target", BEAMS: "alternatives"}
    return names.get(name, name.replace("inputs", "q", 1) if name.startswith("inputs") else name)


async def _list_languages(context: RequestContext, _: bytes) -> list[LibreLanguage]:
    pairs = _pairs(context.worker)
    return [
        {
            "code": code,
            "name": NAMES.get(code, code),
            "targets": list(dict.fromkeys(pair.target for pair in pairs if pair.source == code)),
        }
        for code in dict.fromkeys(pair.source for pair in pairs)
    ]


def _example(card: Card) -> Any:
    return {"q": card["examples"][0], **card["pairs"][0]} if card["pairs"] else None


def _detect_example(card: Card) -> Any:
    return {"q": card["examples"][0]} if card["pairs"] else None


TRANSLATE_DOCS = Docs(
    group=GROUP,
    summary="Translate texts, for clients of LibreTranslate",
    about="Reads JSON and forms. The first model with these languages translates. With the source `auto`, the language"
    " is detected, and texts in the target's language are returned as they are.",
    body=LibreRequest,
    answer=LibreAnswer,
    example=_example,
)
DETECT_DOCS = Docs(
    group=GROUP,
    summary="Detect the language of a text, for clients of LibreTranslate",
    about="Knows the languages of the loaded translators, the most likely one first. The confidence is the probability"
    " among these languages, times the share of the trigrams of letters that the language's profile has. So a text in"
    " another language has a low confidence.",
    body=DetectRequest,
    answer=list[DetectedObject],
    example=_detect_example,
)
LANGUAGES_DOCS = Docs(
    group=GROUP, summary="List the languages, for clients of LibreTranslate", answer=list[LibreLanguage]
)
COMMON: dict[str, Any] = {"task": "translate", "error_format": OIP_ERROR, "media": (JSON, FORM)}
ROUTES = (
    Route("/translate", ("POST",), _translate, docs=TRANSLATE_DOCS, **COMMON),
    Route("/detect", ("POST",), _detect, docs=DETECT_DOCS, **COMMON),
    Route("/languages", READ, _list_languages, error_format=OIP_ERROR, docs=LANGUAGES_DOCS),
)
