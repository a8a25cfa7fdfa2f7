"""answers.py: right answers pass, each way to be wrong is seen."""

from typing import Any

import pytest

from loadtest import answers
from loadtest.answers import WrongAnswerError
from loadtest.payloads import Payload

HARRY = {"entity": "NOUN", "score": 0.9, "word": "Harry", "start": 0, "end": 5}
MET = {"entity": "VERB", "score": 0.9, "word": "met", "start": 6, "end": 9}
LABELS = ("NOUN", "VERB")
FRAMES = [[0.5, 1], [2, 3.5]]


def tagging(inputs: Any) -> Payload:
    return Payload(task="tag", body={"inputs": inputs}, labels=LABELS)


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
        (tagging([FRAMES, FRAMES]), [[{**HARRY, "word": "", "end": 1}], [{**HARRY, "word": "", "end": 1}]]),
        (classifying(FRAMES), [[label("good", 0.7), label("bad", 0.3)]]),
        (classifying("a"), [[label("good", 0.7), label("bad", 0.3)]]),
        (classifying(["a", ""], top_k=1), [[label("good", 0.7)], []]),
        (Payload(task="generate", body={"inputs": "a"}), {"generated_text": ""}),
    ],
)
def test_right_answers_pass(payload: Payload, answer: Any) -> None:
    answers.check(payload, answer)


@pytest.mark.parametrize(
    ("payload", "answer", "says"),
    [
        (tagging("Harry met"), {"error": "x"}, "a list of tags"),
        (tagging("Harry met"), [], "no tags"),
        (tagging("Harry met"), [{**HARRY, "end": 4}], "not at its place"),
        (tagging("Harry met"), [MET, HARRY], "not at its place"),
        (tagging("Harry met"), [{**HARRY, "entity": "X"}], "none of the model's"),
        (tagging(FRAMES), [{**HARRY, "end": 1}], "not at its place"),
        (tagging(FRAMES), [{**HARRY, "word": "", "start": 2, "end": 3}], "not at its place"),
        (classifying(FRAMES), [[], []], "2 answers to 1 inputs"),
        (tagging("Harry met"), [{**HARRY, "score": 1.1}], "no probability"),
        (tagging(["a", "b"]), [[]], "1 answers to 2 inputs"),
        (classifying("a"), [[label("bad", 0.3), label("good", 0.7)]], "best first"),
        (classifying("a"), [[label("good", 0.7), label("bad", 0.1)]], "sum to"),
        (classifying("a", top_k=1), [[label("good", 0.7), label("bad", 0.3)]], "top_k"),
        (Payload(task="generate", body={"inputs": "a"}), {"text": ""}, "no generated_text"),
    ],
)
def test_wrong_answers_are_seen(payload: Payload, answer: Any, says: str) -> None:
    with pytest.raises(WrongAnswerError, match=says):
        answers.check(payload, answer)


def test_generation_that_stops_early_for_its_length_is_seen() -> None:
    payload = Payload(task="generate", body={"inputs": "a", "parameters": {"max_new_tokens": 5, "details": True}})
    details = {"finish_reason": "length", "generated_tokens": 4}
    with pytest.raises(WrongAnswerError, match="4 of 5"):
        answers.check(payload, {"generated_text": "abcd", "details": details})


def test_an_error_answer_must_be_a_problem_document_of_its_own_status() -> None:
    problem = {"type": "about:blank", "title": "x", "detail": "y", "status": 404}
    answers.check_problem(404, "application/problem+json", problem)
    for status, media, document in (
        (422, "application/problem+json", problem),
        (404, "text/html", problem),
        (404, "application/problem+json", {"status": 404}),
    ):
        with pytest.raises(WrongAnswerError):
            answers.check_problem(status, media, document)
