"""The graph of one bundle for those who bring its arrays themselves: what it takes and gives, checked, and its queue.

Knows tensors by name. Knows no text, no request and no HTTP.
"""

import logging
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any

from numpy.typing import NDArray

from models.bundle import Bundle
from models.codecs import InputError, TooLong
from models.manifest import SERVES, Tensor
from models.onnx_session import GraphRefused
from models.tensor_inputs import Size, TensorValidator
from service.errors import InvalidRequest, TooLarge
from service.scheduling.cost_model import CostModel
from service.scheduling.loop import LoopBudget, SchedulerLoop
from service.scheduling.tensors import ArrayScheduler
from service.settings import Settings

log = logging.getLogger(__name__)

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One input or output of a graph; a dimension that is free is None."""

    name: str
    dtype: str  # "float32" or "int32"
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Arrays that were checked, and how much work they are."""

    arrays: Arrays
    size: Size

    @property
    def rows(self) -> int:
        return self.size.rows

    @property
    def steps(self) -> int:
        return self.size.steps

    @property
    def extra(self) -> int:
        return self.size.extra


class TensorRuntime:
    """See the module; `open_tensor_runtime` makes one."""

    def __init__(self, bundle: Bundle, settings: Settings, scheduler: ArrayScheduler, pump: SchedulerLoop) -> None:
        self.scheduler, self.pump = scheduler, pump
        manifest = bundle.manifest
        self.name, self.version = manifest.name, manifest.version
        self.tasks = SERVES[manifest.task]
        self.reads_text = manifest.codec.kind != "frames"
        # Of the labels that each task answers with: a joint bundle's labels of the whole are apart from its tags.
        texts = manifest.text_labels if manifest.task == "joint" else manifest.labels
        self.labels = {"tag": len(manifest.labels), "classify": len(texts)}
        self._feeds = TensorValidator(manifest, bundle.task.codec)
        state = (Tensor(name=part.output, dtype=part.dtype, shape=("B", part.width)) for part in manifest.state)
        self.inputs = tuple(map(_port, self._feeds.tensors))
        self.outputs = tuple(map(_port, (*manifest.outputs, *state)))
        self._cells = settings.batch_tokens

    def check(self, arrays: Arrays) -> Work:
        """The work that these arrays are. Raises InvalidRequest and TooLarge, whose field is `inputs`."""
        try:
            return Work(arrays=arrays, size=self._feeds.check(arrays, cells=self._cells))
        except TooLong as error:
            raise TooLarge(str(error), limit=error.limit or self._cells, field="inputs") from None
        except InputError as error:
            raise InvalidRequest(str(error), field="inputs", limit=error.limit, value=error.value) from None


def open_tensor_runtime(bundle: Bundle, settings: Settings, executor: Executor, turns: LoopBudget) -> TensorRuntime:
    """Put a scheduler before the graph of a loaded bundle."""
    run = partial(_run, bundle)
    scheduler = ArrayScheduler(run, queue_tokens=settings.queue_tokens, cost=CostModel(), clock=monotonic)
    return TensorRuntime(bundle, settings, scheduler, SchedulerLoop(scheduler, executor, clock=monotonic, turns=turns))


def _run(bundle: Bundle, work: Work) -> Arrays:
    try:
        return bundle.model.run_untrusted(work.arrays)
    except GraphRefused as error:
        name = bundle.manifest.name
        log.warning("the graph of %s refused arrays that had passed our checks: %s", name, error)
        raise InvalidRequest(
            f"the graph of {name} cannot be run with these arrays: its metadata say what it takes", field="inputs"
        ) from None


def _port(tensor: Tensor) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) else None for size in tensor.shape)
    return TensorSpec(name=tensor.name, dtype=tensor.dtype, shape=shape)
