"""Estimate how much the last state of a layer depends on its earlier states.

Backpropagation through time in float64, by hand, from the gates that were recorded. T steps, H hidden, K probes.
"""

from collections.abc import Callable

import numpy as np

from models.inspect.operators import Floats, Record, RecurrentOperator

PROBES = 16  # random vectors of the estimate; its relative error is about sqrt(2 / PROBES) for one step
SEED = 0

# Gradients (K, H) of state and cell at one step, and the time -> those at the step before.
Backward = Callable[[Floats, Floats, int], tuple[Floats, Floats]]


def influence(operator: RecurrentOperator, number: int, record: Record) -> Floats | None:
    """Return the norm of d(last state)/d(memory at step t) for each t (T,), 1 at the last step.

    The memory is the cell of an LSTM, and the state of other layers. The values are Frobenius norms of the Jacobian,
    estimated with random signs (Hutchinson 1989) if there are more than PROBES units, and divided by that of the last
    step. `record` has the steps of one row, (T, H), in the order in which the layer read them, from a state of zeros.

    Returns None for an LSTM with peepholes or coupled gates, and for other activations than the usual ones.
    """
    if operator.p is not None or any(name in operator.attributes for name in ("activations", "input_forget", "clip")):
        return None
    steps, hidden = record["state"].shape
    back = {"RNN": _rnn, "GRU": _gru, "LSTM": _lstm}[operator.kind](operator, number, record)
    if hidden <= PROBES:
        d_state = np.eye(hidden)  # exact
    else:
        d_state = np.random.default_rng(SEED).choice((-1.0, 1.0), (PROBES, hidden)) / np.sqrt(PROBES)
    d_cell = np.zeros_like(d_state)
    norms = np.zeros(steps)
    for time in range(steps - 1, -1, -1):
        if operator.kind == "LSTM":  # the cell also reaches the output through the state of its own step
            d_memory = d_cell + d_state * record["output"][time] * (1 - record["memory"][time] ** 2)
        else:
            d_memory = d_state
        norms[time] = np.sqrt((d_memory**2).sum())
        d_state, d_cell = back(d_state, d_cell, time)
    return norms / norms[-1] if norms[-1] else norms


def _recurrent(operator: RecurrentOperator, number: int) -> list[Floats]:
    gates = len(operator.r[number]) // operator.hidden
    return np.split(operator.r[number], gates)


def _before(values: Floats, time: int) -> Floats:
    before: Floats = values[time - 1] if time else np.zeros_like(values[0])
    return before


def _rnn(operator: RecurrentOperator, number: int, record: Record) -> Backward:
    (r,) = _recurrent(operator, number)

    def back(d_state: Floats, d_cell: Floats, time: int) -> tuple[Floats, Floats]:
        return (d_state * (1 - record["state"][time] ** 2)) @ r, d_cell

    return back


def _gru(operator: RecurrentOperator, number: int, record: Record) -> Backward:
    r_update, r_reset, r_candidate = _recurrent(operator, number)
    after_product = operator.attributes.get("linear_before_reset", 0)
    bias = np.split(operator.b[number], 6)[5] if operator.b is not None else np.zeros(operator.hidden)

    def back(d_state: Floats, d_cell: Floats, time: int) -> tuple[Floats, Floats]:
        reset, update, candidate = (record[part][time] for part in ("reset", "update", "candidate"))
        before = _before(record["state"], time)
        d_candidate = d_state * (1 - update) * (1 - candidate**2)
        d_update = d_state * (before - candidate) * update * (1 - update)
        if after_product:
            d_reset = d_candidate * (before @ r_candidate.T + bias)
            through = (d_candidate * reset) @ r_candidate
        else:
            d_reset = (d_candidate @ r_candidate) * before
            through = (d_candidate @ r_candidate) * reset
        d_reset = d_reset * reset * (1 - reset)
        return d_state * update + d_update @ r_update + d_reset @ r_reset + through, d_cell

    return back


def _lstm(operator: RecurrentOperator, number: int, record: Record) -> Backward:
    r_input, r_output, r_forget, r_candidate = _recurrent(operator, number)

    def back(d_state: Floats, d_cell: Floats, time: int) -> tuple[Floats, Floats]:
        forget, into, output, candidate, memory = (
            record[part][time] for part in ("forget", "input", "output", "candidate", "memory")
        )
        d_cell = d_cell + d_state * output * (1 - memory**2)
        d_output = d_state * memory * output * (1 - output)
        d_forget = d_cell * _before(record["cell"], time) * forget * (1 - forget)
        d_input = d_cell * candidate * into * (1 - into)
        d_candidate = d_cell * into * (1 - candidate**2)
        d_before = d_input @ r_input + d_output @ r_output + d_forget @ r_forget + d_candidate @ r_candidate
        return d_before, d_cell * forget

    return back
