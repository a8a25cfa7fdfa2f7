"""Downloads: a good file lands whole, a broken one leaves nothing behind and says what was wrong."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from training.data.examples import DataError
from training.data.fetch import PUBLISHED, File, Published, fetch, locate, whereabouts

TEXT = b"To be, or not to be\n" * 10_000
SHA256 = hashlib.sha256(TEXT).hexdigest()
GOOD = File(path="good", name="train.txt", bytes=len(TEXT), sha256=SHA256)


class Shelf(BaseHTTPRequestHandler):
    """Serves TEXT, whole (/good), cut short (/short), without an end (/endless), never finished (/stalled)."""

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
            time.sleep(2)
        elif self.path == "/short":
            self.wfile.write(TEXT[: len(TEXT) // 2])
        else:
            self.wfile.write(TEXT if self.path == "/good" else TEXT * 3)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Shelf)
    server.daemon_threads = True
    server.block_on_close = False
    thread = Thread(target=partial(server.serve_forever, poll_interval=0.02))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def published(address: str, *files: File) -> Published:
    return Published(
        task="generate", what="a test", licence="none", repository=address, url=address + "/{path}", files=files
    )


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_good_file_lands_whole(address: str, tmp_path: Path) -> None:
    fetch(published(address, GOOD), tmp_path / "set", schemes=("http",))
    assert files_in(tmp_path) == ["train.txt"]
    assert (tmp_path / "set/train.txt").read_bytes() == TEXT


def test_only_the_part_to_keep_is_written(address: str, tmp_path: Path) -> None:
    kept = TEXT[:100_001]
    file = replace(GOOD, keep_bytes=len(kept), kept_sha256=hashlib.sha256(kept).hexdigest())
    fetch(published(address, file), tmp_path, schemes=("http",))
    assert (tmp_path / "train.txt").read_bytes() == kept


@pytest.mark.parametrize(
    ("path", "sha256", "said"),
    [
        ("short", SHA256, rf"expected {len(TEXT)} bytes .* got {len(TEXT) // 2} with"),
        ("good", "0" * 64, rf"sha256 {'0' * 64}, got {len(TEXT)} with {SHA256}"),
        ("endless", SHA256, r"expected .* nothing was kept"),
        ("missing", SHA256, r"404.*nothing was kept"),
        ("stalled", SHA256, r"timed out.*nothing was kept"),
    ],
)
def test_a_broken_download_leaves_nothing_and_says_so(
    address: str, tmp_path: Path, path: str, sha256: str, said: str
) -> None:
    file = replace(GOOD, path=path, sha256=sha256)
    with pytest.raises(DataError, match=said) as raised:
        fetch(published(address, file), tmp_path, timeout_s=0.3, schemes=("http",))
    assert f"{address}/{path}" in str(raised.value)
    assert files_in(tmp_path) == []


def test_a_broken_download_spares_the_files_that_were_good(address: str, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        fetch(published(address, GOOD, replace(GOOD, path="short", name="dev.txt")), tmp_path, schemes=("http",))
    assert files_in(tmp_path) == ["train.txt"]


def test_what_is_there_is_not_fetched_again(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_bytes(TEXT)
    fetch(published("http://127.0.0.1:9", GOOD), tmp_path, schemes=("http",))


def test_a_damaged_file_is_fetched_again(address: str, tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_bytes(TEXT[:-1])
    fetch(published(address, GOOD), tmp_path, schemes=("http",))
    assert (tmp_path / "train.txt").read_bytes() == TEXT


@pytest.mark.parametrize("killed_by", [signal.SIGINT, signal.SIGKILL])
def test_a_download_killed_midway_leaves_no_file_in_place(
    address: str, tmp_path: Path, killed_by: signal.Signals
) -> None:
    program = (
        "import sys; from pathlib import Path; from training.data.fetch import *;"
        "file = File(path='stalled', name='train.txt', bytes=int(sys.argv[3]), sha256='');"
        "entry = Published(task='', what='', licence='', repository='', url=sys.argv[1], files=(file,));"
        "fetch(entry, Path(sys.argv[2]), schemes=('http',))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, address + "/{path}", str(tmp_path), str(len(TEXT))], stderr=subprocess.DEVNULL
    )
    give_up_s = time.monotonic() + 5
    while not files_in(tmp_path) and time.monotonic() < give_up_s:
        time.sleep(0.01)
    process.send_signal(killed_by)
    assert process.wait(timeout=5) != 0
    left = list(tmp_path.iterdir())
    assert [path.suffix for path in left] == ([] if killed_by == signal.SIGINT else [".part"])

    for path in left:  # nothing can tidy up after SIGKILL but the next download
        os.utime(path, (0, 0))
    fetch(published(address, GOOD), tmp_path, schemes=("http",))
    assert files_in(tmp_path) == ["train.txt"]


@pytest.mark.parametrize("url", ["http://example.org/good", "file:///etc/hostname"])
def test_only_https_is_fetched(url: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="https only"):
        fetch(replace(published("", GOOD), url=url), tmp_path)


def test_a_redirect_that_cannot_be_followed_leaves_nothing(address: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing was kept"):
        fetch(published(address, replace(GOOD, path="elsewhere")), tmp_path, schemes=("http",))
    assert files_in(tmp_path) == []


def test_a_folder_of_ones_own_is_read_and_its_gaps_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQSERVE_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"no tinyshakespeare/train.txt .* unset SEQSERVE_DATA"):
        locate("tinyshakespeare")
    assert whereabouts("tinyshakespeare") is None
    folder = tmp_path / "tinyshakespeare"
    folder.mkdir()
    (folder / "train.txt").write_text("To be")
    assert locate("tinyshakespeare") == whereabouts("tinyshakespeare") == folder


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEQSERVE_DATA", raising=False)
    monkeypatch.setenv("SEQSERVE_CACHE", str(tmp_path))
    for file in PUBLISHED["ud-ewt"].files:
        (tmp_path / "ud-ewt").mkdir(exist_ok=True)
        (tmp_path / "ud-ewt" / file.name).touch()
    assert whereabouts("ud-ewt") == tmp_path / "ud-ewt"


def test_every_published_file_is_pinned_and_fetched_over_https_at_a_commit() -> None:
    for name, entry in PUBLISHED.items():
        assert entry.url.startswith("https://"), name
        assert len(entry.url.split("/")[5]) == 40, f"{name}: {entry.url} names no commit"
        for file in entry.files:
            assert len(file.sha256_on_disk) == len(file.sha256) == 64
            assert (file.keep_bytes is None) == (file.kept_sha256 is None)
            assert "test" not in file.path, "test splits are for acceptance, not for training"
