"""One step of every cell for one row, from the formula of its source, in float64 numpy.

Each takes weights under PyTorch's names, x (I,) and the parts (H,) of the previous state. It returns the next state.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from training.options import CellName

Array = NDArray[np.float64]
Weights = dict[str, Array]


def sigmoid(a: Array) -> Array:
    return 1 / (1 + np.exp(-a))


def by_gate(p: Weights, x: Array, h: Array) -> list[tuple[Array, Array]]:
    """Return W x + b and W h + b of each gate."""
    of_x, of_h = p["weight_ih_l0"] @ x + p["bias_ih_l0"], p["weight_hh_l0"] @ h + p["bias_hh_l0"]
    count = len(of_x) // len(h)
    return list(zip(np.split(of_x, count), np.split(of_h, count), strict=True))


def rnn(p: Weights, x: Array, h: Array) -> tuple[Array, ...]:
    """Elman 1990."""
    ((wx, wh),) = by_gate(p, x, h)
    return (np.tanh(wx + wh),)


def rnn_relu(p: Weights, x: Array, h: Array) -> tuple[Array, ...]:
    """Le, Jaitly and Hinton 2015, section 3."""
    ((wx, wh),) = by_gate(p, x, h)
    return (np.maximum(wx + wh, 0),)


def lstm(p: Weights, x: Array, h: Array, c: Array) -> tuple[Array, ...]:
    """Hochreiter and Schmidhuber 1997 with the forget gate of Gers, Schmidhuber and Cummins 2000."""
    i, f, g, o = (wx + wh for wx, wh in by_gate(p, x, h))
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def lstm_peephole(p: Weights, x: Array, h: Array, c: Array) -> tuple[Array, ...]:
    """Graves 2013, "Generating sequences with recurrent neural networks", equations 7 to 11."""
    i, f, g, o = (wx + wh for wx, wh in by_gate(p, x, h))
    of_i, of_f, of_o = p["peephole"]
    before = c
    c = sigmoid(f + of_f * before) * before + sigmoid(i + of_i * before) * np.tanh(g)
    return sigmoid(o + of_o * c) * np.tanh(c), c


def lstm_coupled(p: Weights, x: Array, h: Array, c: Array) -> tuple[Array, ...]:
    """Greff et al. 2017, "LSTM: a search space odyssey", the variant CIFG: f = 1 - i."""
    i, g, o = (wx + wh for wx, wh in by_gate(p, x, h))
    c = (1 - sigmoid(i)) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def gru(p: Weights, x: Array, h: Array) -> tuple[Array, ...]:
    """The documentation of torch.nn.GRU: the reset gate after the product and its bias."""
    (rx, rh), (zx, zh), (nx, nh) = by_gate(p, x, h)
    n = np.tanh(nx + sigmoid(rx + rh) * nh)
    z = sigmoid(zx + zh)
    return ((1 - z) * n + z * h,)


def gru_textbook(p: Weights, x: Array, h: Array) -> tuple[Array, ...]:
    """Cho et al. 2014, equations 5 to 8: the reset gate before the product."""
    (rx, rh), (zx, zh), _ = by_gate(p, x, h)
    r, z = sigmoid(rx + rh), sigmoid(zx + zh)
    _, _, (nx, nh) = by_gate(p, x, r * h)
    return ((1 - z) * np.tanh(nx + nh) + z * h,)


def mlstm(p: Weights, x: Array, h: Array, c: Array) -> tuple[Array, ...]:
    """Krause et al. 2016, equations 16 to 21, the gates being those of the LSTM above."""
    return lstm(p, x, (p["weight_mx"] @ x) * (p["weight_mh"] @ h), c)


TEXTBOOK: dict[CellName, Callable[..., tuple[Array, ...]]] = {
    "rnn": rnn,
    "rnn-relu": rnn_relu,
    "lstm": lstm,
    "lstm-peephole": lstm_peephole,
    "lstm-coupled": lstm_coupled,
    "gru": gru,
    "gru-textbook": gru_textbook,
    "mlstm": mlstm,
}
