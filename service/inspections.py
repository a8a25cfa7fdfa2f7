"""Inspections: what the recurrent layers of a bundle do at every step of one input, for the page.

They run in float64 in one thread, apart from the requests of the model.
"""

from typing import Any

from models import bundle as bundles
from models.bundle import Bundle
from models.inspect import VARIANT, Inspection, Inspector
from models.onnx_session import Placement
from service.resting_thread import RestingThread


class Inspections(RestingThread):
    """Inspects inputs, one at a time. Keeps the graph of the bundle that was used last."""

    def __init__(self) -> None:
        super().__init__("inspect", "inspections")
        self._kept: tuple[str, Inspector] | None = None  # with the digest of the bundle

    async def inspect(self, bundle: Bundle, raw: Any) -> Inspection:
        """Inspect one input. Raises the errors of Inspector, and Overloaded."""
        return await self.call(self._inspect, bundle, raw)

    def _inspect(self, bundle: Bundle, raw: Any) -> Inspection:
        if self._kept is None or self._kept[0] != bundle.digest:
            placement = Placement(device="cpu")
            self._kept = bundle.digest, Inspector(bundles.load(bundle.path, variant=VARIANT, placement=placement))
        return self._kept[1].inspect(raw)
