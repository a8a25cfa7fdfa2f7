"""How recipes, tasks and suffixes choose a reader, and what is held out of the user's own files."""

from pathlib import Path

import numpy as np
import pytest

from models.manifest import DnaSpec, FramesSpec, PiecesSpec, WordsSpec
from tests.support.tiny_files import write
from training import recipe
from training.data.examples import (
    DataError,
    JointExample,
    LabeledExample,
    PairExample,
    SeriesExample,
    TaggedExample,
    TaggedSeries,
    where,
)
from training.data.loading import fit_to_data, hold_out, load_splits, load_test_file, read_file
from training.recipe import DataOptions

CODECS = {
    "words": WordsSpec(words="words.json"),
    "dna": DnaSpec(),
    "frames": FramesSpec(features=1),
    "pieces": PiecesSpec(),
}
TOKENS = '{"tokens": ["a", "b"], "tags": ["O", "X"], "kind": "ask"}\n'
TAGGED = TaggedExample(tokens=("a", "b"), tags=("O", "X"))
JOINT = JointExample(tokens=("a", "b"), tags=("O", "X"), label="ask")


@pytest.mark.parametrize(
    ("name", "content", "task", "codec", "example"),
    [
        ("a.conll", "a O\nb X\n", "tag", "words", TAGGED),
        ("a.jsonl", TOKENS, "tag", "words", TAGGED),
        ("a.conll", "# kind = ask\na O\nb X\n", "joint", "words", JOINT),
        ("a.JSONL", TOKENS, "joint", "words", JOINT),
        ("a.csv", "sentence #,word,tag\n1,a,O\n1,b,X\n", "tag", "words", TAGGED),
        ("a.csv", "text,kind\nhello,ask\n", "classify", "words", LabeledExample(text="hello", label="ask")),
        ("a.txt", "__label__ask hello\n", "classify", "words", LabeledExample(text="hello", label="ask")),
        ("a.fa", ">1 ask\nACGT\n", "classify", "dna", LabeledExample(text="ACGT", label="ask")),
        ("a.csv", "id,x,kind\n1,2,ask\n", "classify", "frames", SeriesExample(frames=((2,),), label="ask")),
        ("a.tsv", "source\ttarget\na\tb\n", "translate", "pieces", PairExample(source="a", target="b")),
        ("a.csv", "id,x,kind\n1,2,ask\n", "tag", "frames", TaggedSeries(frames=((2,),), tags=("ask",))),
    ],
)
def test_task_codec_and_suffix_choose_the_reader(
    tmp_path: Path, name: str, content: str, task: str, codec: str, example: object
) -> None:
    path = write(tmp_path, name, content)
    examples = read_file(path, task, CODECS[codec], DataOptions(label="kind"))
    assert examples == [example]
    assert where(examples[0]).startswith(f"{path}, line ")


def test_held_out_examples_are_stratified_and_held_out_text_is_its_end() -> None:
    rows = [LabeledExample(text="t", label="rare" if i % 10 == 0 else "usual") for i in range(100)]
    train, dev = hold_out(rows, dev_share=0.2, seed=1)
    assert [sum(row.label == "rare" for row in part) for part in (train, dev)] == [8, 2]
    assert hold_out("abcde", dev_share=0.2, seed=1) == ("abcd", "e")
    sentences = [TaggedExample(tokens=("a",), tags=("O",))] * 10
    assert tuple(map(len, hold_out(sentences, dev_share=0.2, seed=1))) == (8, 2)


def test_file_with_a_single_sentence_is_refused() -> None:
    with pytest.raises(DataError, match=r"3 tokens.*blank line"):
        hold_out([TaggedExample(tokens=("a",) * 3, tags=("O",) * 3)], dev_share=0.1, seed=1)


def test_tag_scheme_is_recognized_in_both_files_together(tmp_path: Path) -> None:
    train, dev = (write(tmp_path, f"{i}.conll", tags) for i, tags in enumerate(("a B-x\nb I-x\n", "a O\nb S-x\n")))
    changes = {"data.path": str(train), "data.dev": str(dev)}
    splits = load_splits(recipe.load("tagger", **changes))
    assert (splits.train[0].tags, splits.dev[0].tags) == (("B-x", "I-x"), ("O", "B-x"))
    assert "BIOES" in splits.notes[0]
    assert load_splits(recipe.load("tagger", **changes, **{"data.tag_scheme": "none"})).dev[0].tags == ("O", "S-x")


def test_json_keys_reach_the_reader(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '{"words": ["a", "b"], "pos": ["O", "X"]}\n')
    assert read_file(path, "tag", CODECS["words"], DataOptions(tokens="words", tags="pos")) == [TAGGED]


def test_recipe_columns_reach_the_reader(tmp_path: Path) -> None:
    words = "".join(f"{i}\tw{i % 3}\t_\t{'AB'[i % 2]}\tx{i % 4}\t_\t0\t_\t_\t_\n" for i in range(1, 5))
    (tmp_path / "mine.conllu").write_text("\n".join([words] * 20))
    changes = {"data.path": str(tmp_path / "mine.conllu")}
    first = load_splits(recipe.load("tagger", **changes)).train[0]
    assert (first.tokens, first.tags) == (("w1", "w2", "w0", "w1"), ("B", "A", "B", "A"))
    by_name = recipe.load("tagger", **changes, **{"data.tag_column": "XPOS"})
    assert load_splits(by_name).train[0].tags == ("x1", "x2", "x3", "x0")


