"""The reference path and the comparison of answers."""

import pytest

from models import self_test
from models.bundle import Bundle
from models.tasks import Entity, GenerationResult


def test_tag_strings_and_lists_of_words(tagger: Bundle) -> None:
    text = self_test.answer(tagger, "the cat")
    words = self_test.answer(tagger, ["the", "cat"])
    assert [entity.entity for entity in text] == [entity.entity for entity in words]
    assert [(entity.start, entity.end) for entity in words] == [(0, 1), (1, 2)]


def test_aggregation_none_lists_tokens(span_tagger: Bundle) -> None:
    (entity,) = self_test.answer(span_tagger, "Paris", {"aggregation_strategy": "none"})
    assert isinstance(entity, Entity)


def test_scores_sum_to_one(classifier: Bundle) -> None:
    answer = self_test.answer(classifier, "a lovely film")
    assert sum(entry.score for entry in answer) == pytest.approx(1, abs=1e-5)
    assert self_test.answer(classifier, "a lovely film", {"top_k": 1}) == answer[:1]


@pytest.mark.parametrize("name", ["tagger", "span_tagger", "classifier"])
def test_empty_input_has_an_empty_answer(name: str, request: pytest.FixtureRequest) -> None:
    assert self_test.answer(request.getfixturevalue(name), "") == []


def test_seed_decides_the_text(generator: Bundle) -> None:
    def text(seed: int) -> str:
        return str(self_test.answer(generator, "ab", {"seed": seed, "max_new_tokens": 60}).generated_text)

    assert text(1) == text(1) != text(2)
    assert len(text(1)) == 60


def test_empty_prompt_has_an_empty_text(generator: Bundle) -> None:
    assert self_test.answer(generator, "") == GenerationResult("")


def test_list_of_prompts_is_refused(generator: Bundle) -> None:
    with pytest.raises(TypeError, match="list"):
        self_test.answer(generator, ["a", "b"])


@pytest.mark.parametrize(
    ("found", "expected", "verdict"),
    [
        (0.5, 0.54, True),
        (0.5, 0.56, False),
        (1.0, 1, True),
        ([0.5], [0.5, 0.5], False),
        ({"a": 0.5}, {"a": 0.52}, True),
        ({"a": 0.5}, {"b": 0.5}, False),
        ({"label": "x", "score": 0.5}, {"label": "y", "score": 0.5}, False),
        ([], {}, False),
        (3, 3, True),
        (3, 4, False),
    ],
)
def test_answers_are_the_same_within_the_tolerance_of_scores(found: object, expected: object, verdict: bool) -> None:
    assert self_test.same(found, expected, 0.05) is verdict
