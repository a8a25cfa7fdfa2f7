"""How much is waiting, and how long it will take: by the learned cost of batches, at the pace of the last ones.

Knows counts and costs. Does not know who waits.
"""

from service.scheduling.cost_model import CostModel

PACE_MOST = 20.0  # of one batch: beyond, something else happened than sharing the core
STEP = 0.05  # share of the newest batch in what is learned


class Backlog:
    """The waiting work of one scheduler."""

    def __init__(self, cost: CostModel) -> None:
        self.cost = cost
        self.items = self.tokens = self.extra = 0
        self.work_s = 0.0  # in the network, of all that waits, in batches as large as they have been, without padding
        self._rows = 12.0  # of a batch when there is enough to choose from; learned
        self._pace = 1.0  # seconds that pass for a second of work: what is done beside it, and by others; learned
        self._settled_s: float | None = None  # when the last batch was done, if others waited then
        self._price()

    def add(self, length: int, extra: int) -> None:
        """Count one more sequence."""
        self.items += 1
        self.tokens += length
        self.extra += extra
        self.work_s += self._seconds(1, length, extra)

    def remove(self, length: int, extra: int) -> None:
        """Count one sequence less."""
        self.items -= 1
        self.tokens -= length
        self.extra -= extra
        self.work_s -= self._seconds(1, length, extra)

    @property
    def wait_s(self) -> float:
        """Seconds until all that waits is done, at the pace of the last batches."""
        return self._pace * self.work_s

    def settled(self, now_s: float, rows: int, seconds: float) -> None:
        """Learn from a batch of `rows` that took `seconds` and has just settled; what it held is no longer counted."""
        if self._settled_s is not None and seconds > 0:
            taken = min(max((now_s - self._settled_s) / seconds, 1.0), PACE_MOST)
            self._pace += STEP * (taken - self._pace)
        if self.items:
            self._rows += STEP * (rows - self._rows)
            self._settled_s = now_s
        else:  # nobody was kept waiting: whoever shared the core may have gone
            self._pace += STEP * (1.0 - self._pace)
            self._settled_s = None
        self._price()

    def _price(self) -> None:
        """What a sequence, a token and a unit of extra work cost, learned at a batch, and what all that waits costs.

        The latter is asked for at every request and therefore kept: what its sums lose by rounding is gone here.
        """
        cost, rows = self.cost, self._rows
        self._item_s, self._token_s, self._extra_s = cost.call_s / rows, cost.cell_s + cost.step_s / rows, cost.extra_s
        self.work_s = self._seconds(self.items, self.tokens, self.extra)

    def _seconds(self, items: int, tokens: int, extra: int) -> float:
        return items * self._item_s + tokens * self._token_s + extra * self._extra_s
