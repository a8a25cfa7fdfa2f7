"""A file that is made of pieces of published ones, so that the pieces held back for tests never reach a disk.

Where a data set has no published split, or one that is not ours, a list beside this module says which pieces a file
has and in which order: a fingerprint a line. What is not listed is dropped. Knows bytes, not what they mean.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from training.data.examples import DataError

LISTS = Path(__file__).with_name("picks")
DIGITS = 12  # of a fingerprint: 48 bits, so that no two of a few thousand pieces share one
BLANK_LINES = re.compile(rb"\n[ \t]*\n\s*")


def fingerprint(piece: bytes) -> str:
    """The first digits of the piece's sha256."""
    return hashlib.sha256(piece).hexdigest()[:DIGITS]


def lines(data: bytes) -> list[bytes]:
    """Every line, with its end."""
    return data.replace(b"\r\n", b"\n").splitlines(keepends=True)


def tunes(data: bytes) -> list[bytes]:
    """What stands between blank lines, without spaces at the ends of lines, each with one blank line after it."""
    text = b"\n".join(line.rstrip() for line in data.replace(b"\r\n", b"\n").split(b"\n"))
    return [tune.strip(b"\n") + b"\n\n" for tune in BLANK_LINES.split(text) if tune.strip()]


CUTS = {"lines": lines, "tunes": tunes}


def read_list(name: str) -> list[str]:
    """The fingerprints of a file's pieces, in its order."""
    return (LISTS / f"{name}.txt").read_text("ascii").split()


def pick(cut: str, parts: Sequence[bytes], wanted: Sequence[str]) -> bytes:
    """The wanted pieces of the published files in the wanted order; the last of a file of tunes ends in one newline."""
    found = {fingerprint(piece): piece for part in parts for piece in CUTS[cut](part)}
    if missing := [each for each in wanted if each not in found]:
        raise DataError(f"{len(missing)} of {len(wanted)} pieces are not in the published files, e.g. {missing[0]}")
    picked = b"".join(found[each] for each in wanted)
    return picked.rstrip(b"\n") + b"\n" if cut == "tunes" else picked
