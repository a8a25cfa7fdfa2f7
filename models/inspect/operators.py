"""ONNX's RNN, GRU and LSTM in float64, recording every gate at every step.

The formulas are those of the operator specification (onnx.ai/onnx/operators), with peepholes, coupled gates, both forms
of the GRU, clipping and ragged batches.
T steps, B batch, I inputs, D directions, G gates, H hidden.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Kind = Literal["RNN", "GRU", "LSTM"]
Record = dict[str, Floats]  # part -> (T, B, H), zero after the end of a row

# "memory" is tanh(cell), which Karpathy et al. 2015 show.
PARTS: dict[Kind, tuple[str, ...]] = {
    "RNN": ("state",),
    "GRU": ("reset", "update", "candidate", "state"),
    "LSTM": ("forget", "input", "output", "candidate", "cell", "memory", "state"),
}
GATES = ("forget", "input", "output", "reset", "update")  # parts in [0, 1]
DIRECTIONS = {"forward": ("forward",), "reverse": ("backward",), "bidirectional": ("forward", "backward")}


class UnsupportedOperator(ValueError):
    """An operator with a feature that is not supported here."""


def _sigmoid(a: Floats) -> Floats:
    return 0.5 * (1 + np.tanh(0.5 * a))  # unlike exp, does not overflow


def _relu(a: Floats) -> Floats:
    return np.maximum(a, 0)


ACTIVATIONS: dict[str, Callable[[Floats], Floats]] = {"sigmoid": _sigmoid, "tanh": np.tanh, "relu": _relu}
DEFAULT_ACTIVATIONS: dict[Kind, tuple[str, ...]] = {
    "RNN": ("tanh",),
    "GRU": ("sigmoid", "tanh"),
    "LSTM": ("sigmoid", "tanh", "tanh"),
}


@dataclass(frozen=True, kw_only=True)
class RecurrentOperator:
    """One node: w (D, G·H, I), r (D, G·H, H), b (D, 2·G·H), p (D, 3·H).

    Gates are in ONNX's order: z r h for GRU, i o f c for LSTM, and i o f for its peepholes.
    """

    kind: Kind
    w: Floats
    r: Floats
    b: Floats | None = None
    p: Floats | None = None
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def hidden(self) -> int:
        return int(self.r.shape[2])

    @property
    def directions(self) -> tuple[str, ...]:
        return DIRECTIONS[self.attributes.get("direction", "forward")]

    def activations(self, direction: int) -> list[Callable[[Floats], Floats]]:
        """Return the activations of one direction. Raises UnsupportedOperator."""
        count = len(DEFAULT_ACTIVATIONS[self.kind])
        named = self.attributes.get("activations") or DEFAULT_ACTIVATIONS[self.kind] * len(self.directions)
        chosen = [name.lower() for name in named[direction * count : (direction + 1) * count]]
        if unknown := [name for name in chosen if name not in ACTIVATIONS]:
            raise UnsupportedOperator(f"activation {unknown[0]} is not supported, only {', '.join(ACTIVATIONS)}")
        return [ACTIVATIONS[name] for name in chosen]


def run(
    operator: RecurrentOperator, x: Floats, lengths: NDArray[Any], initial: tuple[Floats, ...] = ()
) -> list[Record]:
    """Run each direction over x (T, B, I) with lengths (B,). `initial` holds h and c, each (D, B, H), or nothing.

    Raises UnsupportedOperator for a batch-first layout.
    """
    if operator.attributes.get("layout", 0):
        raise UnsupportedOperator("layout 1 (batch first) is not supported")
    zeros = np.zeros((len(operator.directions), x.shape[1], operator.hidden))
    h, c = (*initial, zeros, zeros)[:2] if len(initial) != 1 else (initial[0], zeros)
    records = []
    for number, direction in enumerate(operator.directions):
        backward = direction == "backward"
        inputs = _reversed(x, lengths) if backward else x
        record = _run_direction(operator, number, inputs, lengths, (h[number], c[number]))
        records.append({part: _reversed(values, lengths) if backward else values for part, values in record.items()})
    return records


def _reversed(x: Floats, lengths: NDArray[Any]) -> Floats:
    """Reverse each column of x (T, B, …) within its length."""
    reversed_x = x.copy()
    for row, length in enumerate(lengths):
        reversed_x[:length, row] = x[:length, row][::-1]
    return reversed_x


def _run_direction(
    operator: RecurrentOperator, number: int, x: Floats, lengths: NDArray[Any], state: tuple[Floats, Floats]
) -> Record:
    step = {"RNN": _rnn, "GRU": _gru, "LSTM": _lstm}[operator.kind](operator, number)
    record = {part: np.zeros((len(x), x.shape[1], operator.hidden)) for part in PARTS[operator.kind]}
    h, c = state
    for time, inputs in enumerate(x):
        parts = step(inputs, h, c)
        running = (time < lengths)[:, None]  # (B, 1); a row that has ended keeps its state
        for part, values in parts.items():
            record[part][time] = np.where(running, values, 0)
        h, c = np.where(running, parts["state"], h), np.where(running, parts.get("cell", c), c)
    return record


Step = Callable[[Floats, Floats, Floats], Record]  # x (B, I), h and c (B, H) -> parts (B, H)


def _blocks(
    operator: RecurrentOperator, number: int, gates: int
) -> tuple[list[Floats], list[Floats], list[Floats], list[Floats]]:
    """Return w, r and the two biases of one direction, split by gate."""
    rows = gates * operator.hidden
    b = operator.b[number] if operator.b is not None else np.zeros(2 * rows)
    pieces = (operator.w[number], operator.r[number], b[:rows], b[rows:])
    w, r, wb, rb = (np.split(np.asarray(piece, np.float64), gates) for piece in pieces)
    return w, r, wb, rb


def _clipped(operator: RecurrentOperator, squash: Callable[[Floats], Floats]) -> Callable[[Floats], Floats]:
    """Return an activation whose input is bounded by the attribute `clip`."""
    limit = operator.attributes.get("clip")
    return (lambda a: squash(np.clip(a, -limit, limit))) if limit else squash


def _rnn(operator: RecurrentOperator, number: int) -> Step:
    (w,), (r,), (wb,), (rb,) = _blocks(operator, number, 1)
    (f,) = (_clipped(operator, each) for each in operator.activations(number))

    def step(x: Floats, h: Floats, c: Floats) -> Record:
        return {"state": f(x @ w.T + h @ r.T + wb + rb)}

    return step


def _gru(operator: RecurrentOperator, number: int) -> Step:
    w, r, wb, rb = _blocks(operator, number, 3)  # z r h
    f, g = (_clipped(operator, each) for each in operator.activations(number))
    after_product = operator.attributes.get("linear_before_reset", 0)

    def step(x: Floats, h: Floats, c: Floats) -> Record:
        update, reset = (f(x @ w[gate].T + h @ r[gate].T + wb[gate] + rb[gate]) for gate in (0, 1))
        past = reset * (h @ r[2].T + rb[2]) if after_product else (reset * h) @ r[2].T + rb[2]
        candidate = g(x @ w[2].T + past + wb[2])
        state = (1 - update) * candidate + update * h
        return {"reset": reset, "update": update, "candidate": candidate, "state": state}

    return step


def _lstm(operator: RecurrentOperator, number: int) -> Step:
    w, r, wb, rb = _blocks(operator, number, 4)  # i o f c
    f, g, squash = operator.activations(number)
    f, g = _clipped(operator, f), _clipped(operator, g)
    coupled = operator.attributes.get("input_forget", 0)
    p = operator.p[number] if operator.p is not None else np.zeros(3 * operator.hidden)
    p_input, p_output, p_forget = np.split(np.asarray(p, np.float64), 3)

    def step(x: Floats, h: Floats, c: Floats) -> Record:
        drive = [x @ w[gate].T + h @ r[gate].T + wb[gate] + rb[gate] for gate in range(4)]
        into = f(drive[0] + p_input * c)
        forget = 1 - into if coupled else f(drive[2] + p_forget * c)
        candidate = g(drive[3])
        cell = forget * c + into * candidate
        output = f(drive[1] + p_output * cell)
        memory = squash(cell)
        parts = (forget, into, output, candidate, cell, memory, output * memory)
        return dict(zip(PARTS["LSTM"], parts, strict=True))

    return step
