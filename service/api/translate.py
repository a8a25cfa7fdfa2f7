"""The routes of translations in the shape of Hugging Face, and what they share with captions and LibreTranslate."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal, NotRequired

import orjson
from pydantic import Field
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from models.tasks import TranslationResult
from models.tasks.beam_search import CANDIDATES, TranslateOptions
from models.tasks.translate import TranslatedSource
from service.api import schemas
from service.api.fields import AlwaysFalse, One, Only, RequestModel, parameter
from service.api.pipeline import RequestContext
from service.api.problems import renamed_fields
from service.api.routes import Docs, EventStream, Route
from service.api.schemas import ModelName
from service.api.sse import MEDIA, StreamToken, error_event, token_chunks
from service.errors import InvalidRequest, shown
from service.generation import GenerationStream, TokenDelta
from service.model_runtime import ModelRuntime
from service.scheduling.job import InferenceRequest
from service.translation import BEAMS, DETAILS, PREFIX, SOURCE, TARGET, TranslationParameters
from service.worker import Worker

GROUP = "Translate and caption"
DEFAULT_NEW_TOKENS = 100
PREFIX_CHARACTERS = 4096
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


def choose_model(context: RequestContext, named: str | None, source: str | None, target: str | None) -> str | None:
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
        model=choose_model(context, request.model, given.src_lang, given.tgt_lang),
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
    model = choose_model(context, request.model, given.src_lang, given.tgt_lang)
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
TRANSLATE_ROUTE = Route("/v1/translate", ("POST",), _translate, task="translate", docs=TRANSLATE_DOCS)
ROUTES = (
    TRANSLATE_ROUTE,
    Route("/v1/translate_stream", ("POST",), _translate_stream, task="translate", docs=STREAM_DOCS),
)
