"""A temporary directory that lasts as long as the service, even on machines that clean `/tmp` by age."""

import contextlib
import fcntl
import os
import tempfile


class KeptDirectory(tempfile.TemporaryDirectory[str]):
    """A directory with a lock, so that systemd-tmpfiles does not remove its files while the process runs.

    On some systems it removes files that were not used for 10 days. It skips what has a lock: see "Age" in
    tmpfiles.d(5). A file system without locks has a directory all the same. Raises OSError.
    """

    def __init__(self, prefix: str) -> None:
        super().__init__(prefix=prefix)
        self._lock = os.open(self.name, os.O_RDONLY | os.O_DIRECTORY)
        with contextlib.suppress(OSError):
            fcntl.flock(self._lock, fcntl.LOCK_SH)

    def cleanup(self) -> None:
        os.close(self._lock)
        super().cleanup()