def test_runs_of_training_examples_choose_the_epoch_and_further_data_sets_are_scored_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEQSERVE_DATA", str(tmp_path))
    (tmp_path / "ner").mkdir()
    (tmp_path / "wnut17").mkdir()
    write(tmp_path, "ner/uner-ewt-train.iob2", "".join(f"1\tw{i}\tB-PER\n\n" for i in range(800)))
    write(tmp_path, "ner/uner-ewt-dev.iob2", "1\tParis\tB-LOC\n")
    write(tmp_path, "wnut17/train.conll", "Ann\tB-person\niPhone\tB-product\n")
    write(tmp_path, "wnut17/dev.conll", "Nirvana\tB-group\n")
    kinds = {"person": "PER", "group": "ORG"}
    more = [{"name": "wnut17", "kinds": kinds, "copies": 2}]
    splits = load_splits(
        recipe.load("wnut17", **{"data.name": "uner-ewt", "data.choice_share": 0.25, "data.more": more})
    )
    assert [example.tokens for example in splits.choice[:20]] == [(f"w{i}",) for i in range(60, 80)]
    assert splits.choosing == splits.choice
    assert splits.train[600:] == [TaggedExample(tokens=("Ann", "iPhone"), tags=("B-PER", "O"))] * 2
    assert not {example.tokens for example in splits.train} & {example.tokens for example in splits.choice}
    assert splits.dev == [TaggedExample(tokens=("Paris",), tags=("B-LOC",))]
    assert splits.elsewhere == {"wnut17": [TaggedExample(tokens=("Nirvana",), tags=("B-ORG",))]}
    assert {"uner-ewt-train.iob2", "wnut17/train.conll"} <= set(splits.source.files)


def test_few_examples_choose_one_by_one_and_too_few_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "a.conll", "".join(f"w{i} O\nx B-X\n\n" for i in range(20)))
    splits = load_splits(recipe.load("tagger", **{"data.path": str(path), "data.choice_share": 0.25}))
    assert (len(splits.train), len(splits.choice), len(splits.dev)) == (14, 4, 2)
    with pytest.raises(DataError, match=r"18 examples .*choice_share=0\.05"):
        load_splits(recipe.load("tagger", **{"data.path": str(path), "data.choice_share": 0.05}))


def recordings(count: int, length: int) -> str:
    rows = (f"{i},{step},{'BS'[step % 2]}\n" for i in range(count) for step in range(length))
    return "id,x,label\n" + "".join(rows)


def test_ends_of_few_labeled_recordings_are_held_out_and_whole_ones_of_many(tmp_path: Path) -> None:
    few = write(tmp_path, "few.csv", recordings(2, 50))
    splits = load_splits(recipe.load("frame-tagger", **{"data.path": str(few), "data.choice_share": 0.2}))
    assert [len(each.frames) for each in splits.train] == [36, 36]
    assert [len(each.frames) for each in splits.choice] == [9, 9]
    assert [each.frames[0] for each in splits.dev] == [(45.0,), (45.0,)]
    assert splits.train[0].tags[:2] == ("B", "S")  # labels, not a scheme of tags
    many = write(tmp_path, "many.csv", recordings(20, 5))
    splits = load_splits(recipe.load("frame-tagger", **{"data.path": str(many)}))
    assert [len(each.frames) for each in (*splits.train, *splits.dev)] == [5] * 20
    one = write(tmp_path, "one.csv", recordings(1, 2))
    with pytest.raises(DataError, match=r"one\.csv: 1 series of few frames"):
        load_splits(recipe.load("frame-tagger", **{"data.path": str(one)}))


def test_labels_of_frames_have_their_own_key_in_json(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '{"frames": [[2]], "labels": ["ask"]}\n')
    expected = [TaggedSeries(frames=((2.0,),), tags=("ask",))]
    assert read_file(path, "tag", CODECS["frames"], DataOptions()) == expected


def test_test_file_of_a_translator_can_be_two_parallel_files(tmp_path: Path) -> None:
    source, target = write(tmp_path, "a.en", "A dog.\nTwo\n"), write(tmp_path, "a.de", "Ein Hund.\nZwei\n")
    translator = recipe.load("translator", **{"data.path": str(source), "data.parallel": str(target)})
    rows, notes = load_test_file(translator)
    assert rows == [PairExample(source="A dog.", target="Ein Hund."), PairExample(source="Two", target="Zwei")]
    assert notes == ()


def test_a_captioner_needs_captions(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", np.zeros((2, 3)))
    with pytest.raises(DataError, match="--captions"):
        fit_to_data(recipe.load("captioner", **{"data.path": str(tmp_path / "x.npz")}), {})


def test_width_of_vectors_comes_from_the_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", np.zeros((2, 5)))
    captions = write(tmp_path, "y.txt", "a dog\na cat\n")
    captioner = recipe.load("captioner", **{"data.path": str(tmp_path / "x.npz"), "data.parallel": str(captions)})
    assert fit_to_data(captioner, {})["source.features"] == 5
