"""The cost of a batch, and of the queue, learned from the batches that ran.

A recurrent network takes T steps, and each step handles B rows:
seconds(B, T, X) = call + step·T + cell·B·T + extra·X. X counts the work outside the steps, such as words that are
spelled out by a character network. The constants are fitted online by least squares with exponential forgetting.
So they follow the machine, the variant and the load of neighboring cores.
"""

import numpy as np
from numpy.typing import NDArray

FORGETTING = 0.98  # the weight of a batch halves after about 35 later ones
# A fit costs as much as a small batch. It runs after every REFIT_EVERY batches, and later less often.
REFIT_EVERY, SETTLED, REFIT_SETTLED = 8, 128, 32
MINIMUM_S = (5e-6, 1e-7, 1e-8, 1e-8)  # of call, step, cell and extra: positive constants keep decisions sane
CLOCK_S = 1e-6  # a coarse clock may measure zero, and the relative error divides by the time
OUTLIER = 4.0  # a batch that took more than this many times its estimate was interrupted: clip its time
MAX_PACE = 20.0  # clip for one batch: a longer pause is not explained by a shared core
LEARNING_RATE = 0.05  # weight of the newest batch in QueueEstimate's averages


class CostModel:
    """Seconds of a batch, by rows, padded length and extra work."""

    def __init__(
        self, *, call_s: float = 60e-6, step_s: float = 8e-6, cell_s: float = 2e-6, extra_s: float = 10e-6
    ) -> None:
        self.call_s, self.step_s, self.cell_s, self.extra_s = call_s, step_s, cell_s, extra_s
        self._normal = np.zeros((4, 4))
        self._right = np.zeros(4)
        self._recent: list[tuple[int, int, int, float]] = []
        self._seen = 0

    def seconds(self, rows: int, steps: int, extra: int = 0) -> float:
        return self.call_s + steps * (self.step_s + self.cell_s * rows) + self.extra_s * extra

    def learn(self, rows: int, steps: int, seconds: float, extra: int = 0) -> None:
        """Learn from a batch of `rows` padded to `steps`, with `extra` work."""
        seconds = max(seconds, CLOCK_S)
        if not self._seen:
            self._scale_guess(seconds / self.seconds(rows, steps, extra))
        if self._seen > REFIT_EVERY:
            seconds = min(seconds, OUTLIER * self.seconds(rows, steps, extra))
        self._recent.append((rows, steps, extra, seconds))
        self._seen += 1
        if len(self._recent) == (REFIT_EVERY if self._seen <= SETTLED else REFIT_SETTLED):
            age = np.arange(len(self._recent) - 1, -1, -1)
            self._normal *= FORGETTING ** len(age)
            self._right *= FORGETTING ** len(age)
            self._add(self._recent, np.power(FORGETTING, age, dtype=np.float64))
            self._recent.clear()
            self._fit()

    def _scale_guess(self, scale: float) -> None:
        """Scale the first guess to the speed of the first batch.

        Unscaled, on a machine ten times slower, the guess would outweigh a hundred times as many batches.
        """
        self.call_s, self.step_s = self.call_s * scale, self.step_s * scale
        self.cell_s, self.extra_s = self.cell_s * scale, self.extra_s * scale
        # The guess counts as a few batches whose shapes separate the constants.
        shapes = ((1, 1, 0), (1, 40, 8), (16, 10, 0), (32, 40, 16))
        self._add([(*shape, self.seconds(*shape)) for shape in shapes], np.ones(len(shapes)))

    def _add(self, batches: list[tuple[int, int, int, float]], weights: NDArray[np.float64]) -> None:
        """Add batches (rows, steps, extra, seconds) to the normal equations."""
        rows, steps, extra, seconds = np.array(batches, np.float64).T
        # Weighted by 1 / seconds²: the relative error counts, or long batches would dominate.
        features = np.stack([np.ones(len(rows)), steps, rows * steps, extra], axis=1) / seconds[:, None]  # (N, 4)
        self._normal += (features * weights[:, None]).T @ features
        self._right += weights @ features

    def _fit(self) -> None:
        """Solve the least squares. A constant below its minimum is fixed there, and the others are fitted again."""
        found, free = np.array(MINIMUM_S), [0, 1, 2, 3]
        while free:
            part = self._normal[np.ix_(free, free)]
            # The second term: a feature that was not seen for ten thousand batches has faded to zero.
            ridge = 1e-6 * np.diag(np.diag(part)) + 1e-12 * np.trace(part) * np.eye(len(free))
            found[free] = np.linalg.solve(part + ridge, self._right[free])
            lowest = min(free, key=lambda index: float(found[index] / MINIMUM_S[index]))
            if found[lowest] >= MINIMUM_S[lowest]:
                break
            found[lowest] = MINIMUM_S[lowest]
            free.remove(lowest)
        self.call_s, self.step_s, self.cell_s, self.extra_s = found.tolist()


class QueueEstimate:
    """How much work is queued in one scheduler, and how long it will take."""

    def __init__(self, cost: CostModel) -> None:
        self.cost = cost
        self.items = self.tokens = self.extra = 0
        self.work_s = 0.0  # seconds of compute, in batches of the usual size and without padding
        self._rows = 12.0  # of a batch when there is enough to choose from; learned
        self._pace = 1.0  # wall-clock seconds for one second of compute; learned
        self._completed_s: float | None = None  # when the last batch completed, if others waited then
        self._price()

    def add(self, items: int, tokens: int, extra: int) -> None:
        """Count more sequences or, if negative, fewer."""
        self.items += items
        self.tokens += tokens
        self.extra += extra
        self.work_s += self._seconds(items, tokens, extra)

    @property
    def wait_s(self) -> float:
        """Seconds until all queued work is done, at the pace of the last batches."""
        return self._pace * self.work_s

    def learn(self, now_s: float, rows: int, seconds: float) -> None:
        """Learn from a batch of `rows` that took `seconds` of compute and has just completed."""
        if self._completed_s is not None and seconds > 0:
            pace = min(max((now_s - self._completed_s) / seconds, 1.0), MAX_PACE)
            self._pace += LEARNING_RATE * (pace - self._pace)
        if self.items:
            self._rows += LEARNING_RATE * (rows - self._rows)
            self._completed_s = now_s
        else:  # nothing waits: the core may not be shared any more
            self._pace += LEARNING_RATE * (1.0 - self._pace)
            self._completed_s = None
        self._price()

    def clear(self) -> None:
        """Count nothing. What was learned stays."""
        self.items = self.tokens = self.extra = 0
        self._price()

    def _price(self) -> None:
        """Update the cost of one sequence, one token and one unit of extra work, and of all queued work.

        Computed again after each batch, `work_s` also loses the rounding errors of its sums.
        """
        cost, rows = self.cost, self._rows
        self._item_s, self._token_s, self._extra_s = cost.call_s / rows, cost.cell_s + cost.step_s / rows, cost.extra_s
        self.work_s = self._seconds(self.items, self.tokens, self.extra)

    def _seconds(self, items: int, tokens: int, extra: int) -> float:
        return items * self._item_s + tokens * self._token_s + extra * self._extra_s
