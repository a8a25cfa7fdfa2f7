"""The cheapest way to cut sorted lengths into batches.

Dynamic programming over the cuts (the optimal partition of a sorted list into intervals; Bellman 1961, "On the
approximation of curves by line segments using dynamic programming"): the best plan for the first j sequences ends
with one batch, and what comes before it is planned best, too. Knows lengths and costs, nothing else.
"""

from bisect import bisect_right
from collections.abc import Sequence

from service.scheduling.cost_model import CostModel

# A cell is counted so much dearer than it is. The optimum is flat: in a simulation (once) weights from 1 to 1.5 changed
# the time of all batches by less than 1 % and their padding by a fifth.
PADDING_AVERSION = 1.4
# What keeping batches brief may cost: this share of the time of their rows, in calls and steps that larger ones save.
BREVITY = 0.25


def segment(
    lengths: Sequence[int], place: int, cost: CostModel, *, rows: int, tokens: int, brief_s: float = 0.0
) -> tuple[int, int]:
    """The batch [first, last) of `lengths[place]` in the cheapest plan for all of `lengths`.

    `lengths` ascend. Those that are equal stay together, or, if they are more than a batch may have, in batches of
    their own of about the same size: cuts among them hardly make a plan cheaper, and many are equal. A batch costs
    cost.seconds(its rows, its longest), each cell PADDING_AVERSION times; it has at most `rows` rows and at most
    `tokens` padded tokens, but always room for one. It takes `brief_s` at most, extra work apart, unless batches as
    brief as that cost too much, see BREVITY. Takes about as many steps as there are different lengths, times those of
    a batch.
    """
    call_s, step_s, cell_s = cost.call_s, cost.step_s, cost.cell_s * PADDING_AVERSION
    # Of the first so many lengths that differ: where they end; seconds; where their last batch begins, as an index
    # into these lists, and in how many parts it is run.
    ends, best, cut, parts = [0], [0.0], [0], [1]
    last = 0
    while last < len(lengths):
        longest, begin = lengths[last], last
        last = bisect_right(lengths, longest, begin)
        fixed_s, row_s = call_s + step_s * longest, cell_s * longest
        most = _most(min(rows, max(1, tokens // longest)), fixed_s, cost.cell_s * longest, brief_s)
        where, number = len(ends) - 1, -(-(last - begin) // most)
        lowest = best[-1] + (last - begin) * row_s + number * fixed_s
        if number == 1:
            # The cut never goes back when the last sequence goes on: the costs are Monge (F. Yao 1980, "Efficient
            # dynamic programming using quadrangle inequalities"). Where limits bind a better one may be missed.
            for first in range(where - 1, cut[-1] - 1, -1):
                if last - ends[first] > most:
                    break
                seconds = best[first] + (last - ends[first]) * row_s + fixed_s
                if seconds < lowest:
                    lowest, where = seconds, first
        ends.append(last)
        best.append(lowest)
        cut.append(where)
        parts.append(number)
    at = len(ends) - 1
    while ends[cut[at]] > place:
        at = cut[at]
    first, last = ends[cut[at]], ends[at]
    size = -(-(last - first) // parts[at])
    first += (place - first) // size * size
    return first, min(last, first + size)


def _most(most: int, fixed_s: float, row_s: float, brief_s: float) -> int:
    """Rows of a batch that may have `most` and takes fixed_s + row_s a row: fewer where that makes it brief enough."""
    brief = int((brief_s - fixed_s) / row_s)
    return brief if 0 < brief < most and fixed_s <= BREVITY * brief * row_s else most
