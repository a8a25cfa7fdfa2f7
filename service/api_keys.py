"""API keys: those of the settings and those of a file, which is read again when it changes.

A line of the file is a key, or a name and a key, then what this key may have in place of the settings' limits::

    # who        key                              (a hash: printf %s "$KEY" | sha256sum)
    alice        a-key-of-at-least-8-characters
    batch        sha256:9f86d0…                   rate=10/s day_requests=100000
    monitoring   another-key-of-hers              rate=none

A name is for logs; without one a key is called by its place: ``key-2``. Knows no HTTP.
"""

import hashlib
import logging
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from service.rate_limits import Allowance, Rate

log = logging.getLogger(__name__)

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}").fullmatch
HASH = re.compile(r"sha256:([0-9a-f]{64})").fullmatch
SHORTEST = 8
NO_LIMIT = "none"


class BadKeys(ValueError):
    """A file of keys that cannot be read. The message names the line, never what is on it."""


@dataclass(frozen=True, kw_only=True)
class Key:
    """A key without itself: its name, its hash, and what it may have."""

    name: str
    digest: bytes
    allowance: Allowance


class Keyring:
    """The keys that open. ``refresh`` it now and then."""

    def __init__(self, given: Iterable[str], file: Path | None, usual: Allowance) -> None:
        self._given, self._file, self._usual = tuple(given), file, usual
        self._salt = secrets.token_bytes(16)
        self._keys: dict[bytes, Key] = {}
        self._seen: tuple[int, ...] | None = None

    def find(self, sent: bytes) -> Key | None:
        """Return the key that was sent.

        It is looked up by a hash that nobody outside can compute, so how long that takes tells nothing about any key,
        and is the same for one and for ten thousand.
        """
        return self._keys.get(self._blind(hashlib.sha256(sent).digest()))

    def read(self) -> None:
        """Read all keys. Raises BadKeys and OSError."""
        found = [Key(name=f"key-{n}", digest=_digest(k), allowance=self._usual) for n, k in enumerate(self._given, 1)]
        if self._file is not None:
            self._seen = _signature(self._file)
            found += _parse(self._file.read_text("utf-8"), self._usual, first=len(found) + 1)
        keys = {self._blind(key.digest): key for key in found}
        if len(keys) < len(found) or len({key.name for key in found}) < len(found):
            raise BadKeys("two of the keys are the same, or have the same name")
        self._keys = keys

    def refresh(self) -> bool:
        """Read the file again if it has changed; return whether the keys are new. A bad file changes nothing."""
        if self._file is None:
            return False
        seen = _signature(self._file)
        if seen == self._seen:
            return False
        self._seen = seen  # what is wrong with it is said once
        try:
            self.read()
        except (BadKeys, OSError, UnicodeDecodeError) as error:
            reason = error if isinstance(error, BadKeys) else type(error).__name__  # others quote the path or the text
            log.error("the API keys stay as they were: %s", reason)
            return False
        log.info("%d API keys were read anew", len(self._keys))
        return True

    def names(self) -> set[str]:
        """Return what the keys are called."""
        return {key.name for key in self._keys.values()}

    def _blind(self, digest: bytes) -> bytes:
        return hashlib.blake2b(digest, key=self._salt, digest_size=16).digest()


def _signature(file: Path) -> tuple[int, ...]:
    """What is another once the file was written or another was put in its place; () if there is none."""
    try:
        found = file.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino


def _digest(text: str) -> bytes:
    found = HASH(text)
    return bytes.fromhex(found[1]) if found else hashlib.sha256(text.encode()).digest()


def _parse(text: str, usual: Allowance, *, first: int) -> list[Key]:
    found: list[Key] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            found.append(_key(words, usual, place=first + len(found)))
        except ValueError as error:
            raise BadKeys(f"line {number} of the file of keys: {error}") from None
    return found


def _key(words: list[str], usual: Allowance, *, place: int) -> Key:
    allowance = usual
    while words and (option := words[-1].partition("="))[0] in ("rate", "day_requests") and option[1]:
        allowance = _changed(allowance, option[0], option[2])
        words = words[:-1]
    if len(words) not in (1, 2):
        raise ValueError("write a key, or a name and a key, then rate=… or day_requests=…")
    name = words[0] if len(words) == 2 else f"key-{place}"
    if not NAME(name):
        raise ValueError("a name has 1 to 64 letters, digits, dots, dashes or underscores")
    if len(words[-1]) < SHORTEST:
        raise ValueError(f"a key has {SHORTEST} characters at least")
    if words[-1].startswith("sha256:") and not HASH(words[-1]):
        raise ValueError("after sha256: come 64 digits of 0-9 and a-f")
    return Key(name=name, digest=_digest(words[-1]), allowance=allowance)


def _changed(allowance: Allowance, option: str, text: str) -> Allowance:
    text = "" if text == NO_LIMIT else text
    if option == "rate":
        return replace(allowance, rate=Rate.parse(text))
    if text and not (text.isascii() and text.isdigit() and int(text) > 0):
        raise ValueError(f"day_requests is a number above 0, or {NO_LIMIT}")
    return replace(allowance, day_requests=int(text) if text else None)
