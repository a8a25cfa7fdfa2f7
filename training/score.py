"""Scores and times of a bundle, measured with the code that serves it. Imports no torch."""

import statistics
import time
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from models import state
from models.bundle import Bundle
from models.codecs.base import UNKNOWN, InputError
from models.manifest import SeriesSpec
from models.predictor import Predictor, batches
from models.tasks import Classification, Filling, Forecasting, Generation, Joint, Tagging, Translation
from models.tasks.beam_search import TranslateOptions
from models.tasks.fill import NO_TARGETS, EncodedGaps
from models.tasks.translation_rows import search
from training import forecasts, metrics, missing_words, translations
from training.data.examples import DataError, PairExample, SequenceExample, TimeSeries, inputs_of, text_of, where
from training.data.published import read_checklist
from training.data.tokenization import compare_tokens, join_tokens
from training.metrics import ExampleLabels
from training.missing_words import Gaps, GapScores

FORECAST_ROWS = 64  # series in a batch
BEAMS, MOST_PIECES = 5, 120  # of scored translations
TRANSLATED = 32  # sources in a batch
# Shares of the longest history and horizon: 96, 192, 336 and 720 of 720.
HISTORIES, HORIZONS = (2 / 15, 7 / 15, 1), (2 / 15, 4 / 15, 7 / 15, 1)
OUTSIDE = "O"  # the label of a token without a served token
CHUNK = 1000  # characters in one call for a text
TINY = 1e-30  # least probability of a word in a perplexity
TIMED_SEQUENCES, TIMED_CHARACTERS, TIMED_TRANSLATIONS = 256, 256, 32
WARMUP_TURNS, TURNS, FEWEST_CALLS = 1, 11, 64


class ChecklistScore(NamedTuple):
    """The number of inputs in a checklist, and those with a wrong answer."""

    count: int
    wrong: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.count - len(self.wrong)} of {self.count}"


class TextScore(NamedTuple):
    """The share of tokens that the service cuts differently in a text, and the score with the service's tokens."""

    share: float
    metric: str
    score: float

    def __str__(self) -> str:
        return f"{self.share:.1%} of the tokens are split differently in a text; {self.metric} of texts: {self.score}"


def score_checklist(bundle: Bundle) -> ChecklistScore | None:
    """Return how a bundle answers its checklist; None if it has none for its labels.

    An answer is right if all labels of the input are right.
    """
    manifest = bundle.manifest
    examples = read_checklist(manifest.name, manifest.task)
    if isinstance(bundle.task, Filling):
        return _score_gaps(bundle, examples) if examples else None
    expected = [ExampleLabels.of(example) for example in examples]
    labels = {label for each in expected for label in (*each.steps, each.text) if label is not None}
    if not examples or not labels <= {*manifest.labels, *manifest.text_labels}:
        return None
    rows = zip(examples, expected, predict(bundle, examples), strict=True)
    wrong = [text_of(example) for example, right, found in rows if right != found]
    return ChecklistScore(count=len(examples), wrong=tuple(wrong))


def _score_gaps(bundle: Bundle, examples: Sequence[Any]) -> ChecklistScore:
    """Return how a filler answers a checklist. The first word is right if it is one of the label's words."""
    found = Predictor(bundle)([example.text for example in examples], top_k=1)
    pairs = zip(examples, found, strict=True)
    wrong = [f"{e.text} ({best[0].token_str})" for e, best in pairs if best[0].token_str not in e.label.split()]
    return ChecklistScore(count=len(examples), wrong=tuple(wrong))


def score(bundle: Bundle, dev: Any) -> dict[str, float]:
    """Return the scores of a bundle by metric, as `metrics.score_labels` or, for a text, nats per character."""
    return score_with_interval(bundle, dev)[0]


