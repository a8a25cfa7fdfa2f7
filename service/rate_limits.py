"""Rate limits: how many requests one client may send in a window. Built on the ``limits`` package.

Windows are fixed: they start with the first request of a client. Counters are kept in this process, in an SQLite file
that the workers of one service share, or in Redis. In all three, each limit is exact for any number of workers.
"""

import asyncio
import logging
import re
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from limits import (
    RateLimitItem,
    RateLimitItemPerDay,
    RateLimitItemPerHour,
    RateLimitItemPerMinute,
    RateLimitItemPerSecond,
)
from limits.errors import StorageError
from limits.storage import Storage, storage_from_string
from limits.strategies import FixedWindowRateLimiter

from service.errors import RateLimited
from service.temporary import KeptDirectory

log = logging.getLogger(__name__)

Clock = Callable[[], float]
IN_PROCESS = "sqlite://"
WINDOWS: dict[str, type[RateLimitItem]] = {
    "s": RateLimitItemPerSecond,
    "min": RateLimitItemPerMinute,
    "h": RateLimitItemPerHour,
}
RATE = re.compile(r"([1-9][0-9]{0,8})/(s|min|h)")
COUNTERS_MAX = 20_000  # in SQLite; counters over this number are dropped, those that expire first
OUTAGE_PAUSE_S = 5.0  # without counting, after the store has failed


def parse_rate(text: str) -> RateLimitItem | None:
    """Return the rate in ``100/s``, ``600/min`` or ``1000/h``, or None for "". Raises ValueError."""
    if not text:
        return None
    found = RATE.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a rate; write 100/s, 600/min or 1000/h")
    return WINDOWS[found[2]](int(found[1]))


@dataclass(frozen=True, kw_only=True)
class RateLimitPolicy:
    """The limits of one client. None means unlimited."""

    rate: RateLimitItem | None = None
    day: RateLimitItemPerDay | None = None

    @property
    def is_unlimited(self) -> bool:
        return self.rate is None and self.day is None


@dataclass(frozen=True, kw_only=True)
class RateLimitStatus:
    """What one limit leaves a client: ``remaining`` of ``count`` requests until the window ends in ``reset_s``."""

    policy: str
    count: int
    window_s: int
    remaining: int
    reset_s: float


class RateLimiter:
    """Counts requests in a store: ``sqlite://`` (this process), ``sqlite:///path`` or ``redis://…``."""

    def __init__(self, store: str = IN_PROCESS, *, clock: Clock = time.time) -> None:
        self._clock = clock
        options: dict[str, Any] = {"wrap_exceptions": True}
        is_remote = not store.startswith("sqlite:")
        if is_remote:
            options |= {"socket_timeout": 1.0, "socket_connect_timeout": 1.0}
        else:
            options["clock"] = clock
        self._strategy = FixedWindowRateLimiter(storage_from_string(store, **options))
        # A round trip to Redis must not block the event loop.
        self._executor = ThreadPoolExecutor(4, "rate-limits") if is_remote else None
        self._outage_ends_s = 0.0

    def check(self) -> None:
        """Raise ConnectionError if the store cannot be reached."""
        if not self._strategy.storage.check():
            raise ConnectionError("the rate limit store does not answer; check SEQSERVE_RATE_LIMIT_STORE")

    async def count(self, client: str, policy: RateLimitPolicy) -> tuple[list[RateLimitStatus], RateLimited | None]:
        """Count one request of a client.

        Returns the status of each limit, and the error if one of them is exceeded. While the store fails, requests
        pass uncounted: an outage of Redis must not become one of the service.
        """
        if self._clock() < self._outage_ends_s:
            return [], None
        try:
            if self._executor is None:
                return self._count(client, policy)
            return await asyncio.get_running_loop().run_in_executor(self._executor, self._count, client, policy)
        except StorageError as error:
            if self._clock() >= self._outage_ends_s:  # the first of several requests
                log.error("the rate limit store failed, so limits are off for %g s: %s", OUTAGE_PAUSE_S, error)
            self._outage_ends_s = self._clock() + OUTAGE_PAUSE_S
            return [], None

    def _count(self, client: str, policy: RateLimitPolicy) -> tuple[list[RateLimitStatus], RateLimited | None]:
        statuses: list[RateLimitStatus] = []
        refused: RateLimited | None = None
        for name, item in (("rate", policy.rate), ("day", policy.day)):
            if item is None:
                continue
            # A request that an earlier limit refused does not count against the later ones.
            allowed = refused is not None or self._strategy.hit(item, client, name)
            window_s = item.get_expiry()
            reset_time, remaining = self._strategy.get_window_stats(item, client, name)
            status = RateLimitStatus(
                policy=name,
                count=item.amount,
                window_s=window_s,
                remaining=max(0, remaining),
                reset_s=min(float(window_s), max(0.0, reset_time - self._clock())),
            )
            statuses.append(status)
            if not allowed:
                refused = RateLimited(
                    f"more than {item.amount} requests in {window_s} s; retry in {status.reset_s:.3g} s",
                    policy=name,
                    limit=item.amount,
                    retry_after_s=round(status.reset_s, 3),
                )
        return statuses, refused


