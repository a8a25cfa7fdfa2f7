"""Baselines that a model must beat: majority, tag of each word, logistic regression, and character n-grams.

T steps, F features of a frame.
"""

import math
import statistics
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from models.codecs.words import tokenize
from training import metrics
from training.data.examples import SeriesExample, TaggedSeries, inputs_of, label_names
from training.metrics import ExampleLabels

ORDER = 5  # of the character n-grams
LETTER_NGRAMS = (1, 4)  # shortest and longest n-gram of letters
NEIGHBORS = 10  # frames on either side that logistic regression sees
ITERATIONS = 100  # of the solver at most

MAJORITY = "majority"
WORD_TAGS = "most frequent tag of each word"
REGRESSION = "logistic regression over {features}"

NO_ESTIMATE = 0.5  # the discount if no n-gram occurs once; any value works that leaves no probability at 0


def baselines(task: str, train: Any, dev: Any, *, codec: str = "words") -> dict[str, dict[str, float]]:
    """Return the scores of each baseline on `dev`, by the baseline's name, as `metrics.score_labels` gives them.

    tag: the most frequent tag, and that of each word or, for frames, logistic regression. classify: the most frequent
    label, and logistic regression over `features` of the inputs of this kind of codec. joint: both. generate: character
    n-grams, on texts.
    """
    if task == "generate":
        return {f"{ORDER}-grams of characters": {metrics.NATS: nats_per_character(train, dev, ORDER)}}
    labels, _ = label_names(task, train)
    expected = [ExampleLabels.of(example) for example in dev]
    no_tags: list[Any] = [()] * len(dev)
    taggers = _tag_baselines(train, dev) if task in ("tag", "joint") else [("", no_tags)] * 2
    classifiers = (
        _label_baselines(train, dev, codec) if task in ("classify", "joint") else [("", [None] * len(dev))] * 2
    )
    scores = {}
    for (tagger, tags), (classifier, predicted) in zip(taggers, classifiers, strict=True):
        name = "; ".join(dict.fromkeys(filter(None, (tagger, classifier))))
        answers = [ExampleLabels(steps=t, text=label) for t, label in zip(tags, predicted, strict=True)]
        scores[name] = metrics.score_labels(task, labels, expected, answers)
    return scores


def _tag_baselines(train: Sequence[Any], dev: Sequence[Any]) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    """Yield the name of each baseline and the tags that it gives every development example."""
    if isinstance(train[0], TaggedSeries):
        yield from _frame_baselines(train, dev)
        return
    of_word: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for example in train:
        for token, tag in zip(example.tokens, example.tags, strict=True):
            of_word[token][tag] += 1
    most = _most_frequent(sum(of_word.values(), Counter[str]()))
    best = {word: _most_frequent(counts) for word, counts in of_word.items()}
    yield MAJORITY, [(most,) * len(example.tokens) for example in dev]
    yield WORD_TAGS, [tuple(best.get(token, most) for token in example.tokens) for example in dev]


def _frame_baselines(
    train: Sequence[TaggedSeries], dev: Sequence[TaggedSeries]
) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    """Yield the most frequent tag, and logistic regression over each frame and its neighbors."""
    tags = [tag for example in train for tag in example.tags]
    lengths = [len(example.frames) for example in dev]
    yield MAJORITY, [(_most_frequent(Counter(tags)),) * length for length in lengths]
    near = [np.concatenate([_with_neighbors(np.array(example.frames)) for example in part]) for part in (train, dev)]
    predicted = iter(_regression(near[0], tags, near[1]))
    name = REGRESSION.format(features=f"each frame and {NEIGHBORS} on either side")
    yield name, [tuple(islice(predicted, length)) for length in lengths]


