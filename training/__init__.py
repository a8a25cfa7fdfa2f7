"""How a model is made: recipes, data, networks, the loop, export and score. The only package that knows torch."""

import os

# Some modules import onnxruntime or onnx before `models` is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
