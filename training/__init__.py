"""Model training: recipes, data, networks, the loop, export and scores. The only package that imports torch."""

import os

# Some modules import onnxruntime or onnx before `models` is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# Idle threads of OpenMP wait in the kernel. If another process uses a core, threads that spin instead make training 4
# to 40 times slower. OpenMP reads this variable when torch is imported, and child processes inherit it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
