"""Downloads: a good file is kept whole, a broken one leaves nothing, and held-back pieces are never written."""

import hashlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from threading import Event, Thread

import pytest

from training.data import fetch as fetching
from training.data.examples import DataError
from training.data.fetch import (
    FINGERPRINT_DIGITS,
    PUBLISHED,
    PublishedDataset,
    PublishedFile,
    cut_pieces,
    fetch,
    fingerprint,
    local_folder,
    locate,
    pick,
    read_picks,
)

TEXT = b"To be, or not to be\n" * 10_000
SHA256 = hashlib.sha256(TEXT).hexdigest()
GOOD = PublishedFile(path="good", name="train.txt", bytes=len(TEXT), sha256=SHA256)


class FileServer(BaseHTTPRequestHandler):
    """Serves TEXT whole (/good), too short (/short), too long (/endless), or stops in the middle (/stalled)."""

    ended = Event()

    def do_GET(self) -> None:
        if self.path == "/missing":
            self.send_error(404)
            return
        if self.path == "/elsewhere":
            self.send_response(302)
            self.send_header("Location", "http://localhost:9/")
            self.end_headers()
            return
        self.send_response(200)
        if self.path in ("/good", "/stalled", "/short"):
            self.send_header("Content-Length", str(len(TEXT)))
        self.end_headers()
        if self.path == "/stalled":
            self.wfile.write(TEXT[: len(TEXT) // 2])
            self.wfile.flush()
            self.ended.wait(30)
        elif self.path == "/short":
            self.wfile.write(TEXT[: len(TEXT) // 2])
        else:
            self.wfile.write(TEXT if self.path == "/good" else TEXT * 3)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), FileServer)
    server.daemon_threads = True
    server.block_on_close = False
    thread = Thread(target=partial(server.serve_forever, poll_interval=0.02))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    FileServer.ended.set()
    server.shutdown()
    thread.join()
    server.server_close()


def published(address: str, *files: PublishedFile) -> PublishedDataset:
    return PublishedDataset(
        task="generate", description="a test", license="none", repository=address, url=address + "/{path}", files=files
    )


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_good_file_is_kept_whole(address: str, tmp_path: Path) -> None:
    fetch(published(address, GOOD), tmp_path / "set", schemes=("http",))
    assert files_in(tmp_path) == ["train.txt"]
    assert (tmp_path / "set/train.txt").read_bytes() == TEXT


def test_only_the_part_to_keep_is_written(address: str, tmp_path: Path) -> None:
    kept = TEXT[:100_001]
    file = replace(GOOD, keep_bytes=len(kept), kept_sha256=hashlib.sha256(kept).hexdigest())
    fetch(published(address, file), tmp_path, schemes=("http",))
    assert (tmp_path / "train.txt").read_bytes() == kept


@pytest.mark.parametrize(
    ("path", "sha256", "error"),
    [
        ("short", SHA256, rf"expected {len(TEXT)} bytes .* got {len(TEXT) // 2} with"),
        ("good", "0" * 64, rf"sha256 {'0' * 64}, got {len(TEXT)} with {SHA256}"),
        ("endless", SHA256, r"expected .* bytes"),
        ("missing", SHA256, r"404"),
        ("stalled", SHA256, r"timed out"),
    ],
)
def test_broken_download_leaves_nothing(address: str, tmp_path: Path, path: str, sha256: str, error: str) -> None:
    file = replace(GOOD, path=path, sha256=sha256)
    with pytest.raises(DataError, match=error) as raised:
        fetch(published(address, file), tmp_path, timeout_s=0.3, schemes=("http",))
    assert f"{address}/{path}" in str(raised.value)
    assert files_in(tmp_path) == []


def test_broken_download_keeps_the_good_files(address: str, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        fetch(published(address, GOOD, replace(GOOD, path="short", name="dev.txt")), tmp_path, schemes=("http",))
    assert files_in(tmp_path) == ["train.txt"]


def test_complete_file_is_not_fetched_again(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_bytes(TEXT)
    fetch(published("http://127.0.0.1:9", GOOD), tmp_path, schemes=("http",))


def test_damaged_file_is_fetched_again(address: str, tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_bytes(TEXT[:-1])
    fetch(published(address, GOOD), tmp_path, schemes=("http",))
    assert (tmp_path / "train.txt").read_bytes() == TEXT


def test_file_that_cannot_be_written_is_refused_by_name(address: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"train\.txt.*SEQSERVE_CACHE"):
        fetch(published(address, GOOD), tmp_path / "file", schemes=("http",))


@pytest.mark.parametrize("url", ["http://example.org/good", "file:///etc/hostname"])
def test_only_https_is_fetched(url: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="https"):
        fetch(replace(published("", GOOD), url=url), tmp_path)


def test_failed_redirect_leaves_nothing(address: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="elsewhere"):
        fetch(published(address, replace(GOOD, path="elsewhere")), tmp_path, schemes=("http",))
    assert files_in(tmp_path) == []


def test_missing_file_of_the_data_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQSERVE_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"tinyshakespeare/train\.txt.*SEQSERVE_DATA"):
        locate("tinyshakespeare")
    assert local_folder("tinyshakespeare") is None
    folder = tmp_path / "tinyshakespeare"
    folder.mkdir()
    (folder / "train.txt").write_text("To be")
    assert locate("tinyshakespeare") == local_folder("tinyshakespeare") == folder


def test_cache_folder_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEQSERVE_DATA", raising=False)
    monkeypatch.setenv("SEQSERVE_CACHE", str(tmp_path))
    for file in PUBLISHED["ud-ewt"].files:
        (tmp_path / "ud-ewt").mkdir(exist_ok=True)
        (tmp_path / "ud-ewt" / file.name).touch()
    assert local_folder("ud-ewt") == tmp_path / "ud-ewt"


def test_data_sets_can_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQSERVE_DATA", str(tmp_path))
    (tmp_path / "ner").mkdir()
    (tmp_path / "ner/wikigold.conll").touch()
    assert locate("wikigold") == local_folder("wikigold") == tmp_path / "ner"
    assert local_folder("btc") is None


def test_every_published_file_is_pinned_to_a_commit() -> None:
    for name, entry in PUBLISHED.items():
        assert entry.url.startswith("https://"), name
        for file in entry.parts or entry.files:
            address = entry.url.format(path=file.path)
            assert len(address.split("/")[5]) == 40, f"{name}: {address} names no commit"
        for file in entry.files:
            assert len(file.sha256_on_disk) == len(file.sha256) == 64
            assert (file.keep_bytes is None) == (file.kept_sha256 is None)
            assert "test" not in file.path, "test splits are for acceptance, not for training"


TUNES = b"X: 1\r\nT:One \r\n|ab|\r\n\r\nX: 2\nT:Two\n|cd|\n\n\nX: 3\nT:Three\n|ef|"
ONE, TWO, THREE = (fingerprint(tune) for tune in cut_pieces("tunes", TUNES))


def test_tunes_are_cut_at_blank_lines_with_any_line_endings() -> None:
    assert cut_pieces("tunes", TUNES) == [
        b"X: 1\nT:One\n|ab|\n\n",
        b"X: 2\nT:Two\n|cd|\n\n",
        b"X: 3\nT:Three\n|ef|\n\n",
    ]


def test_pieces_are_picked_from_all_parts_in_list_order() -> None:
    cut = TUNES.index(b"X: 3")
    assert pick("tunes", [TUNES[:cut], TUNES[cut:]], [THREE, ONE]) == b"X: 3\nT:Three\n|ef|\n\nX: 1\nT:One\n|ab|\n"
    rows = b"EI,a,ACGT\nN,b,GGGG\n"
    assert pick("lines", [rows], [fingerprint(b"N,b,GGGG\n")]) == b"N,b,GGGG\n"


def test_missing_piece_is_refused() -> None:
    with pytest.raises(DataError, match=r"1 of 2 pieces .*0123"):
        pick("tunes", [TUNES], [ONE, "0123"])


def assembled(kept: bytes) -> PublishedDataset:
    """A data set with one file that is assembled from TUNES."""
    part = PublishedFile(path="all.abc", bytes=len(TUNES), sha256=hashlib.sha256(TUNES).hexdigest())
    file = PublishedFile(name="train.abc", picks="mine", bytes=len(kept), sha256=hashlib.sha256(kept).hexdigest())
    return replace(published("https://example.org", file), parts=(part,), cut="tunes")


@pytest.fixture
def set_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder to fetch into, with TUNES at every URL and a list of two of them."""

    def respond(url: str, *, timeout: float) -> object:
        response = BytesIO(TUNES)
        response.geturl = lambda: url  # type: ignore[attr-defined]
        return closing(response)

    monkeypatch.setattr(fetching, "urlopen", respond)
    monkeypatch.setattr(fetching, "PICKS", tmp_path)
    (tmp_path / "mine.txt").write_text(f"{TWO}\n{ONE}\n")
    return tmp_path / "set"


def test_only_the_listed_pieces_are_written(set_folder: Path) -> None:
    kept = b"X: 2\nT:Two\n|cd|\n\nX: 1\nT:One\n|ab|\n"
    fetch(assembled(kept), set_folder)
    assert [path.name for path in set_folder.iterdir()] == ["train.abc"]
    assert (set_folder / "train.abc").read_bytes() == kept


def test_assembled_file_with_another_checksum_is_not_written(set_folder: Path) -> None:
    with pytest.raises(DataError, match=r"train\.abc: expected 5 bytes"):
        fetch(assembled(b"other"), set_folder)
    assert not set_folder.exists()


def test_every_list_of_pieces_exists_and_no_piece_is_in_two() -> None:
    for entry in PUBLISHED.values():
        lists = [set(read_picks(file.picks)) for file in entry.files if file.picks]
        assert bool(lists) == bool(entry.parts)
        assert sum(map(len, lists)) == len(set().union(*lists))
        assert all(len(each) == FINGERPRINT_DIGITS for pieces in lists for each in pieces)
