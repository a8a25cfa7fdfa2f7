"""Finds a data set's files: in the folder that SEQSERVE_DATA names, else in a cache filled from the pinned originals.

A file appears in the cache only once its size and sha256 are those of sources.toml; until then it is a temporary
file beside its place, which is removed whatever happens. A file that is picked from parts of published ones
(training.data.subset_files) is put together in memory. Knows bytes and sums, never what is inside a file.
"""

import hashlib
import io
import os
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

from training.data import subset_files as picking
from training.data.examples import DataError

CHUNK_BYTES = 1 << 16
TIMEOUT_S = 30.0  # for connecting and for every read; a server that stalls longer than this is given up
STALE_S = 3600.0  # a temporary file this old belongs to a download that was killed outright


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One published file, and the leading part of it that is kept (all of it, unless `keep_bytes` is given).

    With `picks` it is none that is published, but put together from pieces of the data set's `parts`; those are
    published files of which nothing else is kept.
    """

    bytes: int
    sha256: str
    path: str = ""  # in the repository
    name: str = ""  # in the data set's folder
    keep_bytes: int | None = None
    kept_sha256: str | None = None
    picks: str = ""  # the list of its pieces

    @property
    def sha256_on_disk(self) -> str:
        return self.kept_sha256 or self.sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A data set as published: an entry of sources.toml."""

    task: str
    what: str
    licence: str
    repository: str
    url: str  # with {path}
    files: tuple[File, ...]
    parts: tuple[File, ...] = ()
    cut: str = ""  # of the parts into pieces: "lines" or "tunes"


def read_sources(path: Path) -> dict[str, Published]:
    """The table of published data sets, by name."""
    entries: dict[str, dict[str, Any]] = tomllib.loads(path.read_text(encoding="utf-8"))
    return {
        name: Published(**{**entry, **{key: _files(entry.get(key, ())) for key in ("files", "parts")}})
        for name, entry in entries.items()
    }


def _files(entries: Sequence[dict[str, Any]]) -> tuple[File, ...]:
    return tuple(File(**entry) for entry in entries)


PUBLISHED: Mapping[str, Published] = read_sources(Path(__file__).with_name("sources.toml"))


def cache_folder() -> Path:
    """SEQSERVE_CACHE, or ~/.cache/seqserve."""
    return Path(os.environ.get("SEQSERVE_CACHE") or Path.home() / ".cache" / "seqserve")


def locate(name: str, *, cache_dir: Path | None = None) -> Path:
    """The folder with the files of data set `name`, fetched first if they are nowhere on this machine."""
    published = known(name)
    if not (own := os.environ.get("SEQSERVE_DATA")):
        return fetch(published, (cache_dir or cache_folder()) / name)
    folder = Path(own) / name
    if missing := [file.name for file in published.files if not (folder / file.name).is_file()]:
        raise DataError(
            f"SEQSERVE_DATA={own} has no {name}/{missing[0]} ({len(missing)} of {len(published.files)} files are "
            "missing); put them there, or unset SEQSERVE_DATA to fetch the published files"
        )
    return folder


def whereabouts(name: str, *, cache_dir: Path | None = None) -> Path | None:
    """The folder that `locate` would answer with if nothing had to be fetched, else None."""
    own = os.environ.get("SEQSERVE_DATA")
    folder = (Path(own) if own else cache_dir or cache_folder()) / name
    return folder if all((folder / file.name).is_file() for file in known(name).files) else None


def known(name: str) -> Published:
    """The entry of data set `name`; an error that lists them all if there is none."""
    if name not in PUBLISHED:
        raise DataError(f"no data set is called {name!r}; there are {', '.join(PUBLISHED)}")
    return PUBLISHED[name]


