"""Backpropagation through time written out, for the four cells that PyTorch has no kernel for.

Each loop takes `a`, what the inputs alone give to every gate, for all steps at once; so a step is one or two matrix
products and some passes over (B, H), outside autograd. Forward and backward, with the product of the inputs, cost this
many times nn.LSTM of the same size (processor time, once, one core of a busy machine, float32):

    (T, B, I, H)             lstm-peephole   lstm-coupled   mlstm   gru-textbook     nn.GRU
    (24, 40, 128, 128)            1.5             1.2        1.8        1.2            1.2
    (128, 64, 512, 512)           1.3             0.9        1.5        0.9            0.9

The same loop of lstm-peephole left to autograd takes 1.8 and 1.3 times nn.LSTM, under torch.jit.script 1.7 and 1.3;
torch.compile comes to 1.4 for the small one, but compiles for 38 s, anew for every T.

Matrices may be of a lower precision than the rest (autocast): only the products are then taken in it; gates, states and
what is added up over time keep the precision of `a`. Gradients of gradients are not defined.

Knows equations. Does not know modules, parameters or layers.
T steps, B batch, H hidden; rows of a gate matrix and columns of `a` go gate by gate in the order each class names.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

# into = gradient · s(1 - s) and gradient · (1 - t²), one pass each, from what the sigmoid or tanh gave
_through_sigmoid = torch.ops.aten.sigmoid_backward.grad_input
_through_tanh = torch.ops.aten.tanh_backward.grad_input

Gradients = tuple[Tensor, ...]


class PeepholeLstm(Function):
    """Gates i f g o; i and f see c of the step before, o sees c of its own (Gers and Schmidhuber 2000)."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, w: Tensor, peephole: Tensor, h: Tensor, c: Tensor) -> Gradients:
        """a (T, B, 4·H), w (4·H, H), peephole (3, H), states (B, H) -> h (T, B, H), last h and c (B, H)."""
        gates, squashed = torch.empty_like(a), a.new_empty(len(a), *h.shape)  # (T, B, 4·H), tanh(c) (T, B, H)
        hs, cs = _states(a, h), _states(a, c)
        of_i, of_f, of_o = peephole
        for t in range(len(a)):
            i, f, g, o = torch.add(a[t], _times(hs[t], w.t()), out=gates[t]).chunk(4, dim=1)
            i.addcmul_(cs[t], of_i).sigmoid_()
            f.addcmul_(cs[t], of_f).sigmoid_()
            torch.mul(f, cs[t], out=cs[t + 1]).addcmul_(i, g.tanh_())
            o.addcmul_(cs[t + 1], of_o).sigmoid_()
            torch.mul(o, torch.tanh(cs[t + 1], out=squashed[t]), out=hs[t + 1])
        ctx.save_for_backward(w, peephole, gates, squashed, hs, cs)
        return hs[1:], hs[-1].clone(), cs[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dh: Tensor, dc: Tensor) -> Gradients:
        w, peephole, gates, squashed, hs, cs = ctx.saved_tensors
        of_i, of_f, of_o = peephole
        da = torch.empty_like(gates)  # (T, B, 4·H)
        for t in reversed(range(len(gates))):
            i, f, g, o = gates[t].chunk(4, dim=1)
            di, df, dg, do = da[t].chunk(4, dim=1)
            dh = dh + dy[t]
            _through_sigmoid(dh * squashed[t], o, grad_input=do)
            dc = dc + torch.ops.aten.tanh_backward(dh * o, squashed[t]) + do * of_o
            _through_sigmoid(dc * g, i, grad_input=di)
            _through_sigmoid(dc * cs[t], f, grad_input=df)
            _through_tanh(dc * i, g, grad_input=dg)
            dc = (dc * f).addcmul_(di, of_i).addcmul_(df, of_f)
            dh = _times(da[t], w)
        di, df, _, do = da.chunk(4, dim=2)
        seen = ((di, cs[:-1]), (df, cs[:-1]), (do, cs[1:]))
        return da, _matrix(da, hs[:-1], w), torch.stack([(d * c).sum((0, 1)) for d, c in seen]), dh, dc


