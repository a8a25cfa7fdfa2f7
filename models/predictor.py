"""Use a bundle in this process: the tasks, parameters and answers of the service, without HTTP.

T steps, B batch, W embedding width.
"""

import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models import bundle as bundles
from models import state as states
from models.bundle import Bundle
from models.codecs import InputError, TooLong
from models.codecs.base import pad, quoted
from models.inputs import PICTURE_DEPTH, are_one, hold_numbers, is_vector
from models.manifest import FrameRate, locate
from models.messages import needed, suggest
from models.onnx_session import Device, Placement
from models.sampling import SamplingOptions
from models.tasks import (
    Decoding,
    EmbeddingInput,
    Filling,
    Forecasting,
    Generation,
    GenerationResult,
    Joint,
    Tagging,
    Translation,
    TranslationResult,
)
from models.tasks.beam_search import CANDIDATES
from models.tasks.fill import DEFAULT_WORDS, MOST_TARGETS
from models.tasks.forecast import DEFAULT_LEVELS
from models.tasks.generate import GeneratedText, GenerateOptions, TokenSampler
from models.tasks.translation_rows import search

BATCH_ROWS, BATCH_TOKENS = 32, 2048  # of one batch, at most; tokens with padding
SEED_BITS = 53  # of a random seed
StopString = Annotated[str, Field(min_length=1, max_length=256)]


class ParameterError(ValueError):
    """Parameters that a task does not have, or values out of range. The message names all of them."""


class _Parameters(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class AggregationOptions(_Parameters):
    """Parameters of all bundles that tag."""

    aggregation_strategy: Literal["none", "simple"] | None = Field(
        default=None,
        description="none: every token; simple: spans, or frames with equal labels (default: simple for spans)",
    )


class TaggingOptions(AggregationOptions):
    """Parameters of a tagger."""

    frame_rate: FrameRate | None = Field(
        default=None, description="frames per second: merged frames begin and end at seconds (default: the bundle's)"
    )


class ClassificationOptions(_Parameters):
    """Parameters of a classifier."""

    top_k: int | None = Field(default=None, ge=1, description="number of labels (default: all)")


class JointOptions(AggregationOptions, ClassificationOptions):
    """Parameters of a bundle that tags and classifies."""


class TextOptions(_Parameters):
    """Parameters of a language model."""

    max_new_tokens: int = Field(default=100, ge=0, description="tokens to generate, at most (default: 100)")
    temperature: float = Field(default=1.0, ge=0, le=100, description="0: always the most likely token (default: 1)")
    top_k: int = Field(default=0, ge=0, description="sample from this many tokens (default: 0, all)")
    top_p: float = Field(default=1.0, gt=0, le=1, description="sample from this share of the probability (default: 1)")
    seed: int | None = Field(default=None, ge=0, lt=2**63, description="of the random numbers (default: random)")
    stop: tuple[StopString, ...] = Field(default=(), max_length=16, description="strings that end the text")
    return_full_text: bool = Field(default=False, description="put the prompt before the text")
    details: bool = Field(default=False, description="add the tokens, their log-probabilities and the seed")

    def options(self) -> GenerateOptions:
        """Return the options of one text. Each text without a seed gets a random one."""
        seed = secrets.randbits(SEED_BITS) if self.seed is None else self.seed
        return GenerateOptions(
            max_new_tokens=self.max_new_tokens,
            sampling=SamplingOptions(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, seed=seed),
            stop=self.stop,
            return_full_text=self.return_full_text,
            details=self.details,
        )


class ForecastOptions(_Parameters):
    """Parameters of a forecaster."""

    prediction_length: int = Field(default=1, ge=1, description="values to forecast (default: 1)")
    quantile_levels: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        default=DEFAULT_LEVELS, description="levels of the quantiles (default: 0.1, 0.5, 0.9)"
    )


class CaptionOptions(_Parameters):
    """Parameters of a captioner."""

    num_beams: int = Field(
        default=1, ge=1, le=CANDIDATES, description="hypotheses to keep (default: 1, greedy decoding)"
    )
    num_return_sequences: int = Field(default=1, ge=1, description="texts to return, at most num_beams (default: 1)")
    length_penalty: float = Field(
        default=0.6, ge=0, le=10, description="higher: longer texts, with several beams (default: 0.6)"
    )
    max_new_tokens: int = Field(default=100, ge=1, description="tokens to write, at most (default: 100)")
    target_prefix: str = Field(default="", description="what every text begins with")
    details: bool = Field(default=False, description="add the scores, the tokens, the alignment and the attention")