def sha256_of(path: Path) -> str:
    """The hexadecimal sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fetch(
    published: Published, folder: Path, *, timeout_s: float = TIMEOUT_S, schemes: tuple[str, ...] = ("https",)
) -> Path:
    """Fetches what is missing or damaged in `folder` and returns it. `schemes` is there for tests."""
    open_url = partial(_receive, timeout_s=timeout_s, schemes=schemes)
    picked = []
    for file in published.files:
        target = folder / file.name
        if target.is_file() and sha256_of(target) == file.sha256_on_disk:
            continue
        if file.picks:
            picked.append(file)
            continue
        with _placed(target) as stream:
            open_url(published.url.format(path=file.path), file, stream)
    if picked:
        _assemble(published, picked, folder, open_url)
    return folder


def _assemble(published: Published, files: Sequence[File], folder: Path, open_url: Callable[..., None]) -> None:
    """The files that are picked from the parts, which are held in memory alone: they have what must not be kept."""
    parts = []
    for part in published.parts:
        open_url(published.url.format(path=part.path), part, stream := io.BytesIO())
        parts.append(stream.getvalue())
    for file in files:
        data = picking.pick(published.cut, parts, picking.read_list(file.picks))
        _check(f"{published.repository}, {file.name}", file, len(data), hashlib.sha256(data).hexdigest())
        with _placed(folder / file.name) as stream:
            stream.write(data)


@contextmanager
def _placed(target: Path) -> Iterator[IO[bytes]]:
    """A temporary file beside `target` to write to, which takes its place if all went well and is gone if not."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target.parent)
        with temporary.open("wb") as stream:
            yield stream
        os.replace(temporary, target)
    except OSError as error:
        raise DataError(
            f"{target}: cannot be written ({error.strerror}); set SEQSERVE_CACHE to a folder that can"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)  # also after Ctrl-C; already gone if it was put in its place


def _receive(url: str, file: File, stream: IO[bytes], *, timeout_s: float, schemes: tuple[str, ...]) -> None:
    """What `url` has, into the stream; an error if it is not the published file."""
    try:
        _check_scheme(url, url, schemes)
        with urlopen(url, timeout=timeout_s) as answer:
            _check_scheme(url, answer.geturl(), schemes)  # a redirect may lead elsewhere
            received_bytes, sha256 = _copy(answer.read, stream, file)
    except (OSError, HTTPException) as error:
        if isinstance(error, HTTPError):
            error.close()  # a 404 is an open answer too
        raise DataError(
            f"{url}: the download failed ({error}); nothing was kept. Try again, or, behind a firewall, set "
            "SEQSERVE_DATA to a folder that has the files (docs/data.md says how)"
        ) from error
    _check(url, file, received_bytes, sha256)


def _copy(read: Callable[[int], bytes], stream: IO[bytes], file: File) -> tuple[int, str]:
    """Bytes received and their sha256; only the part to keep is written."""
    from tqdm import tqdm  # only a download shows a bar

    received_bytes, digest = 0, hashlib.sha256()
    left_to_keep = file.bytes if file.keep_bytes is None else file.keep_bytes
    with tqdm(total=file.bytes, unit="B", unit_scale=True, desc=file.path, leave=False) as bar:
        while received_bytes <= file.bytes and (chunk := read(CHUNK_BYTES)):
            received_bytes += len(chunk)
            digest.update(chunk)
            stream.write(chunk[:left_to_keep])
            left_to_keep -= min(len(chunk), left_to_keep)
            bar.update(len(chunk))
    return received_bytes, digest.hexdigest()


def _check_scheme(asked: str, url: str, schemes: tuple[str, ...]) -> None:
    if urlsplit(url).scheme not in schemes:
        led = "" if asked == url else f" leads to {url}, which"
        raise DataError(f"{asked}{led} is not {' or '.join(schemes)}; data is fetched over https only")


def _check(url: str, file: File, received_bytes: int, sha256: str) -> None:
    if (received_bytes, sha256) != (file.bytes, file.sha256):
        raise DataError(
            f"{url}: expected {file.bytes} bytes with sha256 {file.sha256}, got {received_bytes} with {sha256}; "
            "nothing was kept. If the connection broke, try again; if not, the published file has changed"
        )


def _sweep(folder: Path) -> None:
    """Removes temporary files of downloads that were killed; a younger one may be another process at work."""
    for left_over in folder.glob(".*.part"):
        if time.time() - left_over.stat().st_mtime > STALE_S:
            left_over.unlink(missing_ok=True)
