"""Tests of loadtest.answers: correct answers pass and every kind of wrong one raises."""

from typing import Any

import pytest

from loadtest import answers
from loadtest.answers import WrongAnswerError
from loadtest.payloads import Payload

HARRY = {"entity": "NOUN", "score": 0.9, "word": "Harry", "start": 0, "end": 5}
MET = {"entity": "VERB", "score": 0.9, "word": "met", "start": 6, "end": 9}
LABELS = ("NOUN", "VERB")
FRAMES = [[0.5, 1], [2, 3.5]]
PREDICTION = {"mean": [1.0, 2.0], "0.1": [0.5, 1.0], "0.5": [1.0, 2.0], "0.9": [1.5, 3.0]}
FORECAST = Payload(
    task="forecast", body={"inputs": [{"target": [1.0]}], "parameters": {"prediction_length": 2}}, form="list"
)


def tagging(inputs: Any, **parameters: Any) -> Payload:
    return Payload(task="tag", body={"inputs": inputs, "parameters": parameters}, labels=LABELS)


def classifying(inputs: Any, **parameters: Any) -> Payload:
    return Payload(task="classify", body={"inputs": inputs, "parameters": parameters}, labels=("good", "bad"))


def label(name: str, score: float) -> dict[str, Any]:
    return {"label": name, "score": score}


@pytest.mark.parametrize(
    ("payload", "answer"),
    [
        (tagging("Harry met"), [HARRY, MET]),
        (tagging(["Harry met", ""]), [[HARRY, MET], []]),
        (tagging([["Harry"]]), [[{**HARRY, "end": 1}]]),
        (tagging([]), []),
        (tagging([["a", "b"]]), [[{**HARRY, "word": "ab", "start": 0, "end": 2}]]),
        (tagging(FRAMES), [{**HARRY, "word": "", "start": 1, "end": 2}]),
        (
            tagging(FRAMES, frame_rate=4),
            [{"entity_group": "NOUN", "score": 0.9, "word": "", "start": 0.25, "end": 0.5}],
        ),
        (tagging([FRAMES, FRAMES]), [[{**HARRY, "word": "", "end": 1}], [{**HARRY, "word": "", "end": 1}]]),
        (classifying(FRAMES), [[label("good", 0.7), label("bad", 0.3)]]),
        (classifying("a"), [[label("good", 0.7), label("bad", 0.3)]]),
        (classifying(["a", ""], top_k=1), [[label("good", 0.7)], []]),
        (Payload(task="generate", body={"inputs": "a"}), {"generated_text": ""}),
        (FORECAST, {"predictions": [PREDICTION]}),
    ],
)
def test_correct_answer_passes(payload: Payload, answer: Any) -> None:
    answers.check(payload, answer)


@pytest.mark.parametrize(
    ("payload", "answer"),
    [
        (FORECAST, {"predictions": []}),
        (FORECAST, {"predictions": [{**PREDICTION, "mean": [1.0]}]}),
        (FORECAST, {"predictions": [{**PREDICTION, "0.9": [1.0, 0.5]}]}),
        (tagging("Harry met"), {"error": "x"}),
        (tagging("Harry met"), []),
        (tagging("Harry met"), [{**HARRY, "end": 4}]),
        (tagging("Harry met"), [MET, HARRY]),
        (tagging("Harry met"), [{**HARRY, "entity": "X"}]),
        (tagging(FRAMES), [{**HARRY, "end": 1}]),
        (tagging(FRAMES), [{**HARRY, "word": "", "start": 2, "end": 3}]),
        (tagging(FRAMES, frame_rate=4), [{**HARRY, "word": "", "start": 1, "end": 2}]),
        (classifying(FRAMES), [[], []]),
        (tagging("Harry met"), [{**HARRY, "score": 1.1}]),
        (tagging(["a", "b"]), [[]]),
        (classifying("a"), [[label("bad", 0.3), label("good", 0.7)]]),
        (classifying("a"), [[label("good", 0.7), label("bad", 0.1)]]),
        (classifying("a", top_k=1), [[label("good", 0.7), label("bad", 0.3)]]),
        (Payload(task="generate", body={"inputs": "a"}), {"text": ""}),
    ],
)
def test_wrong_answer_raises(payload: Payload, answer: Any) -> None:
    with pytest.raises(WrongAnswerError):
        answers.check(payload, answer)


def test_generation_with_too_few_tokens_raises() -> None:
    payload = Payload(task="generate", body={"inputs": "a", "parameters": {"max_new_tokens": 5, "details": True}})
    details = {"finish_reason": "length", "generated_tokens": 4}
    with pytest.raises(WrongAnswerError):
        answers.check(payload, {"generated_text": "abcd", "details": details})


def filling(inputs: str, **parameters: Any) -> Payload:
    return Payload(task="fill", body={"inputs": inputs, "parameters": parameters})


def word(name: str, score: float, sequence: str) -> dict[str, Any]:
    return {"score": score, "token": 3, "token_str": name, "sequence": sequence}


def test_filled_gaps_are_right() -> None:
    one = [word("cat", 0.5, "a cat"), word("dog", 0.1, "a dog")]
    answers.check(filling("a [MASK]", top_k=2), one)
    answers.check(filling("<mask> [MASK]", top_k=1), [[word("a", 0.5, "a [MASK]")], [word("b", 0.5, "<mask> b")]])


@pytest.mark.parametrize(
    "answer",
    [
        [word("cat", 0.5, "a cat")],
        [word("cat", 0.5, "a cat"), word("dog", 0.6, "a dog")],
        [word("cat", 0.5, "a [MASK]"), word("dog", 0.1, "a dog")],
        [word("cat", 1.5, "a cat"), word("dog", 0.1, "a dog")],
        [[word("cat", 0.5, "a cat")], [word("dog", 0.1, "a dog")]],
    ],
)
def test_wrong_fillings_are_found(answer: Any) -> None:
    with pytest.raises(WrongAnswerError):
        answers.check(filling("a [MASK]", top_k=2), answer)


def captioning(inputs: Any, form: str = "", count: int = 1) -> Payload:
    search = {"num_return_sequences": count, "max_new_tokens": 5, "details": False}
    return Payload(task="caption", body={"inputs": inputs, "parameters": {"generate_parameters": search}}, form=form)


CAPTION = {"generated_text": "a red circle"}


def test_captions_of_one_input_and_of_several_are_right() -> None:
    for one in ("iVBORw0K", [[1.0, 2.0]], [[[1, 2, 3]]]):
        answers.check(captioning(one), [CAPTION])
        answers.check(captioning([one, one], "list"), [CAPTION, CAPTION])
        answers.check(captioning([one], "list", count=2), [[CAPTION, CAPTION]])


@pytest.mark.parametrize(
    ("payload", "answer"),
    [
        (captioning("a"), []),
        (captioning("a"), [CAPTION, CAPTION]),
        (captioning("a"), [{"translation_text": "a red circle"}]),
        (captioning(["a", "b"], "list"), [CAPTION]),
    ],
)
def test_wrong_captions_are_found(payload: Payload, answer: Any) -> None:
    with pytest.raises(WrongAnswerError):
        answers.check(payload, answer)
