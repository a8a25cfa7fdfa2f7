"""The routes of translations, and what they share with those of captions.

``/v1/translate`` has the shape of Hugging Face. ``/translate`` and ``/languages`` are those of
https://github.com/LibreTranslate/LibreTranslate, for its clients.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal, NotRequired
from urllib.parse import parse_qsl

import orjson
from pydantic import Field
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from models.tasks import Translation, TranslationResult
from models.tasks.beam_search import CANDIDATES, TranslateOptions
from models.tasks.translate import TranslatedSource
from service.api import schemas
from service.api.fields import AlwaysFalse, One, Only, RequestModel, parameter
from service.api.pipeline import RequestContext
from service.api.problems import OIP_ERROR, renamed_fields
from service.api.request_headers import FORM, JSON, media_of
from service.api.routes import READ, Card, Docs, EventStream, Route
from service.api.schemas import ModelName
from service.api.sse import MEDIA, StreamToken, error_event, token_chunks
from service.errors import InvalidRequest, TooLarge, shown
from service.generation import GenerationStream, TokenDelta
from service.model_runtime import ModelRuntime
from service.scheduling.job import InferenceRequest
from service.settings import Settings
from service.translation import BEAMS, DETAILS, PREFIX, SOURCE, TARGET, TranslationParameters
from service.worker import Worker

GROUP, LIBRE_GROUP = "Translate and caption", "LibreTranslate"
DEFAULT_NEW_TOKENS = 100
PREFIX_CHARACTERS = 4096
MOST_ALTERNATIVES = CANDIDATES - 1
FORM_FIELDS = 2048
FORM_COST = 16  # a byte of a form takes up to this many times as long to decode as one of JSON
LANGUAGES = {"cs": "Czech", "de": "German", "en": "English", "fr": "French"}  # names of codes; others have none
ANY_LANGUAGE = "auto"
Beams = Annotated[int, Field(ge=1, le=CANDIDATES)]


class SearchParameters(RequestModel):
    """How targets are searched. With one beam, decoding is greedy."""

    not_offered = frozenset(
        (
            *("diversity_penalty", "early_stopping", "eos_token_id", "forced_bos_token_id", "max_length", "max_time"),
            *("min_length", "min_new_tokens", "no_repeat_ngram_size", "num_beam_groups", "penalty_alpha", "seed"),
            *("temperature", "top_k", "top_p", "typical_p", "use_cache"),
        )
    )

    num_beams: Beams | None = parameter("hypotheses that are kept; 1: greedy decoding", 1)
    num_return_sequences: Beams | None = parameter("texts to return, best first; at most `num_beams`", 1)
    length_penalty: Annotated[float, Field(ge=0, le=10)] | None = parameter(
        "exponent of the length penalty of Wu et al. 2016; higher: longer texts", 0.6
    )
    max_new_tokens: Annotated[int, Field(ge=1)] | None = parameter(
        "at most `SEQSERVE_MAX_NEW_TOKENS`", unset=DEFAULT_NEW_TOKENS
    )
    target_prefix: Annotated[str, Field(max_length=PREFIX_CHARACTERS)] | None = parameter(
        "what every text begins with", ""
    )
    details: bool | None = parameter("add the score, the tokens, the alignment and the attention", False)
    do_sample: AlwaysFalse | None = None
    repetition_penalty: One | None = None


class TranslateParameters(RequestModel):
    """Which languages to translate. Each may be left out if one pair of the model remains."""

    src_lang: str | None = parameter("language of the inputs, such as `en`", unset="that of the model")
    tgt_lang: str | None = parameter("language of the answer, such as `de`", unset="that of the model")
    truncation: Annotated[str, Only("do_not_truncate")] | None = None
    clean_up_tokenization_spaces: AlwaysFalse | None = None
    generate_parameters: SearchParameters | None = parameter(
        "how texts are searched, see below", unset="greedy decoding"
    )


class TranslateRequest(schemas.NativeRequest):
    """Body of ``/v1/translate`` and ``/v1/translate_stream``."""

    inputs: schemas.StringOrStrings
    model: ModelName | None = None
    parameters: TranslateParameters | None = None


class CaptionParameters(RequestModel):
    """How to write captions."""

    generate_parameters: SearchParameters | None = parameter(
        "how texts are searched, see below", unset="greedy decoding"
    )


class TargetTokenObject(TypedDict):
    """One token. ``logprob``: its log-probability in nats."""

    id: int
    text: str
    logprob: float


class SourceTokenObject(TypedDict):
    """One token of the input, with its offsets in code points."""

    text: str
    start: int
    end: int


class DetailsObject(TypedDict):
    """How a text was found.

    ``alignment``: pairs of a source token and the token that attends to it most. ``attention``: the weights of the
    source tokens for each token. The rest up to 1 is on the end of the source.
    """

    score: float
    finish_reason: Literal["length", "eos"]
    generated_tokens: int
    tokens: list[TargetTokenObject]
    source_tokens: NotRequired[list[SourceTokenObject]]
    alignment: list[tuple[int, int]]
    attention: list[list[float]]


class TranslationObject(TypedDict):
    """One translation."""

    translation_text: str
    details: NotRequired[DetailsObject]


class TranslationEndDetails(TypedDict):
    """``input_length`` and ``generated_tokens`` count tokens."""

    finish_reason: Literal["length", "eos"]
    generated_tokens: int
    input_length: int


class TranslationEvent(TypedDict):
    """The data of one event. The last one has the whole text and its details."""

    index: int
    token: StreamToken
    generated_text: str | None
    details: TranslationEndDetails | None


class LibreRequest(RequestModel):
    """Body of ``/translate``, as JSON or as a form."""

    q: schemas.StringOrStrings
    source: str = parameter("language of `q`; `auto`: the only one that the target has")
    target: str = parameter("language of the answer")
    format: Annotated[str, Only("text")] | None = None
    alternatives: Annotated[int, Field(ge=0, le=MOST_ALTERNATIVES)] | None = parameter("other translations to add", 0)
    api_key: str | None = parameter("ignored: send keys in the header `Authorization`", unset="")


class LibreAnswer(TypedDict):
    """One translation, or one for each text of a list."""

    translatedText: str | list[str]
    alternatives: NotRequired[list[str] | list[list[str]]]


class LibreLanguage(TypedDict):
    """A language that can be read, and those into which it is translated."""

    code: str
    name: str
    targets: list[str]


_NO_SEARCH = SearchParameters()
_NO_LANGUAGES = TranslateParameters()


def parameters_of(given: TranslateParameters | CaptionParameters, *, limit: int) -> TranslationParameters:
    """Return the parameters for the engine. ``limit`` bounds max_new_tokens. Raises InvalidRequest."""
    search = given.generate_parameters or _NO_SEARCH
    beams, count = search.value_of(BEAMS), search.value_of("num_return_sequences")
    new_tokens = min(DEFAULT_NEW_TOKENS, limit) if search.max_new_tokens is None else search.max_new_tokens
    if new_tokens > limit:
        raise InvalidRequest(
            f"{shown(new_tokens)} is out of range; the limit is {limit}",
            field=_search_field("max_new_tokens"),
            limit=limit,
            value=new_tokens,
        )
    if count > beams:
        raise InvalidRequest(
            f"{count} is over num_beams, {beams}; raise num_beams",
            field=_search_field("num_return_sequences"),
            limit=beams,
            value=count,
        )
    options = TranslateOptions(
        max_new_tokens=new_tokens,
        num_beams=beams,
        num_return_sequences=count,
        length_penalty=search.value_of("length_penalty"),
        details=bool(search.details),
    )
    languages = {name: getattr(given, name, None) for name in (SOURCE, TARGET)}  # captions have none
    return TranslationParameters(**languages, target_prefix=search.value_of(PREFIX), options=options)


def _search_field(name: str) -> str:
    """Return the request's name of a field of the search, or of a language."""
    if name in (PREFIX, BEAMS, DETAILS, "max_new_tokens", "num_return_sequences"):
        return f"parameters.generate_parameters.{name}"
    return f"parameters.{name}" if name in (SOURCE, TARGET) else name


