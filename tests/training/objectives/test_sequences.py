"""Tagging, classification and joint objectives: targets, losses, weights, scores and sampling."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from models import codecs
from models.codecs.words import WordsCodec
from models.manifest import FramesSpec, WordsSpec
from tests.support import tiny
from tests.support.tiny import sequence_objective
from training.data.examples import (
    JointExample,
    LabeledExample,
    Source,
    Splits,
    TaggedExample,
    TaggedSeries,
    label_names,
    merge_labels,
)
from training.nn.networks import make_network
from training.objectives.sequences import IGNORED, SequenceObjective

NOWHERE = Source(name="tiny", url="", licence="")
TAGS = ("ADJ", "NOUN", "O")


def tagging(dev: list[TaggedExample]) -> SequenceObjective:
    return sequence_objective("tag", tiny.tagged(40), dev)


def sure_of(network: Any, label: int) -> Any:
    """The network, made sure of one label whatever it reads."""
    with torch.no_grad():
        network.step_head.weight.zero_()
        network.step_head.bias.zero_()
        network.step_head.bias[label] = 20.0
    return network.eval()


def test_padding_is_ignored_as_target() -> None:
    batch = next(iter(tagging(tiny.tagged(4)).batches(0)))
    steps = torch.arange(len(batch.steps))[:, None]
    assert torch.equal(batch.steps == IGNORED, steps >= batch.feeds["lengths"][None, :])


def test_a_delayed_target_is_the_label_of_an_earlier_frame() -> None:
    codec = codecs.build(FramesSpec(features=1, delay=2), lambda name: ())
    rows = [
        TaggedSeries(frames=((0.0,), (1.0,), (2.0,)), tags=("a", "b", "b")),
        TaggedSeries(frames=((3.0,),), tags=("a",)),
    ]
    objective = sequence_objective("tag", rows, rows, codec=codec)
    (batch,) = objective.batches(0)
    longer, shorter = (list(batch.feeds["lengths"]).index(length) for length in (5, 3))
    assert batch.feeds["frames"][:, longer, 0].tolist() == [0, 1, 2, 2, 2]
    assert batch.steps[:, longer].tolist() == [IGNORED, IGNORED, 0, 1, 1]
    assert batch.steps[:, shorter].tolist() == [IGNORED, IGNORED, 0, IGNORED, IGNORED]
    predicted, loss = objective.predict(sure_of(objective.network, 1))
    assert [each.steps for each in predicted] == [("b", "b", "b"), ("b",)]
    assert [len(each.step_scores) for each in predicted] == [3, 1]
    assert loss == pytest.approx(20 / 2, abs=1e-3)  # two of four targets are wrong


def test_accuracy_counts_words_and_unknown_tags_are_errors() -> None:
    dev = [
        TaggedExample(tokens=("the", "film"), tags=("O", "NOUN")),
        TaggedExample(tokens=("x", "y"), tags=("O", "NEW")),
    ]
    objective = tagging(dev)
    found = objective.evaluate(sure_of(objective.network, 2))
    assert found["accuracy"] == 50.0
    assert found["loss"] == pytest.approx(20 / 4, abs=1e-3)  # one wrong tag that is known, of four


def test_weighted_micro_batches_equal_one_batch() -> None:
    for task, rows in (("tag", tiny.tagged(20)), ("classify", tiny.labeled(20)), ("joint", tiny.joint(20))):
        whole = sequence_objective(task, rows, rows, training__batch_tokens=10_000)
        parts = sequence_objective(task, rows, rows, training__batch_tokens=60)
        parts.network = whole.network.eval()
        pieces = [(parts.loss(batch), parts.weight(batch)) for batch in parts.batches(0)]
        assert len(pieces) > 2
        mean = sum(loss * weight for loss, weight in pieces) / sum(weight for _, weight in pieces)
        torch.testing.assert_close(mean, whole.loss(next(iter(whole.batches(0)))))


def test_processes_share_the_batches_of_one_process() -> None:
    objective = sequence_objective("tag", tiny.tagged(40), tiny.tagged(4))
    alone = [batch.feeds["words"] for batch in objective.batches(1)]
    shared = [list(objective.batches(1, rank, 2)) for rank in (0, 1)]
    assert len(shared[0]) == len(shared[1]) == objective.count_batches(1, 2)
    together = [batch for pair in zip(*shared, strict=True) for batch in pair if batch is not None]
    assert len(together) == len(alone)
    assert all(torch.equal(a, b.feeds["words"]) for a, b in zip(alone, together, strict=True))


def test_balanced_class_weights_equalize_labels() -> None:
    train = [*tiny.labeled(9), LabeledExample(text="awful", label="rare")]
    objective = sequence_objective(
        "classify", train, train, training__class_weights="balanced", training__batch_tokens=1000
    )
    (batch,) = list(objective.batches(0))
    with torch.no_grad():
        logits = objective.network.eval()(**batch.feeds)["text"]
        counts = torch.bincount(batch.text).float()
        each = cross_entropy(logits, batch.text, reduction="none")
        by_label = torch.stack([each[batch.text == label].mean() for label in range(len(counts))])
        torch.testing.assert_close(objective.loss(batch), by_label.mean())


def test_half_class_weights_weigh_labels_by_the_root_of_their_counts() -> None:
    train = [LabeledExample(text="film", label="common")] * 16 + [LabeledExample(text="awful", label="rare")]
    objective = sequence_objective("classify", train, train, training__class_weights=0.5, training__batch_tokens=1000)
    (batch,) = list(objective.batches(0))
    with torch.no_grad():
        each = cross_entropy(objective.network.eval()(**batch.feeds)["text"], batch.text, reduction="none")
        common, rare = (each[batch.text == label].mean() for label in (0, 1))
        torch.testing.assert_close(objective.loss(batch), 0.8 * common + 0.2 * rare)  # roots 4 and 1


def test_crf_mask_is_lifted_if_the_data_break_iob2() -> None:
    train = [
        TaggedExample(tokens=("the", "film"), tags=("O", "I-X")),
        TaggedExample(tokens=("a", "film"), tags=("O", "B-X")),
    ]
    objective = sequence_objective("tag", train, train, architecture__crf=True)
    assert torch.isfinite(objective.loss(next(iter(objective.batches(0)))))


def test_joint_task_has_the_exact_match_score() -> None:
    dev = [JointExample(tokens=("the", "film"), tags=("O", "NOUN"), label="good")]
    scores = sequence_objective("joint", tiny.joint(30), dev).evaluate(
        sequence_objective("joint", tiny.joint(30), dev).network.eval()
    )
    assert set(scores) == {"exact", "accuracy", "step_accuracy", "loss"}


def test_count_batches_equals_the_number_of_batches() -> None:
    objective = tagging(tiny.tagged(4))
    for epoch in range(6):
        assert objective.count_batches(epoch) == sum(1 for _ in objective.batches(epoch))


def test_fewest_steps_make_smaller_batches_of_small_data_only() -> None:
    rows = tiny.labeled(60)
    whole = sequence_objective("classify", rows, rows, training__batch_tokens=10_000)
    parts = sequence_objective("classify", rows, rows, training__batch_tokens=10_000, training__fewest_steps=6)
    enough = sequence_objective("classify", rows, rows, training__batch_tokens=40, training__fewest_steps=6)
    plain = sequence_objective("classify", rows, rows, training__batch_tokens=40)
    assert whole.count_batches(0) == 1
    assert parts.count_batches(0) >= 6
    assert enough.count_batches(0) == plain.count_batches(0) > 6


def test_every_example_appears_once_per_epoch() -> None:
    train = [LabeledExample(text=row.text, label=row.label) for row in tiny.labeled(50)]
    objective = sequence_objective("classify", train, train[:5])
    targets = torch.cat([batch.text for batch in objective.batches(3)])
    assert sorted(targets.tolist()) == sorted(int(row.label == "good") for row in train)


def test_merged_labels_are_learned_apart_and_answered_together() -> None:
    parts = {"fine": ("good",), "poor": ("bad", "worse")}
    train = [
        *tiny.labeled(20),
        LabeledExample(text="awful", label="worse"),
        LabeledExample(text="the film", label="neither"),
    ]
    dev = merge_labels(train, parts)
    assert {example.label for example in dev} == {"fine", "poor"}
    assert len(dev) == len(train) - 1
    objective = sequence_objective("classify", train, dev, merge=parts)
    assert objective.network.text_head.out_features == 4
    answers = objective.network.eval().answers(**next(iter(objective.batches(0))).feeds)["probabilities"]
    torch.testing.assert_close(answers.sum(1), torch.ones(len(answers)))
    assert 0 <= objective.evaluate(objective.network)["accuracy"] <= 100


def test_share_samples_different_examples_each_epoch() -> None:
    objective = sequence_objective("classify", tiny.labeled(200), tiny.labeled(5), training__share=0.3)
    drawn = [sum(len(batch.text) for batch in objective.batches(epoch)) for epoch in range(3)]
    assert all(30 < count < 90 for count in drawn)
    assert len(set(drawn)) > 1


def test_share_below_keeps_long_examples_in_every_epoch() -> None:
    train = tiny.labeled(100)
    objective = sequence_objective("classify", train, train[:5], training__share=0.01, training__share_below=9)
    long = [example for example in train if len(str(example.text).split()) >= 9]
    seen = torch.cat([batch.feeds["lengths"] for batch in objective.batches(1)])
    assert len(seen) < 90
    assert int((seen >= 9).sum()) == len(long) > 10


def test_auxiliary_task_trains_its_own_head_and_is_never_answered() -> None:
    auxiliary = [TaggedExample(tokens=("the", "dog"), tags=("DET", "N")) for _ in range(30)]
    recipe = tiny.recipe("tag", auxiliary={"name": "ud-ewt", "weight": 2.0})
    train, codec = tiny.tagged(30), tiny.words_codec(characters=False)
    network = make_network(recipe.architecture, codec, task="tag", labels=TAGS, auxiliary_labels=2)
    splits = Splits(train=train, dev=train[:3], source=NOWHERE)
    objective = SequenceObjective(recipe, codec, network, splits, auxiliary)
    batches = list(objective.batches(0))
    assert {batch.auxiliary for batch in batches} == {True, False}
    objective.loss(next(batch for batch in batches if batch.auxiliary)).backward()
    moved = {name for name, weight in network.named_parameters() if weight.grad is not None and weight.grad.any()}
    assert "auxiliary.weight" in moved
    assert not any(name.startswith("step_head") for name in moved)
    assert "auxiliary" not in network.eval()(**batches[0].feeds)


def test_rare_dropout_drops_rare_words_more_often() -> None:
    torch.manual_seed(0)
    train = [TaggedExample(tokens=("often",) * 20 + ("seldom",), tags=("A",) * 20 + ("B",))] * 2
    codec = WordsCodec.fit(WordsSpec(), [example.tokens for example in train])
    objective = sequence_objective("tag", train, train, codec=codec, architecture__rare_dropout=2.0)
    encoder = objective.network.encoder
    often, seldom = (int(codec.encode([word]).rows[0]) for word in ("often", "seldom"))
    encoder.dropout.p = 0.0
    read = encoder.train()(torch.tensor([[often], [seldom]]).expand(2, 2000))
    unknown = (read == encoder.stem_embedding.weight[1]).all(dim=2).float().mean(dim=1)
    assert unknown.tolist() == pytest.approx([2 / 42, 2 / 4], abs=0.03)


def test_margin_raises_the_loss_of_missed_spans_only() -> None:
    train = [
        TaggedExample(tokens=("the", "film"), tags=("O", "B-X")),
        TaggedExample(tokens=("a", "plot"), tags=("O", "B-X")),
    ]
    plain, strict = (
        sequence_objective("tag", train, train, architecture__crf=True, training__margin=margin)
        for margin in (0.0, 3.0)
    )
    strict.network = plain.network.eval()
    batch = next(iter(plain.batches(0)))
    assert strict.loss(batch) > plain.loss(batch)
    outside_label = sorted({tag for example in train for tag in example.tags}).index("O")
    outside = replace(batch, steps=torch.where(batch.steps >= 0, outside_label, batch.steps))
    torch.testing.assert_close(strict.loss(outside), plain.loss(outside))


def test_share_that_samples_no_example_uses_all() -> None:
    objective = sequence_objective("classify", tiny.labeled(2), tiny.labeled(2), training__share=1e-6)
    assert sum(len(batch.text) for batch in objective.batches(0)) == 2


def test_joint_task_weighs_batches_by_texts_also_for_the_auxiliary_task() -> None:
    auxiliary = [TaggedExample(tokens=("the", "dog", "barks"), tags=("DET", "N", "V"))] * 4
    recipe = tiny.recipe("joint", auxiliary={"name": "ud-ewt"})
    train, codec = tiny.joint(6), tiny.words_codec(characters=False)
    labels, text_labels = label_names("joint", train)
    network = make_network(
        recipe.architecture, codec, task="joint", labels=labels, text_labels=text_labels, auxiliary_labels=3
    )
    objective = SequenceObjective(recipe, codec, network, Splits(train=train, dev=train, source=NOWHERE), auxiliary)
    weights = {batch.auxiliary: 0.0 for batch in objective.batches(0)}
    for batch in objective.batches(0):
        weights[batch.auxiliary] += objective.weight(batch)
    assert weights == {False: 6, True: 4}


def test_threshold_restores_the_spans_that_a_high_score_of_o_hides() -> None:
    train = [TaggedExample(tokens=("the", "film"), tags=("O", "B-X"))] * 40
    objective = sequence_objective("tag", train, train[:4])
    network: Any = objective.network.eval()
    with torch.no_grad():
        network.step_head.weight.zero_()
        network.step_head.bias.copy_(torch.tensor([0.0, 1.5]))  # B-X, O: nothing is found
    assert objective.evaluate(network)["f1"] == 0
    added = objective.set_threshold(network)
    assert -1.9 < added < -1.5
    assert objective.evaluate(network)["f1"] > 0
    assert objective.set_threshold(network) == 0
