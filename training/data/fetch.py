"""Find a data set's files in the folder that SEQSERVE_DATA names, else fetch the published files into a cache.

A file is downloaded into memory and written only after its size and sha256 matched sources.toml. So the parts that are
held back for tests never reach a disk, nor do damaged files.
"""

import gzip
import hashlib
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

from models.messages import suggest
from training.data.examples import DataError

TIMEOUT_S = 30.0  # for connecting and for each read
PICKS = Path(__file__).with_name("picks")  # lists of the pieces of assembled files
FINGERPRINT_DIGITS = 12  # 48 bits, so that no two of a few thousand pieces share a fingerprint
BLANK_LINES = re.compile(rb"\n[ \t]*\n\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedFile:
    """One file of sources.toml: published as it is, kept in part (`keep_bytes`), or assembled (`picks`)."""

    bytes: int
    sha256: str
    path: str = ""  # in the repository
    name: str = ""  # in the data set's folder
    keep_bytes: int | None = None
    kept_sha256: str | None = None
    picks: str = ""  # name of the list of its pieces

    @property
    def sha256_on_disk(self) -> str:
        return self.kept_sha256 or self.sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedDataset:
    """One data set of sources.toml."""

    task: str
    description: str
    license: str
    repository: str
    url: str  # with {path}
    files: tuple[PublishedFile, ...]
    parts: tuple[PublishedFile, ...] = ()
    cut: str = ""  # into which pieces the parts are cut: "lines" or "tunes"
    folder: str = ""  # of its files, if data sets share one; by default its name


def read_sources(path: Path) -> dict[str, PublishedDataset]:
    """Return the published data sets by name."""
    datasets = {}
    for name, entry in tomllib.loads(path.read_text(encoding="utf-8")).items():
        files = {key: tuple(PublishedFile(**file) for file in entry.get(key, ())) for key in ("files", "parts")}
        datasets[name] = PublishedDataset(**{**entry, **files})
    return datasets


PUBLISHED: Mapping[str, PublishedDataset] = read_sources(Path(__file__).with_name("sources.toml"))


def published_dataset(name: str) -> PublishedDataset:
    """Return the entry of a data set. Raises DataError with all names if there is none."""
    if name not in PUBLISHED:
        raise DataError(f"unknown data set {name!r}; {suggest(name, PUBLISHED)}")
    return PUBLISHED[name]


def locate(name: str, *, cache_dir: Path | None = None) -> Path:
    """Return the folder with the files of a data set. Fetches them if this machine does not have them."""
    published = published_dataset(name)
    if not (data_dir := os.environ.get("SEQSERVE_DATA")):
        return fetch(published, (cache_dir or _cache_dir()) / (published.folder or name))
    folder = Path(data_dir) / (published.folder or name)
    if missing := [file.name for file in published.files if not (folder / file.name).is_file()]:
        raise DataError(
            f"SEQSERVE_DATA={data_dir} has no {folder.name}/{missing[0]} ({len(missing)} of {len(published.files)} "
            "files are missing); add them, or unset SEQSERVE_DATA to fetch the published files"
        )
    return folder


def local_folder(name: str) -> Path | None:
    """Return the folder of a data set if it is complete on this machine, else None."""
    data_dir, published = os.environ.get("SEQSERVE_DATA"), published_dataset(name)
    folder = (Path(data_dir) if data_dir else _cache_dir()) / (published.folder or name)
    return folder if all((folder / file.name).is_file() for file in published.files) else None


def _cache_dir() -> Path:
    return Path(os.environ.get("SEQSERVE_CACHE") or Path.home() / ".cache" / "seqserve")


def sha256_of(path: Path) -> str:
    """Return the hexadecimal sha256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fetch(
    published: PublishedDataset, folder: Path, *, timeout_s: float = TIMEOUT_S, schemes: tuple[str, ...] = ("https",)
) -> Path:
    """Fetch the files that are missing or damaged in `folder` and return it. Only tests change `schemes`."""
    damaged = [
        file
        for file in published.files
        if not (folder / file.name).is_file() or sha256_of(folder / file.name) != file.sha256_on_disk
    ]

    def download(file: PublishedFile) -> bytes:
        content = _download(published.url.format(path=file.path), file, timeout_s, schemes)
        return gzip.decompress(content) if file.path.endswith(".gz") else content

    parts = [download(part) for part in published.parts] if any(file.picks for file in damaged) else []
    for file in damaged:
        if file.picks:
            content = pick(published.cut, parts, read_picks(file.picks))
            _check(f"{published.repository}, {file.name}", file, content)
        else:
            content = download(file)[: file.keep_bytes]
        _write(folder / file.name, content)
    return folder


def read_picks(name: str) -> list[str]:
    """Return the fingerprints of a file's pieces in order."""
    return (PICKS / f"{name}.txt").read_text("ascii").split()


def fingerprint(piece: bytes) -> str:
    """Return the first digits of the piece's sha256."""
    return hashlib.sha256(piece).hexdigest()[:FINGERPRINT_DIGITS]


def cut_pieces(cut: str, data: bytes) -> list[bytes]:
    """Cut a published file into lines, or into the tunes between blank lines. Line endings may be mixed."""
    data = data.replace(b"\r\n", b"\n")
    if cut == "lines":
        return data.splitlines(keepends=True)
    text = b"\n".join(line.rstrip() for line in data.split(b"\n"))
    return [tune.strip(b"\n") + b"\n\n" for tune in BLANK_LINES.split(text) if tune.strip()]


def pick(cut: str, parts: Sequence[bytes], wanted: Sequence[str]) -> bytes:
    """Join the wanted pieces of the published files in the wanted order. A file of tunes ends in one newline."""
    pieces = {fingerprint(piece): piece for part in parts for piece in cut_pieces(cut, part)}
    if missing := [each for each in wanted if each not in pieces]:
        raise DataError(f"{len(missing)} of {len(wanted)} pieces are not in the published files, e.g. {missing[0]}")
    content = b"".join(pieces[each] for each in wanted)
    return content.rstrip(b"\n") + b"\n" if cut == "tunes" else content


def _write(target: Path, content: bytes) -> None:
    """Write a file completely or not at all."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(content)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"{target}: cannot be written ({error.strerror}); set SEQSERVE_CACHE to a writable folder"
        ) from error


def _download(url: str, file: PublishedFile, timeout_s: float, schemes: tuple[str, ...]) -> bytes:
    """Return the content of `url`. Raises DataError if it is not the published file."""
    try:
        _check_scheme(url, url, schemes)
        with urlopen(url, timeout=timeout_s) as response:
            _check_scheme(url, response.geturl(), schemes)  # the target of a redirect
            content: bytes = response.read(file.bytes + 1)
    except (OSError, HTTPException) as error:
        if isinstance(error, HTTPError):
            error.close()  # the error holds an open response
        raise DataError(
            f"{url}: the download failed ({error}); nothing was kept. Try again, or, behind a firewall, set "
            "SEQSERVE_DATA to a folder that has the files (docs/reference/data-sets.md)"
        ) from error
    _check(url, file, content)
    return content


def _check_scheme(requested: str, url: str, schemes: tuple[str, ...]) -> None:
    if urlsplit(url).scheme not in schemes:
        redirect = "" if requested == url else f" redirects to {url}, which"
        raise DataError(f"{requested}{redirect} is not {' or '.join(schemes)}; data is fetched over https only")


def _check(url: str, file: PublishedFile, content: bytes) -> None:
    sha256 = hashlib.sha256(content).hexdigest()
    if (len(content), sha256) != (file.bytes, file.sha256):
        raise DataError(
            f"{url}: expected {file.bytes} bytes with sha256 {file.sha256}, got {len(content)} with {sha256}; nothing "
            "was kept. Try again; if this repeats, the published file has changed"
        )
