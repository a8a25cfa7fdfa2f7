"""What commands share: the console, the progress of a run, and the options that choose a recipe and its data."""

import argparse
import os
import shlex
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from models.manifest import BundleError, Manifest, read
from seqserve import COMMANDS
from training import metrics
from training import recipe as recipes
from training.data import loading
from training.recipe import Recipe, RecipeError

RUNS = Path("runs")
COLUMN_OPTIONS = (
    *("text", "label", "tokens", "tags", "series", "time", "target", "freq", "source"),
    *("token_column", "tag_column"),
)
PATH_OPTIONS = ("dev", "parallel", "dev_parallel")
FILE_OPTIONS = (*PATH_OPTIONS, *COLUMN_OPTIONS, "encoding")  # also fields of [data]
SEGMENT_SIZES = ("codec.segment", "codec.longest")

MOST_LABELS = 20  # rows of a table
NOT_SCORES = ("epoch", "train_loss", "gradient_norm", "learning_rate", "seconds", "dev_loss")  # of a history's entry
FILE_WIDTH = 160  # columns for output to files and pipes, so that tables are not cut
SILENT = os.environ.get("RANK", "0") != "0"  # only the first process of torchrun prints

console = Console(quiet=SILENT)
errors = Console(stderr=True, quiet=SILENT)
if not console.is_terminal:
    console.width = max(console.width, FILE_WIDTH)


def echo(text: str) -> None:
    """Print a line unchanged, without wrapping or markup."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def label_table(kind: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table of the most frequent labels, from the rows of metrics.LabelReport."""
    table = Table(kind, "precision", "recall", "F1", "expected", box=None)
    for row in sorted(rows, key=lambda row: -row["support"])[:MOST_LABELS]:
        shares = (f"{row[name]:.1f}" for name in ("precision", "recall", "f1"))
        table.add_row(escape(row["label"]), *shares, f"{row['support']}")
    return table


def duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


class RunProgress:
    """The progress of one run: a bar over the batches of an epoch, on a terminal, and a line after each epoch."""

    def __init__(self, bars: Progress, label: str, epochs: int) -> None:
        self._bars, self._label, self._epochs = bars, label, epochs
        self._bar = bars.add_task(f"{label}reading", total=None, loss="")

    def batch(self, epoch: int, batch: int, batches: int, loss: float) -> None:
        """Move the bar."""
        self._bars.update(
            self._bar,
            description=f"{self._label}epoch {epoch}/{self._epochs}",
            completed=batch,
            total=batches,
            loss=f"loss {loss:.3f}",
        )

    def epoch(self, history: list[dict[str, float]], metric: str) -> None:
        """Print the losses and scores of the last epoch, and the longest time that the run still takes."""
        last, seconds = history[-1], [entry["seconds"] for entry in history]
        best = history[metrics.best_epoch(history, metric) - 1]
        others = [f"{name} {last[name]:.2f}" for name in last if name not in NOT_SCORES and name != metric]
        left = sum(seconds) / len(seconds) * (self._epochs - len(history))
        number = f"{len(history)}".rjust(len(f"{self._epochs}"))
        parts = [
            f"{self._label}epoch {number}/{self._epochs}: train loss {last['train_loss']:.4f}",
            f"dev loss {last['dev_loss']:.4f}",
            f"{metric} {last[metric]:.3f} (best {best[metric]:.3f}, epoch {best['epoch']})",
            *others,
            duration(last["seconds"]),
        ]
        echo(", ".join(parts) + (f", at most {duration(left)} left" if left else ""))


@contextmanager
def progress(label: str = "", epochs: int = 1) -> Iterator[RunProgress]:
    """Yield the callbacks for trainer.fit. `label` names one of several runs."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        yield RunProgress(bars, f"{label}, " if label else "", epochs)


def add_command(commands: Any, name: str, run: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
    """Add a command that calls `run` and is described by its docstring. Its summary is that of `seqserve --help`."""
    (summary,) = (group[name][1] for group in COMMANDS.values() if name in group)
    description = " ".join((run.__doc__ or summary).split())
    parser: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=description)
    parser.set_defaults(run_command=run)
    return parser


def add_option(parser: argparse.ArgumentParser, name: str, help: str, *, default: Any, **keywords: Any) -> None:
    """Add an option with a default, which is added to its help."""
    parser.add_argument(name, default=default, help=f"{help} (default: {default}).", **keywords)


def add_recipe_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `recipe_from` reads."""
    parser.add_argument("recipe", help="Use the recipe of this name, or a .toml file.")
    parser.add_argument(
        *("--data", "--vectors"),
        type=Path,
        metavar="FILE",
        help="Train on your own file: CoNLL, CSV, TSV, JSONL or text, or vectors in .npz.",
    )
    parser.add_argument(
        "--init", type=Path, metavar="BUNDLE", help="Start from the vocabularies and the weights of this bundle."
    )
    parser.add_argument("--name", help="Name the run and its bundle (default: the recipe's name).")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="Change a field: --set training.epochs=3."
    )

    own = parser.add_argument_group("your own file")
    own.add_argument(
        "--dev", type=Path, metavar="FILE", help="Score on this development data (default: a tenth of --data)."
    )
    own.add_argument("--dev-parallel", type=Path, metavar="FILE", help="The same for --dev.")
    add_file_options(own)


