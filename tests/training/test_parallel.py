"""Two processes train as one would with the batches of both."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.points import Points, training
from tests.training.test_loop import ROOT, weights, without_times
from training import parallel
from training import trainer as loop


def torchrun(*words: str | Path) -> str:
    """What two processes print."""
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", *words]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(program, env=env, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("together")
    return folder, torchrun("tests.training.together", folder)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, float]]]:
    """One process with the same batches in each step: twice as many, one after the other."""
    folder = tmp_path_factory.mktemp("alone")
    how = training(accumulate=4, average=0.5, epochs=4)
    return folder, loop.fit(Points(seed=0), how, folder, lambda *_: None)


def test_the_loss_curve_is_that_of_one_process_with_the_same_global_batch(
    together: tuple[Path, str], alone: tuple[Path, list[dict[str, float]]]
) -> None:
    history: list[dict[str, float]] = json.loads((together[0] / loop.HISTORY).read_text())
    for found, expected in zip(without_times(history), without_times(alone[1]), strict=True):
        assert found == pytest.approx(expected, rel=1e-5)
    best: dict[str, Any] = weights(together[0])
    for name, tensor in weights(alone[0]).items():
        assert torch.allclose(best[name], tensor, atol=1e-6)


def test_all_processes_end_with_the_same_weights_and_the_same_history(together: tuple[Path, str]) -> None:
    first, second = (torch.load(together[0] / f"process-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert torch.equal(first["weights"], second["weights"])
    assert first["history"] == second["history"]


def test_an_error_of_the_first_process_is_one_of_all(together: tuple[Path, str]) -> None:
    for rank in (0, 1):
        told = torch.load(together[0] / f"process-{rank}.pt", weights_only=True)
        assert told["refused"] == "the folder is taken"


def test_no_thread_outlives_the_group(together: tuple[Path, str]) -> None:
    for rank in (0, 1):
        told = torch.load(together[0] / f"process-{rank}.pt", weights_only=True)
        if not told["threads"]:
            pytest.skip("this system does not tell the names of threads")
        assert [name for name in told["threads"] if "gloo" in name]
        assert not [name for name in told["threads_after"] if "gloo" in name]


def test_only_the_first_process_reports(together: tuple[Path, str]) -> None:
    lines = [json.loads(line) for line in together[1].splitlines()]
    assert [line[:4] for line in lines[:2]] == [[0, 1, 2, 4], [0, 1, 4, 4]]
    assert len(lines) == 2 * 4


def test_without_torchrun_there_is_one_process() -> None:
    with parallel.joined():
        assert (parallel.rank(), parallel.world()) == (0, 1)
        assert parallel.from_first(lambda: 7) == 7
