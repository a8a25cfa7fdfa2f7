"""The cheapest way to cut sorted lengths into batches.

Dynamic programming over the cuts (the optimal partition of a sorted list into intervals; Bellman 1961, "On the
approximation of curves by line segments using dynamic programming"): the best plan for the first j sequences ends
with one batch, and what comes before it is planned best, too. Knows lengths and costs, nothing else.
"""

from collections.abc import Sequence

from service.batching.cost import CostModel

# A cell is counted so much dearer than it is. The optimum is flat: in a simulation (once) weights from 1 to 1.5 changed
# the time of all batches by less than 1 % and their padding by a fifth.
PADDING_AVERSION = 1.4
# What keeping batches brief may cost: this share of the time of their rows, in calls and steps that larger ones save.
BREVITY = 0.25


def segment(
    lengths: Sequence[int], place: int, cost: CostModel, *, rows: int, tokens: int, brief_s: float = 0.0
) -> tuple[int, int]:
    """The batch [first, last) of `lengths[place]` in the cheapest plan for all of `lengths`.

    `lengths` ascend. A batch costs cost.seconds(its rows, its longest), each cell PADDING_AVERSION times; it has at
    most `rows` rows and at most `tokens` padded tokens, but always room for one. It takes `brief_s` at most, extra work
    apart, unless batches as brief as that cost too much, see BREVITY. Takes about len(lengths) times the rows of a
    batch times 50 ns.
    """
    call_s, step_s, cell_s = cost.call_s, cost.step_s, cost.cell_s * PADDING_AVERSION
    best, cut = [0.0], [0]  # of the first j sequences: seconds, and where their last batch begins
    for last, longest in enumerate(lengths, 1):
        row_s = cell_s * longest
        seconds, lowest, where = 0.0, float("inf"), last - 1
        most = min(last, rows, max(1, tokens // longest))
        fixed_s = call_s + step_s * longest
        brief = int((brief_s - fixed_s) / (cost.cell_s * longest))
        if 0 < brief < most and fixed_s <= BREVITY * brief * cost.cell_s * longest:
            most = brief
        # The cut never goes back when the last sequence goes on: the costs are Monge (F. Yao 1980, "Efficient dynamic
        # programming using quadrangle inequalities"). Where brevity begins to cost too much a better one may be missed.
        for first in range(last - 1, max(last - most, cut[-1]) - 1, -1):
            seconds += row_s
            total = best[first] + seconds
            if total < lowest:
                lowest, where = total, first
        best.append(lowest + call_s + step_s * longest)
        cut.append(where)
    last = len(lengths)
    while cut[last] > place:
        last = cut[last]
    return cut[last], last
