"""What is learnt and counted: targets, padding, labels and characters that training never saw, short texts."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from models.codecs.characters import CharactersCodec
from models.codecs.words import WordsCodec
from models.manifest import CharactersSpec, WordsSpec
from tests.support import tiny
from training.data.examples import (
    JointExample,
    LabeledExample,
    Source,
    Splits,
    TaggedExample,
    label_names,
    merge_labels,
)
from training.nn.networks import LanguageModel, SequenceNetwork, make_network
from training.objectives.language_model import Text
from training.objectives.sequences import IGNORED, Sequences

NOWHERE = Source(name="tiny", url="", licence="")
TAGS = ("ADJ", "NOUN", "O")


def sequences(task: str, train: Any, dev: Any, *, codec: Any = None, **changes: Any) -> Sequences:
    recipe = tiny.recipe(task, **changes)
    codec = codec or tiny.words_codec(characters=False)
    labels, text_labels = label_names(task, train)
    network = make_network(
        recipe.architecture, codec, task=task, labels=labels, text_labels=text_labels, merge=recipe.merge
    )
    assert isinstance(network, SequenceNetwork)
    return Sequences(recipe, codec, network, Splits(train=train, dev=dev, source=NOWHERE))


def tagging(dev: list[TaggedExample]) -> Sequences:
    return sequences("tag", tiny.tagged(40), dev)


def sure_of(network: Any, label: int) -> Any:
    """The network, made sure of one label whatever it reads."""
    with torch.no_grad():
        network.step_head.weight.zero_()
        network.step_head.bias.zero_()
        network.step_head.bias[label] = 20.0
    return network.eval()


def test_padding_is_no_target() -> None:
    batch = next(iter(tagging(tiny.tagged(4)).batches(0)))
    steps = torch.arange(len(batch.steps))[:, None]
    assert torch.equal(batch.steps == IGNORED, steps >= batch.feeds["lengths"][None, :])


def test_accuracy_counts_words_and_a_tag_that_training_never_saw_is_an_error() -> None:
    dev = [
        TaggedExample(tokens=("the", "film"), tags=("O", "NOUN")),
        TaggedExample(tokens=("x", "y"), tags=("O", "NEW")),
    ]
    objective = tagging(dev)
    found = objective.evaluate(sure_of(objective.network, 2))
    assert found["accuracy"] == 50.0
    assert found["loss"] == pytest.approx(20 / 4, abs=1e-3)  # one wrong tag that is known, of four


def test_micro_batches_weighted_by_their_targets_are_the_batch_they_make_up() -> None:
    for task, rows in (("tag", tiny.tagged(20)), ("classify", tiny.labelled(20)), ("joint", tiny.joint(20))):
        whole = sequences(task, rows, rows, training__batch_tokens=10_000)
        parts = sequences(task, rows, rows, training__batch_tokens=60)
        parts.network = whole.network.eval()
        pieces = [(parts.loss(batch), parts.weight(batch)) for batch in parts.batches(0)]
        assert len(pieces) > 2
        mean = sum(loss * weight for loss, weight in pieces) / sum(weight for _, weight in pieces)
        torch.testing.assert_close(mean, whole.loss(next(iter(whole.batches(0)))))


def test_two_processes_share_the_batches_of_one() -> None:
    objective = sequences("tag", tiny.tagged(40), tiny.tagged(4))
    alone = [batch.feeds["words"] for batch in objective.batches(1)]
    shared = [list(objective.batches(1, rank, 2)) for rank in (0, 1)]
    assert len(shared[0]) == len(shared[1]) == objective.count_batches(1, 2)
    together = [batch for pair in zip(*shared, strict=True) for batch in pair if batch is not None]
    assert len(together) == len(alone)
    assert all(torch.equal(a, b.feeds["words"]) for a, b in zip(alone, together, strict=True))


def test_balanced_weights_make_a_rare_label_count_as_much_as_a_frequent_one() -> None:
    train = [*tiny.labelled(9), LabeledExample(text="awful", label="rare")]
    objective = sequences("classify", train, train, training__class_weights="balanced", training__batch_tokens=1000)
    (batch,) = list(objective.batches(0))
    with torch.no_grad():
        logits = objective.network.eval()(**batch.feeds)["text"]
        counts = torch.bincount(batch.text).float()
        each = cross_entropy(logits, batch.text, reduction="none")
        by_label = torch.stack([each[batch.text == label].mean() for label in range(len(counts))])
        torch.testing.assert_close(objective.loss(batch), by_label.mean())


def test_a_chain_that_forbids_what_the_data_do_is_let_loose() -> None:
    train = [
        TaggedExample(tokens=("the", "film"), tags=("O", "I-X")),
        TaggedExample(tokens=("a", "film"), tags=("O", "B-X")),
    ]
    objective = sequences("tag", train, train, architecture__crf=True)
    assert torch.isfinite(objective.loss(next(iter(objective.batches(0)))))


def test_a_joint_task_is_scored_by_inputs_that_are_right_as_a_whole() -> None:
    dev = [JointExample(tokens=("the", "film"), tags=("O", "NOUN"), label="good")]
    scores = sequences("joint", tiny.joint(30), dev).evaluate(sequences("joint", tiny.joint(30), dev).network.eval())
    assert set(scores) == {"exact", "accuracy", "step_accuracy", "loss"}


def test_batches_are_counted_as_they_come_in_every_epoch() -> None:
    objective = tagging(tiny.tagged(4))
    for epoch in range(6):
        assert objective.count_batches(epoch) == sum(1 for _ in objective.batches(epoch))


def test_every_example_is_learnt_from_once_an_epoch() -> None:
    train = [LabeledExample(text=row.text, label=row.label) for row in tiny.labelled(50)]
    objective = sequences("classify", train, train[:5])
    targets = torch.cat([batch.text for batch in objective.batches(3)])
    assert sorted(targets.tolist()) == sorted(int(row.label == "good") for row in train)


def text(train: str, dev: str, **changes: Any) -> Text:
    codec = CharactersCodec.fit(CharactersSpec(), [train])
    recipe = tiny.recipe("generate", **changes)
    network = LanguageModel(recipe.architecture, codec)
    return Text(recipe, codec, network, train, dev)


def test_a_state_is_carried_from_piece_to_piece_but_not_into_the_next_epoch() -> None:
    objective = text(tiny.TEXT, tiny.TEXT[:200])
    seen: list[bool] = []
    forward = objective.network.forward
    objective.network.forward = lambda i, n, s=None: (seen.append(s is not None), forward(i, n, s))[1]  # type: ignore
    for epoch in (0, 1):
        for batch in objective.batches(epoch):
            objective.loss(batch)
    once = [False] + [True] * (objective.count_batches(0) - 1)
    assert seen[: len(once)] == once
    assert seen.count(False) == 2


def test_an_untrained_language_model_knows_nothing() -> None:
    objective = text(tiny.TEXT, tiny.TEXT[:400])
    loss = objective.evaluate(objective.network.eval())["nats_per_character"]
    assert loss == pytest.approx(math.log(len(set(tiny.TEXT))), abs=0.2)


def test_characters_that_training_never_saw_do_not_count() -> None:
    objective = text(tiny.TEXT, tiny.TEXT[:300] + "☃" * 50)
    assert math.isfinite(objective.evaluate(objective.network.eval())["nats_per_character"])


@pytest.mark.parametrize("length", [100, 150, 400, 3000])
def test_a_short_text_gets_fewer_streams_and_shorter_steps(length: int) -> None:
    objective = text((tiny.TEXT * 2)[:length], tiny.TEXT[:100], training__streams=64, training__steps=128)
    for epoch in range(4):
        pieces = list(objective.batches(epoch))
        assert len(pieces) >= 3
        assert sum(targets.numel() for _, targets, _ in pieces) > length / 2


def test_a_long_text_gets_the_streams_and_steps_of_the_recipe() -> None:
    objective = text(tiny.TEXT * 4, tiny.TEXT[:100], training__streams=8, training__steps=32)
    assert next(iter(objective.batches(0)))[0].shape == (32, 8)


def test_labels_that_are_merged_are_learnt_apart_and_answered_together() -> None:
    parts = {"fine": ("good",), "poor": ("bad", "worse")}
    train = [
        *tiny.labelled(20),
        LabeledExample(text="awful", label="worse"),
        LabeledExample(text="the film", label="neither"),
    ]
    dev = merge_labels(train, parts)
    assert {example.label for example in dev} == {"fine", "poor"}
    assert len(dev) == len(train) - 1
    objective = sequences("classify", train, dev, merge=parts)
    assert objective.network.text_head.out_features == 4
    answers = objective.network.eval().answers(**next(iter(objective.batches(0))).feeds)["probabilities"]
    torch.testing.assert_close(answers.sum(1), torch.ones(len(answers)))
    assert 0 <= objective.evaluate(objective.network)["accuracy"] <= 100


def test_an_epoch_of_a_share_draws_others_each_time() -> None:
    objective = sequences("classify", tiny.labelled(200), tiny.labelled(5), training__share=0.3)
    drawn = [sum(len(batch.text) for batch in objective.batches(epoch)) for epoch in range(3)]
    assert all(30 < count < 90 for count in drawn)
    assert len(set(drawn)) > 1


def test_long_examples_are_drawn_in_every_epoch() -> None:
    train = tiny.labelled(100)
    objective = sequences("classify", train, train[:5], training__share=0.01, training__share_below=9)
    long = [example for example in train if len(str(example.text).split()) >= 9]
    seen = torch.cat([batch.feeds["lengths"] for batch in objective.batches(1)])
    assert len(seen) < 90
    assert int((seen >= 9).sum()) == len(long) > 10


def test_a_task_beside_is_learnt_by_a_head_that_is_never_asked() -> None:
    beside = [TaggedExample(tokens=("the", "dog"), tags=("DET", "N")) for _ in range(30)]
    recipe = tiny.recipe("tag", auxiliary={"name": "ud-ewt", "weight": 2.0})
    train, codec = tiny.tagged(30), tiny.words_codec(characters=False)
    network = make_network(recipe.architecture, codec, task="tag", labels=TAGS, auxiliary_labels=2)
    splits = Splits(train=train, dev=train[:3], source=NOWHERE)
    objective = Sequences(recipe, codec, network, splits, beside)
    batches = list(objective.batches(0))
    assert {batch.beside for batch in batches} == {True, False}
    objective.loss(next(batch for batch in batches if batch.beside)).backward()
    moved = {name for name, weight in network.named_parameters() if weight.grad is not None and weight.grad.any()}
    assert "auxiliary.weight" in moved
    assert not any(name.startswith("step_head") for name in moved)
    assert "auxiliary" not in network.eval()(**batches[0].feeds)


def test_a_rare_word_is_unknown_more_often_than_a_frequent_one() -> None:
    torch.manual_seed(0)
    train = [TaggedExample(tokens=("often",) * 20 + ("seldom",), tags=("A",) * 20 + ("B",))] * 2
    codec = WordsCodec.fit(WordsSpec(), [example.tokens for example in train])
    objective = sequences("tag", train, train, codec=codec, architecture__rare_dropout=2.0)
    encoder = objective.network.encoder
    often, seldom = (int(codec.encode([word]).rows[0]) for word in ("often", "seldom"))
    encoder.dropout.p = 0.0
    read = encoder.train()(torch.tensor([[often], [seldom]]).expand(2, 2000))
    unknown = (read == encoder.stem_embedding.weight[1]).all(dim=2).float().mean(dim=1)
    assert unknown.tolist() == pytest.approx([2 / 42, 2 / 4], abs=0.03)


def test_a_margin_makes_a_missed_span_dearer_and_a_false_one_not() -> None:
    train = [
        TaggedExample(tokens=("the", "film"), tags=("O", "B-X")),
        TaggedExample(tokens=("a", "plot"), tags=("O", "B-X")),
    ]
    plain, strict = (
        sequences("tag", train, train, architecture__crf=True, training__margin=margin) for margin in (0.0, 3.0)
    )
    strict.network = plain.network.eval()
    batch = next(iter(plain.batches(0)))
    assert strict.loss(batch) > plain.loss(batch)
    outside = replace(batch, steps=torch.where(batch.steps >= 0, strict._outside, batch.steps))
    torch.testing.assert_close(strict.loss(outside), plain.loss(outside))


def test_an_epoch_that_would_draw_nothing_draws_everything() -> None:
    objective = sequences("classify", tiny.labelled(2), tiny.labelled(2), training__share=1e-6)
    assert sum(len(batch.text) for batch in objective.batches(0)) == 2


def test_in_a_joint_task_texts_count_whichever_task_they_are_of() -> None:
    beside = [TaggedExample(tokens=("the", "dog", "barks"), tags=("DET", "N", "V"))] * 4
    recipe = tiny.recipe("joint", auxiliary={"name": "ud-ewt"})
    train, codec = tiny.joint(6), tiny.words_codec(characters=False)
    labels, text_labels = label_names("joint", train)
    network = make_network(
        recipe.architecture, codec, task="joint", labels=labels, text_labels=text_labels, auxiliary_labels=3
    )
    objective = Sequences(recipe, codec, network, Splits(train=train, dev=train, source=NOWHERE), beside)
    weights = {batch.beside: 0.0 for batch in objective.batches(0)}
    for batch in objective.batches(0):
        weights[batch.beside] += objective.weight(batch)
    assert weights == {False: 6, True: 4}