def _with_neighbors(frames: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (T, N F): each frame (F,) of (T, F) with its neighbors, N frames. Both ends are repeated."""
    padded = np.pad(frames, ((NEIGHBORS, NEIGHBORS), (0, 0)), mode="edge")
    windows = sliding_window_view(padded, 2 * NEIGHBORS + 1, axis=0)  # (T, F, N)
    return windows.reshape(len(frames), -1)


def _label_baselines(train: Sequence[Any], dev: Sequence[Any], codec: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the name of each baseline and the label that it gives every development example."""
    most = _most_frequent(Counter(example.label for example in train))
    yield MAJORITY, [most] * len(dev)
    description, train_features, dev_features = features(train, dev, codec)
    labels = [example.label for example in train]
    yield REGRESSION.format(features=description), _regression(train_features, labels, dev_features)


def _most_frequent(counts: Counter[str]) -> str:
    """Return the most frequent label; of several, the first in alphabetical order."""
    return min(counts, key=lambda label: (-counts[label], label))


def features(train: Sequence[Any], dev: Sequence[Any], codec: str) -> tuple[str, Any, Any]:
    """Return a description of the features of logistic regression, and their matrices, one row per example.

    Frames: mean and standard deviation of each feature. DNA of one length: the base at each position. Other DNA and
    characters: counts of n-grams of letters. Words: which words occur.
    """
    from sklearn.feature_extraction.text import CountVectorizer  # slow to import

    if isinstance(train[0], SeriesExample):
        frames = [[np.array(example.frames) for example in part] for part in (train, dev)]  # each (T, F)
        moments = [np.array([np.concatenate([one.mean(0), one.std(0)]) for one in part]) for part in frames]
        return "mean and deviation of each feature", *moments
    texts = [[inputs_of(example) for example in part] for part in (train, dev)]
    if codec == "dna" and len({len(text) for part in texts for text in part}) == 1:
        description = "the base at each position"
        vectorizer = CountVectorizer(analyzer=lambda text: [f"{n}{base}" for n, base in enumerate(text)], binary=True)
    elif codec in ("dna", "characters"):
        description = "n-grams of {} to {} letters".format(*LETTER_NGRAMS)
        texts = [[text if isinstance(text, str) else " ".join(text) for text in part] for part in texts]
        vectorizer = CountVectorizer(analyzer="char", ngram_range=LETTER_NGRAMS)
    else:
        description, vectorizer = "a bag of words", CountVectorizer(analyzer=_words, binary=True)
    return description, vectorizer.fit_transform(texts[0]), vectorizer.transform(texts[1])


def _words(text: str | Sequence[str]) -> list[str]:
    tokens = tokenize(text, "words")[0] if isinstance(text, str) else text
    return [token.lower() for token in tokens]


def _regression(train_features: Any, labels: Sequence[str], dev_features: Any) -> list[str]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    # Frames can have any unit. Counts stay as they are, because centered counts would not be sparse.
    scaler = StandardScaler() if isinstance(train_features, np.ndarray) else None
    model = make_pipeline(scaler, LogisticRegression(max_iter=ITERATIONS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # good enough for a baseline
        warnings.filterwarnings("ignore", "The number of unique classes")  # training.data.checks reports it
        model.fit(train_features, list(labels))
    return model.predict(dev_features).tolist()


def nats_per_character(train: str, dev: str, order: int) -> float:
    """Return the mean -ln p of every character of `dev` after the first, given at most `order` - 1 before it.

    As in a network's score, characters that are not in `train` are read but not counted.
    """
    known = set(train)
    probabilities = ngram_probabilities(train, dev, order)
    nats = [-math.log(p) for p, character in zip(probabilities[1:], dev[1:], strict=True) if character in known]
    return statistics.fmean(nats)


def ngram_probabilities(train: str, text: str, order: int) -> list[float]:
    """Return p of each character of `text` after counting n-grams in `train`.

    Interpolated Kneser-Ney with one discount per order (Kneser and Ney, ICASSP 1995; as in Chen and Goodman, Computer
    Speech & Language 13, 1999, section 2.7). With h' the context h without its oldest character:

        p(c | h) = (max(count(h c) - D, 0) + D types(h) p(c | h')) / count(h),  finally 1/V for any character

    The longest contexts count occurrences; shorter ones count the distinct characters before (h c). types(h) is the
    number of distinct characters after h. D = n1 / (n1 + 2 n2), with n1 and n2 the (h c) that count once and twice
    (Ney, Essen and Kneser 1994). A context that `train` does not have gives p(c | h').
    """
    p = [1 / len(set(train))] * len(text)
    for length in range(1, order + 1):
        counts = Counter(_ngrams(train, length))
        if length < order:
            counts = Counter(longer[1:] for longer in set(_ngrams(train, length + 1)))
        count_counts = Counter(counts.values())
        once, twice = count_counts[1], count_counts[2]
        discount = once / (once + 2 * twice) if once else NO_ESTIMATE
        total, types = Counter[str](), Counter[str]()
        for gram, count in counts.items():
            total[gram[:-1]] += count
            types[gram[:-1]] += 1
        for end, gram in enumerate(_ngrams(text, length), start=length - 1):
            context = gram[:-1]
            if total[context]:
                p[end] = (max(counts[gram] - discount, 0) + discount * types[context] * p[end]) / total[context]
    return p


def _ngrams(text: str, length: int) -> Iterator[str]:
    return (text[start : start + length] for start in range(len(text) - length + 1))
