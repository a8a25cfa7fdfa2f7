"""Whether generated tunes are tunes: what music21's parser of ABC notation makes of samples of a bundle.

Knows a language model of ABC and the parser. The parser is no dependency of seqserve: pip install music21.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from models import self_test
from models.bundle import Bundle
from training.data.examples import DataError

BEGINNING = "X: 1\nT:"  # as every tune of the data begins: its number, and room for its title
FEWEST_NOTES = 8  # of what is called a tune
TOLERANCE = 1e-6  # of a quarter note


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One sample: whether the parser accepts it, its notes, and how many of its inner bars are as long as the metre."""

    text: str
    parses: bool
    notes: int = 0
    bars: int = 0
    full_bars: int = 0


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Shares in per cent: of the samples that parse and have notes enough, and of their inner bars that are full."""

    samples: int
    parse: float
    full_bars: float


def sample(bundle: Bundle, count: int, done: Callable[[], None], *, temperature: float = 0.8) -> list[str]:
    """`count` tunes, each begun by BEGINNING and ended by a blank line, seeds 1, 2, …; 1,500 characters at most."""
    texts = []
    for seed in range(1, count + 1):
        asked = {"max_new_tokens": 1500, "temperature": temperature, "seed": seed, "stop": ["\n\n"]}
        texts.append(BEGINNING + self_test.answer(bundle, BEGINNING, asked).generated_text.rstrip("\n") + "\n")
        done()
    return texts


def judge(text: str) -> Judged:
    """What music21 says of one tune. Raises DataError where music21 is not installed."""
    try:
        from music21 import converter
    except ImportError:
        raise DataError("music21, which reads ABC notation, is not installed: pip install music21") from None
    try:
        score: Any = converter.parse(text, format="abc")
        notes = len(score.flatten().notes)
        bars = [bar for part in score.parts for bar in list(part.getElementsByClass("Measure"))[1:-1]]
        # The parser gives a bar that is too long a metre of its own: the tune's first one counts.
        metre = next(iter(score.recurse().getElementsByClass("TimeSignature"))).barDuration.quarterLength
        full = sum(abs(bar.duration.quarterLength - metre) < TOLERANCE for bar in bars)
    except Exception:  # the parser raises whatever its code runs into: any of it means that it cannot read the tune
        return Judged(text=text, parses=False)
    return Judged(text=text, parses=notes >= FEWEST_NOTES, notes=notes, bars=len(bars), full_bars=full)


def summarise(judged: list[Judged]) -> Summary:
    bars = sum(one.bars for one in judged)
    return Summary(
        samples=len(judged),
        parse=100 * sum(one.parses for one in judged) / max(len(judged), 1),
        full_bars=100 * sum(one.full_bars for one in judged) / max(bars, 1),
    )
