"""How a model is served: the BentoML service, its HTTP edge, its engine and its schedulers."""
