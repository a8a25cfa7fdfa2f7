"""Everything that a run needs before its first step: data, codec, network, pretrained vectors, objective."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.codecs import Codec, build
from models.codecs.base import FIRST
from models.codecs.characters import CharactersCodec
from models.codecs.pieces import FIRST_PIECE, SPACE, PiecesCodec, fixed_pieces, split_words
from models.codecs.words import WordsCodec
from models.files.text_files import refuse_binary
from models.manifest import CharactersSpec, DnaSpec, FramesSpec, PiecesSpec, SeriesSpec
from training.data import checks, loading
from training.data.augmentation import read_gazetteer
from training.data.examples import DataError, Splits, inputs_of, label_names
from training.initial_bundle import InitialBundle
from training.nn.networks import Filler, Forecaster, LanguageModel, Network, SequenceNetwork, make_network
from training.nn.translator import EncoderDecoder
from training.objectives import Objective
from training.objectives.filling import FillObjective
from training.objectives.forecasting import ForecastObjective
from training.objectives.language_model import LanguageModelObjective
from training.objectives.sequences import SequenceObjective
from training.objectives.translation import TranslationObjective
from training.recipe import Recipe

MOST_CHARACTERS = 1000  # with a piece of their own; all others are bytes


@dataclass(frozen=True, kw_only=True)
class PreparedRun:
    examples: Splits[Any]
    auxiliary: Splits[Any] | None
    codec: Codec
    labels: tuple[str, ...]
    text_labels: tuple[str, ...]
    network: Network
    notes: tuple[str, ...]
    init_digest: str = ""  # of the bundle of `init`

    def objective(self, recipe: Recipe) -> Objective:
        """Return the objective of the recipe's task. Encodes all examples."""
        if isinstance(self.network, LanguageModel):
            return LanguageModelObjective(recipe, self.codec, self.network, self.examples.train, self.examples.choosing)
        if isinstance(self.network, Forecaster):
            return ForecastObjective(recipe, self.codec, self.network, self.examples)
        if isinstance(self.network, EncoderDecoder):
            source = source_codec(recipe, self.codec)
            return TranslationObjective(recipe, source, self.codec, self.network, self.examples)
        if isinstance(self.network, Filler):
            return FillObjective(recipe, self.codec, self.network, self.examples)
        auxiliary = self.auxiliary.train if self.auxiliary else ()
        return SequenceObjective(recipe, self.codec, self.network, self.examples, auxiliary)


def prepare(recipe: Recipe, examples: Splits[Any] | None = None) -> PreparedRun:
    """Load the recipe's data (unless `examples` is given, as for a fold), fit the codec and make the network.

    Raises DataError, with file and line where possible, if nothing can be learned from the data.
    """
    torch.manual_seed(recipe.training.seed)
    examples = loading.merge_dev_labels(recipe, examples or loading.load_splits(recipe))
    auxiliary = loading.load_auxiliary(recipe)
    start = InitialBundle.open(recipe)
    codec = (
        start.codec
        if start is not None
        else fit_codec(recipe, [*examples.train, *auxiliary.train] if auxiliary else examples.train)
    )
    labels, text_labels = (
        ((), ())
        if recipe.task in ("generate", "forecast", "translate", "caption", "fill")
        else label_names(recipe.task, examples.train)
    )
    if start is not None:
        start.check_labels(tuple(recipe.merge) or labels, text_labels)
    notes = checks.check_splits(recipe, codec, examples)
    network = make_network(
        recipe.architecture,
        codec,
        task=recipe.task,
        labels=labels,
        text_labels=text_labels,
        merge=recipe.merge,
        auxiliary_labels=len(label_names("tag", auxiliary.train)[0]) if auxiliary else 0,
        forecast=recipe.forecast,
        source=source_codec(recipe, codec),
    )
    if recipe.vectors is not None:
        notes = (*notes, load_vectors(recipe.vectors, codec, network))
    if start is not None:
        notes = (*notes, start.read_into(network))
    return PreparedRun(
        examples=examples,
        auxiliary=auxiliary,
        codec=codec,
        labels=labels,
        text_labels=text_labels,
        network=network,
        notes=notes,
        init_digest=start.digest if start is not None else "",
    )


