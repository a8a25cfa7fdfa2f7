"""The objective of translators: batches of pairs, masks, scheduled sampling, and learning."""

from pathlib import Path
from typing import Any

import pytest
import torch

from models.codecs.pieces import END
from tests.support.tiny_files import pairs, write
from training import recipe as recipes
from training.objectives.translation import IGNORED, TranslationObjective
from training.prepare import prepare
from training.recipe import RecipeError

SMALL = {
    "architecture.hidden": 24,
    "architecture.decoder_hidden": 32,
    "architecture.attention": 16,
    "architecture.embedding": 24,
    "architecture.dropout": 0.0,
    "architecture.embedding_dropout": 0.0,
    "architecture.word_dropout": 0.0,
    "training.batch_tokens": 256,
    "training.precision": "fp32",
    "pieces": 1000,
}


def objective_of(tmp_path: Path, **changes: Any) -> TranslationObjective:
    path = write(tmp_path, "pairs.tsv", pairs())
    recipe = recipes.load("translator", **{"data.path": str(path), **SMALL, **changes})
    objective = prepare(recipe).objective(recipe)
    assert isinstance(objective, TranslationObjective)
    return objective


@pytest.mark.parametrize(("rows", "few"), [(41, True), (400, False)])
@pytest.mark.parametrize("languages", [(), ("en", "de")])
def test_few_pairs_and_missing_languages_are_noted(
    tmp_path: Path, rows: int, few: bool, languages: tuple[str, ...]
) -> None:
    path = write(tmp_path, "pairs.tsv", pairs(rows))
    notes = prepare(recipes.load("translator", **{"data.path": str(path), "languages": languages, **SMALL})).notes
    assert any("held out" in note for note in notes) == few
    assert any("languages" in note for note in notes) == (not languages)


def first_batch(objective: TranslationObjective) -> Any:
    batch = next(iter(objective.batches(0)))
    assert batch is not None
    return batch


def test_each_step_reads_the_piece_before_its_target(tmp_path: Path) -> None:
    batch = first_batch(objective_of(tmp_path))
    assert (batch.written[0] == END).all()
    known = batch.targets[:-1] != IGNORED
    assert torch.equal(batch.written[1:][known], batch.targets[:-1][known])
    lengths = (batch.targets != IGNORED).sum(0)
    assert (batch.targets.gather(0, (lengths - 1)[None]) == END).all()
    assert (batch.feeds["pieces"].gather(0, (batch.feeds["lengths"] - 1)[None]) == END).all()


@pytest.mark.parametrize("attention", [16, 0])
def test_padding_changes_nothing(tmp_path: Path, attention: int) -> None:
    objective = objective_of(tmp_path, **{"architecture.attention": attention})
    batch, network = first_batch(objective), objective.network.eval()
    long = torch.nn.functional.pad(batch.feeds["pieces"], (0, 0, 0, 3), value=5)
    whole = network(batch.written, lengths=batch.feeds["lengths"], pieces=batch.feeds["pieces"])
    padded = network(batch.written, lengths=batch.feeds["lengths"], pieces=long)
    torch.testing.assert_close(whole, padded)


def test_steps_one_by_one_give_the_scores_of_teacher_forcing(tmp_path: Path) -> None:
    objective = objective_of(tmp_path)
    batch, network = first_batch(objective), objective.network.eval()
    expected = torch.log_softmax(network.logits(network(batch.written, **batch.feeds)), -1)
    memory, h = network.read(**batch.feeds)
    for rows, scores in zip(batch.written, expected, strict=True):
        found, h, weights = network.step(rows, h, memory)
        torch.testing.assert_close(found, scores)
        torch.testing.assert_close(weights.sum(0), torch.ones(weights.shape[1]))
        assert (weights[~memory.valid[:, :, 0]] == 0).all()


def test_a_few_pairs_are_learned(tmp_path: Path) -> None:
    objective = objective_of(tmp_path, **{"training.label_smoothing": 0.0})
    batch = first_batch(objective)
    optimizer = torch.optim.AdamW(objective.network.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss = objective.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.4 * losses[0]
    scores = objective.evaluate(objective.network.eval())
    assert set(scores) == {"bleu", "chrf", "loss"}


def test_the_share_of_own_pieces_grows_to_its_limit(tmp_path: Path) -> None:
    objective = objective_of(tmp_path, **{"training.scheduled_sampling": 1.0, "training.epochs": 2})
    batch, network = first_batch(objective), objective.network.eval()
    forced = objective.loss(batch)
    own = network.logits(network(batch.written, **batch.feeds)).argmax(-1)
    next(iter(objective.batches(1)))
    written = torch.cat([batch.written[:1], own[:-1]])
    counted = batch.targets != IGNORED
    logits = network.logits(network(written, **batch.feeds)[counted])
    expected = torch.nn.functional.cross_entropy(logits, batch.targets[counted], label_smoothing=0.1)
    torch.testing.assert_close(objective.loss(batch), expected)
    assert not torch.equal(forced, expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"training.scheduled_sampling": 0.1},
        {"source": {"kind": "pieces"}},
        {"task": "translate"},
        {"data.dev_parallel": "b"},
    ],
)
def test_fields_of_translators_are_refused_elsewhere(changes: dict[str, Any]) -> None:
    with pytest.raises(RecipeError):
        recipes.load("classifier", **changes)


def test_a_caption_needs_frames() -> None:
    with pytest.raises(RecipeError):
        recipes.load("translator", task="caption")


def test_an_epoch_can_have_a_share_of_the_pairs(tmp_path: Path) -> None:
    whole, part = objective_of(tmp_path), objective_of(tmp_path, **{"training.share": 0.2})
    counts = [sum(batch.targets.shape[1] for batch in each.batches(0) if batch is not None) for each in (whole, part)]
    assert 0 < counts[1] < 0.6 * counts[0]
