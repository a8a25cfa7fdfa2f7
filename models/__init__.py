"""Models: the bundle format, codecs, tasks and the ONNX Runtime session. Needs numpy, pydantic and onnxruntime."""

import os

# ONNX Runtime reads this when it is imported. Without it, it connects to a telemetry host.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
