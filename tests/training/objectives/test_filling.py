"""The objective of fillers: all gaps at once, candidates that stand for all words, and learning."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from tests.support.tiny_files import plain_sentences, write
from training import metrics
from training import recipe as recipes
from training.objectives.filling import FillObjective
from training.optimizer import TrainingStep
from training.prepare import prepare
from training.recipe import Recipe, RecipeError

SMALL = {"architecture.hidden": 24, "architecture.embedding": 16, "training.batch_tokens": 200}


def objective_of(tmp_path: Path, text: str | None = None, **changes: Any) -> tuple[FillObjective, Recipe]:
    path = write(tmp_path, "mine.txt", plain_sentences() if text is None else text)
    recipe = recipes.load("filler", **{"data.path": str(path), "training.candidates": 0, **SMALL, **changes})
    objective = prepare(recipe).objective(recipe)
    assert isinstance(objective, FillObjective)
    return objective, recipe


def first_batch(objective: FillObjective) -> Any:
    return next(iter(objective.batches(0)))


def test_every_known_word_of_a_batch_is_a_gap(tmp_path: Path) -> None:
    objective, _ = objective_of(tmp_path, plain_sentences() + "The unheard dogs bark .\n", min_count=4)
    for batch in objective.batches(0):
        assert batch is not None
        words = batch.feeds["words"]
        assert torch.equal(words[batch.feeds["gap_steps"], batch.feeds["gap_inputs"]], batch.rows)
        assert objective.weight(batch) == int((words > 1).sum())


def test_batches_repeat_for_the_same_epoch_and_differ_between_epochs(tmp_path: Path) -> None:
    objective, _ = objective_of(tmp_path)
    first, again, other = ([batch.rows.tolist() for batch in objective.batches(n) if batch] for n in (0, 0, 1))
    assert first == again != other


def test_enough_candidates_give_the_loss_of_all_words(tmp_path: Path) -> None:
    whole, _ = objective_of(tmp_path)
    sampled, _ = objective_of(tmp_path, **{"training.candidates": 1000})
    sampled.network.load_state_dict(whole.network.state_dict())
    losses = [
        objective.loss(first_batch(objective))
        for objective in (whole, sampled)
        if not objective.network.eval().training
    ]
    assert losses[0].item() == pytest.approx(losses[1].item(), abs=1e-5)


def test_few_candidates_give_about_the_loss_of_all_words(tmp_path: Path) -> None:
    text = "".join(f"word{n % 400} word{(n * 7) % 400} .\n" for n in range(2000))
    objective, _ = objective_of(tmp_path, text, **{"training.candidates": 40, "training.batch_tokens": 30})
    network = objective.network.eval()
    batch = first_batch(objective)
    expected = cross_entropy(network(**batch.feeds), batch.rows).item()
    torch.manual_seed(1)
    found = [objective.loss(batch).item() for _ in range(50)]
    assert sum(found) / len(found) == pytest.approx(expected, abs=0.02)


def test_a_filler_learns_what_follows_from_the_other_words(tmp_path: Path) -> None:
    no_dropout = {"architecture.dropout": 0.0, "architecture.embedding_dropout": 0.0, "training.fewest_steps": 0}
    objective, recipe = objective_of(tmp_path, **no_dropout, **{"training.learning_rate": 0.01})
    step = TrainingStep(objective, recipe.training)
    before = objective.evaluate(objective.network.eval())
    for epoch in range(40):
        objective.network.train()
        for batch in objective.batches(epoch):
            step([batch])
    after = objective.evaluate(objective.network.eval())
    assert after[metrics.LAST_TOP1] > 95 > before[metrics.LAST_TOP1]
    assert after["loss"] < before["loss"]


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture.bidirectional": False},
        {"architecture.layers": 2},
        {"codec.stems": "stems.json"},
        {"codec.subwords": {"buckets": 100}},
        {"codec.kind": "characters"},
        {"training.label_smoothing": 0.1},
        {"variation": {"swap": 0.1}},
        {"data.more": [{"name": "btc", "kinds": {"PER": "PER"}}]},
    ],
)
def test_a_recipe_that_no_filler_can_follow_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(RecipeError):
        recipes.load("filler", **changes)


def test_candidates_are_only_for_fillers() -> None:
    with pytest.raises(RecipeError, match="candidates"):
        recipes.load("tagger", **{"training.candidates": 10})