def score_with_interval(bundle: Bundle, dev: Any) -> tuple[dict[str, float], tuple[float, float] | None]:
    """Return what `score` returns, and the 95% interval of the main metric: see `metrics.interval`."""
    if isinstance(bundle.task, Generation):
        return {metrics.NATS: round(_nats_per_character(bundle, bundle.task, dev), 4)}, None
    if isinstance(bundle.task, Forecasting):
        found = forecasts.score(
            list(forecast(bundle, list(map(inputs_of, dev)))), dev, bundle.task.spec.quantile_levels
        )
        return {name: round(value, 4) for name, value in found.items()}, None
    if isinstance(bundle.task, Translation):
        return {name: round(value, 2) for name, value in _score_translations(bundle, dev).items()}, None
    if isinstance(bundle.task, Filling):
        found = _score_fills(bundle, bundle.task, dev).scores()
        return {name: round(value, 2) for name, value in found.items()}, None
    expected, predicted = [ExampleLabels.of(example) for example in dev], predict(bundle, dev)
    manifest = bundle.manifest
    scores = metrics.score_labels(manifest.task, manifest.labels, expected, predicted)
    interval = metrics.interval(manifest.metric, expected, predicted)
    return {name: round(value, 2) for name, value in scores.items()}, interval


def predict(bundle: Bundle, examples: Sequence[SequenceExample]) -> list[ExampleLabels]:
    """Return the bundle's labels of all examples in order."""
    return _predict(bundle, [_encode(bundle.task, example) for example in examples])


def _predict(bundle: Bundle, items: Sequence[Any]) -> list[ExampleLabels]:
    """Return the bundle's labels of encoded inputs in order."""
    task = bundle.task
    predicted = [ExampleLabels()] * len(items)
    for group in batches([item.length for item in items]):
        batch = [items[index] for index in group]
        rows: Sequence[Any] = task.decode(batch, bundle.model.run(task.collate(batch)))
        for index, row in zip(group, rows, strict=True):
            predicted[index] = _labels_of_row(task, row)
    return predicted


def score_texts(bundle: Bundle, dev: Any) -> TextScore | None:
    """Return the score of a tagger whose inputs are texts, where the service cuts other tokens than the data has.

    A token of the data gets the label of the first served token in it. Returns None if all tokens are the same.
    """
    task, manifest = bundle.task, bundle.manifest
    if not isinstance(task, Tagging | Joint) or not (share := compare_tokens(task.codec, dev).share):
        return None
    joined = [join_tokens(inputs_of(example)) for example in dev]
    items = [task.encode(text) for text, _ in joined]
    expected, found = [ExampleLabels.of(example) for example in dev], []
    for (text, starts), item, labels in zip(joined, items, _predict(bundle, items), strict=True):
        ends = [*starts[1:], len(text)]
        places = [bisect_right(item.ends, start) for start in starts]
        steps = [
            labels.steps[place] if place < item.length and item.starts[place] < end else OUTSIDE
            for place, end in zip(places, ends, strict=True)
        ]
        found.append(ExampleLabels(steps=tuple(steps), text=labels.text))
    scores = metrics.score_labels(manifest.task, manifest.labels, expected, found)
    return TextScore(share=share, metric=manifest.metric, score=round(scores[manifest.metric], 2))


def _encode(task: Tagging | Classification | Joint, example: SequenceExample) -> Any:
    try:
        return task.encode(inputs_of(example))
    except InputError as error:
        raise DataError(f"{where(example)}: {error}") from None


def _score_translations(bundle: Bundle, dev: Sequence[PairExample]) -> dict[str, float]:
    """Return BLEU and chrF2 with BEAMS beams, and BLEU without."""
    sources, targets = [example.source for example in dev], [example.target for example in dev]
    found = {}
    for beams in (BEAMS, 1):
        options = TranslateOptions(num_beams=beams, max_new_tokens=MOST_PIECES)
        found[beams] = translations.score(list(translate(bundle, sources, options)), targets)
    return {**found[BEAMS], metrics.GREEDY_BLEU: found[1][metrics.BLEU]}


