"""Count the input lengths of real data: `python -m tests.support.length_counts --data FOLDER` writes lengths.json."""

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from loadtest.payloads import LENGTHS


def conllu_words(lines: Iterable[str]) -> Counter[int]:
    """Count words per sentence of a CoNLL-U file, without ranges (1-2) and empty nodes (1.1)."""
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
    """Count leaves per tree of the Stanford Sentiment Treebank: `(3 (2 It) (4 works))` has two."""
    return Counter(len(re.findall(r"\(\d [^()]+\)", line)) for line in lines if line.strip())


def line_characters(lines: Iterable[str]) -> Counter[int]:
    """Count characters per line, without empty lines."""
    return Counter(len(line.strip()) for line in lines if line.strip())


def line_words(lines: Iterable[str]) -> Counter[int]:
    """Count words per line, without empty lines."""
    return Counter(len(line.split()) for line in lines if line.strip())


SOURCES = {
    "tag": ("UD English-EWT, dev split: words per sentence", "words", "ud-ewt/dev.conllu", conllu_words),
    "classify": ("Stanford Sentiment Treebank, dev split: words per sentence", "words", "sst/dev.txt", tree_words),
    "generate": (
        "tinyshakespeare, first 90 %: characters per line, as a model of prompt lengths",
        "characters",
        "tinyshakespeare/train.txt",
        line_characters,
    ),
    "translate": (
        "Multi30k, English side of the validation split: words per line",
        "words",
        "multi30k/val.en",
        line_words,
    ),
}


def build(data: Path) -> dict[str, object]:
    """Return the content of lengths.json from the data sets under `data`. Raises OSError if a file is missing."""
    tasks = {}
    for task, (source, unit, name, count) in SOURCES.items():
        counts = count((data / name).read_text("utf-8").splitlines())
        tasks[task] = {"source": source, "unit": unit, "counts": {str(n): counts[n] for n in sorted(counts)}}
    return {
        "about": "How many inputs have each length: counts only, no text.",
        "command": "python -m tests.support.length_counts --data FOLDER",
        "tasks": tasks,
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.support.length_counts", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="Folder of the data sets, such as ud-ewt/.")
    parser.add_argument("--out", type=Path, default=LENGTHS, help="File to write (default: %(default)s).")
    arguments = parser.parse_args()
    try:
        text = json.dumps(build(arguments.data), indent=1)
    except OSError as error:
        print(f"{error.filename}: {error.strerror}. Pass the folder of the data sets with --data.", file=sys.stderr)
        return 2
    # One line per histogram, so that a diff shows which one changed.
    text = re.sub(r'\{\s+("\d+": \d+,?\s*)+\}', lambda match: re.sub(r"\s+", " ", match.group()), text)
    arguments.out.write_text(text + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
