"""Text out of files, whatever their line endings; a file that is not text is refused at its first wrong byte."""

import codecs
from pathlib import Path

from training.data.errors import DataError


def read_text(path: str | Path, *, encoding: str = "utf-8") -> str:
    """The whole file as text; line endings become "\\n", a byte order mark is dropped, an empty file is an error."""
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    try:
        text = data.decode(encoding)
    except LookupError:
        raise DataError(f"{path}: unknown encoding {encoding!r}; try 'utf-8', 'latin-1' or 'cp1252'") from None
    except UnicodeDecodeError as error:
        likely = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "cp1252"
        raise DataError(
            f"{path}, {_place(data, error.start)}: 0x{data[error.start]:02x} is not {encoding}; "
            f"save the file as UTF-8, or name its encoding, e.g. encoding={likely!r}"
        ) from None
    if "\0" in text:
        raise DataError(f"{path}, {_place(data, data.find(0))}: a NUL byte, so this is not {encoding} text")
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise DataError(f"{path}: the file is empty; give a file with text")
    return text


def read_lines(path: str | Path, *, encoding: str = "utf-8") -> list[str]:
    """Lines without their ends. str.splitlines would also cut at U+2028, U+0085 and form feeds inside a text."""
    return read_text(path, encoding=encoding).removesuffix("\n").split("\n")


def _place(data: bytes, offset: int) -> str:
    before = data[:offset].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    line_number, byte = before.count(b"\n") + 1, len(before) - before.rfind(b"\n")
    return f"line {line_number}, byte {byte}"
