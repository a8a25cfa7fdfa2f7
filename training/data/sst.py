"""The Stanford Sentiment Treebank: parsed sentences with a label from 0 (bad) to 4 (good) on every phrase.

As SST-2 label 2 (neither) is dropped, 0 and 1 are "negative", 3 and 4 "positive"; `fine` keeps all five. The
treebank writes brackets, quotes and slashes in its own way; they are turned back into what people type, because that
is what a service is sent.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from training.data.examples import DataError, FileLocation, LabeledExample
from training.data.text_files import read_lines

BINARY = {0: "negative", 1: "negative", 3: "positive", 4: "positive"}
FINE = {label: str(label) for label in range(5)}
TOKEN = re.compile(r"\(|\)|[^\s()]+")
AS_TYPED = {
    "-LRB-": "(",
    "-RRB-": ")",
    "-LSB-": "[",
    "-RSB-": "]",
    "-LCB-": "{",
    "-RCB-": "}",
    "``": '"',
    "''": '"',
    "`": "'",
}

Phrase = tuple[int, tuple[str, ...]]  # label 0 to 4, words


def read(
    folder: Path, *, phrases: bool = True, fine: bool = False
) -> tuple[list[LabeledExample], list[LabeledExample]]:
    """77,616 training phrases, or with `phrases=False` the 6,911 that are sentences, and the 872 dev sentences.

    `fine`: five labels, "0" to "4", with the neutral phrases: 159,269 or 8,534, and 1,101 dev sentences. A phrase
    that has the same label in several trees is one training example.
    """
    label_of = FINE if fine else BINARY
    train = [
        _labelled(place, phrase, label_of)
        for place, tree in _trees(folder / "train.txt")
        for phrase in (tree if phrases else tree[-1:])
        if phrase[0] in label_of
    ]
    dev = [
        _labelled(place, tree[-1], label_of) for place, tree in _trees(folder / "dev.txt") if tree[-1][0] in label_of
    ]
    return list(dict.fromkeys(train)), dev


def parse(tree: str) -> list[Phrase]:
    """Every phrase of one bracketed tree, the smaller before the larger, the whole sentence last."""
    phrases: list[Phrase] = []
    open_phrases: list[tuple[int, list[str]]] = []  # label, words so far
    symbols = iter(TOKEN.findall(tree))
    for symbol in symbols:
        if symbol == "(":
            label = next(symbols, "")
            if label not in {"0", "1", "2", "3", "4"}:
                raise ValueError(f"label {label!r} is not one of 0 to 4")
            open_phrases.append((int(label), []))
        elif not open_phrases:
            raise ValueError(f"{symbol!r} stands outside the brackets")
        elif symbol == ")":
            closed, words = open_phrases.pop()
            phrases.append((closed, tuple(words)))
            if open_phrases:
                open_phrases[-1][1].extend(words)
        else:
            open_phrases[-1][1].append(_as_typed(symbol))
    if open_phrases or not phrases:
        raise ValueError(f"{len(open_phrases)} brackets are not closed")
    return phrases


def _as_typed(word: str) -> str:
    return AS_TYPED.get(word, word.replace("\\/", "/").replace("\\*", "*"))


def _labelled(place: FileLocation, phrase: Phrase, label_of: Mapping[int, str]) -> LabeledExample:
    label, words = phrase
    return LabeledExample(text=words, label=label_of[label], place=place)


def _trees(path: Path) -> Iterator[tuple[FileLocation, list[Phrase]]]:
    for line_number, line in enumerate(read_lines(path), start=1):
        if line.strip():
            place = FileLocation(str(path), line_number)
            try:
                yield place, parse(line)
            except ValueError as error:
                raise DataError(f"{place}: not a tree: {error}; fetch the file again") from error