class TranslationOptions(CaptionOptions):
    """Parameters of a translator."""

    src_lang: str | None = Field(default=None, description="language of the input (default: that of the model)")
    tgt_lang: str | None = Field(default=None, description="language of the answer (default: that of the model)")


class FillOptions(_Parameters):
    """Parameters of a filler."""

    top_k: int | None = Field(
        default=None, ge=1, description=f"words for each gap (default: {DEFAULT_WORDS}, or all targets)"
    )
    targets: tuple[str, ...] = Field(
        default=(), max_length=MOST_TARGETS, description="score only these words (default: all words)"
    )


PARAMETERS: dict[
    str,
    type[AggregationOptions | ClassificationOptions | TextOptions | ForecastOptions | CaptionOptions | FillOptions],
] = {
    "tag": TaggingOptions,
    "classify": ClassificationOptions,
    "joint": JointOptions,
    "generate": TextOptions,
    "forecast": ForecastOptions,
    "translate": TranslationOptions,
    "caption": CaptionOptions,
    "fill": FillOptions,
}


def load(bundle: Path | str, *, variant: str = "auto", device: Device = "auto", threads: int = 1) -> "Predictor":
    """Load a bundle: a directory such as runs/NAME/bundle, or a shipped one by its name.

    `variant` is fp32, int8 or auto. `threads` are those of one batch. Raises BundleError, or DeviceUnavailable.
    """
    return Predictor(bundles.load(locate(bundle), variant=variant, placement=Placement(device=device, threads=threads)))


