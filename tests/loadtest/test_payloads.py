"""payloads.py: real lengths, the examples' words, the same seed the same requests."""

import json

import pytest

from loadtest import payloads
from loadtest.payloads import Card

TAGGER = Card(id="pos", task="tag", variant="int8", labels=("NOUN",), longest=4096, words=("Harry", "met"))
WRITER = Card(id="lm", task="generate", variant="int8", labels=(), longest=40, words=("To", "be"))


@pytest.mark.parametrize("task", ["tag", "generate"])
def test_same_seed_gives_the_same_requests(task: str) -> None:
    first, again, other = (payloads.build([TAGGER, WRITER], task, count=50, seed=seed) for seed in (1, 1, 2))
    assert [p.encoded for p in first] == [p.encoded for p in again] != [p.encoded for p in other]


def test_inputs_have_real_lengths_in_the_words_of_the_examples() -> None:
    texts = [payload.inputs for payload in payloads.build_single(TAGGER, count=3000, seed=0)]
    assert {word for text in texts for word in text.split()} == {"Harry", "met"}
    assert sum(len(text.split()) for text in texts) / len(texts) == pytest.approx(12.6, rel=0.06)


def test_prompts_are_counted_in_characters_and_kept_within_the_model() -> None:
    inputs = [p.inputs for p in payloads.build([WRITER], "generate", count=300, seed=0)]
    prompts = [text for asked in inputs for text in ([asked] if isinstance(asked, str) else asked)]
    assert max(map(len, prompts)) == 40
    assert all(set(prompt) <= set("To be") for prompt in prompts)


def test_every_form_of_input_is_sent() -> None:
    forms = {payload.form for payload in payloads.build([TAGGER], "tag", count=200, seed=0)}
    assert forms == {"", "list", "tokens"}


def test_encoded_is_the_body() -> None:
    payload = payloads.build([TAGGER], "tag", count=1, seed=0)[0]
    assert json.loads(payload.encoded) == payload.body


def test_examples_of_every_shape_give_words() -> None:
    examples = ["Harry met", ["Ron"], [["in", "London"]], {"inputs": "today"}]
    card = payloads._card({"id": "x", "task": "tag", "examples": examples})
    assert card.words == ("Harry", "met", "Ron", "in", "London", "today")


def test_a_card_without_examples_gets_plain_words() -> None:
    assert payloads._card({"id": "x", "task": "tag"}).words == payloads.PLAIN_WORDS


FRAMES = [[[0.5, 1], [2, 3]], [[4, 5.5]]]
JOINT = Card(
    id="intents", task="joint", variant="", labels=("O",), text_labels=("Play",), longest=64, words=("play", "it")
)


def test_the_card_of_frames_gives_requests_of_its_frames() -> None:
    entry = {"id": "x", "task": "tag", "codec": "frames", "limits": {"max_length": 7}, "examples": FRAMES}
    card = payloads._card(entry)
    asked = payloads.build([card], "tag", count=200, seed=0)
    assert {payload.form for payload in asked} == {"", "list"}
    for payload in asked:
        inputs = payload.inputs if payload.form == "list" else [payload.inputs]
        assert all(frame in ([0.5, 1], [2, 3], [4, 5.5]) for frames in inputs for frame in frames)
        assert max(map(len, inputs)) <= 7


def test_the_card_of_dna_gives_requests_of_its_bases() -> None:
    entry = {"id": "x", "task": "tag", "codec": "dna", "limits": {"max_length": 60}, "examples": ["ACG", "gN"]}
    for payload in payloads.build([payloads._card(entry)], "tag", count=200, seed=0):
        inputs = [payload.inputs] if payload.form == "" else payload.inputs
        assert {letter for text in inputs for letter in text} <= set("ACGgN")


def test_letters_are_counted_where_a_step_is_one() -> None:
    entry = {"id": "x", "task": "classify", "codec": "characters", "examples": ["Yamamoto", "Rossi"]}
    card = payloads._card({**entry, "limits": {"max_length": 12}})
    texts = [payload.inputs for payload in payloads.build_single(card, count=100, seed=0)]
    assert max(map(len, texts)) == 12


def test_a_joint_model_is_asked_for_both_parts() -> None:
    tags, labels = (payloads.build([JOINT], task, count=1, seed=0)[0] for task in ("tag", "classify"))
    assert (tags.task, tags.labels) == ("tag", ("O",))
    assert (labels.task, labels.labels) == ("classify", ("Play",))
    with pytest.raises(LookupError, match=r"'generate'.*intents \(joint\)"):
        payloads.build([JOINT], "generate", count=1, seed=0)


def test_a_missing_task_is_named_with_what_there_is() -> None:
    with pytest.raises(LookupError, match=r"'classify'.*pos \(tag\)"):
        payloads.build([TAGGER], "classify", count=1, seed=0)
