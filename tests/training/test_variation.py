"""Sentences in other forms: tags stay with their words, spans stay whole, and each epoch is another."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.tasks.tag import find_spans as spans
from tests.support import tiny
from training.data.augmentation import AugmentationOptions, DonorDataset, make_augmenter
from training.data.examples import Source, Splits, TaggedExample

TRAIN = [
    TaggedExample(tokens=("Ann", "Lee", "lives", "in", "Rome", "!!"), tags=("B-per", "I-per", "O", "O", "B-loc", "O")),
    TaggedExample(tokens=("I", "saw", "Bob"), tags=("O", "O", "B-per")),
]
BOTH = [*TRAIN, TaggedExample(tokens=("New", "York"), tags=("B-loc", "I-loc"))]  # every tag that may come about


def varied(seed: int = 0, **fields: Any) -> list[TaggedExample]:
    varier = make_augmenter(AugmentationOptions(**fields), TRAIN)
    return varier.vary(TRAIN, np.random.default_rng(seed))  # type: ignore[return-value]


def test_a_mention_is_replaced_by_another_of_its_kind_and_the_rest_stays() -> None:
    seen = set()
    for seed in range(20):
        first, _ = varied(seed, swap=1.0)
        (person, *_), words = spans(first.tags), first.tokens
        assert person[:2] == ("per", 0)
        assert words[person[2] :] == ("lives", "in", "Rome", "!!")
        seen.add(words[: person[2]])
    assert seen == {("Ann", "Lee"), ("Bob",)}


def test_words_are_cut_at_signs_and_a_span_goes_on_through_the_pieces() -> None:
    varier = make_augmenter(AugmentationOptions(split=1.0), BOTH)
    cut = [
        TaggedExample(tokens=("#Rome", "isn't", "http://a.b/#c"), tags=("B-loc", "O", "O")),
        TaggedExample(tokens=("O'Hara", "..."), tags=("B-per", "O")),
    ]
    first, second = varier.vary(cut, np.random.default_rng(0))
    assert list(zip(first.tokens, first.tags, strict=True)) == [
        ("#", "B-loc"),
        ("Rome", "I-loc"),
        *(("isn", "O"), ("'", "O"), ("t", "O")),
        ("http://a.b/#c", "O"),
    ]
    assert second.tokens == ("O", "'", "Hara", ".", ".", ".")
    assert spans(second.tags) == [("per", 0, 3)]


def test_nothing_asked_for_is_nothing_changed() -> None:
    assert varied() == TRAIN


def test_sentences_that_follow_each_other_become_one_and_none_is_lost() -> None:
    many = [TaggedExample(tokens=(str(place), "."), tags=("NUM", "PUNCT")) for place in range(50)]
    joined = make_augmenter(AugmentationOptions(join=4), many).vary(many, np.random.default_rng(0))
    assert [word for example in joined for word in example.tokens] == [w for e in many for w in e.tokens]
    assert [tag for example in joined for tag in example.tags] == [t for e in many for t in e.tags]
    assert {len(example.tokens) for example in joined[:-1]} == {2, 4, 6, 8}


def test_lower_case_is_for_whole_sentences() -> None:
    assert [example.tokens for example in varied(lowercase=1.0)] == [
        ("ann", "lee", "lives", "in", "rome", "!!"),
        ("i", "saw", "bob"),
    ]


def test_mentions_are_borrowed_from_spans_and_from_whole_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    lent = {
        "slots": [TaggedExample(tokens=("play", "miles", "davis"), tags=("O", "B-artist", "I-artist"))],
        "names": tiny.labelled(1),
    }

    def load(spec: dict[str, Any]) -> Splits[Any]:
        return Splits(train=lent[spec["name"]], dev=[], source=Source(name="", url="", licence=""))

    monkeypatch.setattr("training.data.augmentation.data.load", load)
    lenders = (DonorDataset(name="slots", kinds={"artist": "per"}), DonorDataset(name="names", kinds={"*": "loc"}))
    varier = make_augmenter(AugmentationOptions(swap=1.0, borrow=1.0, lenders=lenders), BOTH)
    assert varier.borrowed["per"] == [("miles", "davis")]
    first, second = varier.vary(TRAIN, np.random.default_rng(0))
    assert tuple(word.lower() for word in second.tokens) == ("i", "saw", "miles", "davis")
    assert second.tags == ("O", "O", "B-per", "I-per")
    assert "Rome" not in first.tokens


def test_every_epoch_is_another_and_the_same_again_in_a_second_run(tmp_path: Path) -> None:

    def words(epoch: int) -> list[Any]:
        objective = tiny.sequence_objective("tag", TRAIN * 20, TRAIN, variation={"swap": 1.0, "split": 0.5})
        return sorted(batch.feeds["words"].tolist() for batch in objective.batches(epoch))

    assert words(0) == words(0)
    assert words(0) != words(1)


def test_a_form_with_a_tag_that_training_does_not_know_is_left_alone() -> None:
    one_each = [TaggedExample(tokens=("Rome",), tags=("I-loc",)), TaggedExample(tokens=("Oslo",), tags=("I-loc",))]
    varier = make_augmenter(
        AugmentationOptions(swap=1.0), one_each
    )  # a mention begins with B-, which these data never use
    assert varier.vary(one_each, np.random.default_rng(0)) == one_each
