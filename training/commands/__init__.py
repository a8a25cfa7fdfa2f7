"""The verbs of `python -m training`, one a file: HELP (a line), add(parser) and run(options) -> status or None.

Arguments and printing only; the work is in the other modules. What is slow to import is imported in `run`, so that
--help is quick.
"""