class Predictor:
    """A loaded bundle that can be called.

    A call with one input returns its answer: a TaggedInput, a list of LabelScore, a JointAnswer, a GenerationResult,
    a TranslationResult, a Forecast, or a list of FilledGap (for several gaps a list of such lists).
    A call with a list of inputs returns a list of answers. Inputs of similar length are run together. On a CPU, an
    answer does not depend on the other inputs.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    def __call__(self, inputs: Any, **parameters: Any) -> Any:
        """Answer one input or a list of inputs: strings, lists of tokens for a tagger, frames (T, F) or a series (N,).

        A picture is a file as bytes or in base64, or its pixels (H, W, 3).

        `parameters` are those of the HTTP route. Raises InputError and ParameterError.
        """
        checked = self.check_parameters(parameters)
        raws, single = self._split(inputs)
        items = [self._encode(raw, None if single else index, checked) for index, raw in enumerate(raws)]
        task = self.bundle.task
        answers: list[Any]
        if isinstance(task, Translation):
            answers = self._translate(task, items, dict(checked))
        elif isinstance(task, Generation):
            assert isinstance(checked, TextOptions)
            answers = self._generate(task, raws, items, checked)
        else:
            if isinstance(task, Filling) and isinstance(checked, FillOptions):
                targets = task.rows_of(checked.targets)
                items = [task.with_targets(item, targets) for item in items]
            rows = self._run(items)
            answers = [_answer(task, item, row, checked) for item, row in zip(items, rows, strict=True)]
        return answers[0] if single else answers

    def embed(self, inputs: Any) -> NDArray[np.float32]:
        """Return the vector (W,) of one input, or the vectors (B, W) of a list. Raises InputError."""
        width = self.bundle.manifest.embedding_width
        if not width:
            raise InputError(f"{self} has no embedding; use a classifier or a joint bundle that has one")
        raws, single = self._split(inputs)
        items = [self._encode(raw, None if single else index) for index, raw in enumerate(raws)]
        for index, item in enumerate(items):
            if not item.length:
                raise InputError(f"{_place(None if single else index)} is empty, so it has no vector; leave it out")
        vectors = np.array(self._run([EmbeddingInput(item) for item in items]), np.float32).reshape(-1, width)
        return vectors[0] if single else vectors

    def __str__(self) -> str:
        return self.bundle.manifest.name

    def __repr__(self) -> str:
        return f"<Predictor {self}: {self.bundle.manifest.task}, {self.bundle.variant}>"

    def check_parameters(self, parameters: dict[str, Any]) -> _Parameters:
        """Return the parameters of the task. Raises ParameterError, which names all that are wrong."""
        task = self.bundle.manifest.task
        model = PARAMETERS[task]
        try:
            found = model.model_validate({name: value for name, value in parameters.items() if value is not None})
        except ValidationError as error:
            problems = []
            for each in error.errors(include_url=False):
                name = str(each["loc"][0])
                if each["type"] == "extra_forbidden":
                    problems.append(f"{name} is not a parameter for {task!r}; {suggest(name, model.model_fields)}")
                else:
                    problems.append(f"{name}={str(parameters[name])[:40]!r} {needed(each)}")
            raise ParameterError("; ".join(problems)) from None
        self._check_task(found)
        return found

    def _check_task(self, found: _Parameters) -> None:
        """Raise ParameterError for parameters that this bundle cannot honor."""
        bundle_task = self.bundle.task
        if isinstance(found, TaggingOptions) and isinstance(bundle_task, Tagging) and found.frame_rate is not None:
            unusable = bundle_task.check_frame_rate(found.aggregation_strategy)
            if unusable:
                raise ParameterError(f"frame_rate {unusable}")
        if isinstance(found, ForecastOptions) and isinstance(bundle_task, Forecasting):
            if wrong := bundle_task.check_horizon(found.prediction_length):
                raise ParameterError(f"prediction_length: {wrong}")
            if wrong := bundle_task.check_levels(found.quantile_levels):
                raise ParameterError(f"quantile_levels: {wrong}")
        if isinstance(found, CaptionOptions) and found.num_return_sequences > found.num_beams:
            count, limit = found.num_return_sequences, found.num_beams
            raise ParameterError(f"num_return_sequences={count} is over num_beams={limit}; raise num_beams")
        if isinstance(found, TranslationOptions) and isinstance(bundle_task, Translation):
            try:
                bundle_task.find_pair(found.src_lang, found.tgt_lang)
            except InputError as error:
                raise ParameterError(f"src_lang and tgt_lang: {error}") from None
        if isinstance(found, FillOptions) and isinstance(bundle_task, Filling):
            _check_fill(found, bundle_task)

    def _split(self, inputs: Any) -> tuple[Sequence[Any], bool]:
        """Return the inputs, and whether there was one and not a list."""
        kind = self.bundle.manifest.reads.kind
        of_frames = kind == "frames"
        if kind == "image":
            return _split_pictures(inputs)
        if isinstance(self.bundle.task, Forecasting):
            return _split_series(inputs)
        if isinstance(inputs, str):
            return [inputs], True
        if isinstance(inputs, np.ndarray) and of_frames and inputs.ndim in (2, 3):
            return ([inputs], True) if inputs.ndim == 2 else (list(inputs), False)
        if not isinstance(inputs, list | tuple):
            wanted = "frames or a list of frames" if of_frames else "a string or a list of strings"
            raise InputError(f"the input is a {type(inputs).__name__}; give {wanted}", value=inputs)
        inputs = list(inputs)
        if isinstance(self.bundle.task, Translation) and is_vector(inputs):
            return [inputs], True
        if of_frames:
            return ([inputs], True) if are_one(inputs) else (inputs, False)
        if hold_numbers(inputs):
            raise InputError(f"{self} reads text, not numbers; give strings", value=inputs)
        return inputs, False

    def _encode(self, raw: Any, index: int | None, parameters: _Parameters | None = None) -> Any:
        limit, task = self.bundle.manifest.max_length, self.bundle.task
        if self.bundle.manifest.reads.kind not in ("frames", "series", "image") and not isinstance(raw, str):
            if not isinstance(task, Tagging | Joint):
                raise InputError(f"{_place(index)} is {quoted(raw)}; give a string", value=raw)
            if not (isinstance(raw, list | tuple) and all(isinstance(token, str) for token in raw)):
                raise InputError(f"{_place(index)} is {quoted(raw)}; give a string or a list of tokens", value=raw)
        try:
            if isinstance(task, Translation):
                item: Any = task.encode_for(raw, dict(parameters or {}), limit=limit)
            else:
                item = task.encode(raw, limit=limit)
        except InputError as error:
            raise type(error)(f"{_place(index)}: {error}", value=error.value, limit=error.limit) from None
        if item.length > limit:
            raise TooLong(f"{_place(index)} has more than {limit} steps, the limit of {self}; split it", limit=limit)
        return item

    def _run(self, items: Sequence[Any]) -> list[Any]:
        """Return the row of each item. An item without steps is not run."""
        task = self.bundle.task
        assert not isinstance(task, Decoding)
        rows: list[Any] = [task.empty_row] * len(items)
        for group in batches([item.length for item in items]):
            batch = [items[place] for place in group]
            for place, row in zip(group, task.decode(batch, self.bundle.model.run(task.collate(batch))), strict=True):
                rows[place] = row
        return rows

    def _translate(
        self, task: Translation, items: Sequence[Any], parameters: dict[str, Any]
    ) -> list[TranslationResult]:
        texts = [task.start_for(item, parameters) for item in items]
        for group in batches([item.length for item in items]):
            search(self.bundle.translator, [texts[place] for place in group])
        return [text.answer() for text in texts]

    def _generate(
        self, task: Generation, prompts: Sequence[str], items: Sequence[Any], parameters: TextOptions
    ) -> list[GenerationResult]:
        texts = [task.start(prompt, parameters.options()) for prompt in prompts]
        lengths = [item.length if parameters.max_new_tokens else 0 for item in items]
        for group in batches(lengths):
            self._generate_batch(task, [texts[place] for place in group], [items[place].rows for place in group])
        return [text.answer() for text in texts]

    def _generate_batch(self, task: Generation, texts: list[GeneratedText], prompts: list[NDArray[np.int32]]) -> None:
        """Generate the texts together. A finished text leaves the batch."""
        run, state = self.bundle.model.run_list, states.zeros(task.state, len(texts))
        tokens, lengths = pad(prompts)  # (T, B), (B,)
        while True:
            sampler = TokenSampler(texts)
            kept = list(range(len(texts)))
            while len(kept) == len(texts):
                log_probabilities, state = task.advance(run, tokens, lengths, state)
                sampled = sampler.sample(log_probabilities).astype(np.int32)  # (B,)
                tokens, lengths = sampled[None], np.ones(len(texts), np.int32)
                kept = [row for row, text in enumerate(texts) if not text.append(int(sampled[row]))]
            if not kept:
                return
            texts, state = [texts[row] for row in kept], states.take(state, kept)
            tokens, lengths = tokens[:, kept], lengths[kept]


def _check_fill(found: FillOptions, task: Filling) -> None:
    if wrong := task.check_top_k(found.top_k):
        raise ParameterError(f"top_k: {wrong}")
    try:
        task.rows_of(found.targets)
    except InputError as error:
        raise ParameterError(f"targets: {error}") from None


def _answer(task: Any, item: Any, row: Any, parameters: Any) -> Any:
    if isinstance(task, Joint):
        return task.answer(item, row, aggregation=parameters.aggregation_strategy, top_k=parameters.top_k)
    if isinstance(task, Tagging):
        return task.answer(item, row, aggregation=parameters.aggregation_strategy, frame_rate=parameters.frame_rate)
    if isinstance(task, Forecasting):
        return task.answer(item, row, **dict(parameters))
    return task.answer(item, row, top_k=parameters.top_k)


def _split_series(inputs: Any) -> tuple[Sequence[Any], bool]:
    """Return the series, each a list or an array, and whether there was one and not a list. Converts other arrays."""
    if getattr(inputs, "ndim", 0):  # numpy, pandas or PyTorch
        array = np.asarray(inputs)
        return ([array], True) if array.ndim == 1 else (list(array), False)
    if not isinstance(inputs, list | tuple):
        raise InputError(f"the input is {quoted(inputs)}; give a series or a list of series", value=inputs)
    if not any(isinstance(each, list | tuple) or getattr(each, "ndim", 0) for each in inputs[:1]):
        return [inputs], True
    return [np.asarray(each) if getattr(each, "ndim", 0) else each for each in inputs], False


def _split_pictures(inputs: Any) -> tuple[Sequence[Any], bool]:
    """Return the pictures, and whether there was one and not a list."""
    if isinstance(inputs, str | bytes):
        return [inputs], True
    if getattr(inputs, "ndim", 0):
        return (list(inputs), False) if inputs.ndim == PICTURE_DEPTH + 1 else ([inputs], True)
    if not isinstance(inputs, list | tuple):
        raise InputError(f"the input is {quoted(inputs)}; give a picture or a list of pictures", value=inputs)
    first, depth = inputs, 0
    while isinstance(first, list | tuple) and first:
        first, depth = first[0], depth + 1
    return ([inputs], True) if isinstance(first, int | float) and depth <= PICTURE_DEPTH else (inputs, False)


def batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield the places of inputs of similar length, in batches of BATCH_ROWS and BATCH_TOKENS at most.

    Inputs without steps are left out. One that is longer than BATCH_TOKENS has a batch of its own.
    """
    batch: list[int] = []
    for place in sorted((place for place, length in enumerate(lengths) if length), key=lambda place: lengths[place]):
        if batch and (len(batch) == BATCH_ROWS or lengths[place] * (len(batch) + 1) > BATCH_TOKENS):
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def _place(index: int | None) -> str:
    return "the input" if index is None else f"input {index}"
