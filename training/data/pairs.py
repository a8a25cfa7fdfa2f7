"""Pairs of a source and its translation: tables, JSON, or two parallel files; and captions of vectors.

N vectors or captions, S vectors of one input, F numbers of a vector.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.files.tables import check_characters, check_columns, column_rows, is_json, json_objects
from models.files.text_files import DEFAULT_ENCODING, read_lines
from training.data.examples import DataError, FileLocation, PairExample

MOST_SHOWN = 60  # characters of a wrong value


def read_pairs(
    path: Path, *, source: str = "source", target: str = "target", encoding: str = DEFAULT_ENCODING
) -> list[PairExample]:
    """Read a table with a header, or JSON. `source` and `target` name the columns or keys."""
    lines = read_lines(path, encoding=encoding)
    pairs = [
        PairExample(source=_text(path, line, source, read), target=_text(path, line, target, written), place=place)
        for line, (read, written) in column_rows(path, lines, {"source": source, "target": target})
        for place in (FileLocation(str(path), line),)
    ]
    if not pairs:
        raise DataError(f"{path}: no row below the header; give at least one pair")
    return pairs


def read_parallel(source: Path, target: Path, *, encoding: str = DEFAULT_ENCODING) -> list[PairExample]:
    """Read two files with one text a line, where line n of `target` translates line n of `source`."""
    parts = [read_lines(path, encoding=encoding) for path in (source, target)]
    if len(parts[0]) != len(parts[1]):
        raise DataError(
            f"{source} has {len(parts[0]):,} lines, but {target} has {len(parts[1]):,}; give one translation for each "
            "line, on the line of the same number"
        )
    return [
        PairExample(
            source=_text(source, line, "the line", read),
            target=_text(target, line, "the line", written),
            place=FileLocation(str(source), line),
        )
        for line, (read, written) in enumerate(zip(*parts, strict=True), 1)
    ]


def read_captions(vectors: Path, captions: Path, *, text: str = "caption") -> list[PairExample]:
    """Read captions of vectors, one on each line of a text file or under the key `text` of JSON lines.

    `vectors` is a NumPy file (.npz or .npy) with an array (N, F), one vector for each caption, or (N, S, F), several.
    With the key "index" in JSON, a vector can have several captions. Its value counts vectors from 0.
    """
    array = _vectors(vectors)
    lines = read_lines(captions)
    if is_json(captions):
        rows = [
            (line, row.get("index", number), row) for number, (line, row) in enumerate(json_objects(captions, lines))
        ]
        for line, _, row in rows:
            check_columns(f"{captions}, line {line}", list(row), {"target": text})
        found = [(line, index, row[text]) for line, index, row in rows]
    else:
        found = [(line, line - 1, written) for line, written in enumerate(lines, 1)]
    pairs = []
    for line, index, written in found:
        if not isinstance(index, int) or not 0 <= index < len(array):
            raise DataError(
                f"{captions}, line {line}: vector {index} of {len(array)} in {vectors}; give one that exists"
            )
        frames = tuple(map(tuple, array[index].tolist()))
        place = FileLocation(str(captions), line)
        pairs.append(PairExample(source=frames, target=_text(captions, line, text, written), place=place))
    return pairs


def _vectors(path: Path) -> NDArray[np.float32]:
    """Return the only array of a NumPy file, as (N, S, F)."""
    try:
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            arrays = [content] if isinstance(content, np.ndarray) else [content[name] for name in content.files]
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot be read ({error}); save the vectors with numpy.savez") from None
    shapes = [array.shape for array in arrays]
    if len(arrays) != 1 or arrays[0].ndim not in (2, 3) or not np.issubdtype(arrays[0].dtype, np.number):
        raise DataError(f"{path}: has arrays of the shapes {shapes}; save one array of numbers (N, F) or (N, S, F)")
    array = arrays[0].astype(np.float32)
    if not np.isfinite(array).all():
        raise DataError(f"{path}: has numbers that are not finite in float32; replace or scale them")
    return array[:, None] if array.ndim == 2 else array


def _text(path: Path, line: int, name: str, value: Any) -> str:
    """Return a text without blanks around it. Raises DataError for anything else, and for an empty one."""
    if not isinstance(value, str) or not value.strip():
        raise DataError(
            f"{path}, line {line}: {name!r} is {str(value)[:MOST_SHOWN]!r}; give a text, or remove the pair"
        )
    check_characters(f"{path}, line {line}", name, value)
    return value.strip()
