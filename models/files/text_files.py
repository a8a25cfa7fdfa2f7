"""Text of files with any line endings. Errors name archives and binary formats, and locate invalid bytes."""

import codecs
from pathlib import Path

DEFAULT_ENCODING = "utf-8"
SAVE_AS_TEXT = "save it as CSV or JSON lines (.jsonl), in UTF-8"
DECOMPRESS = "decompress it first"
SIGNATURES = (  # first bytes, what the file is, what to do; libmagic's database has them
    (b"\x1f\x8b", "gzip", DECOMPRESS + ": gunzip FILE"),
    (b"BZh91AY&SY", "bzip2", DECOMPRESS + ": bunzip2 FILE"),
    (b"\xfd7zXZ\0", "xz", DECOMPRESS + ": unxz FILE"),
    (b"\x28\xb5\x2f\xfd", "Zstandard", DECOMPRESS + ": unzstd FILE"),
    (b"7z\xbc\xaf\x27\x1c", "7-Zip", DECOMPRESS),
    (b"Rar!\x1a", "RAR", DECOMPRESS),
    (b"PAR1", "Parquet", SAVE_AS_TEXT),
    (b"ARROW1\0\0", "Arrow (Feather)", SAVE_AS_TEXT),
    (b"Obj\x01", "Avro", SAVE_AS_TEXT),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "old Microsoft Office (.xls or .doc)", SAVE_AS_TEXT),
    (b"SQLite format 3\0", "SQLite", "export the table as CSV"),
    (b"\x89HDF\r\n\x1a\n", "HDF5", SAVE_AS_TEXT),
    (b"\x93NUMPY", "NumPy", SAVE_AS_TEXT),
    (b"\x80\x04\x95", "pickle", SAVE_AS_TEXT),
    (b"\x80\x05\x95", "pickle", SAVE_AS_TEXT),
    (b"%PDF-", "PDF", "save its text"),
    (b"{\\rtf", "RTF", "save it as plain text"),
    (b"version https://git-lfs", "Git LFS pointer", "fetch the file itself: git lfs pull"),
)
ZIP = b"PK\x03\x04"
ZIPPED = (  # a name in the archive, what the file is, what to do
    (b"xl/", "Excel (.xlsx)", SAVE_AS_TEXT),
    (b"word/", "Word (.docx)", "save it as plain text"),
    (b"opendocument", "OpenDocument", SAVE_AS_TEXT),
    (b".npy", "NumPy (.npz)", SAVE_AS_TEXT),
    (b"", "zip", DECOMPRESS + ": unzip FILE"),
)
NUL_SHARE = 0.4  # with this share of NUL bytes in one half of the byte pairs, a file is probably UTF-16


class DataError(ValueError):
    """Data that cannot be used. The message names the file, the line, the problem and the remedy."""


def read_text(path: str | Path, *, encoding: str = DEFAULT_ENCODING) -> str:
    """Read a whole file. Line endings become line feeds, a byte order mark is dropped, and an empty file is an error.

    A byte order mark of UTF-16 or UTF-32 decides the encoding unless another one than UTF-8 is given.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    refuse_binary(path, data)
    try:
        if codecs.lookup(encoding).name == DEFAULT_ENCODING:
            encoding = _marked_encoding(data) or DEFAULT_ENCODING
        text = data.decode(encoding)
    except LookupError:
        raise DataError(f"{path}: unknown encoding {encoding!r}; try 'utf-8', 'latin-1' or 'cp1252'") from None
    except UnicodeError as error:  # errors of UTF-16 have no position
        place = f", {_position(data, error.start)}" if isinstance(error, UnicodeDecodeError) else ""
        raise DataError(f"{path}{place}: {_explain(data, error, encoding)}") from None
    if "\0" in text:
        line_number = text.replace("\r\n", "\n").replace("\r", "\n").split("\0")[0].count("\n") + 1
        raise DataError(f"{path}, line {line_number}: a NUL character, so not {encoding} text; {_remedy(data)}")
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise DataError(f"{path}: the file is empty; give a file with text")
    return text


def read_lines(path: str | Path, *, encoding: str = DEFAULT_ENCODING) -> list[str]:
    """Read lines without their ends. str.splitlines would also cut at U+2028, U+0085 and form feeds."""
    text = read_text(path, encoding=encoding)
    if text[:99].lstrip().lower().startswith(("<!doctype html", "<html")):
        raise DataError(f"{path}: a web page (HTML), not data; download the file itself, not the page that shows it")
    return text.removesuffix("\n").split("\n")


def refuse_binary(path: Path, data: bytes) -> None:
    """Raise DataError if the first bytes of a file show that it is not text. The error names the kind of an archive."""
    if data.startswith(ZIP):
        kind, remedy = next((kind, remedy) for name, kind, remedy in ZIPPED if name in data)
    elif found := [(kind, remedy) for magic, kind, remedy in SIGNATURES if data.startswith(magic)]:
        ((kind, remedy),) = found
    else:
        return
    raise DataError(f"{path}: a file of the kind {kind}, not text; {remedy}")


def _marked_encoding(data: bytes) -> str | None:
    """Return the encoding that a byte order mark names. The mark of UTF-32 starts with that of UTF-16."""
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    return "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else None


def _explain(data: bytes, error: UnicodeError, encoding: str) -> str:
    """Return the problem and the remedy: the encoding, or a few bytes in a file that is mostly UTF-8."""
    wrong = f"0x{data[error.start]:02x}" if isinstance(error, UnicodeDecodeError) else str(error)
    if encoding != DEFAULT_ENCODING:
        return f"{wrong} is not {encoding}; give the file's encoding with --encoding NAME"
    lenient = data.decode(DEFAULT_ENCODING, "replace")
    count = lenient.count("\ufffd")
    if sum(character > "\x7f" for character in lenient) > 2 * count:
        return (
            f"{wrong} is not utf-8, though most of the file is ({count} such places); retype the wrong characters, or "
            "convert that part to UTF-8"
        )
    return f"{wrong} is not utf-8; {_remedy(data)}"


def _remedy(data: bytes) -> str:
    """Suggest an encoding. Latin letters in UTF-16 have NUL as every second byte."""
    pairs = len(data) // 2
    for half, name in ((data[1::2], "utf-16-le"), (data[::2], "utf-16-be")):
        if half.count(0) > NUL_SHARE * pairs:
            return f"it looks like UTF-16 without a byte order mark: give --encoding {name}, or save it as UTF-8"
    if b"\0" in data:
        return "remove it, or give the file's encoding with --encoding NAME"
    return (
        "save the file as UTF-8, or give its encoding, e.g. --encoding cp1252 (in a recipe: encoding = 'cp1252' under "
        "[data])"
    )


def _position(data: bytes, offset: int) -> str:
    before = data[:offset].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    line_number, byte = before.count(b"\n") + 1, len(before) - before.rfind(b"\n")
    return f"line {line_number}, byte {byte}"