def _choose_model(context: RequestContext, named: str | None, source: str | None, target: str | None) -> str | None:
    """Return the model: the named one, or the first that has the languages."""
    if named is None and context.model_in_url is None:
        named = context.worker.engine.translator_for(source, target)
    return context.choose_model(named, "translate")


async def _translate(context: RequestContext, body: bytes) -> Any:
    request = await schemas.read_request(TranslateRequest, body, context.worker)
    given = request.parameters or _NO_LANGUAGES
    single = isinstance(request.inputs, str)
    inputs = [request.inputs] if isinstance(request.inputs, str) else request.inputs
    found = await ask(
        context.worker,
        "translate",
        inputs,
        given,
        model=_choose_model(context, request.model, given.src_lang, given.tgt_lang),
        single=single,
        request=context.request,
    )
    return answer(found, translation_objects, given.generate_parameters, single=single)


async def ask(
    worker: Worker,
    task: str,
    inputs: Sequence[Any],
    given: TranslateParameters | CaptionParameters,
    *,
    model: ModelRuntime | str | None,
    single: bool = False,
    rename: Callable[[str], str] = _search_field,
    request: InferenceRequest,
) -> list[TranslationResult]:
    """Return the translation of each text, or the caption of each input. Errors name fields as ``rename`` does."""
    parameters = parameters_of(given, limit=worker.settings.max_new_tokens)
    with renamed_fields(rename):
        schemas.check_input_count(len(inputs), worker.settings)
        return await worker.engine.translate(
            inputs, task=task, model=model, parameters=parameters, single=single, request=request
        )


