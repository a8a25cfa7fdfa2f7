"""How an owner comes to be: whoever finds none starts one, and of several that start at once one stays.

The owner holds a lock beside its socket for as long as it lives, and ends when it has had no worker for a while: it
needs nobody to supervise it, and is nobody's orphan. Knows files, sockets and processes; knows no bundle.
"""

import asyncio
import contextlib
import fcntl
import os
import pickle
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TextIO

from service.owner.message import Hello
from service.owner.wire import LENGTH, Peer
from service.settings import ROOT, BadSetting

MEET_S = 600.0  # for an owner to load its bundles
HELLO_S = 10.0  # for one that is there to say what it has
AGAIN_S = 0.2  # between two looks whether it is there
OWN = ("-m", "service", "own")
LONGEST_PATH = 100  # of a Unix socket, in bytes: Linux has room for 107, others for less
PRIVATE = 0o700
STDIN = 0
PREFIX = "seqserve-"  # of directories that are made here


class OwnerFailed(RuntimeError):
    """The owner could not be started; what it said is above."""


def new_socket() -> str:
    """Return a path for the socket of an owner, in a directory that nobody else may enter. Raises BadSetting."""
    folder = tempfile.mkdtemp(prefix=PREFIX)
    path = os.path.join(folder, "owner")
    if len(os.fsencode(path)) > LONGEST_PATH:
        os.rmdir(folder)
        raise BadSetting(f"{path} is too long for the path of a socket: set TMPDIR to a shorter one")
    return path


def forget_socket(path: str) -> None:
    """Remove the lock of a path, which must be held, and its directory if `new_socket` made it: no other is ours."""
    with contextlib.suppress(OSError):  # whoever comes now makes them anew
        os.unlink(f"{path}.lock")
    folder = os.path.dirname(path)
    if os.path.dirname(folder) == tempfile.gettempdir() and os.path.basename(folder).startswith(PREFIX):
        with contextlib.suppress(OSError):
            os.rmdir(folder)


def check_private(path: str) -> None:
    """Raise BadSetting unless nobody else may enter the directory of a socket: what comes over it is believed."""
    folder = os.path.dirname(path)
    os.makedirs(folder, mode=PRIVATE, exist_ok=True)
    found = os.stat(folder)
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise BadSetting(
            f"SEQSERVE_OWNER={path}: others may enter {folder}: leave it to SEQSERVE_OWNER=auto, which makes one of its"
            " own, or give one that is this user's, with mode 700"
        )


class Starts(Protocol):
    """What can start an owner."""

    def __call__(self) -> None:
        """Start one where there is none. Raises OwnerFailed once if the last one that was started from here failed, and
        BadSetting if others may enter the directory of its socket.
        """
        ...

    def reap(self) -> None:
        """Let a process that has ended go."""
        ...


class Starter:
    """Starts an owner at a path, one process at a time."""

    def __init__(self, path: str, command: Sequence[str] = (sys.executable, *OWN)) -> None:
        self._path, self._command = path, command
        self.process: subprocess.Popen[bytes] | None = None
        self._status = 0  # with which the last one ended, if nobody was told

    def __call__(self) -> None:
        """See Starts."""
        self.reap()
        if self.process is not None:
            return
        status, self._status = self._status, 0
        if status:
            raise OwnerFailed(f"the process that has the models ended with status {status}: see what it said above")
        check_private(self._path)  # the last owner may have taken the directory away
        with only_one(self._path) as lock:
            if lock is None:  # one is there and may still be loading, or it is just ending: this is called again
                return
            # It is given the lock as its standard input, and has it from its first moment: nobody starts another while
            # it loads. In a session of its own: Ctrl-C is for the workers, which have answers to finish that need it.
            self.process = subprocess.Popen(self._command, cwd=ROOT, stdin=lock, start_new_session=True)

    def reap(self) -> None:
        """See Starts."""
        if self.process is not None and (status := self.process.poll()) is not None:
            self.process, self._status = None, status


def meet(path: str, start: Callable[[], None], *, timeout_s: float = MEET_S) -> Hello:
    """Return what the owner says first, once there is one. Blocks; raises OwnerFailed, and TimeoutError in the end."""
    until_s = time.monotonic() + timeout_s
    while time.monotonic() < until_s:
        # One that ends while it speaks is not there either.
        with contextlib.suppress(OSError, struct.error, EOFError, pickle.UnpicklingError):
            return _first_word(path)
        start()
        time.sleep(AGAIN_S)
    raise TimeoutError(f"the process that has the models was not ready within {timeout_s:g} s")


def _first_word(path: str) -> Hello:
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(HELLO_S)
        link.connect(path)
        with link.makefile("rb") as reader:
            (length,) = LENGTH.unpack(reader.read(LENGTH.size))
            hello = pickle.loads(reader.read(length))
    assert isinstance(hello, Hello)
    return hello


@contextlib.contextmanager
def only_one(path: str) -> Iterator[TextIO | None]:
    """Hold the lock of a path and yield its file; None if another process has it, or has had it until this moment."""
    with open(f"{path}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield None
            return
        # An owner that ended meanwhile has taken the file away: its lock is nobody's, and the next one is another's.
        yield lock if _is_lock(lock.fileno(), path) else None


def keep_given(path: str) -> bool:
    """Keep the lock of a path that this process was given as its standard input (see Starter) for as long as it lives.

    False if it was not given it.
    """
    try:
        if not _is_lock(STDIN, path):
            return False
        fcntl.flock(STDIN, fcntl.LOCK_EX | fcntl.LOCK_NB)  # does nothing where it is held already
    except OSError:
        return False
    os.dup(STDIN)  # a child that outlives this process must not have it: this one is not inherited
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), STDIN)
    return True


def _is_lock(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(f"{path}.lock"))
    except OSError:
        return False


async def serve(path: str, welcome: Callable[[], Peer], ended: Callable[[], Awaitable[None]]) -> None:
    """Listen at a path until `ended` returns. Its lock must be held: what is there is nobody's any more."""
    Path(path).unlink(missing_ok=True)
    server = await asyncio.get_running_loop().create_unix_server(welcome, path)
    try:
        await ended()
    finally:
        server.close()
        Path(path).unlink(missing_ok=True)