def add_file_options(own: Any) -> None:
    """Add the options that say where a file has texts, labels and the like: fields of [data]."""

    def column(text: str) -> int | str:
        """Parse a column number, or a column name of .conllu."""
        return int(text) if text.lstrip("-").isdecimal() else text

    own.add_argument(
        *("--parallel", "--captions"),
        type=Path,
        metavar="FILE",
        help="Line n of this file translates line n of --data, or is the caption of vector n.",
    )
    own.add_argument("--text", metavar="COLUMN", help="Read texts from this column or key (default: text).")
    own.add_argument("--label", metavar="COLUMN", help="Read labels from this column or key (default: label).")
    own.add_argument("--tokens", metavar="KEY", help="Name the key of the tokens in JSON (default: tokens).")
    own.add_argument("--tags", metavar="KEY", help="Name the key of the tags in JSON (default: tags or ner_tags).")
    own.add_argument("--series", metavar="COLUMN", help="Group frames or values by this column (default: id).")
    own.add_argument("--time", metavar="COLUMN", help="Read the times of values from this column (default: time).")
    own.add_argument("--target", metavar="COLUMNS", help="Forecast these columns, a,b (default: all numbers).")
    own.add_argument("--source", metavar="COLUMN", help="Translate from this column, to --target (default: source).")
    own.add_argument("--freq", metavar="FREQ", help="Time between two values: h, D, MS, … (default: the most common).")
    own.add_argument(
        "--token-column",
        type=column,
        metavar="N",
        help="Read tokens from this column, counted from 0 (default: the first; FORM in .conllu).",
    )
    own.add_argument(
        "--tag-column",
        type=column,
        metavar="N",
        help="Read tags from this column, counted from 0 (default: the last; UPOS in .conllu).",
    )
    own.add_argument("--encoding", help="Decode with this encoding, e.g. latin-1, cp1252, utf-16 (default: utf-8).")


def recipe_from(options: argparse.Namespace) -> Recipe:
    """Load the recipe that the options choose, with their changes."""
    changes = dict(_parse_change(text) for text in options.set)
    if options.name:
        changes["name"] = options.name
    if options.init:
        changes["init"] = str(options.init)
    if options.data:
        changes["data.path"] = str(options.data)
    given = given_file_options(options)
    changes |= {f"data.{name}": str(value) if name in PATH_OPTIONS else value for name, value in given.items()}
    # The segment and the longest history depend on each other, so that one of them alone may not fit the recipe.
    recipe = recipes.load(
        options.recipe, **{name: value for name, value in changes.items() if name not in SEGMENT_SIZES}
    )
    if recipe.data.path is None and given:
        raise RecipeError(f"--{next(iter(given)).replace('_', '-')} needs your own file; give it with --data")
    return recipes.load(options.recipe, **loading.fit_to_data(recipe, changes))


def given_file_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options about a file that were given, by the field of [data] that they change."""
    return {name: value for name in FILE_OPTIONS if (value := getattr(options, name, None)) is not None}


def command_line(options: argparse.Namespace, *more: str) -> str:
    """Return the command that repeats a run. It omits --fresh, which changes no weight."""
    words = ["seqserve", options.command, options.recipe]
    for name in ("data", "init", "name", *FILE_OPTIONS):
        if (value := getattr(options, name)) is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    for change in options.set:
        words += ["--set", change]
    if getattr(options, "run", None) is not None:
        words += ["--run", str(options.run)]
    return shlex.join([*words, *more])


def read_manifest(folder: Path) -> Manifest:
    """Read a bundle's manifest. The error for a run folder says where its bundle is."""
    try:
        return read(folder)
    except BundleError:
        if not (folder / "run.json").is_file():
            raise
    bundle = folder / "bundle"
    remedy = f"try {bundle}" if bundle.is_dir() else f"make its bundle with seqserve export {folder}"
    raise BundleError(f"{folder} is a run, not a bundle; {remedy}")


def _parse_change(text: str) -> tuple[str, Any]:
    """Parse FIELD=VALUE. A value that is not TOML is a string."""
    field, separator, value = text.partition("=")
    if not separator:
        raise RecipeError(f"--set {text!r}: write FIELD=VALUE, for example training.epochs=3")
    try:
        return field, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return field, value
