"""How many generated ABC tunes are valid: the share that music21 parses, and the share of complete bars.

music21 is not a dependency of seqserve: pip install music21.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from models import self_test
from models.bundle import Bundle
from training.data.examples import DataError

PROMPT = "X: 1\nT:"  # the start of every tune in the data: its number, then its title
FEWEST_NOTES = 8  # of a valid tune
LONGEST = 1500  # characters
TOLERANCE = 1e-6  # quarter notes


@dataclass(frozen=True, kw_only=True)
class TuneCheck:
    """What music21 finds in one tune. Bars exclude the first and the last one of each part."""

    text: str
    parses: bool
    notes: int = 0
    bars: int = 0
    full_bars: int = 0  # as long as the meter


@dataclass(frozen=True, kw_only=True)
class TuneSummary:
    """Percentages: `parse` of the samples, `full_bars` of their bars."""

    samples: int
    parse: float
    full_bars: float


def generate_tunes(bundle: Bundle, count: int, done: Callable[[], None]) -> list[str]:
    """Return `count` tunes, generated from PROMPT with seeds 1, 2, … up to a blank line."""
    texts = []
    for seed in range(1, count + 1):
        options = {"max_new_tokens": LONGEST, "temperature": 0.8, "seed": seed, "stop": ["\n\n"]}
        texts.append(PROMPT + self_test.answer(bundle, PROMPT, options).generated_text.rstrip("\n") + "\n")
        done()
    return texts


def check_tune(text: str) -> TuneCheck:
    """Parse one tune. Raises DataError if music21 is not installed."""
    try:
        from music21 import converter
    except ImportError:
        raise DataError("music21, which parses ABC notation, is not installed: pip install music21") from None
    try:
        score: Any = converter.parse(text, format="abc")
        notes = len(score.flatten().notes)
        bars = [bar for part in score.parts for bar in list(part.getElementsByClass("Measure"))[1:-1]]
        # The parser gives a bar that is too long a meter of its own, so use the tune's first meter.
        meter = next(iter(score.recurse().getElementsByClass("TimeSignature"))).barDuration.quarterLength
        full = sum(abs(bar.duration.quarterLength - meter) < TOLERANCE for bar in bars)
    except Exception:  # music21 raises many kinds of errors for a tune that it cannot parse
        return TuneCheck(text=text, parses=False)
    return TuneCheck(text=text, parses=notes >= FEWEST_NOTES, notes=notes, bars=len(bars), full_bars=full)


def summarize(checks: Sequence[TuneCheck]) -> TuneSummary:
    bars = sum(check.bars for check in checks)
    return TuneSummary(
        samples=len(checks),
        parse=100 * sum(check.parses for check in checks) / max(len(checks), 1),
        full_bars=100 * sum(check.full_bars for check in checks) / max(bars, 1),
    )
