"""One module per protocol. Each translates requests into engine calls, and results into answers."""
