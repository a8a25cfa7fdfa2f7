"""One ONNX graph, ready to run. Only this module imports onnxruntime."""

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
    """A device that this installation of ONNX Runtime cannot use."""


class GraphRefused(Exception):
    """ONNX Runtime did not run a graph with these arrays. The message is its own."""


def resolve_device(device: Device) -> Literal["cpu", "cuda"]:
    """Turn `auto` into `cuda` if ONNX Runtime has it, else `cpu`. Raises DeviceUnavailable for a missing `cuda`."""
    available = ort.get_available_providers()
    if device == "auto":
        return "cuda" if _CUDA in available else "cpu"
    if device == "cuda" and _CUDA not in available:
        raise DeviceUnavailable(
            f"device 'cuda' is not available: ONNX Runtime {ort.__version__} has only {', '.join(available)}; "
            "install the gpu extra (onnxruntime-gpu), or set the device to cpu"
        )
    return device


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where to run a graph, and with how many threads."""

    device: Device = "auto"
    threads: int = 1  # intra-op; more than one helps only with batches far larger than a request


class OnnxModel:
    """An inference session. `run` is thread-safe.

    The session is opened from bytes, not from a path. So ONNX Runtime refuses a graph with weights in another file,
    which no checksum would cover.
    """

    def __init__(self, graph: bytes, placement: Placement | None = None) -> None:
        placement = placement or Placement()
        self.device = resolve_device(placement.device)
        if self.device == "cuda":
            ort.preload_dlls()  # CUDA and cuDNN come as Python packages, where the loader does not look
        options = ort.SessionOptions()
        options.intra_op_num_threads = placement.threads
        options.inter_op_num_threads = 1
        # Sessions share the cores, and a thread that spins while it waits takes time from the others.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        providers = [_CUDA, _CPU] if self.device == "cuda" else [_CPU]
        self._session = ort.InferenceSession(graph, options, providers=providers)
        if self.device == "cuda" and _CUDA not in self._session.get_providers():
            # ONNX Runtime lists every provider that it was built with, even without a GPU.
            raise DeviceUnavailable(
                f"ONNX Runtime {ort.__version__} has CUDA, but it does not start (no GPU, driver or cuDNN?); "
                "repair the driver, or set the device to cpu"
            )
        self.inputs = tuple(tensor.name for tensor in self._session.get_inputs())
        self.outputs = tuple(tensor.name for tensor in self._session.get_outputs())
        last_axes = {tensor.name: tensor.shape[-1] for tensor in self._session.get_outputs()}
        # Size of the last axis of each output, None where the graph leaves it free.
        self.widths = {name: last if isinstance(last, int) else None for name, last in last_axes.items()}

    @property
    def answer_width(self) -> int | None:
        """The size of the last axis of the first output."""
        return self.widths[self.outputs[0]]

    def graph_feeds(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Return the feeds of the graph itself. They differ from `feeds` only for a graph with a speller."""
        return feeds

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once. `feeds` has one array for each name in `inputs`, the result one for each name in `outputs`."""
        return dict(zip(self.outputs, self.run_list(feeds), strict=True))

    def run_list(self, feeds: Mapping[str, Array]) -> Sequence[Array]:
        """Run once and return the arrays in the order of `outputs`. Cheaper than `run`, for the decoding loop."""
        result: Sequence[Array] = self._session.run(None, feeds)
        return result

    def run_named(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> Sequence[Array]:
        """Run once and return only the outputs of these names, in their order."""
        result: Sequence[Array] = self._session.run(outputs, feeds)
        return result

    def run_untrusted(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once with arrays from a client. Raises GraphRefused if ONNX Runtime does not run them."""
        try:
            return self.run(feeds)
        except Exception as error:  # ONNX Runtime raises a dozen types without a common base
            raise GraphRefused(str(error)) from error

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> Callable[[], None]:
        """Return a function that runs the graph on these very arrays, without copies and allocations.

        The arrays must be C-contiguous, in CPU memory, and must outlive the function.
        """
        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        for name, array in outputs.items():
            binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        return lambda: self._session.run_with_iobinding(binding)
