"""Seeing what the recurrent layers of a bundle do at every step of one input: `python -m models inspect`.

Takes the fp32 graph apart and computes the gates anew in float64. Serves nothing and trains nothing; what it needs
beyond the `serve` extra (onnx; matplotlib and rich, both optional) is imported where it is used.
"""
