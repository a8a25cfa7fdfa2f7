"""The commands of seqserve that train: parse, run one command, and report errors in one sentence."""

import sys
from collections.abc import Sequence

from seqserve import CommandParser, required_packages

with required_packages():
    from rich.markup import escape

    from models.manifest import BundleError
    from models.messages import plain
    from training.commands import bundles, catalog, experiments, fit
    from training.data.examples import DataError
    from training.recipe import RecipeError
    from training.terminal import echo, errors

EXAMPLES = """examples:
  seqserve fit pos-en                train a published recipe into runs/pos-en
  seqserve export runs/pos-en        make its bundle, runs/pos-en/bundle
  seqserve score runs/pos-en/bundle  score the bundle as it would be served
  seqserve fit pos-en --seeds 5      train with 5 seeds and keep the best
  seqserve cross-validate splice     hold out every example once
  seqserve compare runs/a runs/b     compare two runs
your own data:
  seqserve fit tagger --data mine.conll --name my-tagger
  seqserve fit classifier --data mine.csv --name my-classifier
  seqserve fit dna --data mine.fa --name my-dna
  seqserve fit frames --data mine.csv --series run --name my-frames
  seqserve fit language-model --data mine.txt --name my-writer
"""


def make_parser() -> CommandParser:
    """Return the parser of all commands."""
    parser = CommandParser(
        prog="seqserve",
        usage="seqserve COMMAND …",
        description="Train, score, compare and export models.",
        epilog=EXAMPLES,
    )
    commands = parser.add_commands()
    for module in (catalog, fit, experiments, bundles):
        module.register(commands)
    return parser


@required_packages()
def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status: 0, 2 after an error, 130 after Ctrl-C."""
    options = make_parser().parse_args(arguments)
    try:
        options.run_command(options)
    except (DataError, BundleError, RecipeError, FloatingPointError, OSError) as error:
        errors.print(f"[red]error:[/red] {escape(plain(error))}", highlight=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt as interruption:
        echo(f"\ninterrupted{interruption}")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
