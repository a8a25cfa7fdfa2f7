"""One module per protocol: it translates requests into calls of the engine, and answers into the protocol."""
