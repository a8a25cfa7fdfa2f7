"""One ONNX graph, ready to run: the only place that imports onnxruntime.

Knows tensors by name. Does not know what they mean, nor which cell computes them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import onnxruntime as ort
from numpy.typing import NDArray

Array = NDArray[Any]
Device = Literal["auto", "cpu", "cuda"]

_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"


class DeviceUnavailable(RuntimeError):
    """The device asked for is not one that this installation of ONNX Runtime can use."""


def resolve_device(device: Device) -> Literal["cpu", "cuda"]:
    """`auto` becomes `cuda` where ONNX Runtime offers it, else `cpu`; an explicit `cuda` must be there."""
    available = ort.get_available_providers()
    if device == "auto":
        return "cuda" if _CUDA in available else "cpu"
    if device == "cuda" and _CUDA not in available:
        raise DeviceUnavailable(
            f"device 'cuda' was asked for, but ONNX Runtime {ort.__version__} here offers only "
            f"{', '.join(available)}: install the gpu extra (onnxruntime-gpu), or set the device to cpu"
        )
    return device


class GraphRefused(Exception):
    """ONNX Runtime did not run a graph with the arrays that it was fed. The message is its own."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where and how a graph runs."""

    device: Device = "auto"
    threads: int = 1  # intra-op; more than one pays only for batches far larger than a request


class OnnxModel:
    """An inference session. `run` is thread-safe, as ONNX Runtime's sessions are.

    Opened from bytes, not from a path: a graph that keeps weights in another file, which no checksum would cover, is
    refused by ONNX Runtime then.
    """

    def __init__(self, graph: bytes, placement: Placement | None = None) -> None:
        placement = placement or Placement()
        self.device = resolve_device(placement.device)
        if self.device == "cuda":
            ort.preload_dlls()  # CUDA and cuDNN come as Python packages, where the loader does not look by itself
        options = ort.SessionOptions()
        options.intra_op_num_threads = placement.threads
        options.inter_op_num_threads = 1
        # Several sessions share the cores: a thread that spins while it waits takes time from the others.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        providers = [_CUDA, _CPU] if self.device == "cuda" else [_CPU]
        self._session = ort.InferenceSession(graph, options, providers=providers)
        if self.device == "cuda" and _CUDA not in self._session.get_providers():
            # ONNX Runtime names a provider that it was built with, whether or not there is a GPU to run it.
            raise DeviceUnavailable(
                f"ONNX Runtime {ort.__version__} has CUDA, but it does not start here (no GPU, driver or cuDNN?): "
                "set the device to cpu, or mend the driver"
            )
        self.inputs = tuple(tensor.name for tensor in self._session.get_inputs())
        self.outputs = tuple(tensor.name for tensor in self._session.get_outputs())
        lasts = {tensor.name: tensor.shape[-1] for tensor in self._session.get_outputs()}
        # Of each output's last axis; None where the graph leaves it free.
        self.widths = {name: last if isinstance(last, int) else None for name, last in lasts.items()}

    @property
    def answer_width(self) -> int | None:
        """Of the first output's last axis."""
        return self.widths[self.outputs[0]]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once. `feeds` has one array for each name in `inputs`; returns one for each in `outputs`."""
        return dict(zip(self.outputs, self._session.run(None, feeds), strict=True))

    def run_untrusted(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """As `run`, for arrays that a stranger made. Raises GraphRefused for what ONNX Runtime does not run."""
        try:
            return self.run(feeds)
        except Exception as error:  # ONNX Runtime raises a dozen types that have no base of their own
            raise GraphRefused(str(error)) from error

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> Callable[[], None]:
        """A run that reads and writes these very arrays, C-contiguous and in the memory of the CPU, at every call.

        They must outlive it. Nothing is copied or allocated for them, which for a step of generation is a cost.
        """
        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        for name, array in outputs.items():
            binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        return lambda: self._session.run_with_iobinding(binding)

    def run_list(self, feeds: Mapping[str, Array]) -> Sequence[Array]:
        """As `run`, the arrays alone in the order of `outputs`: for the step loop, where a dict is a cost."""
        result: Sequence[Array] = self._session.run(None, feeds)
        return result
