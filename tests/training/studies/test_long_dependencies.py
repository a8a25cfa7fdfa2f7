"""Tasks with long dependencies: samples, training, sweeps, and the table.

T steps, B batch, R answers.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from training.__main__ import main
from training.data.examples import DataError
from training.studies import long_dependencies
from training.studies.long_dependencies import (
    METHODS,
    TASKS,
    Attempt,
    StudyBudget,
    StudyMethod,
    StudyModel,
    StudyTable,
    StudyTask,
    make_cell,
    method_of,
    read_attempts,
    run_sweep,
    update,
)

ROOT = Path(__file__).resolve().parents[3]
SMALL = StudyBudget(updates=4, batch=8, hidden=4, examine_every=2)


def random(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_adding_target_is_the_sum_of_one_marked_number_per_half() -> None:
    x, target = TASKS["adding"].sample(21, 50, random())  # (21, 50, 2), (1, 50)
    numbers, marks = x[:, :, 0], x[:, :, 1]
    assert (marks[:10].sum(dim=0) == 1).all()
    assert (marks[10:].sum(dim=0) == 1).all()
    torch.testing.assert_close((numbers * marks).sum(dim=0), target[0])


def test_temporal_order_target_encodes_both_symbols() -> None:
    x, target = TASKS["temporal-order"].sample(40, 50, random())
    shown = x.argmax(dim=2)  # (40, 50)
    assert (x.sum(dim=2) == 1).all()
    for column, wanted in zip(shown.T, target[0], strict=True):
        (first, second) = (place for place, symbol in enumerate(column.tolist()) if symbol < 2)
        assert 4 <= first < 8
        assert 20 <= second < 24
        assert int(wanted) == int(column[first]) + 2 * int(column[second])


def test_copy_target_is_the_symbols_shown_first() -> None:
    x, target = TASKS["copy"].sample(15, 5, random())
    shown, kept = x.argmax(dim=2), long_dependencies.REMEMBERED
    assert x.shape == (15 + kept, 5, TASKS["copy"].inputs)
    assert torch.equal(shown[:kept], target)
    blank, sign = long_dependencies.SYMBOLS, long_dependencies.SYMBOLS + 1
    assert (shown[15] == sign).all()
    assert (shown[kept:15] == blank).all()
    assert (shown[16:] == blank).all()


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_samples_depend_only_on_the_generator(task: StudyTask) -> None:
    torch.manual_seed(1)
    first = task.sample(20, 4, random(7))
    torch.manual_seed(2)
    assert all(torch.equal(a, b) for a, b in zip(first, task.sample(20, 4, random(7)), strict=True))
    assert not torch.equal(first[0], task.sample(20, 4, random(8))[0])


def test_gate_biases_spread_time_constants_up_to_the_length() -> None:
    hidden, bound = 400, 2 / 20  # two biases, uniform in ±1/√hidden
    cell = make_cell(METHODS["lstm"], 3, hidden, 100)
    bias = (cell.bias_ih_l0 + cell.bias_hh_l0).detach().split(hidden)
    forget, into = bias[cell.gates.index("f")], bias[cell.gates.index("i")]
    assert float(forget.min()) > -bound
    assert 4.4 < float(forget.max()) < torch.log(torch.tensor(99.0)) + bound
    torch.testing.assert_close(into, -forget, atol=2 * bound, rtol=0)


def test_method_sets_the_bias_of_the_gate_that_keeps_the_state() -> None:
    for name, gate, expected in (("lstm", "f", 3.0), ("gru", "z", 3.0), ("lstm-coupled", "i", -3.0)):
        cell = make_cell(replace(method_of(name), keeping=3.0), 3, 400, 100)
        bias = cell.bias_ih_l0.detach().split(400)[cell.gates.index(gate)]
        assert float(bias.mean()) == pytest.approx(expected, abs=0.05)


def taught(method: StudyMethod) -> tuple[StudyModel, torch.Tensor]:
    """A model after one step of gradient descent, and the change of all its weights."""
    torch.manual_seed(1)
    task = TASKS["adding"]
    model = StudyModel(task, method, 8, 20)
    before = torch.cat([weight.detach().clone().flatten() for weight in model.parameters()])
    update(model, torch.optim.SGD(model.parameters(), lr=1.0), task.sample(20, 8, random()))
    return model, torch.cat([weight.detach().flatten() for weight in model.parameters()]) - before


def test_clipping_bounds_the_norm_of_an_update() -> None:
    free, bounded = (taught(replace(METHODS["rnn"], clip=clip))[1] for clip in (None, 0.1))
    assert float(free.norm()) > 0.2
    assert float(bounded.norm()) == pytest.approx(0.1, rel=1e-3)
    torch.testing.assert_close(bounded / bounded.norm(), free / free.norm())


def test_omega_changes_an_update() -> None:
    free, helped = (taught(replace(METHODS["rnn"], omega=omega))[1] for omega in (0.0, 1.0))
    assert not torch.allclose(free, helped)


def test_loss_that_is_not_finite_makes_no_update() -> None:
    torch.manual_seed(1)
    task, method = TASKS["adding"], METHODS["rnn"]
    model = StudyModel(task, method, 8, 20)
    before = [weight.detach().clone() for weight in model.parameters()]
    x, target = task.sample(20, 8, random())
    assert not update(model, torch.optim.SGD(model.parameters(), lr=1.0), (x, target * torch.inf))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_training_stops_when_the_task_is_solved() -> None:
    budget = StudyBudget(updates=400, batch=32, hidden=20, examine_every=25)
    attempt = long_dependencies.train(TASKS["temporal-order"], METHODS["gru"], 10, 1, budget)
    assert attempt.solved
    assert attempt.error is not None
    assert attempt.error < 0.01
    assert attempt.updates < 400
    assert attempt.updates % 25 == 0


def test_training_stops_when_the_budget_is_spent() -> None:
    attempt = long_dependencies.train(TASKS["copy"], METHODS["rnn"], 20, 1, SMALL)
    assert (attempt.solved, attempt.updates) == (False, 4)
    assert attempt.error == pytest.approx(0.875, abs=0.1)


def test_any_cell_is_a_method_and_other_names_are_rejected() -> None:
    assert method_of("gru-textbook").cell == "gru-textbook"
    assert method_of("mlstm").learning_rate == METHODS["lstm"].learning_rate
    with pytest.raises(DataError, match="grue"):
        method_of("grue")


SWEEP: dict[str, Any] = {
    "tasks": [TASKS["copy"]],
    "methods": [METHODS["rnn"], METHODS["lstm"]],
    "lengths": [50, 20],
    "seeds": [1, 2],
    "budget": SMALL,
}


Tried = list[tuple[str, int, int]]


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> Tried:
    """The calls of a fake `train`, in which only an LSTM succeeds."""
    calls: Tried = []

    def train(task: StudyTask, method: StudyMethod, steps: int, seed: int, budget: StudyBudget) -> Attempt:
        calls.append((method.name, steps, seed))
        solved = method.name == "lstm"
        return Attempt(
            task=task.name,
            method=method.name,
            steps=steps,
            seed=seed,
            solved=solved,
            updates=steps * seed if solved else budget.updates,
            error=0.0 if solved else 0.5,
            seconds=1.0,
        )

    monkeypatch.setattr(long_dependencies, "train", train)
    return calls


def silent(text: str) -> None:
    del text


def test_sweep_skips_lengths_beyond_one_that_no_seed_solved(tmp_path: Path, tried: Tried) -> None:
    attempts = run_sweep(tmp_path / "found.json", silent, **SWEEP)
    assert [call for call in tried if call[0] == "rnn"] == [("rnn", 20, 1), ("rnn", 20, 2)]
    assert len([call for call in tried if call[0] == "lstm"]) == 4
    assert StudyTable(attempts).rows() == [
        ("copy", "rnn", ["0/2", "not tried"]),
        ("copy", "lstm", ["2/2 (30)", "2/2 (75)"]),
    ]
    run_sweep(tmp_path / "found.json", silent, **SWEEP, all_lengths=True)
    assert ("rnn", 50, 2) in tried


def test_sweep_resumes_after_an_interruption(tmp_path: Path, tried: Tried, monkeypatch: pytest.MonkeyPatch) -> None:
    file, train = tmp_path / "results" / "found.json", long_dependencies.train

    def stops(*given: object) -> Attempt:
        if len(tried) == 3:
            raise KeyboardInterrupt
        return train(*given)  # type: ignore[arg-type]

    with monkeypatch.context() as now:
        now.setattr(long_dependencies, "train", stops)
        with pytest.raises(KeyboardInterrupt):
            run_sweep(file, silent, **SWEEP)
    attempts = run_sweep(file, silent, **SWEEP)
    assert len(tried) == len(set(tried)) == 6
    assert read_attempts(file) == attempts


def test_sweep_rejects_a_file_with_other_settings(tmp_path: Path, tried: Tried) -> None:
    file = tmp_path / "found.json"
    run_sweep(file, silent, **SWEEP)
    with pytest.raises(DataError, match="budget"):
        run_sweep(file, silent, **{**SWEEP, "budget": replace(SMALL, updates=5)})
    other = replace(METHODS["rnn"], clip=9.0)
    with pytest.raises(DataError, match="methods"):
        run_sweep(file, silent, **{**SWEEP, "methods": [other, METHODS["lstm"]]})


def test_command_writes_results_and_a_plot(tmp_path: Path, tried: Tried, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "found.json"
    given = ["--tasks", "copy,adding", "--lengths", "20,30", "--seeds", "1", "--cells", "rnn,lstm", "--out", str(out)]
    assert main(["dependencies", *given, "--learning-rates", "0.1,0.01"]) == 0
    assert "copy T=20 rnn@0.1 seed 1: not solved after 2,000 updates, error 0.5000" in capsys.readouterr().out
    assert json.loads(out.read_text())["methods"]["lstm@0.01"]["learning_rate"] == 0.01
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["--tasks", "sorting"], "no task 'sorting'"),
        (["--lengths", "5"], "--lengths 5"),
    ],
)
def test_command_rejects_invalid_options(
    given: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dependencies", *given, "--out", str(tmp_path / "x.json")]) == 2
    assert sentence in capsys.readouterr().err
