"""Check the content of answers: counts, offsets, labels, probabilities and lengths.

A load test that checks only the status would measure error pages.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

from loadtest.payloads import Payload

SUM_TOLERANCE = 0.01  # scores may be rounded
GAPS = ("[MASK]", "<mask>")
DEFAULT_WORDS = 5  # for each gap
FILLED = {"score", "token", "token_str", "sequence"}
FINISH_REASONS = ("length", "stop", "eos")
T = TypeVar("T")


class WrongAnswerError(ValueError):
    """An answer with status 200 that does not fit its request."""


def check(payload: Payload, answer: object) -> None:
    """Raise WrongAnswerError unless `answer` (parsed JSON) fits the request."""
    if payload.task == "forecast":
        _check_forecasts(payload, _typed(answer, dict))
        return
    if payload.task in ("translate", "caption"):
        _check_searches(payload, _typed(answer, list))
        return
    many = isinstance(payload.inputs, list) and not _is_frames(payload.inputs)
    inputs = payload.inputs if many else [payload.inputs]
    # Classification returns one list per input even for a single string.
    answers = _typed(answer, list) if many or payload.task == "classify" else [answer]
    _expect(len(answers) == len(inputs), f"{len(answers)} answers to {len(inputs)} inputs")
    for value, found in zip(inputs, answers, strict=True):
        if payload.task == "tag":
            _check_tags(payload, value, _typed(found, list))
        elif payload.task == "classify":
            _check_labels(payload, value, _typed(found, list))
        elif payload.task == "fill":
            _check_fills(payload, value, _typed(found, list))
        else:
            _check_text(payload, _typed(found, dict))


def _check_forecasts(payload: Payload, answer: dict[str, Any]) -> None:
    found, length = _typed(answer.get("predictions"), list), payload.parameters["prediction_length"]
    _expect(len(found) == len(payload.inputs), f"{len(found)} forecasts of {len(payload.inputs)} series")
    for prediction in found:
        for name, values in prediction.items():
            _expect(len(values) == length, f"{len(values)} values of {name}, not {length}")
        low, middle, high = (prediction[level] for level in ("0.1", "0.5", "0.9"))
        ordered = all(a <= b <= c for a, b, c in zip(low, middle, high, strict=True))
        _expect(ordered, f"quantiles cross: {_short(prediction)}")


def _check_searches(payload: Payload, answer: list[Any]) -> None:
    search = payload.parameters["generate_parameters"]
    of_texts = payload.task == "translate"
    count, many = search["num_return_sequences"], isinstance(payload.inputs, list) if of_texts else bool(payload.form)
    inputs = payload.inputs if many else [payload.inputs]
    found = [[each] for each in answer] if many and count == 1 else answer if many else [answer]
    _expect(len(found) == len(inputs), f"{len(found)} answers to {len(inputs)} inputs")
    for value, row in zip(inputs, found, strict=True):
        _expect(len(row) <= count, f"{len(row)} texts where {count} were wanted")
        _expect(bool(row), f"no text for {_short(value)}")
        scores = []
        for each in row:
            written = _typed(_typed(each, dict).get("translation_text" if of_texts else "generated_text"), str)
            if search["details"]:
                details = _typed(each.get("details"), dict)
                scores.append(details["score"])
                joined = "".join(token["text"] for token in details["tokens"])
                _expect(joined == written, f"tokens {_short(joined)} of {_short(written)}")
                _expect(details["generated_tokens"] <= search["max_new_tokens"], "more tokens than the limit")
        _expect(scores == sorted(scores, reverse=True), f"scores {scores} are not best first")


def _check_tags(payload: Payload, value: Sequence[Any], tags: list[Any]) -> None:
    rate = payload.parameters.get("frame_rate", 1)
    # A model with the label O may mark spans only, and a sentence may have none.
    _expect(bool(tags) or not value or "O" in payload.labels, f"no tags for {_short(value)}")
    end = 0
    for tag in tags:
        _expect(isinstance(tag, dict) and {"score", "word", "start", "end"} <= tag.keys(), f"not a tag: {_short(tag)}")
        label = tag.get("entity", tag.get("entity_group"))
        known = not payload.labels or any(name in (label, f"B-{label}", f"I-{label}") for name in payload.labels)
        _expect(isinstance(label, str) and known, f"the model has no label {label!r}")
        _expect_score(tag["score"])
        part = value[round(tag["start"] * rate) : round(tag["end"] * rate)]
        if isinstance(value, str):
            words: tuple[str, ...] = (str(part),)
        else:  # tokens are words or letters; frames have no text
            words = ("",) if _is_frames(value) else (" ".join(part), "".join(part))
        fits = tag["start"] >= end and len(part) > 0 and tag["word"] in words
        _expect(fits, f"{_short(tag)} has wrong offsets in {_short(value)}")
        end = tag["end"]


def _is_frames(value: Sequence[Any]) -> bool:
    """Return whether this is one list of frames, which are lists of numbers."""
    return bool(value) and isinstance(value[0], list) and bool(value[0]) and isinstance(value[0][0], int | float)


def _check_labels(payload: Payload, value: Sequence[Any], entries: list[Any]) -> None:
    if not value:
        return
    _expect(bool(entries), f"no labels for {_short(value)}")
    for entry in entries:
        _expect(isinstance(entry, dict) and entry.keys() == {"label", "score"}, f"{_short(entry)} is not a label")
        _expect(not payload.labels or entry["label"] in payload.labels, f"the model has no label {entry['label']!r}")
        _expect_score(entry["score"])
    scores = [entry["score"] for entry in entries]
    _expect(scores == sorted(scores, reverse=True), f"scores {scores} are not best first")
    top_k = payload.parameters.get("top_k")
    _expect(top_k is None or len(entries) == top_k, f"{len(entries)} labels where top_k is {top_k}")
    if len(entries) == len(payload.labels):
        _expect(abs(sum(scores) - 1.0) <= SUM_TOLERANCE, f"scores sum to {sum(scores):.4f}, not to 1")


def _check_fills(payload: Payload, value: str, found: list[Any]) -> None:
    gaps = sum(map(value.count, GAPS))
    answers = [found] if gaps == 1 else found
    _expect(len(answers) == gaps, f"{len(answers)} answers to {gaps} gaps")
    count = payload.parameters.get("top_k", DEFAULT_WORDS)
    for words in answers:
        _expect(len(_typed(words, list)) == count, f"{len(words)} words for a gap, not {count}")
        for word in words:
            _expect(isinstance(word, dict) and word.keys() >= FILLED, f"{_short(word)} is not a word for a gap")
            _expect_score(word["score"])
            text = word["sequence"]
            fits = word["token_str"] in text and sum(map(text.count, GAPS)) == gaps - 1
            _expect(fits, f"{_short(word)} does not fill {_short(value)}")
        scores = [word["score"] for word in words]
        _expect(scores == sorted(scores, reverse=True), f"scores {scores} are not best first")


def _check_text(payload: Payload, answer: dict[str, Any]) -> None:
    _typed(answer.get("generated_text"), str)
    if not payload.parameters.get("details"):
        return
    details = _typed(answer.get("details"), dict)
    reason, tokens = details.get("finish_reason"), _typed(details.get("generated_tokens"), int)
    limit = payload.parameters["max_new_tokens"]
    _expect(reason in FINISH_REASONS, f"finish_reason {reason!r} is none of {FINISH_REASONS}")
    _expect(tokens <= limit, f"{tokens} tokens where the limit is {limit}")
    _expect(reason != "length" or tokens == limit, f"finish_reason length at {tokens} of {limit} tokens")


def _typed(value: object, kind: type[T]) -> T:
    if not isinstance(value, kind):
        raise WrongAnswerError(f"{_short(value)} is not a {kind.__name__}")
    return value


def _expect_score(score: object) -> None:
    _expect(isinstance(score, int | float) and 0.0 <= score <= 1.0, f"score {score!r} is not between 0 and 1")


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise WrongAnswerError(message)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"
