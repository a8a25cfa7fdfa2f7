"""What a batch will cost, learned from what batches did cost.

A recurrent network takes T steps whatever the batch, and each step handles B rows:
seconds(B, T, X) = call + step·T + cell·B·T + extra·X, where X counts what is done beside the steps (words that
are spelled out). The constants are fitted on line by least squares with exponential forgetting, so that they
follow the machine, the variant and the neighbours on the cores.
"""

import numpy as np
from numpy.typing import NDArray

FORGETTING = 0.98  # a batch counts half after about 35 later ones
# A fit costs about as much as a small batch: batches between two, at first and after the first SETTLED.
REFIT_EVERY, SETTLED, REFIT_SETTLED = 8, 128, 32
LEAST_S = (5e-6, 1e-7, 1e-8, 1e-8)  # of call, step, cell and extra: small and positive keeps every decision sane
CLOCK_S = 1e-6  # a coarse clock may see no time pass at all, and the error is relative to the time
SURPRISE = 4.0  # a batch that took this many times its estimate was interrupted: its time says nothing of the model


class CostModel:
    """Seconds of a batch by rows, padded length and extra work."""

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
        """Take the time of a batch of `rows` padded to `steps`, with `extra` work, into account."""
        seconds = max(seconds, CLOCK_S)
        if not self._seen:
            self._guess(seconds / self.seconds(rows, steps, extra))
        if self._seen > REFIT_EVERY:
            seconds = min(seconds, SURPRISE * self.seconds(rows, steps, extra))
        self._recent.append((rows, steps, extra, seconds))
        self._seen += 1
        if len(self._recent) == (REFIT_EVERY if self._seen <= SETTLED else REFIT_SETTLED):
            age = np.arange(len(self._recent) - 1, -1, -1)
            self._normal *= FORGETTING ** len(age)
            self._right *= FORGETTING ** len(age)
            self._add(self._recent, np.power(FORGETTING, age, dtype=np.float64))
            self._recent.clear()
            self._fit()

    def _guess(self, scale: float) -> None:
        """Begin with the first guess, at the speed of the first batch.

        Unscaled, on a machine ten times slower, it would outweigh a hundred times as many batches.
        """
        self.call_s, self.step_s = self.call_s * scale, self.step_s * scale
        self.cell_s, self.extra_s = self.cell_s * scale, self.extra_s * scale
        # It counts as a few batches of shapes that tell the constants apart.
        shapes = ((1, 1, 0), (1, 40, 8), (16, 10, 0), (32, 40, 16))
        self._add([(*shape, self.seconds(*shape)) for shape in shapes], np.ones(len(shapes)))

    def _add(self, batches: list[tuple[int, int, int, float]], weights: NDArray[np.float64]) -> None:
        """Add batches (rows, steps, extra, seconds) to the equations."""
        rows, steps, extra, seconds = np.array(batches, np.float64).T
        # Weighted by 1 / seconds²: the relative error counts, or long batches would drown the short ones.
        features = np.stack([np.ones(len(rows)), steps, rows * steps, extra], axis=1) / seconds[:, None]  # (N, 4)
        self._normal += (features * weights[:, None]).T @ features
        self._right += weights @ features

    def _fit(self) -> None:
        """Least squares; a constant that noise would push below its least value stays there, the rest is refitted."""
        found, free = np.array(LEAST_S), [0, 1, 2, 3]
        while free:
            part = self._normal[np.ix_(free, free)]
            # The second part: what has not been seen for ten thousand batches has faded to nothing at all.
            ridge = 1e-6 * np.diag(np.diag(part)) + 1e-12 * np.trace(part) * np.eye(len(free))
            found[free] = np.linalg.solve(part + ridge, self._right[free])
            lowest = min(free, key=lambda place: float(found[place] / LEAST_S[place]))
            if found[lowest] >= LEAST_S[lowest]:
                break
            found[lowest] = LEAST_S[lowest]
            free.remove(lowest)
        self.call_s, self.step_s, self.cell_s, self.extra_s = found.tolist()
