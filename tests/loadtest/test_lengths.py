"""lengths.py: the committed histograms are what they say, and the readers count what they should."""

from random import Random

import pytest

from loadtest import lengths


def test_committed_histograms_have_the_published_figures() -> None:
    tag = lengths.load()["tag"]
    words = sum(length * count for length, count in zip(tag.lengths, tag.counts, strict=True))
    assert (sum(tag.counts), max(tag.lengths)) == (2001, 75)
    assert words / sum(tag.counts) == pytest.approx(12.6, abs=0.05)


def test_draws_follow_the_histogram() -> None:
    histogram, random = lengths.load()["tag"], Random(1)
    drawn = [histogram.draw(random) for _ in range(20_000)]
    mean = sum(a * b for a, b in zip(histogram.lengths, histogram.counts, strict=True)) / sum(histogram.counts)
    assert sum(drawn) / len(drawn) == pytest.approx(mean, rel=0.03)
    assert set(drawn) <= set(histogram.lengths)


def test_longest_cuts_a_draw() -> None:
    histogram = lengths.Histogram(unit="words", lengths=(50,), counts=(1,))
    assert histogram.draw(Random(0), longest=7) == 7


def test_ranges_and_empty_nodes_are_no_words() -> None:
    text = "# text = x\n1-2\tdon't\n1\tdo\n2\tn't\n2.1\tx\n\n1\tgo\n"
    assert lengths.conllu_words(text.splitlines()) == {2: 1, 1: 1}


def test_tree_leaves_are_words() -> None:
    assert lengths.tree_words(["(3 (2 It) (4 (4 's) (2 fine)))", ""]) == {3: 1}
