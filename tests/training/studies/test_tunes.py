"""Checks of generated tunes."""

import sys

import pytest

from training.data.examples import DataError
from training.studies import tunes


def test_missing_music21_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "music21", None)
    with pytest.raises(DataError, match="pip install music21"):
        tunes.check_tune("X:1\nK:C\nCDEF|\n")


def test_summary_counts_samples_and_bars() -> None:
    judged = [
        tunes.TuneCheck(text="a", parses=True, notes=20, bars=6, full_bars=6),
        tunes.TuneCheck(text="b", parses=False, notes=3, bars=2, full_bars=0),
    ]
    assert tunes.summarize(judged) == tunes.TuneSummary(samples=2, parse=50.0, full_bars=75.0)


def test_check_counts_full_bars() -> None:
    pytest.importorskip("music21", reason="music21, which is no dependency, is not installed")
    good = tunes.check_tune("X:1\nM:4/4\nL:1/4\nK:C\nCDEF|GABc|cBAG|FEDC|\n")
    assert (good.parses, good.bars, good.full_bars) == (True, 2, 2)
    bad = tunes.check_tune("X:1\nM:4/4\nL:1/4\nK:C\nCDEF|GABcd|cBAG|FEDC|\n")
    assert (bad.bars, bad.full_bars) == (3, 2)  # five beats are a full bar and a bit
