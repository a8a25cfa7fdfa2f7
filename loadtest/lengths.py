"""Real input lengths, as counts: how long sentences and prompts are, without the text they were taken from.

`python -m loadtest.lengths --data FOLDER` makes lengths.json again out of three published data sets.
Knows the formats of those files and nothing about requests.
"""

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random

FILE = Path(__file__).with_name("lengths.json")


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """How often each length occurs. `unit` says what is counted ("words" or "characters")."""

    unit: str
    lengths: tuple[int, ...]
    counts: tuple[int, ...]

    def draw(self, random: Random, *, longest: int | None = None) -> int:
        """One length, as likely as it is frequent; cut to `longest` where a model allows no more."""
        length = random.choices(self.lengths, weights=self.counts)[0]
        return length if longest is None else min(length, longest)


def load(path: Path = FILE) -> dict[str, Histogram]:
    """The histograms of lengths.json by task: tag, classify, generate."""
    tasks = json.loads(path.read_text("utf-8"))["tasks"]
    return {
        task: Histogram(
            unit=entry["unit"],
            lengths=tuple(int(length) for length in entry["counts"]),
            counts=tuple(entry["counts"].values()),
        )
        for task, entry in tasks.items()
    }


def conllu_words(lines: Iterable[str]) -> Counter[int]:
    """Words a sentence of a CoNLL-U file; ranges (1-2) and empty nodes (1.1) are no words of their own."""
    counts: Counter[int] = Counter()
    words = 0
    for line in [*lines, ""]:
        if re.match(r"\d+\t", line):
            words += 1
        elif not line.strip() and words:
            counts[words] += 1
            words = 0
    return counts


def tree_words(lines: Iterable[str]) -> Counter[int]:
    """Leaves a tree, one tree a line, as in the Stanford Sentiment Treebank: `(3 (2 It) (4 works))` has two."""
    return Counter(len(re.findall(r"\(\d [^()]+\)", line)) for line in lines if line.strip())


def line_characters(lines: Iterable[str]) -> Counter[int]:
    """Characters a line, empty lines left out."""
    return Counter(len(line.strip()) for line in lines if line.strip())


def build(data: Path) -> dict[str, object]:
    """The content of lengths.json, from the data sets' files under `data`; OSError where one is missing."""

    def entry(source: str, unit: str, counts: Counter[int]) -> dict[str, object]:
        return {"source": source, "unit": unit, "counts": {str(n): counts[n] for n in sorted(counts)}}

    def lines(name: str) -> list[str]:
        return (data / name).read_text("utf-8").splitlines()

    return {
        "about": "How many inputs have each length: counts only, no text.",
        "command": "python -m loadtest.lengths --data FOLDER",
        "tasks": {
            "tag": entry(
                "UD English-EWT, dev split: words a sentence", "words", conllu_words(lines("ud-ewt/dev.conllu"))
            ),
            "classify": entry(
                "Stanford Sentiment Treebank, dev split: words a sentence", "words", tree_words(lines("sst/dev.txt"))
            ),
            "generate": entry(
                "tinyshakespeare, first 90 %: characters a line; a prompt is taken to be about a line",
                "characters",
                line_characters(lines("tinyshakespeare/train.txt")),
            ),
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtest.lengths", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with ud-ewt/, sst/ and tinyshakespeare/")
    parser.add_argument("--out", type=Path, default=FILE)
    arguments = parser.parse_args()
    try:
        content = build(arguments.data)
    except OSError as error:
        print(f"{error.filename}: {error.strerror}; --data wants the data sets' folder", file=sys.stderr)
        return 1
    text = json.dumps(content, indent=1)
    # One line a histogram: a diff shows which one changed, not two hundred numbers.
    text = re.sub(r'\{\s+("\d+": \d+,?\s*)+\}', lambda match: re.sub(r"\s+", " ", match.group()), text)
    arguments.out.write_text(text + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
