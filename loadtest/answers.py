"""Is this the right shape of an answer? A load test that looks at the status alone measures error pages.

Checks what can be known without the model: counts, offsets, labels, probabilities, lengths. Knows no HTTP.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from loadtest.payloads import Payload

# Scores may be rounded on their way out; the sum of K rounded scores is off by less than this.
SUM_TOLERANCE = 0.01
FINISH_REASONS = ("length", "stop", "eos")


class WrongAnswerError(ValueError):
    """An answer with status 200 that is not what was asked for; the message says what is wrong with it."""


def check(payload: Payload, answer: object) -> None:
    """WrongAnswerError unless `answer` (parsed JSON) fits the request."""
    many = isinstance(payload.inputs, list) and not _is_frames(payload.inputs)
    one_by_one = payload.inputs if many else [payload.inputs]
    # Classification answers one list an input even when a single string was asked.
    answers = answer if many or payload.task == "classify" else [answer]
    _expect(isinstance(answers, list), f"a list of answers was expected, not {_short(answer)}")
    assert isinstance(answers, list)  # said to the type checker; the line above has raised already
    _expect(len(answers) == len(one_by_one), f"{len(answers)} answers to {len(one_by_one)} inputs")
    for asked, answered in zip(one_by_one, answers, strict=True):
        if payload.task == "tag":
            _check_tags(payload, asked, answered)
        elif payload.task == "classify":
            _check_classes(payload, asked, answered)
        else:
            _check_text(payload, answered)


def _check_tags(payload: Payload, asked: Sequence[Any], answer: object) -> None:
    _expect(isinstance(answer, list), f"a list of tags was expected, not {_short(answer)}")
    assert isinstance(answer, list)
    split = not isinstance(asked, str)
    # Where one label means "outside", the model may mark spans, and a sentence may have none.
    _expect(bool(answer) or not asked or "O" in payload.labels, f"no tags for {_short(asked)}")
    end = 0
    for tag in answer:
        _expect(isinstance(tag, dict) and {"score", "word", "start", "end"} <= tag.keys(), f"{_short(tag)} is no tag")
        label = tag.get("entity", tag.get("entity_group"))
        known = not payload.labels or any(name in (label, f"B-{label}", f"I-{label}") for name in payload.labels)
        _expect(isinstance(label, str) and known, f"label {label!r} is none of the model's")
        _expect_score(tag["score"])
        here = asked[tag["start"] : tag["end"]]
        # What came split may be words or letters; frames have no word.
        words = ("",) if _is_frames(asked) else (" ".join(here), "".join(here)) if split else (here,)
        right = tag["start"] >= end and len(here) > 0 and tag["word"] in words
        _expect(right, f"{_short(tag)} is not at its place in {_short(asked)}")
        end = tag["end"]


def _is_frames(asked: Sequence[Any]) -> bool:
    """Whether this is one list of frames, which are lists of numbers."""
    return bool(asked) and isinstance(asked[0], list) and bool(asked[0]) and isinstance(asked[0][0], int | float)


def _check_classes(payload: Payload, asked: Sequence[Any], answer: object) -> None:
    _expect(isinstance(answer, list), f"a list of labels was expected, not {_short(answer)}")
    assert isinstance(answer, list)
    if not asked:
        return
    _expect(bool(answer), f"no labels for {_short(asked)}")
    for entry in answer:
        _expect(isinstance(entry, dict) and entry.keys() == {"label", "score"}, f"{_short(entry)} is no label")
        _expect(not payload.labels or entry["label"] in payload.labels, f"{entry['label']!r} is none of the labels")
        _expect_score(entry["score"])
    scores = [entry["score"] for entry in answer]
    _expect(scores == sorted(scores, reverse=True), f"scores {scores} are not best first")
    top_k = payload.parameters.get("top_k")
    _expect(top_k is None or len(answer) == top_k, f"{len(answer)} labels where top_k is {top_k}")
    if len(answer) == len(payload.labels):
        _expect(abs(sum(scores) - 1.0) <= SUM_TOLERANCE, f"scores sum to {sum(scores):.4f}, not to 1")


def _check_text(payload: Payload, answer: object) -> None:
    _expect(isinstance(answer, dict), f"an object was expected, not {_short(answer)}")
    assert isinstance(answer, dict)
    _expect(isinstance(answer.get("generated_text"), str), f"no generated_text in {_short(answer)}")
    if not payload.parameters.get("details"):
        return
    details = answer.get("details")
    _expect(isinstance(details, dict), f"details were asked for, and are {_short(details)}")
    assert isinstance(details, dict)
    reason, tokens = details.get("finish_reason"), details.get("generated_tokens")
    limit = payload.parameters["max_new_tokens"]
    _expect(reason in FINISH_REASONS, f"finish_reason {reason!r} is none of {FINISH_REASONS}")
    _expect(isinstance(tokens, int) and tokens <= limit, f"{tokens} tokens where the limit is {limit}")
    _expect(reason != "length" or tokens == limit, f"stopped for its length at {tokens} of {limit} tokens")


def check_problem(status: int, content_type: str, problem: object) -> None:
    """WrongAnswerError unless this is the problem document (RFC 9457) that an error answer has to be."""
    _expect(content_type.startswith("application/problem+json"), f"an error of content type {content_type!r}")
    _expect(isinstance(problem, Mapping), f"a problem document was expected, not {_short(problem)}")
    assert isinstance(problem, Mapping)
    for name in ("type", "title", "detail"):
        _expect(isinstance(problem.get(name), str), f"the problem document has no {name}")
    _expect(problem.get("status") == status, f"status {status} with a document that says {problem.get('status')!r}")


def _expect_score(score: object) -> None:
    _expect(isinstance(score, int | float) and 0.0 <= score <= 1.0, f"score {score!r} is no probability")


def _expect(right: bool, otherwise: str) -> None:
    if not right:
        raise WrongAnswerError(otherwise)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"
