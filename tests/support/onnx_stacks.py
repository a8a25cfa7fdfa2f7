"""Exported recurrent stacks, and a runner for ragged batches.

T steps, B batch, I inputs, W columns of the stack's output, H hidden.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
import torch

from training.nn.recurrent import RecurrentStack
from training.onnx_export.builder import ExportedGraph, Floats, OnnxGraphBuilder, Precision
from training.onnx_export.layers import Signal
from training.onnx_export.stack import add_stack
from training.options import Architecture

INPUTS = 6
REACH = 2.0  # largest magnitude of the inputs


def make_stack(cell: str, *, hidden: int = 8, inputs: int = INPUTS, seed: int = 0, **options: Any) -> RecurrentStack:
    """Return an untrained stack in evaluation mode with weights that saturate some gates."""
    torch.manual_seed(seed)
    shape = Architecture(cell=cell, hidden=hidden, **{"bidirectional": False, **options})  # type: ignore[arg-type]
    stack = RecurrentStack(shape, inputs)
    with torch.no_grad():
        for parameter in stack.parameters():
            # A relu is unbounded: large weights would let its outputs and their errors grow.
            parameter.mul_(1.0 if cell == "rnn-relu" else 1.7).add_(0.1 * torch.randn_like(parameter))
    return stack.eval()


def open_session(exported: ExportedGraph) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(exported.model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@dataclass(frozen=True, kw_only=True)
class Item:
    """One input: steps (length, I), or table rows (length,), and its initial states, each (H,)."""

    steps: Any
    states: tuple[Any, ...] = ()


class ExportedStack:
    """A stack, its graph and its session. With `table` (R, I), the inputs are table rows."""

    def __init__(
        self, stack: RecurrentStack, precision: Precision, *, state: bool = False, table: Floats | None = None
    ) -> None:
        self.stack, self.table, self.state = stack, table, state
        self.graph = _export(stack, precision, state=state, table=table)
        self.session = open_session(self.graph)

    def items(self, count: int, *, longest: int = 9, seed: int = 0) -> list[Item]:
        """Return random inputs of different lengths."""
        random = np.random.default_rng(seed)
        lengths = [1 + (index * 5) % longest for index in range(count)]
        inputs = self.stack.layers[0].forwards.inputs
        return [
            Item(
                steps=random.uniform(-REACH, REACH, (length, inputs)).astype(np.float32)
                if self.table is None
                else random.integers(0, len(self.table), length).astype(np.int32),
                states=tuple(random.uniform(-0.9, 0.9, t.width).astype(np.float32) for t in self.graph.state),
            )
            for length in lengths
        ]

    def run(self, items: list[Item], *, padded: int = 0) -> list[tuple[Any, ...]]:
        """Return the outputs (length, W) and the states (H,) of each input, run as one batch with extra padding."""
        feeds = self.feeds(items, padded=padded)
        y, *after = self.session.run(None, feeds)
        return [(y[: len(item.steps), column], *(part[column] for part in after)) for column, item in enumerate(items)]

    def feeds(self, items: list[Item], *, padded: int = 0) -> dict[str, Any]:
        lengths = np.array([len(item.steps) for item in items], np.int32)
        x = np.zeros((lengths.max() + padded, len(items), *items[0].steps.shape[1:]), items[0].steps.dtype)
        for column, item in enumerate(items):
            x[: len(item.steps), column] = item.steps
        states = {t.input: np.stack([i.states[n] for i in items]) for n, t in enumerate(self.graph.state)}
        return {"x": x, "lengths": lengths, **states}

    def torch(self, item: Item) -> tuple[Any, ...]:
        """Return PyTorch's outputs and states of one row, run alone."""
        x = torch.from_numpy(item.steps if self.table is None else self.table[item.steps])[:, None]
        parts = len(self.stack.layers[0].forwards.parts)
        rows = [torch.from_numpy(part)[None] for part in item.states]
        state = [tuple(rows[start : start + parts]) for start in range(0, len(rows), parts)] or None
        with torch.no_grad():
            y, after = self.stack(x, torch.tensor([len(item.steps)]), state)
        return (y[:, 0].numpy(), *(part[0].numpy() for layer in after for part in layer if self.state))


def _export(stack: RecurrentStack, precision: Precision, *, state: bool, table: Floats | None) -> ExportedGraph:
    graph = OnnxGraphBuilder(precision)
    inputs = stack.layers[0].forwards.inputs
    if table is None:
        x, rows, reach = graph.input("x", "T", "B", inputs, dtype="float32"), None, REACH
    else:
        rows, reach = graph.input("x", "T", "B"), float(np.abs(table).max())
        x = graph.lookup(table, rows, "table")
    lengths = graph.input("lengths", "B")
    signal = Signal(x=x, columns=np.arange(inputs), width=inputs, reach=reach, table=table, rows=rows)
    state_in, names = None, []
    if state:
        names = [[f"{part}{number}" for part in layer.forwards.parts] for number, layer in enumerate(stack.layers)]
        state_in = [[graph.state_input(name, stack.layers[0].hidden) for name in layer] for layer in names]
    signal, after = add_stack(graph, stack, signal, lengths, state_in)
    y = graph.op.Gather(signal.x, graph.constant(signal.columns, "real"), axis=2)
    graph.output(y, "y", "T", "B", len(signal.columns))
    for layer, values in zip(names, after if state else [], strict=True):
        for name, value in zip(layer, values, strict=True):
            graph.state_output(value, name, stack.layers[0].hidden)
    return graph.finish()
