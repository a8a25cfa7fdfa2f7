"""Augmentation: tags stay with their words, spans stay whole, and every epoch differs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.tasks.tag import find_spans as spans
from tests.support import tiny
from training.data.augmentation import AugmentationOptions, DonorDataset, make_augmenter, read_gazetteer
from training.data.examples import DataError, LabeledExample, Source, Splits, TaggedExample, TaggedSeries, label_names
from training.nn.networks import SequenceNetwork, make_network
from training.objectives.sequences import SequenceObjective

TRAIN = [
    TaggedExample(tokens=("Ann", "Lee", "lives", "in", "Rome", "!!"), tags=("B-per", "I-per", "O", "O", "B-loc", "O")),
    TaggedExample(tokens=("I", "saw", "Bob"), tags=("O", "O", "B-per")),
]
BOTH = [*TRAIN, TaggedExample(tokens=("New", "York"), tags=("B-loc", "I-loc"))]


def augmented(seed: int = 0, **fields: Any) -> list[TaggedExample]:
    augmenter = make_augmenter(AugmentationOptions(**fields), TRAIN)
    return augmenter.augment(TRAIN, np.random.default_rng(seed))  # type: ignore[return-value]


def test_swap_replaces_a_mention_by_one_of_its_kind() -> None:
    seen = set()
    for seed in range(20):
        first, _ = augmented(seed, swap=1.0)
        (person, *_), words = spans(first.tags), first.tokens
        assert person[:2] == ("per", 0)
        assert words[person[2] :] == ("lives", "in", "Rome", "!!")
        seen.add(words[: person[2]])
    assert seen == {("Ann", "Lee"), ("Bob",)}


def test_split_continues_a_span_through_the_parts_of_a_word() -> None:
    augmenter = make_augmenter(AugmentationOptions(split=1.0), BOTH)
    cut = [
        TaggedExample(tokens=("#Rome", "isn't", "http://a.b/#c"), tags=("B-loc", "O", "O")),
        TaggedExample(tokens=("O'Hara", "..."), tags=("B-per", "O")),
    ]
    first, second = augmenter.augment(cut, np.random.default_rng(0))
    assert list(zip(first.tokens, first.tags, strict=True)) == [
        ("#", "B-loc"),
        ("Rome", "I-loc"),
        *(("isn", "O"), ("'", "O"), ("t", "O")),
        ("http://a.b/#c", "O"),
    ]
    assert second.tokens == ("O", "'", "Hara", ".", ".", ".")
    assert spans(second.tags) == [("per", 0, 3)]


def test_default_options_change_nothing() -> None:
    assert augmented() == TRAIN


def test_join_keeps_every_word_and_tag() -> None:
    many = [TaggedExample(tokens=(str(place), "."), tags=("NUM", "PUNCT")) for place in range(50)]
    joined = make_augmenter(AugmentationOptions(join=4), many).augment(many, np.random.default_rng(0))
    assert [word for example in joined for word in example.tokens] == [w for e in many for w in e.tokens]
    assert [tag for example in joined for tag in example.tags] == [t for e in many for t in e.tags]
    assert {len(example.tokens) for example in joined[:-1]} == {2, 4, 6, 8}


def test_lowercase_changes_whole_sentences() -> None:
    assert [example.tokens for example in augmented(lowercase=1.0)] == [
        ("ann", "lee", "lives", "in", "rome", "!!"),
        ("i", "saw", "bob"),
    ]


def test_uppercase_changes_whole_sentences() -> None:
    assert augmented(uppercase=1.0)[1].tokens == ("I", "SAW", "BOB")


def test_mentions_are_recalled_from_a_gazetteer_cut_as_a_served_text(tmp_path: Path) -> None:
    (tmp_path / "mine.tsv").write_text("per\tO'Neill\nloc\tU.S.\nother\tiPhone 4\n")
    first, second = augmented(swap=1.0, recall=1.0, gazetteer=str(tmp_path / "mine.tsv"))
    assert first.tokens == ("O", "'", "Neill", "lives", "in", "U.S.", "!!")
    assert second.tags == ("O", "O", "B-per", "I-per", "I-per")


@pytest.mark.parametrize("line", ["Ann Lee", "per\t "])
def test_gazetteer_line_without_a_mention_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "mine.tsv").write_text(f"per\tAnn\n{line}\n")
    with pytest.raises(DataError, match=r"mine\.tsv, line 2"):
        read_gazetteer(str(tmp_path / "mine.tsv"))


def test_packaged_gazetteer_has_each_mention_once() -> None:
    listed = read_gazetteer("well-known")
    assert sorted(listed) == ["LOC", "ORG", "PER"]
    assert all(len(mentions) == len(set(mentions)) > 500 for mentions in listed.values())


def test_mentions_are_borrowed_from_spans_and_whole_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    lent = {
        "slots": [TaggedExample(tokens=("play", "miles", "davis"), tags=("O", "B-artist", "I-artist"))],
        "names": tiny.labeled(1),
    }

    def load(spec: dict[str, Any]) -> Splits[Any]:
        return Splits(train=lent[spec["name"]], dev=[], source=Source(name="", url="", licence=""))

    monkeypatch.setattr("training.data.augmentation.published.load", load)
    lenders = (DonorDataset(name="slots", kinds={"artist": "per"}), DonorDataset(name="names", kinds={"*": "loc"}))
    augmenter = make_augmenter(AugmentationOptions(swap=1.0, borrow=1.0, lenders=lenders), BOTH)
    assert augmenter.borrowed["per"] == [("miles", "davis")]
    first, second = augmenter.augment(TRAIN, np.random.default_rng(0))
    assert tuple(word.lower() for word in second.tokens) == ("i", "saw", "miles", "davis")
    assert second.tags == ("O", "O", "B-per", "I-per")
    assert "Rome" not in first.tokens


def test_mentions_are_borrowed_from_other_kinds_of_the_training_data() -> None:
    lenders = (DonorDataset(kinds={"per": "loc"}),)
    augmenter = make_augmenter(AugmentationOptions(swap=1.0, borrow=1.0, lenders=lenders), BOTH)
    assert augmenter.borrowed == {"loc": [("Ann", "Lee"), ("Bob",)]}


def test_epochs_differ_and_repeat_in_another_run() -> None:
    recipe = tiny.recipe("tag", variation={"swap": 1.0, "split": 0.5})
    codec = tiny.words_codec(characters=False)
    labels, _ = label_names("tag", TRAIN)
    network = make_network(recipe.architecture, codec, task="tag", labels=labels)
    assert isinstance(network, SequenceNetwork)
    splits = Splits(train=TRAIN * 20, dev=TRAIN, source=Source(name="", url="", licence=""))

    def words(epoch: int) -> list[Any]:
        objective = SequenceObjective(recipe, codec, network, splits)
        return sorted(batch.feeds["words"].tolist() for batch in objective.batches(epoch))

    assert words(0) == words(0)
    assert words(0) != words(1)


def test_augmentation_makes_no_unknown_tags() -> None:
    one_each = [TaggedExample(tokens=("Rome",), tags=("I-loc",)), TaggedExample(tokens=("Oslo",), tags=("I-loc",))]
    augmenter = make_augmenter(AugmentationOptions(swap=1.0), one_each)  # swapped mentions would start with B-
    assert augmenter.augment(one_each, np.random.default_rng(0)) == one_each


NAMES = [LabeledExample(text="García", label="Spanish"), LabeledExample(text="Berg", label="Dutch")]


def augmented_names(**fields: Any) -> list[str | tuple[str, ...]]:
    augmenter = make_augmenter(AugmentationOptions(**fields), NAMES)
    return [example.text for example in augmenter.augment(NAMES, np.random.default_rng(0))]  # type: ignore[arg-type,union-attr]


def test_texts_lose_accents_and_capitals() -> None:
    assert augmented_names() == ["García", "Berg"]
    assert augmented_names(unaccent=1.0) == ["Garcia", "Berg"]
    assert augmented_names(unaccent=1.0, lowercase=1.0) == ["garcia", "berg"]


def test_prefixes_precede_the_texts_of_their_label() -> None:
    assert augmented_names(prefix=1.0, prefixes={"Dutch": ("van",)}) == ["García", "van Berg"]
    words = [LabeledExample(text=("Berg",), label="Dutch")]
    augmenter = make_augmenter(AugmentationOptions(prefix=1.0, prefixes={"Dutch": ("van",)}), words)
    assert augmenter.augment(words, np.random.default_rng(0)) == [  # type: ignore[arg-type]
        LabeledExample(text=("van", "Berg"), label="Dutch")
    ]


def test_windows_have_every_frame_once_and_differ_between_epochs() -> None:
    lengths = (25, 3)
    series = [
        TaggedSeries(frames=tuple((float(step),) for step in range(length)), tags=tuple(map(str, range(length))))
        for length in lengths
    ]
    augmenter = make_augmenter(AugmentationOptions(window=10), series)
    starts = set()
    for seed in range(10):
        windows = augmenter.augment(series, np.random.default_rng(seed))  # type: ignore[arg-type]
        assert max(len(window.frames) for window in windows) <= 10
        assert [frame for window in windows for frame in window.frames] == [f for each in series for f in each.frames]
        assert [tag for window in windows for tag in window.tags] == [tag for each in series for tag in each.tags]
        starts.add(windows[1].tags[0])
    assert len(starts) > 1