def translate(bundle: Bundle, sources: Sequence[Any], options: TranslateOptions) -> Iterator[str]:
    """Yield the best translation, or caption, of each source."""
    for start in range(0, len(sources), TRANSLATED):
        yield from _translate_batch(bundle, sources[start : start + TRANSLATED], options)


def _translate_batch(bundle: Bundle, sources: Sequence[Any], options: TranslateOptions) -> list[str]:
    task = bundle.task
    assert isinstance(task, Translation)
    texts = [task.start(task.encode(source), options) for source in sources]
    search(bundle.translator, texts)
    return [text.answer().translation_text for text in texts]


def _score_fills(bundle: Bundle, task: Filling, dev: Sequence[Any]) -> GapScores:
    """Return the scores over all words of all texts, left out one at a time. One run fills all gaps of a text."""
    texts = [task.codec.encode(inputs_of(example)) for example in dev]
    gaps = [Gaps.of(text.tokens, text.rows) for text in texts]
    found = GapScores()
    for group in batches([text.length if len(each.steps) else 0 for text, each in zip(texts, gaps, strict=True)]):
        items = [EncodedGaps(text="", rows=texts[n].rows, steps=gaps[n].steps, targets=NO_TARGETS) for n in group]
        right = np.concatenate([gaps[number].rows for number in group])[:, None]  # (P, 1)
        outputs = bundle.model.run({**task.collate(items), "targets": right})
        hits = outputs["best_words"][:, : missing_words.BEST] == right  # (P, BEST)
        ranks = np.where(hits.any(1), hits.argmax(1), missing_words.BEST)
        nats = -np.log(np.maximum(outputs["target_scores"][:, 0].astype(np.float64), TINY))
        ends = np.cumsum([len(item.steps) for item in items])[:-1]
        for number, *each in zip(group, np.split(ranks, ends), np.split(nats, ends), strict=True):
            found.add(gaps[number], *(part.tolist() for part in each))
    return found


