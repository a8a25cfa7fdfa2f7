"""Text out of files, whatever their line endings; a file that is not text is refused at its first wrong byte."""

import codecs
from pathlib import Path

from training.data.examples import DataError

USUAL = "utf-8"
HALVES = 0.4  # share of the pairs of bytes whose half is NUL from which on a file is taken for UTF-16


def read_text(path: str | Path, *, encoding: str = USUAL) -> str:
    """The whole file as text; line endings become "\\n", a byte order mark is dropped, an empty file is an error.

    A file that starts with the mark of UTF-16 or UTF-32 is read as that if no other encoding than the usual is named.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    try:
        if codecs.lookup(encoding).name == USUAL:
            encoding = _marked(data) or USUAL
        text = data.decode(encoding)
    except LookupError:
        raise DataError(f"{path}: unknown encoding {encoding!r}; try 'utf-8', 'latin-1' or 'cp1252'") from None
    except UnicodeError as error:  # a damaged UTF-16 has no place
        place = f", {_place(data, error.start)}" if isinstance(error, UnicodeDecodeError) else ""
        raise DataError(f"{path}{place}: {_refusal(data, error, encoding)}") from None
    if "\0" in text:
        line_number = text.replace("\r\n", "\n").replace("\r", "\n").split("\0")[0].count("\n") + 1
        raise DataError(f"{path}, line {line_number}: a NUL character, so this is not {encoding} text; {_remedy(data)}")
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise DataError(f"{path}: the file is empty; give a file with text")
    return text


def read_lines(path: str | Path, *, encoding: str = USUAL) -> list[str]:
    """Lines without their ends. str.splitlines would also cut at U+2028, U+0085 and form feeds inside a text."""
    return read_text(path, encoding=encoding).removesuffix("\n").split("\n")


def _marked(data: bytes) -> str | None:
    """The encoding that a byte order mark stands for. UTF-32 is asked first: its mark starts with that of UTF-16."""
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    return "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else None


def _refusal(data: bytes, error: UnicodeError, encoding: str) -> str:
    """What is wrong and what to do: another encoding, or, where all but a few bytes are UTF-8, those bytes."""
    found = f"0x{data[error.start]:02x}" if isinstance(error, UnicodeDecodeError) else str(error)
    if encoding != USUAL:
        return f"{found} is not {encoding}; name the encoding that the file has: --encoding NAME"
    lenient = data.decode(USUAL, "replace")
    wrong = lenient.count("\ufffd")
    if sum(character > "\x7f" for character in lenient) > 2 * wrong:
        return (
            f"{found} is not utf-8, though most of the file is ({wrong} such places): a part in another encoding was "
            "pasted into it; retype what is wrong there, or convert that part to UTF-8"
        )
    return f"{found} is not utf-8; {_remedy(data)}"


def _remedy(data: bytes) -> str:
    """Another encoding: UTF-16 where every second byte is NUL, as it is in text of Latin letters; else one to try."""
    pairs = len(data) // 2
    for half, name in ((data[1::2], "utf-16-le"), (data[::2], "utf-16-be")):
        if half.count(0) > HALVES * pairs:
            return f"it looks like UTF-16 without a byte order mark: --encoding {name}, or save the file as UTF-8"
    if b"\0" in data:
        return "remove it, or name the encoding that the file has: --encoding NAME"
    return (
        "save the file as UTF-8, or name its encoding, e.g. --encoding cp1252 (in a recipe: encoding = 'cp1252' under "
        "[data])"
    )


def _place(data: bytes, offset: int) -> str:
    before = data[:offset].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    line_number, byte = before.count(b"\n") + 1, len(before) - before.rfind(b"\n")
    return f"line {line_number}, byte {byte}"
