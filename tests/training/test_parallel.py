"""Data-parallel training with two processes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.point_objectives import ROOT, Points, load_weights, training, without_times
from training import parallel, trainer


def torchrun(*words: str | Path) -> str:
    """Run a module in two processes and return what they print."""
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", *words]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(program, env=env, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("together")
    return folder, torchrun("tests.support.torchrun_points", folder)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, float]]]:
    """Train in one process with the batches of both: twice as many per step."""
    folder = tmp_path_factory.mktemp("alone")
    how = training(accumulate=4, average=0.5, epochs=4)
    return folder, trainer.fit(Points(seed=0), how, folder, lambda *_: None)


def test_two_processes_train_like_one_with_the_same_batches(
    together: tuple[Path, str], alone: tuple[Path, list[dict[str, float]]]
) -> None:
    history: list[dict[str, float]] = json.loads((together[0] / trainer.HISTORY).read_text())
    for found, expected in zip(without_times(history), without_times(alone[1]), strict=True):
        assert found == pytest.approx(expected, rel=1e-5)
    best: dict[str, Any] = load_weights(together[0])
    for name, tensor in load_weights(alone[0]).items():
        assert torch.allclose(best[name], tensor, atol=1e-6)


def test_processes_end_with_equal_weights_and_history(together: tuple[Path, str]) -> None:
    first, second = (torch.load(together[0] / f"process-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert torch.equal(first["weights"], second["weights"])
    assert first["history"] == second["history"]


def test_error_of_process_0_is_raised_in_all_processes(together: tuple[Path, str]) -> None:
    for rank in (0, 1):
        result = torch.load(together[0] / f"process-{rank}.pt", weights_only=True)
        assert result["refused"] == "the folder is taken"


def test_gloo_threads_end_with_the_group(together: tuple[Path, str]) -> None:
    for rank in (0, 1):
        result = torch.load(together[0] / f"process-{rank}.pt", weights_only=True)
        if not result["threads"]:
            pytest.skip("this system has no names of threads in /proc")
        assert [name for name in result["threads"] if "gloo" in name]
        assert not [name for name in result["threads_after"] if "gloo" in name]


def test_only_process_0_reports(together: tuple[Path, str]) -> None:
    lines = [json.loads(line) for line in together[1].splitlines()]
    assert [line[:4] for line in lines[:2]] == [[0, 1, 2, 4], [0, 1, 4, 4]]
    assert len(lines) == 2 * 4


def test_there_is_one_process_without_torchrun() -> None:
    with parallel.process_group():
        assert (parallel.rank(), parallel.world_size()) == (0, 1)
        assert parallel.from_first(lambda: 7) == 7
