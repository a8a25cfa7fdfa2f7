"""What the verbs share on the terminal: the console, a plain line, progress of a run, options that choose a recipe.

Knows recipes and options. Does not know what is done with them.
"""

import argparse
import os
import shlex
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from models.manifest import BundleError, Manifest, read
from training import recipe as recipes
from training.data import loading as choice
from training.recipe import Recipe, RecipeError

RUNS = Path("runs")
OWN_DATA = ("dev", "text", "label", "series", "token_column", "tag_column", "encoding")  # options, and fields of [data]

WIDE = 160  # columns of what goes into a file or a pipe: a table there should not be cut to a terminal's width
OTHER = os.environ.get("RANK", "0") != "0"  # of the processes that torchrun starts, the first alone speaks

console = Console(quiet=OTHER)
errors = Console(stderr=True, quiet=OTHER)
if not console.is_terminal:
    console.width = max(console.width, WIDE)


def say(text: str) -> None:
    """A line as it is: not wrapped, nothing in it taken for markup."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """Seconds up to two minutes, then minutes."""
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


@contextmanager
def progress(of: str = "") -> Iterator[Callable[[int, int, int, float], None]]:
    """A report for loop.fit: a bar on a terminal, a line an epoch elsewhere; `of` says which of several runs it is."""
    of = f"{of}, " if of else ""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        bar = bars.add_task(f"{of}reading", total=None, loss=float("nan"))

        def report(epoch: int, batch: int, batches: int, loss: float) -> None:
            bars.update(bar, description=f"{of}epoch {epoch}", completed=batch, total=batches, loss=loss)
            if batch == batches and not console.is_terminal:
                say(f"{of}epoch {epoch}: loss {loss:.4f}")

        yield report


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """The options that choose a recipe and its data: `recipe_of` reads them."""
    parser.add_argument("recipe", help="a recipe's name, or a path to a .toml file")
    parser.add_argument(
        "--data", type=Path, help="your own file: CoNLL, CSV/TSV/JSONL or plain text, as the task needs"
    )
    parser.add_argument("--name", help="name of the run and of its bundle")
    own = parser.add_argument_group("your own file")
    own.add_argument("--dev", type=Path, help="development data (default: a tenth of --data is held out)")
    own.add_argument("--text", metavar="COLUMN", help="column or key of the text (default: text)")
    own.add_argument("--label", metavar="COLUMN", help="column or key of the label (default: label)")
    own.add_argument(
        "--series", metavar="COLUMN", help="column that is the same in all frames of a series (default: id)"
    )
    own.add_argument("--token-column", type=_column, metavar="N", help="from 0 (default: the first; in .conllu FORM)")
    own.add_argument("--tag-column", type=_column, metavar="N", help="from 0 (default: the last; in .conllu UPOS)")
    own.add_argument("--encoding", help="e.g. latin-1, cp1252, utf-16 (default: utf-8)")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="e.g. training.epochs=3")


def recipe_of(options: argparse.Namespace, **changes: Any) -> Recipe:
    """The recipe that the options of `add_recipe` choose; `changes` are dotted fields that win over --set."""
    chosen = {**_changes(options), **changes}
    recipe = recipes.load(options.recipe, **chosen)
    if recipe.data.path is None and (given := [name for name in OWN_DATA if getattr(options, name) is not None]):
        raise RecipeError(f"--{given[0].replace('_', '-')} describes your own file: give it with --data")
    return recipe if "codec.features" in chosen else choice.counted(recipe)


def manifest_of(folder: Path) -> Manifest:
    """The manifest of a bundle; who names its run is told where the bundle is."""
    try:
        return read(folder)
    except BundleError:
        if not (folder / "run.json").is_file():
            raise
    made = folder / "bundle"
    remedy = f"try {made}" if made.is_dir() else f"make its bundle with python -m training export {folder}"
    raise BundleError(f"{folder} is a run, not a bundle: {remedy}")


def command_of(options: argparse.Namespace, *more: str) -> str:
    """The command that does the same again, in the order of the help; --fresh changes no weight."""
    words = ["python", "-m", "training", options.verb, options.recipe]
    for name in ("data", "name", *OWN_DATA):
        if (value := getattr(options, name)) is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    for change in options.set:
        words += ["--set", change]
    if getattr(options, "run", None) is not None:
        words += ["--run", str(options.run)]
    return shlex.join([*words, *more])


def _column(text: str) -> int | str:
    """A column by number, or by name in .conllu."""
    return int(text) if text.lstrip("-").isdecimal() else text


def _changes(options: argparse.Namespace) -> dict[str, Any]:
    """What the options change in the recipe."""
    changes = dict(_change(text) for text in options.set)
    if options.name:
        changes["name"] = options.name
    if options.data:
        changes["data.path"] = str(options.data)
    own = {name: value for name in OWN_DATA if (value := getattr(options, name)) is not None}
    return changes | {f"data.{name}": str(value) if name == "dev" else value for name, value in own.items()}


def _change(text: str) -> tuple[str, Any]:
    """FIELD=VALUE, the value read as TOML where it is TOML, else as a string."""
    field, separator, value = text.partition("=")
    if not separator:
        raise RecipeError(f"--set {text!r}: write FIELD=VALUE, for example training.epochs=3")
    try:
        return field, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return field, value
