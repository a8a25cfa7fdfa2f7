"""Pretrained word vectors: which words get them, and invalid files."""

from pathlib import Path

import pytest
import torch

from models.codecs.words import WordsCodec
from models.manifest import WordsSpec
from tests.support import tiny
from training.data.examples import DataError, TaggedExample
from training.prepare import fit_codec, load_vectors

CODEC = WordsCodec.fit(WordsSpec(), [["good", "film", "Plot"]])


def taken(folder: Path, text: str, width: int = 3) -> tuple[str, torch.Tensor]:
    (folder / "glove.txt").write_text(text)
    network = tiny.network("tag", codec=CODEC, embedding=width)
    note = load_vectors(folder / "glove.txt", CODEC, network)
    return note, network.encoder.stem_embedding.weight.detach()  # type: ignore[union-attr]


@pytest.mark.parametrize("header", ["", "2 3\n", "\ufeff"])
def test_known_words_start_from_their_vector(tmp_path: Path, header: str) -> None:
    note, table = taken(tmp_path, f"{header}good 1 2 3\nunheard 4 5 6\ngood morning everyone 7 8 9\nFilm 4 4 4\n")
    assert table[int(CODEC.encode(["good"]).rows[0])].tolist() == [1, 2, 3]
    assert note.startswith("2 of 3 ")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("good 1 2\n", "line 1"),
        ("x 1 2 3\ny 1 2 3\ngood a b c\n", "line 3"),
        ("x 1 2 3\ny 1 2 3\ngood nan 1 1\n", "line 3"),
    ],
)
def test_invalid_file_is_rejected_with_its_line(tmp_path: Path, text: str, line: str) -> None:
    with pytest.raises(DataError, match=line):
        taken(tmp_path, text)


def test_archive_of_vectors_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"glove\.txt: a file of the kind zip.*unzip"):
        taken(tmp_path, "PK\x03\x04 glove.6B.50d.txt")


def test_words_of_the_gazetteer_are_in_the_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "mine.tsv").write_text("per\tOrtrud\n")
    made = tiny.recipe(
        "tag",
        codec={"kind": "words", "stems": "stems.json"},
        variation={"gazetteer": str(tmp_path / "mine.tsv")},
    )
    codec = fit_codec(made, [TaggedExample(tokens=("I", "saw", "Ann"), tags=("O", "O", "B-per"))])
    assert codec.stems == ("ortrud",)  # type: ignore[union-attr]
