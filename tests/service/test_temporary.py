"""Temporary directories of the service."""

import fcntl
import os
from pathlib import Path

import pytest

from service.temporary import KeptDirectory


def test_a_directory_is_locked_against_cleaners_until_it_is_removed() -> None:
    folder = KeptDirectory("seqserve-test-")
    (Path(folder.name) / "file").touch()
    cleaner = os.open(folder.name, os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(cleaner, fcntl.LOCK_EX | fcntl.LOCK_NB)
    folder.cleanup()
    fcntl.flock(cleaner, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(cleaner)
    assert not Path(folder.name).exists()