def answer(
    found: Sequence[TranslationResult],
    encode: Callable[[TranslationResult], Sequence[Any]],
    search: SearchParameters | None,
    *,
    single: bool,
) -> Any:
    """Return a flat list for one input, or for one text per input; otherwise a list of lists, as Hugging Face does."""
    rows = list(map(encode, found))
    if single:
        return rows[0]
    flat = search is None or search.value_of("num_return_sequences") == 1
    return [row[0] for row in rows] if flat else rows


def text_objects(name: str, best: TranslationResult) -> list[Any]:
    """Return an object for a text and for each alternative, which has the text under ``name``."""
    return [{name: each.translation_text, **_details(each)} for each in (best, *(best.alternatives or ()))]


translation_objects = partial(text_objects, "translation_text")


def _details(result: TranslationResult) -> dict[str, Any]:
    details = result.details
    if details is None:
        return {}
    answer: dict[str, Any] = {
        "score": details.score,
        "finish_reason": details.finish_reason,
        "generated_tokens": len(details.tokens),
        "tokens": [token._asdict() for token in details.tokens],
        "alignment": details.alignment,
        "attention": details.attention,
    }
    if details.source_tokens is not None:
        answer["source_tokens"] = [token._asdict() for token in details.source_tokens]
    return {"details": answer}


async def _translate_stream(context: RequestContext, body: bytes) -> EventStream:
    request = await schemas.read_request(TranslateRequest, body, context.worker)
    given = request.parameters or _NO_LANGUAGES
    if not isinstance(request.inputs, str):
        raise InvalidRequest("a stream has one text; send a string, and one request per text", field="inputs")
    model = _choose_model(context, request.model, given.src_lang, given.tgt_lang)
    return await stream_text(context, "translate", request.inputs, given, model=model)


async def stream_text(
    context: RequestContext,
    task: str,
    raw: Any,
    given: TranslateParameters | CaptionParameters,
    *,
    model: ModelRuntime | str | None,
) -> EventStream:
    """Return the greedy translation or caption of one input, with one event per token."""
    parameters = parameters_of(given, limit=context.worker.settings.max_new_tokens)
    if parameters.options.num_beams > 1:
        raise InvalidRequest(
            f"a beam can change what it has written; send 1, or use /v1/{task}",
            field=_search_field(BEAMS),
            limit=1,
            value=parameters.options.num_beams,
        )
    parameters = replace(parameters, options=replace(parameters.options, details=False))
    with renamed_fields(_search_field):
        stream = await context.worker.engine.translate_stream(
            raw, task=task, model=model, parameters=parameters, request=context.request
        )
    stream.keepalive_s = context.worker.settings.keepalive_s
    return EventStream(
        media=MEDIA, chunks=token_chunks(stream, partial(_stream_end, stream)), on_error=error_event(context)
    )


def _stream_end(stream: GenerationStream[TranslatedSource], delta: TokenDelta) -> bytes:
    details = {
        "finish_reason": delta.finish_reason,
        "generated_tokens": stream.generated_tokens(delta.index),
        "input_length": stream.prompt_tokens[delta.index],
    }
    text = stream.result(delta.index).translation_text
    return orjson.dumps({"generated_text": text, "details": details})[1:-1]


