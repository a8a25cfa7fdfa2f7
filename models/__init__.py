"""Models: the bundle format, codecs, tasks and the ONNX Runtime session. Needs numpy, pydantic and onnxruntime.

`from models import load` opens a bundle in this process.
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.predictor import load as load

# ONNX Runtime reads this when it is imported. Without it, it connects to a telemetry host.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def __getattr__(name: str) -> Any:
    """Import `load` when it is first used, so that `import models` stays fast."""
    if name == "load":
        from models.predictor import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
