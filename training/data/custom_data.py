"""Users' own files: which reader a task, an input and a suffix ask for, and what is held out of them.

Every error names the file, the line, what is wrong and the remedy.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.data.conll import Column, read_joint, read_tagged
from training.data.examples import DataError, JointExample, LabeledExample, SeriesExample, TaggedExample
from training.data.frames import read_framed
from training.data.labeled import read_bases, read_labelled
from training.data.sentences import read_joint_lines, read_tagged_lines
from training.data.splitting import split, split_text
from training.data.tables import is_json
from training.data.text_files import read_text

__all__ = ["Columns", "hold_out", "read", "read_labelled", "read_tagged", "read_text", "split", "split_text"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Where in a file what stands: names of columns or keys, numbers of columns in CoNLL, and the encoding."""

    text: str = "text"
    label: str = "label"
    series: str = "id"
    token: Column = None
    tag: Column = None
    encoding: str = "utf-8"


USUAL = Columns()


def read(path: Path, task: str, codec: str, columns: Columns = USUAL) -> Any:
    """A text for "generate", else the examples of the file; `codec` is the kind of input that the network gets.

    tag: CoNLL or JSON lines. joint: the same with labels. classify: tables or JSON lines,
    for "dna" FASTA too; for "frames" JSON lines, tables or .ts.
    """
    if task == "generate":
        return read_text(path, encoding=columns.encoding)
    if task in ("tag", "joint"):
        return _sentences(path, task, columns)
    if codec == "frames":
        key = "frames" if columns.text == USUAL.text else columns.text
        return read_framed(path, frames=key, label=columns.label, series=columns.series, encoding=columns.encoding)
    reader = read_bases if codec == "dna" else read_labelled
    return reader(path, text=columns.text, label=columns.label, encoding=columns.encoding)


def _sentences(path: Path, task: str, columns: Columns) -> list[TaggedExample] | list[JointExample]:
    if is_json(path):
        if task == "tag":
            return read_tagged_lines(path, encoding=columns.encoding)
        return read_joint_lines(path, label=columns.label, encoding=columns.encoding)
    places: dict[str, Any] = {"token_column": columns.token, "tag_column": columns.tag, "encoding": columns.encoding}
    return read_tagged(path, **places) if task == "tag" else read_joint(path, label=columns.label, **places)


def hold_out(rows: Any, *, dev_share: float, seed: int) -> tuple[Any, Any]:
    """Train and dev: the end of a text; examples at random, each label with its share where the whole has one.

    DataError, which does not name the file, where there is too little of either.
    """
    if isinstance(rows, str):
        return split_text(rows, dev_share=dev_share)
    if len(rows) == 1 and isinstance(rows[0], TaggedExample | JointExample):
        raise DataError(
            f"one sentence only, of {len(rows[0].tokens)} tokens: put a blank line after each sentence, or give more"
        )
    labelled = all(isinstance(row, LabeledExample | JointExample | SeriesExample) for row in rows)
    return split(rows, dev_share=dev_share, seed=seed, labels=[row.label for row in rows] if labelled else None)
