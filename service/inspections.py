"""Inspections: what the recurrent layers of a bundle do at every step of one input, for the page.

They run in float64 in one thread, apart from the requests of the model.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeVar

from models import bundle as bundles
from models.bundle import Bundle
from models.inspect import VARIANT, Inspection, Inspector
from models.manifest import BundleError
from models.onnx_session import Placement
from service.errors import ClientGone, DeadlinePassed
from service.resting_thread import RestingThread
from service.scheduling.job import InferenceRequest

T = TypeVar("T")


class Inspections(RestingThread):
    """Inspects inputs, one at a time. Keeps the graph of the bundle that was used last."""

    def __init__(self) -> None:
        super().__init__("inspect", "inspections")
        self._kept: tuple[str, Inspector] | None = None  # with the digest of the bundle

    async def inspect(
        self, bundle: Bundle, raw: Any, answer: Callable[[Inspection], T], *, request: InferenceRequest
    ) -> T:
        """Return the answer made of the inspection of one input, in the thread.

        Raises the errors of Inspector, Overloaded, ClientGone, and DeadlinePassed, also while the request waits.
        """
        left_s = request.deadline_s - time.monotonic()
        call = asyncio.ensure_future(self.call(self._inspect, bundle, raw, answer, request))
        try:
            done, _ = await asyncio.wait({call}, timeout=left_s)  # asyncio.timeout needs a task
        finally:
            call.cancel()  # leaves the queue
        if not done:
            raise DeadlinePassed("the deadline passed before the input was inspected", limit=round(left_s, 3))
        made: T = call.result()
        return made

    def _inspect(self, bundle: Bundle, raw: Any, answer: Callable[[Inspection], T], request: InferenceRequest) -> T:
        if request.is_disconnected():
            raise ClientGone
        return answer(self._inspector(bundle).inspect(raw))

    def _inspector(self, bundle: Bundle) -> Inspector:
        if self._kept is None or self._kept[0] != bundle.digest:
            placement = Placement(device="cpu")
            loaded = bundles.load(bundle.path, variant=VARIANT, placement=placement)
            if loaded.digest != bundle.digest:
                raise BundleError(f"{bundle.path}: has changed since it was loaded; load the model again")
            self._kept = bundle.digest, Inspector(loaded)
        return self._kept[1]