class CoupledLstm(Function):
    """Gates i g o; the cell forgets what it takes in, f = 1 - i (Greff et al. 2017, CIFG)."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, w: Tensor, h: Tensor, c: Tensor) -> Gradients:
        """a (T, B, 3·H), w (3·H, H), states (B, H) -> h (T, B, H), last h and c (B, H)."""
        gates, squashed = torch.empty_like(a), a.new_empty(len(a), *h.shape)  # (T, B, 3·H), tanh(c) (T, B, H)
        hs, cs = _states(a, h), _states(a, c)
        for t in range(len(a)):
            i, g, o = torch.add(a[t], _times(hs[t], w.t()), out=gates[t]).chunk(3, dim=1)
            torch.lerp(cs[t], g.tanh_(), i.sigmoid_(), out=cs[t + 1])  # c + i (g - c)
            torch.mul(o.sigmoid_(), torch.tanh(cs[t + 1], out=squashed[t]), out=hs[t + 1])
        ctx.save_for_backward(w, gates, squashed, hs, cs)
        return hs[1:], hs[-1].clone(), cs[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dh: Tensor, dc: Tensor) -> Gradients:
        w, gates, squashed, hs, cs = ctx.saved_tensors
        da = torch.empty_like(gates)  # (T, B, 3·H)
        for t in reversed(range(len(gates))):
            i, g, o = gates[t].chunk(3, dim=1)
            di, dg, do = da[t].chunk(3, dim=1)
            dh = dh + dy[t]
            _through_sigmoid(dh * squashed[t], o, grad_input=do)
            dc = dc + torch.ops.aten.tanh_backward(dh * o, squashed[t])
            taken = dc * i
            _through_sigmoid(dc * (g - cs[t]), i, grad_input=di)
            _through_tanh(taken, g, grad_input=dg)
            dc = dc - taken
            dh = _times(da[t], w)
        return da, _matrix(da, hs[:-1], w), dh, dc


class MultiplicativeLstm(Function):
    """Gates i f g o, which read m = (W_mx x) ⊙ (W_mh h) in the place of h (Krause et al. 2016)."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, mx: Tensor, w: Tensor, w_mh: Tensor, h: Tensor, c: Tensor) -> Gradients:
        """a (T, B, 4·H), mx = W_mx x (T, B, H), w (4·H, H), w_mh (H, H), states (B, H) -> as CoupledLstm."""
        gates, squashed = torch.empty_like(a), torch.empty_like(mx)  # (T, B, 4·H), tanh(c) (T, B, H)
        mh, m = torch.empty_like(mx), torch.empty_like(mx)  # (T, B, H)
        hs, cs = _states(a, h), _states(a, c)
        for t in range(len(a)):
            torch.mul(mx[t], mh[t].copy_(_times(hs[t], w_mh.t())), out=m[t])
            i, f, g, o = torch.add(a[t], _times(m[t], w.t()), out=gates[t]).chunk(4, dim=1)
            torch.mul(f.sigmoid_(), cs[t], out=cs[t + 1]).addcmul_(i.sigmoid_(), g.tanh_())
            torch.mul(o.sigmoid_(), torch.tanh(cs[t + 1], out=squashed[t]), out=hs[t + 1])
        ctx.save_for_backward(mx, w, w_mh, gates, squashed, mh, m, hs, cs)
        return hs[1:], hs[-1].clone(), cs[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dh: Tensor, dc: Tensor) -> Gradients:
        mx, w, w_mh, gates, squashed, mh, m, hs, cs = ctx.saved_tensors
        da, dmx, dmh = torch.empty_like(gates), torch.empty_like(mx), torch.empty_like(mx)
        for t in reversed(range(len(gates))):
            i, f, g, o = gates[t].chunk(4, dim=1)
            di, df, dg, do = da[t].chunk(4, dim=1)
            dh = dh + dy[t]
            _through_sigmoid(dh * squashed[t], o, grad_input=do)
            dc = dc + torch.ops.aten.tanh_backward(dh * o, squashed[t])
            _through_sigmoid(dc * g, i, grad_input=di)
            _through_sigmoid(dc * cs[t], f, grad_input=df)
            _through_tanh(dc * i, g, grad_input=dg)
            dc = dc * f
            dm = _times(da[t], w)
            torch.mul(dm, mh[t], out=dmx[t])
            torch.mul(dm, mx[t], out=dmh[t])
            dh = _times(dmh[t], w_mh)
        return da, dmx, _matrix(da, m, w), _matrix(dmh, hs[:-1], w_mh), dh, dc


