"""Sampling the next token of many rows together, each with its own options.

The random number of a row is a pure function of its seed and of the number of tokens it has sampled before. So it does
not depend on the slot, the batch or the replica. B rows, V vocabulary.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

UNIFORMS_BLOCK = 128  # numbers made at once: making a Generator takes ten times as long
COLDEST = 1e-290  # a lower temperature changes nothing but overflows


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How to sample one row. `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 keep the whole vocabulary."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class SamplingBatch:
    """The options of all rows as arrays (B,). Make a new one when the rows change."""

    temperature: Floats
    top_k: NDArray[np.int64]
    top_p: Floats
    greedy: NDArray[np.bool_]
    all_greedy: bool
    any_greedy: bool
    any_truncated: bool

    @classmethod
    def of(cls, options: list[SamplingOptions]) -> "SamplingBatch":
        greedy = np.array([each.temperature == 0 for each in options], np.bool_)
        return cls(
            temperature=np.array([max(each.temperature or 1.0, COLDEST) for each in options], np.float64),
            top_k=np.array([each.top_k for each in options], np.int64),
            top_p=np.array([each.top_p for each in options], np.float64),
            greedy=greedy,
            all_greedy=bool(greedy.all()),
            any_greedy=bool(greedy.any()),
            any_truncated=any(each.top_k > 0 or each.top_p < 1 for each in options),
        )


def uniforms(seed: int, position: int) -> Floats:
    """Return the block of UNIFORMS_BLOCK numbers in [0, 1) that contains number `position` of the stream `seed`.

    Philox is counter-based, so any position is reached directly, and the block size does not change a number.
    Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
    """
    block = position // UNIFORMS_BLOCK
    # Philox advances in units of four 64-bit numbers, and a double takes one number.
    generator = np.random.Philox(key=seed % 2**64).advance(block * UNIFORMS_BLOCK // 4)
    return np.random.Generator(generator).random(UNIFORMS_BLOCK)


def sample(log_probabilities: NDArray[np.float32], batch: SamplingBatch, uniform: Floats) -> NDArray[np.int64]:
    """Return the next token (B,) of each row from log_probabilities (B, V) and uniform (B,) in [0, 1).

    Temperature comes first, then top-k, then top-p (Holtzman et al. 2020). Ties at the top-k threshold are all kept.
    """
    if batch.all_greedy:
        best: NDArray[np.int64] = log_probabilities.argmax(axis=1)
        return best
    weights = log_probabilities.astype(np.float64)  # (B, V), changed in place from here on
    # Shift the best token to 0 before the division: a temperature near 0 would turn all of them into -inf.
    weights -= np.maximum.reduce(weights, axis=1, keepdims=True)
    weights /= batch.temperature[:, None]
    np.exp(weights, out=weights)
    if batch.any_truncated:
        weights = _truncate(weights, batch.top_k, batch.top_p)
    cumulative = weights.cumsum(axis=1)
    # Inverse transform sampling: the first token whose cumulative weight exceeds `uniform` times the total. There is
    # always one, because uniform is at most 1 - 2^-53, so that the product rounds to less than the total.
    tokens: NDArray[np.int64] = (cumulative <= (uniform * cumulative[:, -1])[:, None]).argmin(axis=1)
    return np.where(batch.greedy, log_probabilities.argmax(axis=1), tokens) if batch.any_greedy else tokens


def _truncate(weights: Floats, top_k: NDArray[np.int64], top_p: Floats) -> Floats:
    """Zero all weights (B, V) but the top k of each row, then all but its nucleus of mass p."""
    columns = weights.shape[1]
    ordered = -np.sort(-weights, axis=1)  # (B, V) descending
    kept = np.where(top_k > 0, np.minimum(top_k, columns), columns)  # (B,)
    ordered[np.arange(columns)[None, :] >= kept[:, None]] = 0.0
    cumulative = ordered.cumsum(axis=1)
    # A token is in the nucleus if the mass before it is below p, so the first token always is.
    inside = (cumulative - ordered) < top_p[:, None] * cumulative[:, -1:]
    count = np.minimum(np.where(top_p < 1, inside.sum(axis=1), columns), kept)
    threshold = np.take_along_axis(ordered, count[:, None] - 1, axis=1)
    return np.where(weights >= threshold, weights, 0.0)
