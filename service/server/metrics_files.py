"""Metrics files of prometheus_client that survive a full disk.

prometheus_client maps sparse files. On a full disk, the first write to a page without a block raises SIGBUS, which ends
the process. Here a file gets its blocks before it is mapped. If that fails, or if the file cannot be opened, the worker
counts in memory, logs it once, and shows these values on its own ``/metrics``.
"""

import glob
import io
import logging
import mmap
import os
import struct
from collections.abc import Iterator
from typing import Any, ClassVar

from prometheus_client import mmap_dict, multiprocess, values

log = logging.getLogger(__name__)

CAPACITY = 1 << 16  # bytes of a new file
MmapedDict: Any = mmap_dict.MmapedDict  # has no types
MultiProcessCollector: Any = multiprocess.MultiProcessCollector
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
        files = {*glob.glob(os.path.join(glob.escape(self._path), "*.db")), *AllocatedDict.opened}
        return self.merge(sorted(files), accumulate=True)


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