class TextbookGru(Function):
    """Gates r z n; the reset gate comes before the product: n reads W (r ⊙ h) (Cho et al. 2014)."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, w: Tensor, h: Tensor) -> Gradients:
        """a (T, B, 3·H), w (3·H, H), h (B, H) -> h (T, B, H), last h (B, H)."""
        hidden = h.shape[1]
        gates, kept = torch.empty_like(a), a.new_empty(len(a), *h.shape)  # (T, B, 3·H), r ⊙ h (T, B, H)
        hs = _states(a, h)
        of_rz, of_n = w.t().split([2 * hidden, hidden], dim=1)
        for t in range(len(a)):
            rz, n = gates[t].split([2 * hidden, hidden], dim=1)
            r, z = torch.add(a[t, :, : 2 * hidden], _times(hs[t], of_rz), out=rz).sigmoid_().chunk(2, dim=1)
            torch.mul(r, hs[t], out=kept[t])
            torch.add(a[t, :, 2 * hidden :], _times(kept[t], of_n), out=n).tanh_()
            torch.lerp(n, hs[t], z, out=hs[t + 1])  # n + z (h - n)
        ctx.save_for_backward(w, gates, kept, hs)
        return hs[1:], hs[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dh: Tensor) -> Gradients:
        w, gates, kept, hs = ctx.saved_tensors
        hidden = kept.shape[2]
        da = torch.empty_like(gates)  # (T, B, 3·H)
        of_rz, of_n = w.split([2 * hidden, hidden])
        for t in reversed(range(len(gates))):
            r, z, n = gates[t].chunk(3, dim=1)
            dr, dz, dn = da[t].chunk(3, dim=1)
            dh = dh + dy[t]
            past = dh * z
            _through_tanh(dh - past, n, grad_input=dn)
            _through_sigmoid(dh * (hs[t] - n), z, grad_input=dz)
            dkept = _times(dn, of_n)
            _through_sigmoid(dkept * hs[t], r, grad_input=dr)
            dh = past + dkept * r + _times(da[t, :, : 2 * hidden], of_rz)
        of_rz_gradient = _matrix(da[:, :, : 2 * hidden], hs[:-1], w)
        return da, torch.cat([of_rz_gradient, _matrix(da[:, :, 2 * hidden :], kept, w)]), dh


def _states(a: Tensor, first: Tensor) -> Tensor:
    """(T + 1, B, H): the state before the first step, then room for the one after each."""
    states = a.new_empty(len(a) + 1, *first.shape)
    states[0] = first
    return states


def _times(rows: Tensor, matrix: Tensor) -> Tensor:
    """rows (B, N) · matrix (N, M), in the precision of the matrix -> (B, M)."""
    return torch.mm(rows.to(matrix.dtype), matrix)


def _matrix(da: Tensor, read: Tensor, w: Tensor) -> Tensor:
    """The gradient (G·H, H) of a matrix from those of what it gave (T, B, G·H) and what it read (T, B, H)."""
    return torch.mm(da.flatten(0, 1).to(w.dtype).t(), read.flatten(0, 1).to(w.dtype))
