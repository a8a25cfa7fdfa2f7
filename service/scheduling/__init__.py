"""The schedulers: which request runs next, and in which batch. No HTTP and no ONNX; only `loop.py` uses asyncio.

job.py has what all schedulers share. sequences.py batches whole sequences, decoding.py batches generation step by
step, and tensors.py runs tensors that come as whole batches. cost_model.py learns what a batch costs.
"""
