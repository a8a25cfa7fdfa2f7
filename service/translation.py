"""The parameters of translations, and the searches that they start in a bundle."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

from models.codecs import InputError
from models.manifest import LanguagePair
from models.tasks import Translation
from models.tasks.beam_search import TranslateOptions
from models.tasks.translate import EncodedSource, TranslatedSource
from service.errors import InvalidRequest, TooLarge
from service.generation import GenerationJob
from service.model_runtime import ModelRuntime

PREFIX, BEAMS, SOURCE, TARGET, DETAILS = "target_prefix", "num_beams", "src_lang", "tgt_lang", "details"


@dataclass(frozen=True, slots=True, kw_only=True)
class TranslationParameters:
    """The parameters of one request. Errors name these fields, and the API replaces the names by its own."""

    src_lang: str | None = None
    tgt_lang: str | None = None
    target_prefix: str = ""
    options: TranslateOptions

    def search(self, runtime: ModelRuntime) -> "TranslationSearch":
        """Check the parameters for one model. Raises InvalidRequest and TooLarge."""
        task = cast(Translation, runtime.bundle.task)
        try:
            pair = task.find_pair(self.src_lang, self.tgt_lang)
        except InputError as error:
            field = SOURCE if self.src_lang is not None or self.tgt_lang is None else TARGET
            available = [f"{each.source}-{each.target}" for each in task.pairs]
            raise InvalidRequest(str(error), field=field, value=error.value, available=available) from None
        slots = runtime.slots
        if self.options.num_beams > slots:
            message = f"{self.options.num_beams} beams; the limit is {slots}; send fewer"
            raise InvalidRequest(message, field=BEAMS, value=self.options.num_beams, limit=slots)
        prefix = tuple(task.codec.encode(self.target_prefix, limit=runtime.max_length).rows.tolist())
        if len(prefix) > runtime.max_length:
            message = f"more than {runtime.max_length} tokens, the limit of {runtime.name}; shorten it"
            raise TooLarge(message, field=PREFIX, limit=runtime.max_length)
        return TranslationSearch(task=task, pair=pair, options=replace(self.options, prefix=prefix))


@dataclass(frozen=True, slots=True, kw_only=True)
class TranslationSearch:
    """Starts the searches of one request in one model."""

    task: Translation
    pair: LanguagePair | None
    options: TranslateOptions

    def start(self, sources: Sequence[EncodedSource]) -> list[GenerationJob[TranslatedSource]]:
        """Return a job for each source. That of an empty one is already done."""
        return [
            GenerationJob(
                prompt_tokens=source.length,
                tokens=source.rows if source.length else source.rows[:0],
                text=self.task.start(source, self.options),
            )
            for source in sources
        ]
