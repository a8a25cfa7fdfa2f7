"""Tests of loadtest.payloads: lengths, words of the examples, and seeds."""

import json
from random import Random
from typing import Any

import pytest

from loadtest import payloads
from loadtest.payloads import LengthHistogram, ServedModel, build, parse_model, read_lengths, sample_inputs
from tests.support import length_counts

TAGGER = ServedModel(id="pos", task="tag", variant="int8", labels=("NOUN",), max_length=4096, words=("Harry", "met"))
WRITER = ServedModel(id="lm", task="generate", variant="int8", labels=(), max_length=40, words=("To", "be"))


@pytest.mark.parametrize("task", ["tag", "generate"])
def test_same_seed_gives_the_same_requests(task: str) -> None:
    first, again, other = (build([TAGGER, WRITER], task, count=50, seed=seed) for seed in (1, 1, 2))
    assert [p.encoded for p in first] == [p.encoded for p in again] != [p.encoded for p in other]


def test_inputs_have_real_lengths_and_words_of_the_examples() -> None:
    texts = sample_inputs(TAGGER, count=3000, seed=0)
    assert {word for text in texts for word in text.split()} == {"Harry", "met"}
    assert sum(len(text.split()) for text in texts) / len(texts) == pytest.approx(12.6, rel=0.06)


def test_prompts_are_counted_in_characters_up_to_max_length() -> None:
    inputs = [p.inputs for p in build([WRITER], "generate", count=300, seed=0)]
    prompts = [text for asked in inputs for text in ([asked] if isinstance(asked, str) else asked)]
    assert max(map(len, prompts)) == 40
    assert all(set(prompt) <= set("To be") for prompt in prompts)


def test_every_form_of_input_is_sent() -> None:
    forms = {payload.form for payload in build([TAGGER], "tag", count=200, seed=0)}
    assert forms == {"", "list", "tokens"}


def test_encoded_is_the_json_of_the_body() -> None:
    payload = build([TAGGER], "tag", count=1, seed=0)[0]
    assert json.loads(payload.encoded) == payload.body


def test_words_come_from_examples_of_every_shape() -> None:
    examples = ["Harry met", ["Ron"], [["in", "London"]], {"inputs": "today"}]
    model = parse_model({"id": "x", "task": "tag", "examples": examples})
    assert model.words == ("Harry", "met", "Ron", "in", "London", "today")


def test_model_without_examples_gets_plain_words() -> None:
    assert parse_model({"id": "x", "task": "tag"}).words == payloads.PLAIN_WORDS


FRAMES = [[[0.5, 1], [2, 3]], [[4, 5.5]]]
JOINT = ServedModel(
    id="intents", task="joint", variant="", labels=("O",), text_labels=("Play",), max_length=64, words=("play", "it")
)


def test_frames_model_gets_frames_of_its_examples() -> None:
    entry = {"id": "x", "task": "tag", "codec": "frames", "limits": {"max_length": 7}, "examples": FRAMES}
    model = parse_model(entry)
    requests = build([model], "tag", count=200, seed=0)
    assert {payload.form for payload in requests} == {"", "list"}
    for payload in requests:
        inputs = payload.inputs if payload.form == "list" else [payload.inputs]
        assert all(frame in ([0.5, 1], [2, 3], [4, 5.5]) for frames in inputs for frame in frames)
        assert max(map(len, inputs)) <= 7
    assert {payload.parameters.get("aggregation_strategy") for payload in requests} == {None, "simple"}


def test_dna_model_gets_bases_of_its_examples() -> None:
    entry = {"id": "x", "task": "tag", "codec": "dna", "limits": {"max_length": 60}, "examples": ["ACG", "gN"]}
    for payload in build([parse_model(entry)], "tag", count=200, seed=0):
        inputs = [payload.inputs] if payload.form == "" else payload.inputs
        assert {letter for text in inputs for letter in text} <= set("ACGgN")


def test_characters_model_is_limited_in_characters() -> None:
    entry = {"id": "x", "task": "classify", "codec": "characters", "examples": ["Yamamoto", "Rossi"]}
    model = parse_model({**entry, "limits": {"max_length": 12}})
    texts = sample_inputs(model, count=100, seed=0)
    assert max(map(len, texts)) == 12