async def _libre_translate(context: RequestContext, body: bytes) -> Any:
    worker, is_form = context.worker, media_of(context.headers) == FORM
    size = FORM_COST * len(body) if is_form else len(body)
    request = await worker.parser.run(_parse_libre, body, is_form, worker.settings, size=size)
    count = 1 + request.value_of("alternatives")
    given = TranslateParameters(
        src_lang=None if request.source == ANY_LANGUAGE else request.source,
        tgt_lang=request.target,
        generate_parameters=SearchParameters(num_beams=count, num_return_sequences=count),
    )
    single = isinstance(request.q, str)
    found = await ask(
        worker,
        "translate",
        [request.q] if isinstance(request.q, str) else request.q,
        given,
        model=_choose_model(context, None, given.src_lang, given.tgt_lang),
        single=single,
        rename=_libre_field,
        request=context.request,
    )
    answers: dict[str, list[Any]] = {"translatedText": [each.translation_text for each in found]}
    if count > 1:
        answers["alternatives"] = [[each.translation_text for each in best.alternatives or ()] for best in found]
    return {name: rows[0] for name, rows in answers.items()} if single else answers


def _parse_libre(body: bytes, is_form: bool, settings: Settings) -> LibreRequest:
    return schemas.parse_body(LibreRequest, _json_of_form(body) if is_form else body, settings)


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


def _libre_field(name: str) -> str:
    names = {SOURCE: "source", TARGET: "target", BEAMS: "alternatives"}
    return names.get(name, name.replace("inputs", "q", 1) if name.startswith("inputs") else name)


async def _libre_languages(context: RequestContext, _: bytes) -> list[LibreLanguage]:
    tasks = [runtime.bundle.task for runtime in context.worker.engine.runtimes.values()]
    pairs = [pair for task in tasks if isinstance(task, Translation) for pair in task.pairs]
    return [
        {
            "code": code,
            "name": LANGUAGES.get(code, code),
            "targets": list(dict.fromkeys(pair.target for pair in pairs if pair.source == code)),
        }
        for code in dict.fromkeys(pair.source for pair in pairs)
    ]


def _libre_example(card: Card) -> Any:
    return {"q": card["examples"][0], **card["pairs"][0]} if card["pairs"] else None


TRANSLATE_DOCS = Docs(
    group=GROUP,
    summary="Translate texts",
    about="Always returns a list. A list of texts with several `num_return_sequences` returns a list of lists. Without"
    " a model, the first one with these languages translates.",
    body=TranslateRequest,
    answer=list[TranslationObject] | list[list[TranslationObject]],
    example=schemas.example("translate"),
)
STREAM_DOCS = Docs(
    group=GROUP,
    summary="Translate a text, with one event per token",
    about="Decoding is greedy, because a beam can change what it has written. An error after the first token is an"
    " `event: error` whose data is the problem.",
    body=TranslateRequest,
    answer=None,
    media=MEDIA.decode(),
    event=TranslationEvent,
    example=schemas.example("translate"),
)
LIBRE_DOCS = Docs(
    group=LIBRE_GROUP,
    summary="Translate texts, for clients of LibreTranslate",
    about="Reads JSON and forms. The first model with these languages translates.",
    body=LibreRequest,
    answer=LibreAnswer,
    example=_libre_example,
)
LANGUAGES_DOCS = Docs(
    group=LIBRE_GROUP, summary="List the languages, for clients of LibreTranslate", answer=list[LibreLanguage]
)
TRANSLATE_ROUTE = Route("/v1/translate", ("POST",), _translate, task="translate", docs=TRANSLATE_DOCS)
ROUTES = (
    TRANSLATE_ROUTE,
    Route("/v1/translate_stream", ("POST",), _translate_stream, task="translate", docs=STREAM_DOCS),
    Route(
        "/translate",
        ("POST",),
        _libre_translate,
        task="translate",
        error_format=OIP_ERROR,
        media=(JSON, FORM),
        docs=LIBRE_DOCS,
    ),
    Route("/languages", READ, _libre_languages, error_format=OIP_ERROR, docs=LANGUAGES_DOCS),
)
