"""Pretrained vectors: which words get them, and what is said of a file that is none."""

from pathlib import Path

import pytest
import torch

from models.codecs.words import WordsCodec
from models.manifest import WordsSpec
from tests.support import tiny
from training.data import DataError
from training.nn import pretrained_vectors as vectors

CODEC = WordsCodec.fit(WordsSpec(), [["good", "film", "Plot"]])


def taken(folder: Path, text: str, width: int = 3) -> tuple[str, torch.Tensor]:
    (folder / "glove.txt").write_text(text)
    network = tiny.network("tag", codec=CODEC, embedding=width)
    said = vectors.take(folder / "glove.txt", CODEC, network)
    return said, network.encoder.stem_embedding.weight.detach()  # type: ignore[union-attr]


@pytest.mark.parametrize("header", ["", "2 3\n"])
def test_words_that_are_known_begin_with_their_vector(tmp_path: Path, header: str) -> None:
    said, table = taken(tmp_path, f"{header}good 1 2 3\nunheard 4 5 6\ngood morning everyone 7 8 9\nFilm 4 4 4\n")
    assert table[int(CODEC.encode(["good"]).rows[0])].tolist() == [1, 2, 3]
    assert said == "2 of 3 words begin with their vector of glove.txt, the others at random"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("good 1 2\n", r"line 1: 2 numbers, but architecture.embedding is 3: --set architecture.embedding=2"),
        ("x 1 2 3\ny 1 2 3\ngood a b c\n", r"line 3: not a word and its 3 finite numbers: 'a b c'"),
        ("x 1 2 3\ny 1 2 3\ngood nan 1 1\n", r"line 3: not a word and its 3 finite numbers"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        taken(tmp_path, text)
