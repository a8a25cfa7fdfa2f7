"""When a call is tried again, and after how long. Knows no clock: what time is left is the caller's affair."""

from dataclasses import dataclass
from random import Random

from seqserve.errors import NotConnected, Overloaded, Problem, SeqserveError, Unavailable

# Only what the service has certainly not taken: it said so, or not a byte has reached it.
_NOT_TAKEN = (NotConnected, Overloaded, Unavailable)


@dataclass(frozen=True, kw_only=True)
class Tries:
    """`most`: tries in all. Pauses are the service's Retry-After; where it names none, random ones that grow."""

    most: int = 4
    first_pause_s: float = 0.2
    longest_pause_s: float = 5.0

    def pause_s(self, error: SeqserveError, tried: int, random: Random) -> float | None:
        """Seconds to wait after the try number `tried` (from 1); None if it was the last one."""
        if not isinstance(error, _NOT_TAKEN) or tried >= self.most:
            return None
        if isinstance(error, Problem) and error.retry_after_s is not None:
            return error.retry_after_s
        # Anywhere between nothing and a bound that doubles: clients that failed together do not return together.
        return random.uniform(0.0, min(self.longest_pause_s, self.first_pause_s * 2 ** (tried - 1)))
