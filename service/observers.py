"""What the schedulers tell of themselves, as figures under the name of their bundle. Knows no scheduler."""

from collections.abc import Sequence

from service.telemetry import Telemetry


class TellBatches:
    """A sequence scheduler's observer: its figures under the name of its bundle."""

    def __init__(self, telemetry: Telemetry, name: str) -> None:
        self._telemetry, self._name = telemetry, name

    def batch(
        self,
        *,
        items: int,
        padded_tokens: int,
        real_tokens: int,
        reason: str,
        compute_s: float,
        waits_s: Sequence[float],
    ) -> None:
        self._telemetry.batch(self._name, items, padded_tokens, real_tokens, reason, compute_s, waits_s)

    def queue_depth(self, items: int) -> None:
        self._telemetry.queue_depth(self._name, items)


class TellSteps:
    """A step scheduler's observer."""

    def __init__(self, telemetry: Telemetry, name: str) -> None:
        self._telemetry, self._name = telemetry, name

    def steps(self, *, rows: int, count: int, compute_s: float) -> None:
        self._telemetry.steps(self._name, rows, count, compute_s)

    def prefill(self, *, rows: int, padded_tokens: int, real_tokens: int, compute_s: float) -> None:
        self._telemetry.batch(self._name, rows, padded_tokens, real_tokens, "prefill", compute_s, ())

    def first_token(self, seconds: float) -> None:
        self._telemetry.first_token(self._name, seconds)

    def waited(self, seconds: float) -> None:
        self._telemetry.waited(self._name, seconds)

    def tokens(self, *, count: int, gap_s: float) -> None:
        self._telemetry.generated(self._name, count)
        if gap_s:
            self._telemetry.inter_token(self._name, gap_s, count)

    def table(self, *, waiting: int, active: int) -> None:
        self._telemetry.queue_depth(self._name, waiting)
        self._telemetry.active_slots(self._name, active)
