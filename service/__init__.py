"""Model serving: the BentoML service, its HTTP layer, the engine and the schedulers."""

import os
import sys

VERSION = "0.1.0"  # as in pyproject.toml

# Set before ONNX Runtime and BentoML read them, so that neither reports usage. A value that the user set stays.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
# Set before NumPy reads it. Small products of matrices in many threads take ten times the CPU time, from all cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# `bentoml serve` has read and cached the variable before it imports this package.
_usage_stats = sys.modules.get("bentoml._internal.utils.analytics.usage_stats")
if _usage_stats is not None:
    _usage_stats.do_not_track.cache_clear()
