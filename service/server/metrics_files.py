"""Metrics files of prometheus_client that survive a full disk, and that do not grow in number.

prometheus_client maps sparse files. On a full disk, the first write to a page without a block raises SIGBUS, which ends
the process. Here a file gets its blocks before it is mapped. If that fails, or if the file cannot be opened, the worker
counts in memory, logs it once, and shows these values on its own ``/metrics``.

prometheus_client keeps the files of processes that have ended, because their counts belong to the sums. Here they are
merged into one file of each kind.
"""

import contextlib
import fcntl
import glob
import io
import logging
import mmap
import os
import struct
import time
from collections import defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, ClassVar

from prometheus_client import mmap_dict, multiprocess, values

log = logging.getLogger(__name__)

CAPACITY = 1 << 16  # bytes of a new file
ADDITIVE = ("counter", "histogram", "summary")  # kinds of files whose values are summed over processes
ENDED = "ended"  # in the place of the process id: the sums of processes that have ended
LOCK = "lock"  # held while files are read or merged, so that no value is counted twice or not at all
LOCK_S, LOCK_POLL_S = 0.1, 0.001  # a reader waits at most so long: a merge takes milliseconds
MmapedDict: Any = mmap_dict.MmapedDict  # has no types
MultiProcessCollector: Any = multiprocess.MultiProcessCollector
MARK_DEAD: Any = multiprocess.mark_process_dead
ENTRY_BYTES = 40  # of one value without its key, at most


class AllocatedDict(MmapedDict):  # type: ignore[misc]
    """A file of values whose blocks exist, or memory."""

    opened: ClassVar[dict[str, "AllocatedDict"]] = {}  # those of this process, by file name
    reported: ClassVar[bool] = False

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        try:
            if not read_mode and not (os.path.exists(filename) and os.path.getsize(filename)):
                with open(filename, "ab") as file:
                    _append_zeros(file.fileno(), CAPACITY)
            super().__init__(filename, read_mode)
        except OSError as error:
            if read_mode:
                raise
            self._report(error)
            self._fname, self._f = filename, io.BytesIO()
            self._m, self._capacity = mmap.mmap(-1, CAPACITY), CAPACITY
            self._positions: dict[str, int] = {}
            self._used = 8
            self._m[:4] = struct.pack("i", self._used)
        if not read_mode:
            self.opened[filename] = self

    def _init_value(self, key: str) -> None:
        """Add a value. Grow first, so that the base class does not."""
        while self._used + len(key.encode()) + ENTRY_BYTES > self._capacity:
            larger = 2 * self._capacity
            try:
                if isinstance(self._f, io.BytesIO):
                    raise OSError
                _append_zeros(self._f.fileno(), self._capacity)
                self._m = mmap.mmap(self._f.fileno(), larger)
            except OSError as error:
                if not isinstance(self._f, io.BytesIO):
                    self._report(error)
                    self._f.close()
                    self._f = io.BytesIO()
                memory = mmap.mmap(-1, larger)
                memory[: self._used] = self._m[: self._used]
                self._m = memory
            self._capacity = larger
        super()._init_value(key)

    @classmethod
    def _report(cls, error: OSError) -> None:
        if not cls.reported:
            cls.reported = True
            reason = error.strerror or type(error).__name__
            log.error("metrics files cannot be written, so metrics are counted in memory: %s", reason)

    @staticmethod
    def read_all_values_from_file(filename: str) -> Iterator[tuple[str, float, float, int]]:
        """Return the values of a file. Those of this process come from its memory."""
        own = AllocatedDict.opened.get(filename)
        if own is not None and own._m is not None:
            return iter(own._read_all_values())
        if not os.path.getsize(filename):  # another worker is allocating it
            return iter(())
        found: Iterator[tuple[str, float, float, int]] = MmapedDict.read_all_values_from_file(filename)
        return found


class Collector(MultiProcessCollector):  # type: ignore[misc]
    """Adds up the files of all workers and what this one counts in memory."""

    def __init__(self, registry: Any, path: str | None = None) -> None:
        self._path = path or os.environ["PROMETHEUS_MULTIPROC_DIR"]  # may have been removed
        if registry:
            registry.register(self)

    def collect(self) -> Any:
        with _locked(Path(self._path), fcntl.LOCK_SH, wait_s=LOCK_S):
            files = {*glob.glob(os.path.join(glob.escape(self._path), "*.db")), *AllocatedDict.opened}
            return self.merge(sorted(files), accumulate=True)


def merge_ended(directory: Path, pids: Collection[int]) -> bool:
    """Merge the files of processes that have ended, and remove their gauges. Only one process may call it.

    Returns False if the files are being read; call it again later. Raises OSError if they cannot be written, which
    changes nothing.
    """
    for pid in pids:
        MARK_DEAD(pid, str(directory))
    with _locked(directory, fcntl.LOCK_EX, wait_s=0) as is_locked:
        if is_locked:
            for kind in ADDITIVE:
                ended = [file for pid in pids if (file := directory / f"{kind}_{pid}.db").exists()]
                if ended:
                    _merge(directory / f"{kind}_{ENDED}.db", ended)
    return is_locked


def _merge(target: Path, ended: Collection[Path]) -> None:
    """Add the values of files to those of the target, and remove the files."""
    values: defaultdict[str, float] = defaultdict(float)
    for source in (*ended, *([target] if target.exists() else [])):
        for key, value, _, _ in MmapedDict.read_all_values_from_file(str(source)):
            values[key] += value
    new = target.with_suffix(".new")
    try:
        with new.open("wb") as file:  # large enough, because it would grow without blocks
            _append_zeros(file.fileno(), CAPACITY + sum(len(key.encode()) + ENTRY_BYTES for key in values))
        merged = MmapedDict(str(new))
        for key, value in values.items():
            merged.write_value(key, value, 0.0)
        merged.close()
    except OSError:
        new.unlink(missing_ok=True)
        raise
    new.replace(target)
    for source in ended:
        source.unlink()


@contextlib.contextmanager
def _locked(directory: Path, operation: int, *, wait_s: float) -> Iterator[bool]:
    """Hold the lock of a directory, and yield whether it is held: not if it is not free in time."""
    try:
        file = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:  # a directory that is not writable, or that was removed
        yield False
        return
    try:
        yield _lock(file, operation, until_s=time.monotonic() + wait_s)
    finally:
        os.close(file)  # releases the lock


def _lock(file: int, operation: int, *, until_s: float) -> bool:
    while True:
        try:
            fcntl.flock(file, operation | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= until_s:
                return False
            time.sleep(LOCK_POLL_S)
        except OSError:  # a file system without locks
            return False


def install() -> None:
    """Make prometheus_client use these files. Call it in a worker, before the first metric."""
    modules: tuple[Any, ...] = (values, multiprocess)
    for module in modules:
        module.MmapedDict = AllocatedDict
    modules[1].MultiProcessCollector = Collector


def _append_zeros(descriptor: int, count: int) -> None:
    """Extend a file with blocks that exist. The file is unchanged if the disk is full. Raises OSError."""
    size = os.fstat(descriptor).st_size
    zeros = memoryview(bytes(count))
    try:
        while zeros:
            zeros = zeros[os.write(descriptor, zeros) :]
    except OSError:
        os.ftruncate(descriptor, size)
        raise
