"""How a sequence is summed up: maximum, mean, final states, attention, any of them side by side.

Knows the outputs of a stack. Does not know labels.
T steps, B batch, W columns of the stack's output.
"""

import torch
from torch import Tensor, nn

from training.nn.options import Architecture, PoolingName
from training.nn.recurrent import Stack


class Attention(nn.Module):
    """A weight for every step: how well tanh(W y + b) agrees with a learnt query (Yang et al. 2016)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, hidden)
        self.query = nn.Linear(hidden, 1, bias=False)

    def forward(self, y: Tensor, valid: Tensor) -> Tensor:
        """y (T, B, W), valid (T, B, 1) -> (B, W)."""
        agreement = self.query(torch.tanh(self.hidden(y))).float().masked_fill(~valid, -torch.inf)  # (T, B, 1)
        return (torch.softmax(agreement, 0) * y.where(valid, 0.0)).sum(0)


class Pooling(nn.Module):
    """(T, B, W) -> (B, width): the parts that a recipe names, side by side in its order."""

    def __init__(self, shape: Architecture, stack: Stack) -> None:
        super().__init__()
        self.parts: tuple[PoolingName, ...] = shape.pooling
        self.attention = Attention(stack.width, shape.hidden) if "attention" in self.parts else None
        self.width = len(self.parts) * stack.width

    def forward(self, y: Tensor, lengths: Tensor, final: Tensor) -> Tensor:
        """y (T, B, W), lengths (B,) at least 1, final (B, W) of Stack.final -> (B, width)."""
        valid = (torch.arange(len(y), device=y.device)[:, None] < lengths[None, :])[:, :, None]  # (T, B, 1)
        found = []
        for part in self.parts:
            if part == "max":
                found.append(y.masked_fill(~valid, -torch.inf).amax(dim=0))
            elif part == "mean":
                found.append(y.where(valid, 0.0).sum(0) / lengths[:, None])
            elif part == "last":
                found.append(final)
            else:
                assert self.attention is not None
                found.append(self.attention(y, valid))
        return torch.cat(found, dim=1)
