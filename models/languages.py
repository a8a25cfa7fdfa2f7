"""The language of a text, by the trigrams of its letters: naive Bayes over the profiles of some languages.

Profiles of the most common n-grams are due to Cavnar and Trenkle 1994, "N-gram-based text categorization".
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

PROFILE_SIZE = 400  # trigrams
MILLION = 1_000_000
MOST_CHARACTERS = 2000  # of a text that are read
WORD = re.compile(r"[^\W\d_]+")

Profile = Mapping[str, int]  # trigrams with their occurrences in a million


class DetectedLanguage(NamedTuple):
    """A language, and how certain it is: between 0 and 1."""

    language: str
    confidence: float


def trigrams(text: str) -> Iterator[str]:
    """Yield the trigrams of each word, in lower case and between blanks."""
    for word in WORD.findall(text.lower()):
        padded = f" {word} "
        yield from (padded[start : start + 3] for start in range(len(padded) - 2))


def profile(texts: Iterable[str]) -> dict[str, int]:
    """Return the most common trigrams of texts in one language, the most common one first."""
    counts = Counter(trigram for text in texts for trigram in trigrams(text))
    # Equal counts are in alphabetical order, so that the same texts give the same profile.
    common = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:PROFILE_SIZE]
    return {trigram: max(1, round(count * MILLION / counts.total())) for trigram, count in common}


def detect(text: str, profiles: Mapping[str, Profile]) -> list[DetectedLanguage]:
    """Return all languages of the profiles, the most likely one first.

    The confidence is the probability of the language among these, times the share of the trigrams that its profile has.
    So a text in another language has a low one, and a text without letters has 0.
    """
    found = list(trigrams(text[:MOST_CHARACTERS]))
    # What a profile lacks is at most half as common as the rarest trigram in any.
    rare = min((min(each.values(), default=1) for each in profiles.values()), default=1) / 2
    scores = {
        language: sum(math.log(each.get(trigram, rare)) for trigram in found) for language, each in profiles.items()
    }
    best = max(scores.values(), default=0.0)
    weights = {language: math.exp(score - best) for language, score in scores.items()}
    languages = [
        DetectedLanguage(
            language,
            weights[language] / sum(weights.values()) * sum(t in each for t in found) / max(1, len(found)),
        )
        for language, each in profiles.items()
    ]
    return sorted(languages, key=lambda each: -each.confidence)  # stable: of equal ones, the first
