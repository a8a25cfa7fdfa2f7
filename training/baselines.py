"""What a model has to beat: scores that take seconds to reach, on the same data and in the same units.

Knows examples and scikit-learn. Knows no network and no bundle.
"""

import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from models.codecs.tokenizer import tokenize
from training import metrics
from training.data.examples import SeriesExample, inputs_of, label_names
from training.metrics import ExampleLabels
from training.ngrams import nats_per_character

ORDER = 5  # of the n-grams of characters
LETTERS = (1, 4)  # shortest and longest n-gram of letters
ROUNDS = 100  # of the solver; it stops earlier where it can

MAJORITY = "majority"
WORD_TAGS = "most frequent tag of each word"
REGRESSION = "logistic regression over {of}"


def baselines(task: str, train: Any, dev: Any, *, codec: str = "words") -> dict[str, dict[str, float]]:
    """Name of the baseline -> its scores on `dev`, the same as a network's (`training.metrics.rate`).

    tag: the most frequent tag; the most frequent one of each word. classify: the most frequent label; logistic
    regression over what the input has, see `features`; `codec` is the kind of input. joint: both. generate: an n-gram
    model of characters, on texts instead of examples.
    """
    if task == "generate":
        return {f"{ORDER}-grams of characters": {metrics.NATS: nats_per_character(train, dev, ORDER)}}
    labels, _ = label_names(task, train)
    expected = [ExampleLabels.of(example) for example in dev]
    nothing: list[Any] = [()] * len(dev)
    steps = _steps(train, dev) if task in ("tag", "joint") else [("", nothing)] * 2
    wholes = _wholes(train, dev, codec) if task in ("classify", "joint") else [("", [None] * len(dev))] * 2
    scores = {}
    for (of_steps, tags), (of_wholes, found) in zip(steps, wholes, strict=True):
        name = "; ".join(dict.fromkeys(filter(None, (of_steps, of_wholes))))
        answers = [ExampleLabels(steps=t, text=label) for t, label in zip(tags, found, strict=True)]
        scores[name] = metrics.rate(task, labels, expected, answers)
    return scores


def _steps(train: Sequence[Any], dev: Sequence[Any]) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    """For each baseline of tags its name and the tags of every development example."""
    of_word: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for example in train:
        for token, tag in zip(example.tokens, example.tags, strict=True):
            of_word[token][tag] += 1
    most = _most(sum(of_word.values(), Counter[str]()))
    best = {word: _most(counts) for word, counts in of_word.items()}
    yield MAJORITY, [(most,) * len(example.tokens) for example in dev]
    yield WORD_TAGS, [tuple(best.get(token, most) for token in example.tokens) for example in dev]


def _wholes(train: Sequence[Any], dev: Sequence[Any], codec: str) -> Iterator[tuple[str, list[str]]]:
    """The same for labels of the whole."""
    most = _most(Counter(example.label for example in train))
    yield MAJORITY, [most] * len(dev)
    of, made, asked = features(train, dev, codec)
    yield REGRESSION.format(of=of), _regression(made, [example.label for example in train], asked)


def _most(counts: Counter[str]) -> str:
    """The most frequent; the first in alphabetical order of several."""
    return min(counts, key=lambda label: (-counts[label], label))


def features(train: Sequence[Any], dev: Sequence[Any], codec: str) -> tuple[str, Any, Any]:
    """What logistic regression is given, in words, and for both parts a matrix with a row an example.

    Frames: mean and standard deviation of each feature. DNA of one length: the base at each place. Other DNA and
    characters: how often each n-gram of letters stands there. Words: which of them do.
    """
    from sklearn.feature_extraction.text import CountVectorizer  # seconds to import, which only a fit should pay

    if isinstance(train[0], SeriesExample):
        return "mean and deviation of each feature", *(np.array([_moments(e) for e in part]) for part in (train, dev))
    texts = [[inputs_of(example) for example in part] for part in (train, dev)]
    if codec == "dna" and len({len(text) for part in texts for text in part}) == 1:
        of, vectorizer = "the base at each place", CountVectorizer(analyzer=_at_places, binary=True)
    elif codec in ("dna", "characters"):
        of = "n-grams of {} to {} letters".format(*LETTERS)
        texts = [[text if isinstance(text, str) else " ".join(text) for text in part] for part in texts]
        vectorizer = CountVectorizer(analyzer="char", ngram_range=LETTERS)
    else:
        of, vectorizer = "a bag of words", CountVectorizer(analyzer=_words, binary=True)
    return of, vectorizer.fit_transform(texts[0]), vectorizer.transform(texts[1])


def _at_places(text: str) -> list[str]:
    return [f"{place}{letter}" for place, letter in enumerate(text)]


def _words(text: str | Sequence[str]) -> list[str]:
    tokens = tokenize(text, "words")[0] if isinstance(text, str) else text
    return [token.lower() for token in tokens]


def _moments(example: SeriesExample) -> np.ndarray[Any, Any]:
    frames = np.array(example.frames)  # (T, F)
    return np.concatenate([frames.mean(0), frames.std(0)])


def _regression(made: Any, labels: Sequence[str], asked: Any) -> list[str]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    # Numbers of frames may have any unit; counts are left as they are, since centred ones would no longer be sparse.
    scaler = StandardScaler() if isinstance(made, np.ndarray) else None
    model = make_pipeline(scaler, LogisticRegression(max_iter=ROUNDS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # good enough to compare with
        warnings.filterwarnings("ignore", "The number of unique classes")  # labels are checked where data are read
        model.fit(made, list(labels))
    found: list[str] = model.predict(asked).tolist()
    return found
