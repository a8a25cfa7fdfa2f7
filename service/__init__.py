"""How a model is served: the BentoML service, its HTTP edge, its engine and its schedulers."""

VERSION = "0.1.0"  # as in pyproject.toml