def test_joint_model_gets_tag_and_classify_requests() -> None:
    tags, labels = (build([JOINT], task, count=1, seed=0)[0] for task in ("tag", "classify"))
    assert (tags.task, tags.labels) == ("tag", ("O",))
    assert (labels.task, labels.labels) == ("classify", ("Play",))
    with pytest.raises(LookupError):
        build([JOINT], "generate", count=1, seed=0)


def test_missing_task_raises() -> None:
    with pytest.raises(LookupError):
        build([TAGGER], "classify", count=1, seed=0)


def test_lengths_file_has_the_published_figures() -> None:
    tag = read_lengths()["tag"]
    words = sum(length * count for length, count in zip(tag.lengths, tag.counts, strict=True))
    assert (sum(tag.counts), max(tag.lengths)) == (2001, 75)
    assert words / sum(tag.counts) == pytest.approx(12.6, abs=0.05)


def test_sampled_lengths_follow_the_histogram() -> None:
    histogram, random = read_lengths()["tag"], Random(1)
    sampled = [histogram.sample(random) for _ in range(20_000)]
    mean = sum(a * b for a, b in zip(histogram.lengths, histogram.counts, strict=True)) / sum(histogram.counts)
    assert sum(sampled) / len(sampled) == pytest.approx(mean, rel=0.03)
    assert set(sampled) <= set(histogram.lengths)


def test_max_length_cuts_a_sampled_length() -> None:
    assert LengthHistogram(unit="words", lengths=(50,), counts=(1,)).sample(Random(0), max_length=7) == 7


def test_conllu_ranges_and_empty_nodes_are_not_words() -> None:
    text = "# text = x\n1-2\tdon't\n1\tdo\n2\tn't\n2.1\tx\n\n1\tgo\n"
    assert length_counts.conllu_words(text.splitlines()) == {2: 1, 1: 1}


def test_tree_leaves_are_words() -> None:
    assert length_counts.tree_words(["(3 (2 It) (4 (4 's) (2 fine)))", ""]) == {3: 1}


def test_a_forecaster_gets_series_on_other_scales_with_gaps() -> None:
    model = ServedModel(
        id="f",
        task="forecast",
        variant="fp32",
        labels=(),
        max_length=30,
        words=(),
        codec="series",
        examples=([1.0] * 9,),
    )
    requests = payloads.build([model], "forecast", count=200, seed=1)
    series = [one["target"] for request in requests for one in request.inputs]
    assert {len(values) for values in series} == {9}
    assert all(values[-1] is not None for values in series)
    assert {values[-1] for values in series} == {0.01, 1.0, 1000.0}
    assert any(None in values for values in series)


def test_every_text_for_a_filler_has_a_gap() -> None:
    model = ServedModel(id="fill", task="fill", variant="", labels=(), max_length=64, words=("a", "dog"))
    asked = [payload.inputs for payload in build([model], "fill", count=100, seed=0)]
    texts = [text for each in asked for text in ([each] if isinstance(each, str) else each)]
    assert {text.count(payloads.GAP) for text in texts} == {1, 2}
    assert all(payloads.GAP in text for text in sample_inputs(model, count=50, seed=0))


@pytest.mark.parametrize(("codec", "example"), [("image", "iVBORw0K"), ("frames", [[0.5, 1.0]])])
def test_a_captioner_gets_its_examples_alone_and_in_lists(codec: str, example: Any) -> None:
    model = ServedModel(
        id="c", task="caption", variant="", labels=(), max_length=64, words=(), codec=codec, examples=(example,)
    )
    requests = payloads.build([model], "caption", count=200, seed=1)
    lists = [request.inputs for request in requests if request.form == "list"]
    single = [request.inputs for request in requests if not request.form]
    assert all(each == example for inputs in lists for each in inputs)
    assert example in single
    assert any(each != example for each in single) == (codec == "image")  # plain squares of pixels
    assert sample_inputs(model, count=3, seed=0) == [example] * 3
