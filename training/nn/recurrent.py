"""Recurrent layers over ragged sequences: one or both directions, stacked, with what goes past a layer.

A direction is a cell of cells.py. Does not know the equations of a cell, embeddings, heads or losses.
T steps, B batch, I inputs, H hidden, D directions, W columns of a stack's output.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from training.nn.cells import Cell, Initial
from training.nn.options import Architecture, CellName

State = list[tuple[Tensor, ...]]  # one entry a layer: (h,) or (h, c), each (B, H)

CARRY_BIAS = -1.0  # a highway starts by letting most of its input past (Srivastava et al. 2015)


def reverse(x: Tensor, lengths: Tensor) -> Tensor:
    """Each column of x (T, B, I) turned round within its own length (B,); the padding stays behind."""
    steps = torch.arange(len(x), device=x.device)[:, None]  # (T, 1)
    index = torch.where(steps < lengths[None, :], lengths[None, :] - 1 - steps, steps)  # (T, B)
    # Whole rows (T·B, I) by number: a third of the time that gather takes, and again on the way back.
    rows = index * x.shape[1] + torch.arange(x.shape[1], device=x.device)
    return x.flatten(0, 1).index_select(0, rows.flatten()).view_as(x)


class VariationalDropout(nn.Module):
    """Dropout of whole columns: one mask (B, W) for all steps, drawn in each forward (Gal and Ghahramani 2016)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """(T, B, W) -> (T, B, W)."""
        return F.dropout1d(x.permute(1, 2, 0), self.p, self.training).permute(2, 0, 1)


class Recurrent(nn.Module):
    """One recurrent layer over ragged sequences, in one or both directions.

    The backward direction runs over sequences that were turned round within their lengths, so that PyTorch's
    fast kernel for unpacked input serves both (packed input takes 2.4 times as long on a CPU).
    """

    def __init__(
        self,
        cell: CellName,
        inputs: int,
        hidden: int,
        *,
        bidirectional: bool,
        initial: Initial | None = None,
        weight_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.cell, self.hidden, self.directions = cell, hidden, 2 if bidirectional else 1
        cells = [
            Cell(cell, inputs, hidden, initial=initial, weight_dropout=weight_dropout) for _ in range(self.directions)
        ]
        self.forwards = cells[0]
        self.backwards = cells[1] if bidirectional else None

    @property
    def width(self) -> int:
        return self.directions * self.hidden

    def forward(
        self, x: Tensor, lengths: Tensor, state: tuple[Tensor, ...] | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """x (T, B, I), lengths (B,) -> outputs (T, B, D·H), valid where t < length.

        The state, in and out, is that of the forward direction: (h,) or (h, c), each (B, H). It is carried
        from the last step T, so a carried state is right for full columns only (language models).
        """
        y, after = self.forwards(x, state)
        if self.backwards is None:
            return y, after
        z, _ = self.backwards(reverse(x, lengths))
        return torch.cat([y, reverse(z, lengths)], dim=2), after

    def last(self, y: Tensor, lengths: Tensor) -> Tensor:
        """The final hidden state of each direction (B, D·H) out of the outputs y (T, B, D·H)."""
        return _final(y, lengths, _backward_columns([self]))


class Stack(nn.Module):
    """Recurrent layers on top of one another, with dropout on what a layer reads of the one below.

    `skip` says what goes past a layer, undropped:

        none       layer(x)
        residual   x + layer(x)                                                                  He et al. 2016
        highway    t ⊙ layer(x) + (1 - t) ⊙ x, t = sigmoid(W x + b), b starts at -1              Srivastava et al. 2015
        dense      each layer reads the stack's input and all earlier outputs, side by side;
                   the stack's output is the outputs of all layers, side by side                 Huang et al. 2017

    residual and highway are for layers as wide as what is below them (`skipped`, a bool a layer); the others are as
    with none. `highways`: for each layer its W and b, or None.
    """

    def __init__(self, shape: Architecture, inputs: int) -> None:
        super().__init__()
        self.skip = shape.skip
        self.layers, self.highways = nn.ModuleList(), nn.ModuleList()
        self.skipped: list[bool] = []
        initial = Initial(form=shape.initial, forget_bias=shape.forget_bias)
        for _ in range(shape.layers):
            layer = Recurrent(
                shape.cell,
                inputs,
                shape.hidden,
                bidirectional=shape.bidirectional,
                initial=initial,
                weight_dropout=shape.weight_dropout,
            )
            self.layers.append(layer)
            self.skipped.append(self.skip in ("residual", "highway") and inputs == layer.width)
            self.highways.append(_gate(inputs) if self.skip == "highway" and self.skipped[-1] else None)
            inputs = inputs + layer.width if self.skip == "dense" else layer.width
        self.width = sum(layer.width for layer in self._shown)
        self.dropout = VariationalDropout(shape.dropout) if shape.variational else nn.Dropout(shape.dropout)

    @property
    def _shown(self) -> Sequence[Recurrent]:
        """The layers whose outputs make up the stack's, side by side."""
        return self.layers if self.skip == "dense" else self.layers[-1:]

    @property
    def backward_columns(self) -> NDArray[np.bool_]:
        """Which columns of the output are those of a backward direction (W,)."""
        return _backward_columns(self._shown)

    def forward(self, x: Tensor, lengths: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """x (T, B, I), lengths (B,) -> (T, B, W), and the state of each layer after the last step T."""
        after: State = []
        outputs: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            if index == 0:
                read = x
            elif self.skip == "dense":
                read = torch.cat([x, self.dropout(torch.cat(outputs, dim=2))], dim=2)
            else:
                read = self.dropout(outputs[-1])
            y, rows = layer(read, lengths, state[index] if state else None)
            if self.skipped[index]:
                y = self._past(index, outputs[-1] if outputs else x, y)
            outputs.append(y)
            after.append(rows)
        return torch.cat(outputs, dim=2) if self.skip == "dense" else outputs[-1], after

    def _past(self, index: int, x: Tensor, y: Tensor) -> Tensor:
        """What a layer gave, y, together with what went past it, x; all (T, B, D·H)."""
        if self.skip == "residual":
            return x + y
        return x + torch.sigmoid(self.highways[index](x)) * (y - x)

    def final(self, y: Tensor, lengths: Tensor) -> Tensor:
        """Of the outputs y (T, B, W), at every column, the step at which its direction ends -> (B, W).

        Forward columns end at their length's last step, backward ones at the first.
        """
        return _final(y, lengths, self.backward_columns)


def _gate(width: int) -> nn.Linear:
    gate = nn.Linear(width, width)
    nn.init.constant_(gate.bias, CARRY_BIAS)
    return gate


def _backward_columns(layers: Sequence[Recurrent]) -> NDArray[np.bool_]:
    directions = [np.repeat(np.arange(layer.directions) == 1, layer.hidden) for layer in layers]
    return np.concatenate(directions)


def _final(y: Tensor, lengths: Tensor, backward: NDArray[np.bool_]) -> Tensor:
    ends = (lengths - 1).clamp(min=0)[:, None]  # (B, 1)
    index = torch.where(torch.from_numpy(backward).to(y.device), 0, ends)  # (B, W)
    return y.gather(0, index[None])[0]
