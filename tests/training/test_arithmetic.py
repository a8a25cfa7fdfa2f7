"""Which numbers a network is trained in."""

import pytest
import torch
from torch import nn

from training import device_precision as arithmetic


def computed_in(choice: str, units: int) -> torch.dtype:
    network = nn.LSTM(3, units)
    with arithmetic.precision(choice, network)():
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
    monkeypatch.setattr(arithmetic, "_multiplies_bfloat16", lambda: True)
    monkeypatch.setattr(arithmetic, "takes_bfloat16", lambda: True)
    assert computed_in(choice, units) is expected


def test_bfloat16_is_refused_where_there_is_no_lstm_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "takes_bfloat16", lambda: False)
    with pytest.raises(ValueError, match=r"training\.precision is 'bf16', .* set it to 'auto' or 'fp32'"):
        arithmetic.precision("bf16", nn.LSTM(3, 4))
    arithmetic.precision("bf16", nn.GRU(3, 4))


def test_auto_is_float32_where_the_processor_does_not_multiply_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "_multiplies_bfloat16", lambda: False)
    assert computed_in("auto", 512) is torch.float32