class SqliteStorage(Storage):
    """Counters in SQLite: in memory for one worker, in a file for several.

    The in-memory storage of ``limits`` starts a thread to expire keys and never drops a key early, so clients with
    many addresses could fill the memory.
    """

    STORAGE_SCHEME = ["sqlite"]  # noqa: RUF012 (declared by the base class)

    def __init__(self, uri: str | None = None, wrap_exceptions: bool = False, **options: Any) -> None:
        super().__init__(uri, wrap_exceptions)
        self._clock: Clock = options["clock"]
        path = (uri or IN_PROCESS).removeprefix("sqlite://") or ":memory:"
        self._database = sqlite3.connect(path, timeout=1.0, isolation_level=None, check_same_thread=False)
        # The file is deleted when the service ends: nothing has to survive a crash of the machine.
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS counters (key TEXT PRIMARY KEY, hits INTEGER, expires_s REAL) WITHOUT ROWID"
        )
        self._database.execute("CREATE INDEX IF NOT EXISTS by_expiry ON counters (expires_s)")
        self._increments = 0

    @property
    def base_exceptions(self) -> type[Exception]:
        """The exceptions that ``limits`` wraps in StorageError."""
        return sqlite3.Error

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Add ``amount`` to a counter, which starts again at 0 once it has expired, and return its value."""
        now_s = self._clock()
        self._increments += 1
        if self._increments % 1000 == 0:
            self._drop(now_s)
        row = self._database.execute(
            "INSERT INTO counters VALUES (?1, ?2, ?3) ON CONFLICT (key) DO UPDATE SET"
            " hits = CASE WHEN expires_s <= ?4 THEN 0 ELSE hits END + ?2,"
            " expires_s = CASE WHEN expires_s <= ?4 THEN ?3 ELSE expires_s END RETURNING hits",
            (key, amount, now_s + expiry, now_s),
        ).fetchone()
        return int(row[0])

    def get(self, key: str) -> int:
        row = self._row(key)
        return int(row[0]) if row else 0

    def get_expiry(self, key: str) -> float:
        row = self._row(key)
        return float(row[1]) if row else self._clock()

    def check(self) -> bool:
        return bool(self._database.execute("SELECT 1").fetchone())

    def reset(self) -> int | None:
        return self._database.execute("DELETE FROM counters").rowcount

    def clear(self, key: str) -> None:
        self._database.execute("DELETE FROM counters WHERE key = ?", (key,))

    def _row(self, key: str) -> tuple[int, float] | None:
        query = "SELECT hits, expires_s FROM counters WHERE key = ? AND expires_s > ?"
        row: tuple[int, float] | None = self._database.execute(query, (key, self._clock())).fetchone()
        return row

    def _drop(self, now_s: float) -> None:
        """Drop expired counters, and if there are still too many, those that expire first."""
        self._database.execute("DELETE FROM counters WHERE expires_s <= ?", (now_s,))
        self._database.execute(
            "DELETE FROM counters WHERE key IN (SELECT key FROM counters ORDER BY expires_s LIMIT"
            " max(0, (SELECT count(*) FROM counters) - ?))",
            (COUNTERS_MAX,),
        )


def shared_store() -> tuple[str, KeptDirectory]:
    """Return a store for all workers of one service, and the directory to clean up when the service ends."""
    folder = KeptDirectory("seqserve-")
    return f"sqlite://{folder.name}/rate-limits.sqlite", folder
