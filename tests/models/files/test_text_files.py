"""Encodings and line endings of text files."""

import bz2
import gzip
import io
import lzma
import pickle
import re
import zipfile
from pathlib import Path

import pytest

from models.files.text_files import read_lines, read_text
from tests.support.tiny_files import write
from training.data.examples import DataError


def test_text_keeps_everything_except_line_endings(tmp_path: Path) -> None:
    assert read_text(write(tmp_path, "a.txt", "\ufeffOne\r\n\u2028two\r\n\r\n")) == "One\n\u2028two\n\n"


def test_missing_and_empty_files_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"b\.txt"):
        read_text(tmp_path / "b.txt")
    with pytest.raises(DataError, match=r"a\.txt.*empty"):
        read_text(write(tmp_path, "a.txt", " \n"))


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"caf\xe9\tNOUN\n", r"line 1, byte 4: 0xe9 .*--encoding cp1252 .*encoding = 'cp1252'"),
        (b"The\tDET\r\ncaf\xe9\tNOUN\n", r"line 2, byte 4"),
        ("The\tDET\r\nd\tNOUN\n".encode("utf-16-le"), r"line 1: .*--encoding utf-16-le"),
        ("The\tDET\r\nd\tNOUN\n".encode("utf-16-be"), r"line 1: .*--encoding utf-16-be"),
        ("The\tÖET\r\n".encode("utf-16-le"), r"0xd6 .*--encoding utf-16-le"),
        (b"The\tDET\r\nd\0g\tNOUN\n", r"line 2: .*--encoding NAME"),
    ],
)
def test_bytes_that_are_not_text_are_refused_with_their_position(tmp_path: Path, content: bytes, error: str) -> None:
    with pytest.raises(DataError, match=error):
        read_text(write(tmp_path, "a.txt", content))


def test_given_encoding_is_used(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", b"caf\xe9\n")
    assert read_text(path, encoding="latin-1") == "café\n"
    with pytest.raises(DataError, match="'latin-99'"):
        read_text(path, encoding="latin-99")
    with pytest.raises(DataError, match=r"line 1, byte 4: 0xe9 is not ascii.*--encoding NAME"):
        read_text(path, encoding="ascii")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_byte_order_mark_decides_the_encoding(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path, "a.txt", "café\r\n".encode(encoding))
    assert read_text(path) == "café\n"
    assert read_text(path, encoding="UTF8") == "café\n"


def test_a_part_in_another_encoding_is_distinguished_from_a_whole_file(tmp_path: Path) -> None:
    mixed = "text,label\ncafé,a\nnaïve,b\nköln,a\n".encode() + "über,b\n".encode("cp1252")
    with pytest.raises(DataError, match=r"line 5, byte 1: 0xfc .*\(1 such") as raised:
        read_text(write(tmp_path, "a.csv", mixed))
    assert "--encoding" not in str(raised.value)
    whole = "text,label\ncafé,a\nnaïve,b\n".encode("cp1252")
    with pytest.raises(DataError, match=r"line 2, byte 4: .*--encoding cp1252"):
        read_text(write(tmp_path, "a.csv", whole))


def zipped(name: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr(name, "text,label")
    return content.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.csv.gz", gzip.compress(b"text,label\na,b\n"), "gzip"),
        ("a.csv", gzip.compress(b"text,label\na,b\n"), "gzip"),
        ("a.csv.bz2", bz2.compress(b"text,label\na,b\n"), "bzip2"),
        ("a.csv.xz", lzma.compress(b"text,label\na,b\n"), "xz"),
        ("a.xlsx", zipped("xl/workbook.xml"), r"Excel \(\.xlsx\)"),
        ("a.docx", zipped("word/document.xml"), r"Word \(\.docx\)"),
        ("a.zip", zipped("a.csv"), "zip"),
        ("a.parquet", b"PAR1\x15\x04PAR1", "Parquet"),
        ("a.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), "old Microsoft Office .*"),
        ("a.pkl", pickle.dumps(["a"] * 9), "pickle"),
        ("a.csv", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS pointer"),
    ],
)
def test_file_that_is_not_text_is_named_by_its_content(tmp_path: Path, name: str, content: bytes, kind: str) -> None:
    with pytest.raises(DataError, match=rf"{re.escape(name)}: a file of the kind {kind}, .*; "):
        read_text(write(tmp_path, name, content))


def test_web_page_is_a_text_but_not_a_table(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "\n<!DOCTYPE html>\n<html>")
    assert read_text(path).endswith("<html>")
    with pytest.raises(DataError, match=r"a\.csv: a web page"):
        read_lines(path)
