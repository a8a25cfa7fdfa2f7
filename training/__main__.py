"""Command line of `python -m training`: parse, run one command, and report errors in one sentence."""

import argparse
import sys
from collections.abc import Sequence
from difflib import get_close_matches

from rich.markup import escape

from models.manifest import BundleError
from training.commands import bundles, catalog, experiments, fit, studies
from training.data.examples import DataError
from training.recipe import RecipeError
from training.terminal import echo, errors

EXAMPLES = """examples:
  python -m training fit pos-en                train a published recipe into runs/pos-en
  python -m training export runs/pos-en        make its bundle, runs/pos-en/bundle
  python -m training score runs/pos-en/bundle  score the bundle as it would be served
  python -m training fit pos-en --seeds 5      train with 5 seeds and keep the best
  python -m training cross-validate splice     hold out every example once
  python -m training compare runs/a runs/b     compare two runs
your own data:
  python -m training fit tagger --data mine.conll --name my-tagger
  python -m training fit classifier --data mine.csv --name my-classifier
  python -m training fit dna --data mine.fa --name my-dna
  python -m training fit frames --data mine.csv --series run --name my-frames
  python -m training fit language-model --data mine.txt --name my-writer
"""


def make_parser() -> tuple[argparse.ArgumentParser, list[str]]:
    """Return the parser and the names of its commands."""
    parser = argparse.ArgumentParser(
        prog="python -m training",
        usage="python -m training COMMAND …",
        description="Train, score, compare and export models.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", title="commands", prog="python -m training"
    )
    for module in (catalog, fit, experiments, bundles, studies):
        module.register(commands)
    return parser, list(commands.choices)


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status: 0, 2 after an error, 130 after Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser, commands = make_parser()
    if arguments and not arguments[0].startswith("-") and arguments[0] not in commands:
        likely = get_close_matches(arguments[0], commands, n=1)
        suggestion = f"did you mean {likely[0]}?" if likely else f"choose one of {', '.join(commands)}"
        errors.print(f"error: unknown command {arguments[0]!r}; {suggestion}", highlight=False, soft_wrap=True)
        return 2
    options = parser.parse_args(arguments)
    try:
        options.run_command(options)
    except (DataError, BundleError, RecipeError, FloatingPointError, OSError) as error:
        errors.print(f"[red]error:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt as interruption:
        echo(f"\ninterrupted{interruption}")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
