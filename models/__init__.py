"""What a model is: the bundle format, its codecs, its tasks and the ONNX Runtime network.

Knows numpy, pydantic and onnxruntime. Deliberately knows nothing of torch (how a model is made) or of
BentoML and HTTP (how it is served).
"""

import os

# ONNX Runtime reads this when it is imported. It looks up a host of its makers otherwise.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
