"""The command line: python -m training. Finds the verbs, one a file of training/verbs, and says what went wrong."""

import argparse
import pkgutil
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from rich.markup import escape

from models.manifest import BundleError
from training import commands as verbs
from training.data import DataError
from training.recipe import RecipeError
from training.terminal import errors, say

COMMANDS = """make models: train, score, compare and export them

try:
  python -m training list                      the recipes
  python -m training fit pos-en                train one; runs/pos-en holds all of it
  python -m training export runs/pos-en        make its bundle
  python -m training score runs/pos-en/bundle  the score of what would be served
how sure a score is, and what to change:
  python -m training fit pos-en --seeds 5      mean, deviation and interval; the best is kept
  python -m training cross-validate splice     every example is held out once
  python -m training compare runs/a runs/b     side by side, with curves
  python -m training rate pos-en               suggest a learning rate
  python -m training gradients names           how far back gradients reach, by cell
your own data:
  python -m training fit tagger --data mine.conll --name my-tagger
  python -m training fit classifier --data mine.csv --name my-classifier
  python -m training fit dna --data mine.fa --name my-dna
  python -m training fit frames --data mine.csv --series run --name my-frames
  python -m training fit language-model --data mine.txt --name my-writer
"""
AS_IT_IS: Any = {"formatter_class": argparse.RawDescriptionHelpFormatter}  # lines of a description stay lines


def parser() -> argparse.ArgumentParser:
    """Every file of training/verbs is a verb: HELP, add(parser) and run(options)."""
    made = argparse.ArgumentParser(
        prog="python -m training",
        usage="python -m training VERB …",
        description=COMMANDS,
        **AS_IT_IS,
    )
    choices = made.add_subparsers(dest="verb", required=True, metavar="VERB", title="verbs", prog="python -m training")
    for found in pkgutil.iter_modules(verbs.__path__):
        module = import_module(f"{verbs.__name__}.{found.name}")
        verb = choices.add_parser(
            found.name.replace("_", "-"), help=module.HELP, description=module.__doc__, **AS_IT_IS
        )
        module.add(verb)
        verb.set_defaults(run_verb=module.run)  # not `run`: the name of an option
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0; 2 for what cannot be done, said in one sentence; 130 after Ctrl-C."""
    options = parser().parse_args(arguments)
    try:
        return options.run_verb(options) or 0
    except (DataError, BundleError, RecipeError, FloatingPointError, OSError) as error:
        errors.print(f"[red]error:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt as interruption:
        say(f"\ninterrupted{interruption}")
        return 130


if __name__ == "__main__":
    sys.exit(main())
