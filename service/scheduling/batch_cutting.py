"""Cut sorted sequence lengths into the cheapest batches.

Dynamic programming over the cuts: the optimal partition of a sorted list into intervals (Bellman 1961, "On the
approximation of curves by line segments using dynamic programming"). The best plan for the first j sequences ends
with one batch, and the sequences before it are planned best, too.
"""

from bisect import bisect_right
from collections.abc import Sequence

from service.scheduling.cost_model import CostModel

# Padded cells count this much more than they cost. The optimum is flat: it trades little time for less padding.
PADDING_AVERSION = 1.4
# What short batches may cost: this share of the time of their rows, in calls and steps that larger ones save.
SHORT_BATCH_OVERHEAD = 0.25


def cut_batch(
    lengths: Sequence[int], index: int, cost: CostModel, *, rows: int, tokens: int, target_s: float = 0.0
) -> tuple[int, int]:
    """Return the batch [first, last) that contains `lengths[index]` in the cheapest plan for all of `lengths`.

    `lengths` ascend. Equal lengths stay together. If they exceed one batch, they become batches of their own, of
    about the same size: cuts among them hardly make a plan cheaper, and equal lengths are frequent.

    A batch costs cost.seconds(its rows, its longest), with cells weighted by PADDING_AVERSION. It has at most `rows`
    rows and `tokens` padded tokens, but always room for one sequence. Without extra work it takes at most
    `target_s`, unless such short batches cost too much (SHORT_BATCH_OVERHEAD).

    The time grows with the number of different lengths, times that of one batch.
    """
    call_s, step_s, cell_s = cost.call_s, cost.step_s, cost.cell_s * PADDING_AVERSION
    # For each prefix of the different lengths: where it ends; its seconds; where its last batch begins, as an index
    # into these lists; and into how many parts that batch is cut.
    ends, best, cut, parts = [0], [0.0], [0], [1]
    last = 0
    while last < len(lengths):
        longest, begin = lengths[last], last
        last = bisect_right(lengths, longest, begin)
        fixed_s, row_s = call_s + step_s * longest, cell_s * longest
        max_rows = _max_rows(min(rows, max(1, tokens // longest)), fixed_s, cost.cell_s * longest, target_s)
        where, number = len(ends) - 1, -(-(last - begin) // max_rows)
        lowest = best[-1] + (last - begin) * row_s + number * fixed_s
        if number == 1:
            # The cut never moves back when the last sequence moves on: the costs are Monge (F. Yao 1980, "Efficient
            # dynamic programming using quadrangle inequalities"). Where limits bind, a better cut may be missed.
            for first in range(where - 1, cut[-1] - 1, -1):
                if last - ends[first] > max_rows:
                    break
                seconds = best[first] + (last - ends[first]) * row_s + fixed_s
                if seconds < lowest:
                    lowest, where = seconds, first
        ends.append(last)
        best.append(lowest)
        cut.append(where)
        parts.append(number)
    at = len(ends) - 1
    while ends[cut[at]] > index:
        at = cut[at]
    first, last = ends[cut[at]], ends[at]
    size = -(-(last - first) // parts[at])
    first += (index - first) // size * size
    return first, min(last, first + size)


def _max_rows(limit: int, fixed_s: float, row_s: float, target_s: float) -> int:
    """Return `limit`, or fewer rows where that keeps a batch of fixed_s + row_s·rows below `target_s`."""
    short = int((target_s - fixed_s) / row_s)
    return short if 0 < short < limit and fixed_s <= SHORT_BATCH_OVERHEAD * short * row_s else limit
