"""Commands of seqserve that train: options and printing. Each module adds its commands with `register`.

Slow imports, such as torch, are inside functions, so that --help stays fast.
"""
