"""Recurrent cells: one direction of one layer, over sequences of equal length.

Parameters have PyTorch's names and layout. `⊙` is the elementwise product. `W x` stands for W x + b_ih and `W h` for
W h + b_hh. The rows of a matrix go gate by gate, in the order of GATES.

    rnn, rnn-relu   h' = tanh or relu(W x + W h)                                      Elman 1990; Le et al. 2015
    lstm            i, f, o = sigmoid(W x + W h);  g = tanh(W x + W h);
                    c' = f ⊙ c + i ⊙ g;  h' = o ⊙ tanh(c')                            Gers et al. 2000
    lstm-peephole   lstm, with p_i ⊙ c in i, p_f ⊙ c in f and p_o ⊙ c' in o           Gers and Schmidhuber 2000
    lstm-coupled    lstm, with f = 1 - i                                              Greff et al. 2017, CIFG
    gru             r, z = sigmoid(W x + W h);  n = tanh(W x + r ⊙ (W h));
                    h' = (1 - z) ⊙ n + z ⊙ h                                          PyTorch, cuDNN
    gru-textbook    gru, with n = tanh(W x + W (r ⊙ h))                               Cho et al. 2014
    mlstm           lstm, with m = (W_mx x) ⊙ (W_mh h) for h; m has no biases         Krause et al. 2016

PyTorch has kernels for rnn, rnn-relu, lstm and gru. The others are loops over the steps, left to autograd. Forward and
backward take 0.9 to 1.8 times as long as nn.LSTM of the same size: `seqserve benchmark NAME --cells`.

T steps, B batch, I inputs, H hidden, G gates.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.options import CellName, InitialName

CellState = tuple[Tensor, ...]  # (h,) or (h, c), each (B, H)

_LSTM = ("i", "f", "g", "o")
GATES: dict[CellName, tuple[str, ...]] = {
    "rnn": ("h",),
    "rnn-relu": ("h",),
    "lstm": _LSTM,
    "lstm-peephole": _LSTM,
    "lstm-coupled": ("i", "g", "o"),
    "gru": ("r", "z", "n"),
    "gru-textbook": ("r", "z", "n"),
    "mlstm": _LSTM,
}
KERNELS = {"rnn": torch.rnn_tanh, "rnn-relu": torch.rnn_relu, "lstm": torch.lstm, "gru": torch.gru}
IRNN_DEVIATION = 0.001  # of the input matrix next to an identity (Le et al. 2015)


@dataclass(frozen=True, kw_only=True)
class CellInitialization:
    """Initial weights of a cell.

    orthogonal: each gate's recurrent block is orthogonal (Saxe et al. 2014), input matrices follow Glorot and Bengio
    2010, biases and peepholes are zero.
    identity: the same with identities as recurrent blocks. An RNN's input matrix is N(0, 0.001²) (Le et al. 2015).
    uniform: U(-1/√H, 1/√H) everywhere, as in PyTorch.

    `forget_bias` is added to the bias of the forget gate (Jozefowicz et al. 2015). Where f = 1 - i, it is subtracted
    from the bias of the input gate.
    """

    form: InitialName = "orthogonal"
    forget_bias: float = 1.0


class Cell(nn.Module):
    """One recurrent cell, applied to all steps of a batch.

    `weight_dropout` is the share of entries of weight_hh (and mlstm's weight_mh) that each training forward pass drops:
    DropConnect, Merity et al. 2018.
    """

    def __init__(
        self,
        kind: CellName,
        inputs: int,
        hidden: int,
        *,
        initial: CellInitialization | None = None,
        weight_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.kind, self.inputs, self.hidden, self.weight_dropout = kind, inputs, hidden, weight_dropout
        self.gates = GATES[kind]
        self.parts = ("h", "c") if kind == "mlstm" or kind.startswith("lstm") else ("h",)  # names of the state tensors
        rows = len(self.gates) * hidden
        self.weight_ih_l0 = nn.Parameter(torch.empty(rows, inputs))  # (G·H, I)
        self.weight_hh_l0 = nn.Parameter(torch.empty(rows, hidden))  # (G·H, H)
        self.bias_ih_l0 = nn.Parameter(torch.empty(rows))  # (G·H,)
        self.bias_hh_l0 = nn.Parameter(torch.empty(rows))  # (G·H,)
        if kind == "lstm-peephole":
            self.peephole = nn.Parameter(torch.empty(3, hidden))  # (3, H): i, f, o
        if kind == "mlstm":
            self.weight_mx = nn.Parameter(torch.empty(hidden, inputs))  # (H, I)
            self.weight_mh = nn.Parameter(torch.empty(hidden, hidden))  # (H, H)
        initialize(self, initial or CellInitialization())

    def forward(self, x: Tensor, state: CellState | None = None) -> tuple[Tensor, CellState]:
        """Return the hidden states (T, B, H) and the last state, for x (T, B, I) with T >= 1.

        `state` is the state before the first step; None stands for zeros. Under autocast, matrix products use its
        precision.
        """
        if state is None:
            state = (x.new_zeros(x.shape[1], self.hidden),) * len(self.parts)
        w = F.dropout(self.weight_hh_l0, self.weight_dropout, self.training)
        if self.kind in KERNELS:
            rows = tuple(part[None] for part in state)  # each (1, B, H)
            y, *last = KERNELS[self.kind](
                x,
                rows if len(rows) > 1 else rows[0],
                [self.weight_ih_l0, w, self.bias_ih_l0, self.bias_hh_l0],
                has_biases=True,
                num_layers=1,
                dropout=0.0,
                train=self.training,
                bidirectional=False,
                batch_first=False,
            )
            return y, tuple(part[0] for part in last)
        # One product computes what the inputs contribute to every gate at every step.
        a = _at_least_float32(F.linear(x, self.weight_ih_l0, self.bias_ih_l0 + self.bias_hh_l0))  # (T, B, G·H)
        w = _autocast(w)
        if self.kind == "lstm-peephole":
            return _lstm_peephole(a, w, self.peephole, state)
        if self.kind == "lstm-coupled":
            return _lstm_coupled(a, w, state)
        if self.kind == "mlstm":
            mx = _at_least_float32(F.linear(x, self.weight_mx))  # (T, B, H)
            w_mh = F.dropout(self.weight_mh, self.weight_dropout, self.training)
            return _mlstm(a, mx, w, _autocast(w_mh), state)
        return _gru_textbook(a, w, state)


def _lstm_peephole(a: Tensor, w: Tensor, peephole: Tensor, state: CellState) -> tuple[Tensor, CellState]:
    """Gers and Schmidhuber 2000. a (T, B, 4·H), w (4·H, H), peephole (3, H) -> (T, B, H), last state."""
    (h, c), hs = state, []
    p_i, p_f, p_o = peephole
    for step in a.unbind():
        i, f, g, o = (step + _product(h, w.t())).chunk(4, dim=1)
        i, f = torch.sigmoid(i + p_i * c), torch.sigmoid(f + p_f * c)
        c = f * c + i * torch.tanh(g)
        h = torch.sigmoid(o + p_o * c) * torch.tanh(c)
        hs.append(h)
    return torch.stack(hs), (h, c)


def _lstm_coupled(a: Tensor, w: Tensor, state: CellState) -> tuple[Tensor, CellState]:
    """Greff et al. 2017, CIFG. a (T, B, 3·H), w (3·H, H) -> (T, B, H), last state."""
    (h, c), hs = state, []
    for step in a.unbind():
        i, g, o = (step + _product(h, w.t())).chunk(3, dim=1)
        c = torch.lerp(c, torch.tanh(g), torch.sigmoid(i))  # c + i ⊙ (g - c)
        h = torch.sigmoid(o) * torch.tanh(c)
        hs.append(h)
    return torch.stack(hs), (h, c)


def _mlstm(a: Tensor, mx: Tensor, w: Tensor, w_mh: Tensor, state: CellState) -> tuple[Tensor, CellState]:
    """Krause et al. 2016. a (T, B, 4·H), mx (T, B, H), w (4·H, H), w_mh (H, H) -> (T, B, H), last state."""
    (h, c), hs = state, []
    for step, m in zip(a.unbind(), mx.unbind(), strict=True):
        i, f, g, o = (step + _product(m * _product(h, w_mh.t()), w.t())).chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        hs.append(h)
    return torch.stack(hs), (h, c)


def _gru_textbook(a: Tensor, w: Tensor, state: CellState) -> tuple[Tensor, CellState]:
    """Cho et al. 2014. a (T, B, 3·H), w (3·H, H) -> (T, B, H), last state."""
    (h,), hs = state, []
    sizes = [2 * h.shape[1], h.shape[1]]
    w_rz, w_n = w.t().split(sizes, dim=1)
    for step in a.unbind():
        rz, n = step.split(sizes, dim=1)
        r, z = torch.sigmoid(rz + _product(h, w_rz)).chunk(2, dim=1)
        h = torch.lerp(torch.tanh(n + _product(r * h, w_n)), h, z)  # n + z ⊙ (h - n)
        hs.append(h)
    return torch.stack(hs), (h,)


def _product(rows: Tensor, matrix: Tensor) -> Tensor:
    """Multiply rows (B, N) by a matrix (N, M), in the precision of the matrix."""
    return torch.mm(rows.to(matrix.dtype), matrix)


def _at_least_float32(a: Tensor) -> Tensor:
    return a.to(torch.promote_types(a.dtype, torch.float32))


def _autocast(matrix: Tensor) -> Tensor:
    """Cast a matrix once per pass. Autocast itself would cast it in every step."""
    device = matrix.device.type
    return matrix.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else matrix


@torch.no_grad()
def initialize(cell: Cell, initial: CellInitialization) -> None:
    """Draw all parameters of a cell from PyTorch's global generator."""
    if initial.form == "uniform":
        for parameter in cell.parameters():
            nn.init.uniform_(parameter, -(cell.hidden**-0.5), cell.hidden**-0.5)
    else:
        start = nn.init.orthogonal_ if initial.form == "orthogonal" else nn.init.eye_
        small = initial.form == "identity" and cell.kind in ("rnn", "rnn-relu")
        for name, parameter in cell.named_parameters():
            if name in ("weight_hh_l0", "weight_mh"):
                for block in parameter.split(cell.hidden):
                    start(block)
            elif name in ("weight_ih_l0", "weight_mx"):
                nn.init.normal_(parameter, std=IRNN_DEVIATION) if small else nn.init.xavier_uniform_(parameter)
            else:
                nn.init.zeros_(parameter)
    for gate, bias in zip(cell.gates, cell.bias_ih_l0.split(cell.hidden), strict=True):
        if gate == "f":
            bias += initial.forget_bias
        elif gate == "i" and "f" not in cell.gates:
            bias -= initial.forget_bias
