"""What one client may have: requests at a rate, and in a day. Knows no key, no address, no HTTP and no clock.

A rate is a bucket of tokens: `count` of them at most, filled again within `window_s`, one a request. What a day holds
is counted from the first request on, and begins anew 24 hours later.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from service.errors import RateLimited

WINDOWS_S = {"s": 1, "min": 60, "h": 3600}
RATE = re.compile(r"([1-9][0-9]{0,8})/(s|min|h)")
DAY_S = 86_400
Clock = Callable[[], float]


@dataclass(frozen=True, kw_only=True)
class Rate:
    """So many requests in a window."""

    count: int
    window_s: int

    @classmethod
    def parse(cls, text: str) -> "Rate | None":
        """Return the rate that ``100/s``, ``600/min`` or ``1000/h`` says; None for "". Raises ValueError."""
        if not text:
            return None
        found = RATE.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r} is no rate: write 100/s, 600/min or 1000/h")
        return cls(count=int(found[1]), window_s=WINDOWS_S[found[2]])


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """What a client may have; None: as much as it likes."""

    rate: Rate | None = None
    day_requests: int | None = None

    def shared(self, workers: int) -> "Allowance":
        """Return one worker's part of it: workers count each for itself. It lets something through at least."""
        rate, day = self.rate, self.day_requests
        return Allowance(
            rate=rate and Rate(count=max(1, rate.count // workers), window_s=rate.window_s),
            day_requests=day and max(1, day // workers),
        )


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where a client stands with one policy: of `count` in `window_s` it has `left`, and all again in `reset_s`."""

    policy: str
    count: int
    window_s: int
    left: int
    reset_s: float


class Meter:
    """Counts what one client has had."""

    __slots__ = ("_allowance", "_clock", "_day_began_s", "_had", "_level", "_seen_s")

    def __init__(self, allowance: Allowance, clock: Clock) -> None:
        self._allowance, self._clock = allowance, clock
        self._seen_s = self._day_began_s = clock()
        self._level = float(allowance.rate.count) if allowance.rate else 0.0
        self._had = 0

    def take(self) -> RateLimited | None:
        """Count one request; return the error if it may not be had. What is refused costs nothing."""
        now_s = self._clock()
        self._pass(now_s)
        rate, day = self._allowance.rate, self._allowance.day_requests
        if rate is not None and self._level < 1:
            wait_s = (1 - self._level) * rate.window_s / rate.count
            return _refusal("rate", rate.count, f"{rate.window_s} s", wait_s)
        if day is not None and self._had >= day:
            return _refusal("day", day, "24 hours", self._day_began_s + DAY_S - now_s)
        self._level -= 1
        self._had += 1
        return None

    def standings(self) -> list[Standing]:
        """Return where the client stands, one for each policy."""
        now_s = self._clock()
        self._pass(now_s)
        rate, day, found = self._allowance.rate, self._allowance.day_requests, []
        if rate is not None:
            reset_s = (rate.count - self._level) * rate.window_s / rate.count
            found.append(_standing("rate", rate.count, rate.window_s, self._level, reset_s))
        if day is not None:
            found.append(_standing("day", day, DAY_S, day - self._had, self._day_began_s + DAY_S - now_s))
        return found

    def _pass(self, now_s: float) -> None:
        """Give what the time since the last look has brought."""
        rate = self._allowance.rate
        if rate is not None:
            brought = (now_s - self._seen_s) * rate.count / rate.window_s
            self._level = min(float(rate.count), self._level + brought)
        if now_s - self._day_began_s >= DAY_S:
            self._day_began_s, self._had = now_s, 0
        self._seen_s = now_s


def _standing(policy: str, count: int, window_s: int, left: float, reset_s: float) -> Standing:
    return Standing(policy=policy, count=count, window_s=window_s, left=max(0, int(left)), reset_s=reset_s)


def _refusal(policy: str, count: int, window: str, wait_s: float) -> RateLimited:
    return RateLimited(
        f"more than {count} requests in {window}: come back in {wait_s:.3g} s",
        policy=policy,
        limit=count,
        retry_after_s=wait_s,
    )
