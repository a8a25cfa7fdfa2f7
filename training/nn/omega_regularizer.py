"""The regulariser Ω of Pascanu et al. 2013 on every Elman layer of a network, as an option of the loop.

Knows cells and their outputs. What Ω is, gradients.py says.
"""

from typing import Any

import torch
from torch import Tensor, nn

from training.nn.cells import Cell
from training.recipe import RecipeError
from training.studies.gradients import SLOPES, omega


class Omega:
    """Watches the Elman layers of a network; after a forward pass in training, `of` is their Ω for its loss."""

    def __init__(self, network: nn.Module) -> None:
        self._seen: list[tuple[Cell, Tensor]] = []
        cells = [module for module in network.modules() if isinstance(module, Cell) and module.kind in SLOPES]
        if not cells:
            raise RecipeError(
                f"training.omega is for the cells {' and '.join(SLOPES)}, and this network has "
                "none: leave it out, or choose one with architecture.cell"
            )
        for cell in cells:
            cell.register_forward_hook(self._keep)

    def _keep(self, cell: Any, inputs: Any, outputs: tuple[Tensor, Any]) -> None:
        if cell.training and torch.is_grad_enabled():
            self._seen.append((cell, outputs[0]))

    def of(self, loss: Tensor) -> Tensor:
        """The sum of Ω over the layers, a scalar; costs a second backward pass. Forgets the pass afterwards."""
        seen, self._seen = self._seen, []
        direct = torch.autograd.grad(
            loss, [y for _, y in seen], retain_graph=True, allow_unused=True, materialize_grads=True
        )
        terms = [
            # in float32 also where the pass was in bfloat16: norms of small gradients are compared
            omega(cell.kind, y.float(), gradient.float(), cell.weight_hh_l0)
            for (cell, y), gradient in zip(seen, direct, strict=True)
        ]
        return torch.stack(terms).sum()