def fit_codec(recipe: Recipe, train: Any) -> Codec:
    """Return the recipe's codec with vocabularies counted on the training data and the gazetteer only."""
    spec = recipe.codec
    if isinstance(spec, CharactersSpec):
        return CharactersCodec.fit(spec, [train] if isinstance(train, str) else ["".join(inputs_of(e)) for e in train])
    if isinstance(spec, DnaSpec | FramesSpec | SeriesSpec):
        return build(spec, lambda name: ())
    if isinstance(spec, PiecesSpec):
        texts = [text for e in train for text in (e.source, e.target) if isinstance(text, str)]
        return learn_pieces(spec, texts, recipe.pieces)
    tokenizer = WordsCodec(spec, ())
    sentences = [tokenizer.encode(inputs_of(example)).tokens for example in train]
    if recipe.variation and recipe.variation.gazetteer:
        mentions = chain.from_iterable(read_gazetteer(recipe.variation.gazetteer).values())
        sentences += [mention for mention in mentions for _ in range(2)]  # a stem needs two occurrences
    return WordsCodec.fit(spec, sentences, min_count=recipe.min_count)


def source_codec(recipe: Recipe, codec: Codec) -> Codec:
    """Return the codec of what a translator reads. Pieces are those that it writes."""
    if recipe.source is None or isinstance(recipe.source, PiecesSpec):
        return codec
    return build(recipe.source, lambda name: ())


def learn_pieces(spec: PiecesSpec, texts: Iterable[str], rows: int) -> PiecesCodec:
    """Return a codec of at most `rows` pieces, learned from texts by byte-pair encoding (Sennrich et al. 2016)."""
    from tokenizers import Tokenizer, models, trainers

    lowered = (text.lower() if spec.lowercase else text for text in texts)
    words = (match.group().replace(" ", SPACE) for text in lowered if SPACE not in text for match in split_words(text))
    learner = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=rows - FIRST_PIECE, min_frequency=2, limit_alphabet=MOST_CHARACTERS, show_progress=False
    )
    learner.train_from_iterator(words, trainer)
    learned = json.loads(learner.to_str())["model"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in learned["merges"]]
    return PiecesCodec(spec, (*fixed_pieces(), *sorted(learned["vocab"], key=learned["vocab"].get)), merges)


def load_vectors(path: Path, codec: WordsCodec, network: SequenceNetwork) -> str:
    """Initialize the word embedding from a file. Returns a note with the number of words found.

    Training then updates these vectors like any other. Raises DataError for a file that cannot be read, a line that is
    not a vector, and a width that differs from the embedding's.
    """
    table = network.encoder.stem_embedding.weight
    rows = {word: row for row, word in enumerate(codec.stems if codec.spec.stems else codec.words, FIRST)}
    found: dict[int, np.ndarray] = {}
    width = table.shape[1]
    try:
        with path.open("rb") as file:
            refuse_binary(path, file.read(512))
        with path.open(encoding="utf-8-sig", errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                if number <= 2:
                    count = len(line.split()) - 1
                    if number == 1 and count == 1:
                        continue  # word2vec's header: count and width
                    if count != width:
                        raise DataError(
                            f"{path}, line {number}: {count} numbers, but architecture.embedding is {width}: "
                            f"--set architecture.embedding={count}, or use another file"
                        )
                # A word may contain spaces: the numbers come last.
                word, *numbers = line.rstrip().rsplit(" ", width)
                # A lower-case entry stands in for a word without an entry of its own.
                row = rows.get(word, rows.get(word.lower()))
                if row is not None and (word in rows or row not in found):
                    found[row] = _numbers(path, number, numbers, width)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path in `vectors`") from error
    with torch.no_grad():
        for row, vector in found.items():
            table[row] = torch.from_numpy(vector)
    return f"{len(found):,} of {len(rows):,} words start from their vector in {path.name}, the others at random"


def _numbers(path: Path, line: int, texts: list[str], width: int) -> np.ndarray:
    try:
        vector = np.array(texts, np.float32)
    except ValueError:
        vector = np.zeros(0, np.float32)
    if len(vector) != width or not np.isfinite(vector).all():
        raise DataError(f"{path}, line {line}: {' '.join(texts)[:60]!r} are not the {width} finite numbers of a word")
    return vector
