"""How a loss reaches back through time: its gradient with respect to every earlier state, and the regulariser Ω.

Knows cells as step functions: a state in, a state out. Does not know tasks, networks, pictures or files.
T steps, B batch, I inputs, H hidden.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

State = tuple[Tensor, ...]  # (h,) or (h, c), each (B, H)
SMALLEST = 1e-20  # norm below which a gradient has vanished altogether and a ratio of two says nothing

SLOPES: dict[str, Callable[[Tensor], Tensor]] = {"rnn": lambda h: 1 - h * h, "rnn-relu": lambda h: (h > 0).to(h.dtype)}


class Steps(Protocol):
    """One direction of one recurrent layer, as in training/cells.py."""

    def __call__(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """x (T, B, I) and the state before it -> outputs (T, B, H) and the state after the last step."""
        ...


def flow(cell: Steps, x: Tensor, *, seed: int = 0) -> list[float]:
    """The norm of the gradient of a loss at the last step with respect to the state after every step: (T,) numbers.

    x is (T, B, I). Norms are medians over the batch, as a few rows in which the gradient explodes would hide that it
    vanishes in most. The state of an LSTM is h and c side by side, that of the others h.
    The loss is v · h_T with v a random unit vector (H,) of each row: whatever is read from the last state, its
    gradient there is some multiple of such a v, so this is what the way back does to any loss. The last norm is 1.
    """
    states: list[State] = []
    state: State | None = None
    for step in x.detach():
        _, state = cell(step[None], state)
        states.append(state)
    last = states[-1][0]  # (B, H)
    direction = torch.randn(last.shape, generator=torch.Generator().manual_seed(seed)).to(last)
    loss = (direction / direction.norm(dim=1, keepdim=True) * last).sum()
    wanted = [part for each in states for part in each]
    # The last c is read by nobody, as h_T is made beside it: its gradient is zero.
    found = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
    norms = torch.stack([gradient.norm(dim=1) for gradient in found]).view(len(states), -1, len(last))
    middle = norms.norm(dim=1).median(dim=1).values  # parts together (T, B), then the median of the rows (T,)
    return [float(norm) for norm in middle]


def scale_to_radius(weight: Tensor, radius: float) -> None:
    """Scale a recurrent matrix (H, H) in place so that its largest eigenvalue in magnitude is `radius`."""
    with torch.no_grad():
        weight *= radius / float(torch.linalg.eigvals(weight).abs().max())


def deltas(slope: Tensor, direct: Tensor, weight: Tensor) -> Tensor:
    """dE/da_t (T, B, H), a_t what an Elman cell squashes at step t: back-propagation through time by hand.

    slope (T, B, H): the squashing's derivative at a_t. direct (T, B, H): dE/dh_t by every way but the recurrence.
    weight (H, H): the recurrent matrix. PyTorch's fused kernel keeps these gradients to itself.
    """
    found = torch.empty_like(direct)
    later = torch.zeros_like(direct[0])  # (B, H)
    for step in range(len(direct) - 1, -1, -1):
        later = (direct[step] + later @ weight) * slope[step]
        found[step] = later
    return found


def omega(kind: str, y: Tensor, direct: Tensor, weight: Tensor) -> Tensor:
    """The regulariser Ω of Pascanu, Mikolov and Bengio 2013 (equations 9 and 10) for an Elman cell; a scalar.

    The mean over steps k and rows of (‖dE/da_{k+1} · da_{k+1}/da_k‖ / ‖dE/da_{k+1}‖ - 1)²: it is small where the
    gradient keeps its norm on the way back. As in equation 10 it depends on `weight` (H, H) by its immediate partial
    derivative alone: the states and the gradients are constants. The paper's equation 9 is a sum over steps; the mean,
    as in the code that its authors published, lets one strength serve all lengths. Steps which no gradient reaches do
    not count.

    kind "rnn" or "rnn-relu". y (T, B, H): the layer's outputs. direct (T, B, H): dE/dy as torch.autograd.grad(loss, y,
    retain_graph=True) gives it, for the fused kernel and for an unrolled loop over outputs stacked afterwards.
    Raises ValueError for a cell with gates, for which Ω is not defined.
    """
    if kind not in SLOPES:
        raise ValueError(f"the regulariser Ω is defined for the cells {', '.join(SLOPES)}, not {kind}: leave it out")
    slope = SLOPES[kind](y.detach())
    delta = deltas(slope, direct.detach(), weight.detach())[1:]  # (T - 1, B, H)
    norm = delta.norm(dim=2)
    reached = norm > SMALLEST
    carried = ((delta @ weight) * slope[:-1])[reached]  # (N, H): rows that no gradient reaches have no slope at zero
    return ((carried.norm(dim=1) / norm[reached] - 1) ** 2).sum() / max(1, len(carried))


def with_omega(loss: Tensor, kind: str, y: Tensor, weight: nn.Parameter, strength: float) -> Tensor:
    """loss + strength · Ω, for the layer whose outputs are y and whose recurrent matrix is `weight`."""
    if not strength:
        return loss
    (direct,) = torch.autograd.grad(loss, y, retain_graph=True)
    return loss + strength * omega(kind, y, direct, weight)