def forecast(bundle: Bundle, histories: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    """Yield the mean (N,) and the quantiles (N, Q) of each history, on its scale."""
    task = bundle.task
    assert isinstance(task, Forecasting)
    for start in range(0, len(histories), FORECAST_ROWS):
        batch = [task.encode(history) for history in histories[start : start + FORECAST_ROWS]]
        rows = task.decode(batch, bundle.model.run(task.collate(batch)))
        for item, row in zip(batch, rows, strict=True):
            yield forecasts.on_scale(item, row.mean, row.quantiles)


def forecast_table(bundle: Bundle, train: Sequence[TimeSeries], scored: Sequence[TimeSeries]) -> str:
    """Return the scores of a forecaster by history and horizon, next to the baselines, in Markdown."""
    spec, codec = bundle.manifest.forecast, bundle.manifest.codec
    assert spec is not None
    assert isinstance(codec, SeriesSpec)
    low, high = (forecasts.nearest(spec.quantile_levels, bound) for bound in forecasts.INTERVAL)

    def predict(histories: Sequence[Any]) -> Iterator[tuple[Any, Any, Any]]:
        for mean, quantiles in forecast(bundle, histories):
            yield mean, quantiles[:, low], quantiles[:, high]

    parts = [
        sorted({codec.segment * max(1, round(share * longest / codec.segment)) for share in shares})
        for longest, shares in ((codec.longest, HISTORIES), (spec.horizon, HORIZONS))
    ]
    return forecasts.render_table(forecasts.table(predict, train, scored, histories=parts[0], horizons=parts[1]))


def _labels_of_row(task: Tagging | Classification | Joint, row: Any) -> ExampleLabels:
    if isinstance(task, Joint):
        steps, text = _labels_of_row(task.tagging, row.tags).steps, _labels_of_row(task.classification, row.text).text
        return ExampleLabels(steps=steps, text=text)
    if isinstance(task, Tagging):
        return ExampleLabels(steps=tuple(task.labels[label] for label in row.labels))
    return ExampleLabels(text=task.labels[int(np.argmax(row))])


def _nats_per_character(bundle: Bundle, task: Generation, text: str) -> float:
    """Return the mean negative log-likelihood of every character after the first, in one stream.

    Characters that training never saw have no probability. They are read but not counted.
    """
    rows = task.encode(text).rows  # (T,)
    arrays, total, counted = state.zeros(task.state, 1), 0.0, 0
    for start in range(0, len(rows) - 1, CHUNK):
        targets = rows[start + 1 : start + CHUNK + 1]
        inputs = rows[start : start + len(targets)]
        feeds: dict[str, Any] = {"characters": inputs[:, None], "lengths": np.array([len(inputs)], np.int32)}
        feeds |= {tensor.input: array for tensor, array in zip(task.state, arrays, strict=True)}
        log_probabilities, *after = bundle.model.run_list(feeds)  # (T, 1, V)
        arrays = tuple(after)
        known = targets != UNKNOWN
        total -= float(log_probabilities[np.arange(len(targets)), 0, targets][known].sum())
        counted += int(known.sum())
    return total / counted


def milliseconds(variants: Mapping[str, Bundle], dev: Any) -> dict[str, dict[str, float]]:
    """Return the CPU milliseconds per sequence (generation: per token) of each variant, in batches of 1 and 16.

    Times are medians for the network alone, on one thread, with sequences of similar length batched together. The
    variants take turns, and CPU time does not count waiting, so that other load hardly changes their ratio. After the
    warm-up, a bundle with a speller has the vectors of all OOV words in its cache.
    """
    medians: dict[str, dict[str, float]] = {name: {} for name in variants}
    for size in (1, 16):
        calls, count = _timed_calls(next(iter(variants.values())).task, dev, size)
        translates = isinstance(next(iter(variants.values())).task, Translation)  # one call has many runs
        repeated = 1 if translates else -(-FEWEST_CALLS // len(calls))
        calls, count = calls * repeated, count * repeated
        passes: dict[str, list[float]] = {name: [] for name in variants}
        for turn in range(WARMUP_TURNS + TURNS):
            for name in list(variants)[:: 1 if turn % 2 else -1]:
                started = time.process_time()
                for call in calls:
                    if translates:
                        _translate_batch(variants[name], call, TranslateOptions())
                    else:
                        variants[name].model.run_list(call)
                passes[name].append(time.process_time() - started)
        for name, seconds in passes.items():
            medians[name][f"batch_{size}"] = round(1e3 * statistics.median(seconds[WARMUP_TURNS:]) / count, 4)
    return medians


def _timed_calls(task: Any, dev: Any, size: int) -> tuple[list[Any], int]:
    """Return the inputs of timed calls in batches of `size`, and how many sequences or tokens they are.

    They are feeds of the graph, and for a translator sources.
    """
    if isinstance(task, Translation):
        sources = [example.source for example in dev[:TIMED_TRANSLATIONS]]
        return [sources[start : start + size] for start in range(0, len(sources), size)], len(sources)
    if isinstance(task, Generation):
        rows = task.encode(dev[:TIMED_CHARACTERS]).rows
        arrays = dict(zip((t.input for t in task.state), state.zeros(task.state, size), strict=True))
        lengths = np.ones(size, np.int32)
        calls = [{"characters": np.full((1, size), row, np.int32), "lengths": lengths, **arrays} for row in rows]
        return calls, size * len(rows)
    inputs = [inputs_of(example) for example in dev[:TIMED_SEQUENCES]]
    if isinstance(task, Filling):
        tokenizer = task.codec.spec.tokenizer
        inputs = list(filter(None, (missing_words.without_last_word(each, tokenizer) for each in inputs)))
    items = sorted(map(task.encode, inputs), key=lambda item: item.length)
    return [task.collate(items[start : start + size]) for start in range(0, len(items), size)], len(items)
