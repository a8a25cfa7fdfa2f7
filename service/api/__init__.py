"""One module a dialect: what a client sends and gets, translated to and from the engine's own types."""
