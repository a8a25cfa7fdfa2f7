"""Pretrained word vectors in the text format of GloVe and word2vec: a word and its numbers on each line."""

from pathlib import Path

import numpy as np
import torch

from models.codecs.base import FIRST
from models.codecs.words import WordsCodec
from training.data.examples import DataError
from training.nn.networks import SequenceNetwork


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
        with path.open(encoding="utf-8", errors="replace") as lines:
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
