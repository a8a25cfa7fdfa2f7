"""The precision and the threads of training."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from training import device_precision


def computed_in(choice: str, units: int) -> torch.dtype:
    network = nn.LSTM(3, units)
    with device_precision.autocast_for(choice, network)():
        return (torch.ones(2, 2) @ torch.ones(2, 2)).dtype


@pytest.mark.parametrize(
    ("choice", "units", "expected"),
    [
        ("bf16", 4, torch.bfloat16),
        ("fp32", 200, torch.float32),
        ("auto", 200, torch.bfloat16),
        ("auto", 100, torch.float32),
    ],
)
def test_auto_is_bfloat16_for_large_layers(
    choice: str, units: int, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_precision, "multiplies_bfloat16", lambda: True)
    monkeypatch.setattr(device_precision, "supports_bfloat16_lstm", lambda: True)
    assert computed_in(choice, units) is expected


def test_bfloat16_is_rejected_if_the_lstm_does_not_support_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_precision, "supports_bfloat16_lstm", lambda: False)
    with pytest.raises(ValueError, match="bf16"):
        device_precision.autocast_for("bf16", nn.LSTM(3, 4))
    device_precision.autocast_for("bf16", nn.GRU(3, 4))


def test_auto_is_float32_if_the_processor_does_not_multiply_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_precision, "multiplies_bfloat16", lambda: False)
    assert computed_in("auto", 512) is torch.float32


@pytest.mark.parametrize(
    ("choice", "units", "variable", "threads"),
    [(0, 128, None, 1), (0, 200, None, 3), (2, 128, None, 2), (0, 128, "3", 3)],
)
def test_small_layers_use_one_thread(
    monkeypatch: pytest.MonkeyPatch, choice: int, units: int, variable: str | None, threads: int
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with device_precision.threads_for(choice, nn.LSTM(4, units)):
            assert torch.get_num_threads() == threads
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_idle_threads_do_not_spin_unless_the_user_says_so() -> None:
    script = "import os, training; print(os.environ['OMP_WAIT_POLICY'])"
    for given, used in (({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")):
        env = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"} | given
        done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == used
