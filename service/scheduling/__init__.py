"""The schedulers: who runs next, with whom. Pure objects with an injected clock and an injected network.

They know lengths, deadlines and outcomes. They know no HTTP, no ONNX and no event loop: `pump.py` alone drives
them on one.
"""
