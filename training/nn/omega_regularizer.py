"""The regularizer Ω of Pascanu, Mikolov and Bengio 2013, which keeps gradients from vanishing over time.

T steps, B batch, H hidden.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from training.nn.cells import Cell
from training.recipe import RecipeError

SMALLEST_NORM = 1e-20  # a gradient with a smaller norm has vanished, and ratios of norms mean nothing

# The derivative of an Elman cell's activation, as a function of its output.
SLOPES: dict[str, Callable[[Tensor], Tensor]] = {"rnn": lambda h: 1 - h * h, "rnn-relu": lambda h: (h > 0).to(h.dtype)}


def preactivation_gradients(slope: Tensor, direct: Tensor, weight: Tensor) -> Tensor:
    """Return dE/da_t (T, B, H), the gradient of a loss E by an Elman cell's input to its activation at step t.

    slope (T, B, H) is the activation's derivative at a_t. direct (T, B, H) is dE/dh_t without the recurrent path.
    weight (H, H) is the recurrent matrix. PyTorch's fused kernel does not expose these gradients.
    """
    found = torch.empty_like(direct)
    later = torch.zeros_like(direct[0])  # (B, H)
    for step in range(len(direct) - 1, -1, -1):
        later = (direct[step] + later @ weight) * slope[step]
        found[step] = later
    return found


def omega(kind: str, y: Tensor, direct: Tensor, weight: Tensor) -> Tensor:
    """Return Ω of one Elman layer, a scalar (Pascanu, Mikolov and Bengio 2013, equations 9 and 10).

    Ω is the mean over steps k and rows of (‖dE/da_{k+1} · da_{k+1}/da_k‖ / ‖dE/da_{k+1}‖ - 1)². As in equation 10, only
    the immediate partial derivative by `weight` (H, H) counts: states and gradients are constants. Equation 9 is a sum
    over steps. The mean, as in the authors' code, lets one strength serve all lengths. Steps that no gradient reaches
    do not count.

    y (T, B, H) is the layer's output, direct (T, B, H) is dE/dy from torch.autograd.grad(loss, y, retain_graph=True).
    Raises ValueError for a cell that is not "rnn" or "rnn-relu".
    """
    if kind not in SLOPES:
        raise ValueError(f"cell {kind!r} has no regularizer Ω: it is defined for {', '.join(SLOPES)}; leave it out")
    slope = SLOPES[kind](y.detach())
    delta = preactivation_gradients(slope, direct.detach(), weight.detach())[1:]  # (T - 1, B, H)
    norm = delta.norm(dim=2)  # (T - 1, B)
    reached = norm > SMALLEST_NORM
    carried = ((delta @ weight) * slope[:-1])[reached]  # (N, H): the norm has no derivative at zero
    return ((carried.norm(dim=1) / norm[reached] - 1) ** 2).sum() / max(1, len(carried))


def add_omega(loss: Tensor, kind: str, y: Tensor, weight: nn.Parameter, strength: float) -> Tensor:
    """Return loss + strength · Ω for the layer with outputs y (T, B, H) and recurrent matrix `weight` (H, H)."""
    if not strength:
        return loss
    (direct,) = torch.autograd.grad(loss, y, retain_graph=True)
    return loss + strength * omega(kind, y, direct, weight)


class OmegaRegularizer:
    """Ω of all Elman layers of a network. Forward hooks record the layers' outputs during training.

    Raises RecipeError for a network without Elman layers.
    """

    def __init__(self, network: nn.Module) -> None:
        self._recorded: list[tuple[Cell, Tensor]] = []
        cells = [module for module in network.modules() if isinstance(module, Cell) and module.kind in SLOPES]
        if not cells:
            raise RecipeError(
                f"training.omega needs a cell {' or '.join(SLOPES)}, and this network has none: "
                "set training.omega = 0, or choose one of these with architecture.cell"
            )
        for cell in cells:
            cell.register_forward_hook(self._record)

    def _record(self, cell: Any, inputs: Any, outputs: tuple[Tensor, Any]) -> None:
        if cell.training and torch.is_grad_enabled():
            self._recorded.append((cell, outputs[0]))

    def penalty(self, loss: Tensor) -> Tensor:
        """Return the sum of Ω over the layers, a scalar, for the loss of the last forward pass.

        Costs a second backward pass.
        """
        recorded, self._recorded = self._recorded, []
        direct = torch.autograd.grad(
            loss, [y for _, y in recorded], retain_graph=True, allow_unused=True, materialize_grads=True
        )
        terms = [
            # float32 also after a pass in bfloat16, because norms of small gradients are compared
            omega(cell.kind, y.float(), gradient.float(), cell.weight_hh_l0)
            for (cell, y), gradient in zip(recorded, direct, strict=True)
        ]
        return torch.stack(terms).sum()
