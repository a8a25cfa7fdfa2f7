"""Japanese vowels /ae/ by nine speakers: 7 to 29 frames of 12 coefficients. A tenth is held out as development data."""

from pathlib import Path

from training.data.examples import SeriesExample
from training.data.frames import read_framed
from training.data.splitting import split


def read(folder: Path) -> tuple[list[SeriesExample], list[SeriesExample]]:
    """243 training and 27 development utterances, 27 and 3 of each speaker."""
    utterances = read_framed(folder / "JapaneseVowels_TRAIN.ts")
    return split(utterances, seed=0, labels=[each.label for each in utterances])
