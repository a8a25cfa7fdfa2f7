"""From log-probabilities to the next token, for many rows at once, each with settings of its own.

The random number that a row uses is a pure function of its seed and of how many tokens it has sampled before:
it does not depend on the slot, the batch or the replica.  B rows, V vocabulary.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

UNIFORMS_BLOCK = 128  # numbers sampled at once: making a Generator costs ten times as much as drawing them
COLDEST = 1e-290


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How one row draws. `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 keep the whole vocabulary."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0


def uniforms(seed: int, position: int) -> Floats:
    """The block of UNIFORMS_BLOCK numbers in [0, 1) that covers draw `position` of the stream `seed`.

    Philox is counter-based (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), so any place
    of a stream is reached without walking to it. Where the blocks begin and end does not change a number.
    """
    block = position // UNIFORMS_BLOCK
    # Philox is advanced in units of four 64-bit numbers; a double takes one of them.
    generator = np.random.Philox(key=seed % 2**64).advance(block * UNIFORMS_BLOCK // 4)
    return np.random.Generator(generator).random(UNIFORMS_BLOCK)


def sample(log_probabilities: NDArray[np.float32], rows: "SamplingBatch", uniform: Floats) -> NDArray[np.int64]:
    """The next token of each row.

    log_probabilities (B, V); uniform (B,) in [0, 1); returns (B,). Top-k is applied before top-p, both after
    the temperature (Holtzman et al. 2020 for top-p); ties at the threshold of top-k are all kept.
    """
    if rows.all_greedy:
        best: NDArray[np.int64] = log_probabilities.argmax(axis=1)
        return best
    weights = log_probabilities.astype(np.float64)  # (B, V); what follows happens in place
    # The best token is moved to 0 before the division: a temperature near 0 would make -inf of all of them.
    weights -= np.maximum.reduce(weights, axis=1, keepdims=True)
    weights /= rows.temperature[:, None]
    np.exp(weights, out=weights)
    if rows.any_truncated:
        weights = _truncate(weights, rows.top_k, rows.top_p)
    cumulative = weights.cumsum(axis=1)
    # Inverse transform: the first token whose cumulative weight exceeds the sampled share of the total.
    token = (cumulative <= (uniform * cumulative[:, -1])[:, None]).argmin(axis=1)
    # It always has weight: uniform is at most 1 - 2^-53, and that share of a float64 rounds to less than the whole.
    chosen: NDArray[np.int64] = token
    return np.where(rows.greedy, log_probabilities.argmax(axis=1), chosen) if rows.any_greedy else chosen


@dataclass(frozen=True, kw_only=True)
class SamplingBatch:
    """The sampling settings of a table of rows as arrays (B,), made once whenever the table changes."""

    temperature: Floats
    top_k: NDArray[np.int64]
    top_p: Floats
    greedy: NDArray[np.bool_]
    all_greedy: bool
    any_greedy: bool
    any_truncated: bool

    @classmethod
    def of(cls, settings: "list[SamplingOptions]") -> "SamplingBatch":
        greedy = np.array([s.temperature == 0 for s in settings], np.bool_)
        return cls(
            # Below COLDEST nothing would change but an overflow on the way.
            temperature=np.array([max(s.temperature or 1.0, COLDEST) for s in settings], np.float64),
            top_k=np.array([s.top_k for s in settings], np.int64),
            top_p=np.array([s.top_p for s in settings], np.float64),
            greedy=greedy,
            all_greedy=bool(greedy.all()),
            any_greedy=bool(greedy.any()),
            any_truncated=any(s.top_k > 0 or s.top_p < 1 for s in settings),
        )


def _truncate(weights: Floats, top_k: NDArray[np.int64], top_p: Floats) -> Floats:
    """Weights (B, V) with all but each row's top k, then all but its nucleus of mass p, set to zero."""
    columns = weights.shape[1]
    ordered = -np.sort(-weights, axis=1)  # (B, V) descending
    kept = np.where(top_k > 0, np.minimum(top_k, columns), columns)  # (B,)
    ordered[np.arange(columns)[None, :] >= kept[:, None]] = 0.0
    cumulative = ordered.cumsum(axis=1)
    # A token is in the nucleus when the mass before it is below p: the first always is.
    inside = (cumulative - ordered) < top_p[:, None] * cumulative[:, -1:]
    count = np.minimum(np.where(top_p < 1, inside.sum(axis=1), columns), kept)
    threshold = np.take_along_axis(ordered, count[:, None] - 1, axis=1)
    return np.where(weights >= threshold, weights, 0.0)
