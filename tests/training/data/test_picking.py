"""Files that are put together from pieces of published ones: what is not listed never reaches the disk."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from training.data import fetch
from training.data import subset_files as picking
from training.data.examples import DataError
from training.data.fetch import PUBLISHED, File, Published

TUNES = b"X: 1\r\nT:One \r\n|ab|\r\n\r\nX: 2\nT:Two\n|cd|\n\n\nX: 3\nT:Three\n|ef|"
ONE, TWO, THREE = (picking.fingerprint(tune) for tune in picking.tunes(TUNES))


def test_tunes_are_cut_at_blank_lines_whatever_the_line_endings() -> None:
    assert picking.tunes(TUNES) == [b"X: 1\nT:One\n|ab|\n\n", b"X: 2\nT:Two\n|cd|\n\n", b"X: 3\nT:Three\n|ef|\n\n"]


def test_pieces_are_picked_from_all_parts_in_the_order_of_the_list() -> None:
    cut = TUNES.index(b"X: 3")
    picked = picking.pick("tunes", [TUNES[:cut], TUNES[cut:]], [THREE, ONE])
    assert picked == b"X: 3\nT:Three\n|ef|\n\nX: 1\nT:One\n|ab|\n"
    rows = b"EI,a,ACGT\nN,b,GGGG\n"
    assert picking.pick("lines", [rows], [picking.fingerprint(b"N,b,GGGG\n")]) == b"N,b,GGGG\n"


def test_a_piece_that_is_not_there_is_named() -> None:
    with pytest.raises(DataError, match=r"1 of 2 pieces are not in the published files, e\.g\. 0123"):
        picking.pick("tunes", [TUNES], [ONE, "0123"])


def published(data: bytes, kept: bytes) -> Published:
    part = File(path="all.abc", bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    file = File(name="train.abc", picks="mine", bytes=len(kept), sha256=hashlib.sha256(kept).hexdigest())
    return Published(
        task="generate",
        what="",
        licence="",
        repository="a repository",
        url="https://example.org/{path}",
        files=(file,),
        parts=(part,),
        cut="tunes",
    )


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """TUNES behind every address, and a list that has two of them; the folder to fetch into."""

    def receive(url: str, file: File, stream: Any, **_: Any) -> None:
        stream.write(TUNES)

    monkeypatch.setattr(fetch, "_receive", receive)
    monkeypatch.setattr(picking, "LISTS", tmp_path)
    (tmp_path / "mine.txt").write_text(f"{TWO}\n{ONE}\n")
    return tmp_path / "set"


def test_only_the_listed_pieces_are_written(served: Path) -> None:
    kept = b"X: 2\nT:Two\n|cd|\n\nX: 1\nT:One\n|ab|\n"
    fetch.fetch(published(TUNES, kept), served)
    assert [path.name for path in served.iterdir()] == ["train.abc"]
    assert (served / "train.abc").read_bytes() == kept


def test_pieces_that_make_another_file_are_not_written(served: Path) -> None:
    with pytest.raises(DataError, match=r"a repository, train.abc: expected 5 bytes"):
        fetch.fetch(published(TUNES, b"other"), served)
    assert not served.exists()


def test_every_list_is_there_and_no_piece_stands_in_two_of_a_set() -> None:
    for entry in PUBLISHED.values():
        lists = [set(picking.read_list(file.picks)) for file in entry.files if file.picks]
        assert bool(lists) == bool(entry.parts)
        assert sum(map(len, lists)) == len(set().union(*lists))
        assert all(len(each) == picking.DIGITS for pieces in lists for each in pieces)
