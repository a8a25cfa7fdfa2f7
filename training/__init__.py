"""Model training: recipes, data, networks, the loop, export and scores. The only package that imports torch."""

import os

# Some modules import onnxruntime or onnx before `models` is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
