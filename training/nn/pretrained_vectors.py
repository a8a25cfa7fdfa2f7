"""Pretrained word vectors in the text format of GloVe and word2vec: a word and its numbers on each line."""

from pathlib import Path

import numpy as np
import torch

from models.codecs import Codec
from models.codecs.base import FIRST
from models.codecs.words import WordsCodec
from training.data.examples import DataError
from training.nn.encoders import WordEncoder
from training.nn.networks import Network, SequenceNetwork


def load_vectors(path: Path, codec: Codec, network: Network) -> str:
    """Initialize the word embedding from a file. Returns a note with the number of words found.

    Training then updates these vectors like any other. Raises DataError for a file that cannot be read, a line that is
    not a vector, and a width that differs from the embedding's.
    """
    assert isinstance(codec, WordsCodec)
    assert isinstance(network, SequenceNetwork)
    assert isinstance(network.encoder, WordEncoder)
    table = network.encoder.stem_embedding.weight
    rows = {word: row for row, word in enumerate(codec.stems if codec.spec.stems else codec.words, FIRST)}
    found: dict[int, np.ndarray] = {}
    width = table.shape[1]
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                # A word may contain spaces: the numbers come last.
                word, *numbers = line.rstrip().rsplit(" ", width)
                if number == 1 and len(line.split()) == 2:
                    continue  # word2vec's header: count and width
                if number <= 2:
                    _check_width(path, number, line, width)
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


def _check_width(path: Path, line: int, text: str, width: int) -> None:
    if (found := len(text.split()) - 1) != width:
        raise DataError(
            f"{path}, line {line}: {found} numbers, but architecture.embedding is {width}: "
            f"--set architecture.embedding={found}, or use another file"
        )


def _numbers(path: Path, line: int, texts: list[str], width: int) -> np.ndarray:
    try:
        vector = np.array(texts, np.float32)
    except ValueError:
        vector = np.zeros(0, np.float32)
    if len(vector) != width or not np.isfinite(vector).all():
        raise DataError(f"{path}, line {line}: {' '.join(texts)[:60]!r} are not the {width} finite numbers of a word")
    return vector
