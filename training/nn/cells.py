"""The recurrent cells: one direction of one layer, over sequences of one length.

Where PyTorch has a kernel for the whole loop over time (oneDNN's, cuDNN's, its own) the cell hands it the weights;
the loops of the others are in bptt.py, with what they cost. Parameters are named and laid out as PyTorch's.

`⊙` is the product by element, W x stands for W x + b_ih, W h for W h + b_hh (G·H rows, gate by gate):

    rnn, rnn-relu   h' = tanh or relu(W x + W h)                                              Elman 1990
    lstm            i, f, o = sigmoid(W x + W h);  g = tanh(W x + W h);
                    c' = f ⊙ c + i ⊙ g;  h' = o ⊙ tanh(c')                                    Gers et al. 2000
    lstm-peephole   lstm, with p_i ⊙ c in i, p_f ⊙ c in f and p_o ⊙ c' in o                   Gers and Schmidhuber 2000
    lstm-coupled    lstm, with f = 1 - i                                                      Greff et al. 2017, CIFG
    gru             r, z = sigmoid(W x + W h);  n = tanh(W x + r ⊙ (W h));
                    h' = (1 - z) ⊙ n + z ⊙ h                                                  as PyTorch and cuDNN
    gru-textbook    gru, with n = tanh(W x + W (r ⊙ h))                                       Cho et al. 2014
    mlstm           lstm, with m = (W_mx x) ⊙ (W_mh h) in the place of h; m has no biases     Krause et al. 2016

Does not know layers, directions, lengths or recipes.
T steps, B batch, I inputs, H hidden, G gates.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.nn import cell_kernels as bptt
from training.nn.options import CellName, InitialName

_LSTM = ("i", "f", "g", "o")
GATES: dict[CellName, tuple[str, ...]] = {  # in the order of their rows
    "rnn": ("h",),
    "rnn-relu": ("h",),
    "lstm": _LSTM,
    "lstm-peephole": _LSTM,
    "lstm-coupled": ("i", "g", "o"),
    "gru": ("r", "z", "n"),
    "gru-textbook": ("r", "z", "n"),
    "mlstm": _LSTM,
}
IRNN_DEVIATION = 0.001  # of the input matrix beside an identity (Le et al. 2015)


@dataclass(frozen=True, kw_only=True)
class Initial:
    """How the weights start.

    orthogonal: the recurrent block of each gate is orthogonal, input matrices are Glorot's, biases and peepholes zero.
    identity: the same with identities for orthogonal blocks; an RNN's input matrix is N(0, 0.001²) (Le et al. 2015).
    uniform: all of them from U(-1/√H, 1/√H), as PyTorch starts its own.

    `forget_bias` is added to the bias of the forget gate (Jozefowicz et al. 2015), and taken away from that of the
    input gate where the two are coupled.
    """

    form: InitialName = "orthogonal"
    forget_bias: float = 1.0


class Cell(nn.Module):
    """One cell, run over all steps of a batch.

    `weight_dropout`: the share of the entries of the matrices that read the state (weight_hh, and mlstm's weight_mh)
    which training drops, anew in each forward (DropConnect, Merity et al. 2018).
    """

    def __init__(
        self, kind: CellName, inputs: int, hidden: int, *, initial: Initial | None = None, weight_dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.kind, self.inputs, self.hidden, self.weight_dropout = kind, inputs, hidden, weight_dropout
        self.gates = GATES[kind]
        self.parts = ("h", "c") if kind == "mlstm" or kind.startswith("lstm") else ("h",)
        rows = len(self.gates) * hidden
        self.weight_ih_l0 = nn.Parameter(torch.empty(rows, inputs))
        self.weight_hh_l0 = nn.Parameter(torch.empty(rows, hidden))
        self.bias_ih_l0 = nn.Parameter(torch.empty(rows))
        self.bias_hh_l0 = nn.Parameter(torch.empty(rows))
        if kind == "lstm-peephole":
            self.peephole = nn.Parameter(torch.empty(3, hidden))  # of i, f, o
        if kind == "mlstm":
            self.weight_mx = nn.Parameter(torch.empty(hidden, inputs))
            self.weight_mh = nn.Parameter(torch.empty(hidden, hidden))
        initialise(self, initial or Initial())

    def forward(self, x: Tensor, state: tuple[Tensor, ...] | None = None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """x (T, B, I), T at least 1, and the state before it, zeros if None -> h of every step (T, B, H), last state.

        A state is a tensor (B, H) for each of `parts`. Under autocast the products are taken in its precision.
        """
        if state is None:
            state = (x.new_zeros(x.shape[1], self.hidden),) * len(self.parts)
        w = F.dropout(self.weight_hh_l0, self.weight_dropout, self.training)
        run = self._kernel if self.kind in _KERNELS else self._loop
        return run(x, w, state)

    def _kernel(self, x: Tensor, w: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        weights = [self.weight_ih_l0, w, self.bias_ih_l0, self.bias_hh_l0]
        rows = tuple(part[None] for part in state)  # each (1, B, H)
        y, *after = _KERNELS[self.kind](
            x,
            rows if len(rows) > 1 else rows[0],
            weights,
            has_biases=True,
            num_layers=1,
            dropout=0.0,
            train=self.training,
            bidirectional=False,
            batch_first=False,
        )
        return y, tuple(part[0] for part in after)

    def _loop(self, x: Tensor, w: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        a = _at_least_float32(F.linear(x, self.weight_ih_l0, self.bias_ih_l0 + self.bias_hh_l0))  # (T, B, G·H)
        w = _for_products(w)
        if self.kind == "lstm-peephole":
            y, *after = bptt.PeepholeLstm.apply(a, w, self.peephole, *state)
        elif self.kind == "lstm-coupled":
            y, *after = bptt.CoupledLstm.apply(a, w, *state)
        elif self.kind == "mlstm":
            mx = _at_least_float32(F.linear(x, self.weight_mx))  # (T, B, H)
            w_mh = F.dropout(self.weight_mh, self.weight_dropout, self.training)
            y, *after = bptt.MultiplicativeLstm.apply(a, mx, w, _for_products(w_mh), *state)
        else:
            y, *after = bptt.TextbookGru.apply(a, w, *state)
        return y, tuple(after)

    def extra_repr(self) -> str:
        return f"{self.kind}, {self.inputs}, {self.hidden}"


_KERNELS = {"rnn": torch.rnn_tanh, "rnn-relu": torch.rnn_relu, "lstm": torch.lstm, "gru": torch.gru}


def _at_least_float32(a: Tensor) -> Tensor:
    return a.to(torch.promote_types(a.dtype, torch.float32))


def _for_products(matrix: Tensor) -> Tensor:
    """In autocast's precision where there is one: it does not reach into the loops, which cast nothing themselves."""
    device = matrix.device.type
    return matrix.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else matrix


@torch.no_grad()
def initialise(cell: Cell, initial: Initial) -> None:
    """Draw all parameters of a cell, as Initial says, from the global generator."""
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
