"""The command line: python -m training. Arguments and printing only; the work is in the other modules."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from models.manifest import BundleError
from training import recipe as recipes
from training.data import DataError, catalogue

RUNS = Path("runs")
EPILOG = """try:
  python -m training list                     the recipes
  python -m training fit pos-en               train one; runs/pos-en holds all of it
  python -m training export runs/pos-en       make its bundle
  python -m training score runs/pos-en/bundle the score of what would be served
your own data:
  python -m training fit tagger --data mine.conll --name my-tagger
  python -m training fit classifier --data mine.csv --name my-classifier
  python -m training fit language-model --data mine.txt --name my-writer
"""

OWN_DATA = ("dev", "text", "label", "token_column", "tag_column", "encoding")  # options of fit, fields of [data]

console = Console()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training",
        description="Make models: train, export and score them.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    verbs.add_parser("list", help="the recipes that come with seqserve")
    fetch = verbs.add_parser("data", help="the data sets, or fetch some")
    fetch.add_argument("names", nargs="*", help="data sets to fetch")
    fit = verbs.add_parser("fit", help="train by a recipe")
    fit.add_argument("recipe", help="a recipe's name, or a path to a .toml file")
    fit.add_argument("--data", type=Path, help="your own file: CoNLL, CSV/TSV/JSONL or plain text, as the task needs")
    fit.add_argument("--name", help="name of the run and of its bundle")
    own = fit.add_argument_group("your own file")
    own.add_argument("--dev", type=Path, help="development data (default: a tenth of --data is held out)")
    own.add_argument("--text", metavar="COLUMN", help="column or key of the text (default: text)")
    own.add_argument("--label", metavar="COLUMN", help="column or key of the label (default: label)")
    own.add_argument("--token-column", type=_column, metavar="N", help="from 0 (default: the first; in .conllu FORM)")
    own.add_argument("--tag-column", type=_column, metavar="N", help="from 0 (default: the last; in .conllu UPOS)")
    own.add_argument("--encoding", help="e.g. latin-1, cp1252, utf-16 (default: utf-8)")
    fit.add_argument("--run", type=Path, help="run folder (default: runs/NAME)")
    fit.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="e.g. training.epochs=3")
    fit.add_argument("--fresh", action="store_true", help="throw an earlier run in that folder away")
    export = verbs.add_parser("export", help="make the bundle of a run")
    export.add_argument("run", type=Path)
    export.add_argument("--to", type=Path, help="bundle directory (default: RUN/bundle)")
    export.add_argument("--force", action="store_true", help="replace a bundle that has a better score")
    score = verbs.add_parser("score", help="score a bundle on its development data, as it would be served")
    score.add_argument("bundle", type=Path)
    score.add_argument("--variant", default="all")
    show = verbs.add_parser("show", help="what a bundle is")
    show.add_argument("bundle", type=Path)
    options = parser.parse_args(arguments)
    verb: Any = globals()[f"_{options.verb}"]
    try:
        result: int = verb(options) or 0
        return result
    except (DataError, BundleError, recipes.RecipeError, FloatingPointError, OSError) as error:
        Console(stderr=True).print(f"[red]error:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        kept = ": the last whole epoch is kept; the same command goes on from there" if options.verb == "fit" else ""
        console.print(f"\ninterrupted{kept}", soft_wrap=True)
        return 130


def _list(options: argparse.Namespace) -> None:
    table = Table("recipe", "task", "data", "expected", "what it is", box=None)
    for name in recipes.names():
        recipe = recipes.load(name)
        expected = "" if recipe.expect.score is None else f"{recipe.expect.score} in {recipe.expect.minutes:g} min"
        table.add_row(name, recipe.task, recipe.data.name or "--data FILE", expected, recipe.description)
    console.print(table)


def _data(options: argparse.Namespace) -> None:
    from training.data.fetch import locate

    for name in options.names:
        _say(f"{name}: {locate(name)}")
    if not options.names:
        table = Table("data set", "task", "where", "licence", "what", box=None)
        for row in catalogue():
            table.add_row(row.name, row.task, row.where, row.licence, row.what)
        console.print(table)


def _fit(options: argparse.Namespace) -> None:
    from training import curves, loop, run

    recipe = recipes.load(options.recipe, **_changes(options))
    if recipe.data.path is None and (given := [name for name in OWN_DATA if getattr(options, name) is not None]):
        raise recipes.RecipeError(f"--{given[0].replace('_', '-')} describes your own file: give it with --data")
    folder = options.run or RUNS / recipe.name
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("reading", total=None, loss=float("nan"))

        def report(epoch: int, batch: int, batches: int, loss: float) -> None:
            progress.update(bar, description=f"epoch {epoch}", completed=batch, total=batches, loss=loss)
            if batch == batches and not console.is_terminal:
                _say(f"epoch {epoch}: loss {loss:.4f}")

        finished = run.fit(recipe, folder, report, fresh=options.fresh, command=_command(options))
    for note in finished.notes:
        _say(f"note: {note}")
    metric = "nats_per_character" if recipe.task == "generate" else "accuracy"
    curves.draw(finished.history, metric, folder / "curves.png", recipe.name)
    table = Table("epoch", "train loss", "dev loss", metric, "seconds", box=None)
    for entry in finished.history:
        table.add_row(
            f"{entry['epoch']}",
            f"{entry['train_loss']:.4f}",
            f"{entry['dev_loss']:.4f}",
            f"{entry[metric]:.3f}",
            f"{entry['seconds']:.1f}",
        )
    console.print(table)
    parts = "characters" if recipe.task == "generate" else "examples"
    best = loop.best_epoch(finished.history, metric, higher_is_better=metric == "accuracy")
    train, dev = finished.sizes
    _say(f"{train:,} {parts} trained on, {dev:,} held out for the scores; epoch {best} is the best")
    _say(f"its weights and the curves are in {folder}; next: python -m training export {folder}")


def _export(options: argparse.Namespace) -> None:
    from training import export, run

    target = options.to or options.run / "bundle"
    manifest = export.export(run.open_run(options.run), target, _say, force=options.force)
    _say(
        f"{target}: {manifest.name}, default variant {manifest.default_variant}, {len(manifest.examples)} examples; "
        f"serve it: SEQSERVE_BUNDLES={target} make serve"
    )


def _score(options: argparse.Namespace) -> None:
    import json

    from models import bundle
    from models.manifest import read
    from training import run, score
    from training.recipe import Recipe

    manifest = read(options.bundle)
    recipe = Recipe.model_validate(json.loads(manifest.provenance.recipe))
    dev = run.splits(recipe.data, recipe.task).dev
    table = Table("variant", manifest.metric, "in the manifest", box=None)
    for name in manifest.variants if options.variant == "all" else [options.variant]:
        found = score.score(bundle.load(options.bundle, variant=name), dev)[manifest.metric]
        table.add_row(name, str(found), str(manifest.variants[name].scores[manifest.metric]))
    console.print(table)


def _show(options: argparse.Namespace) -> None:
    from models.manifest import read
    from training import card

    _say(card.write(read(options.bundle)))


def _say(text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _column(text: str) -> int | str:
    """A column by number, or by name in .conllu."""
    return int(text) if text.lstrip("-").isdecimal() else text


def _changes(options: argparse.Namespace) -> dict[str, Any]:
    """What the options of fit change in the recipe."""
    changes = dict(_change(text) for text in options.set)
    if options.name:
        changes["name"] = options.name
    if options.data:
        changes["data.path"] = str(options.data)
    own = {name: value for name in OWN_DATA if (value := getattr(options, name)) is not None}
    return changes | {f"data.{name}": str(value) if name == "dev" else value for name, value in own.items()}


def _command(options: argparse.Namespace) -> str:
    """The command that makes the same run again, in the order of the help; --run and --fresh change no weight."""
    words = ["python", "-m", "training", "fit", options.recipe]
    for name in ("data", "name", *OWN_DATA):
        if (value := getattr(options, name)) is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    for change in options.set:
        words += ["--set", change]
    return shlex.join(words)


def _change(text: str) -> tuple[str, Any]:
    """FIELD=VALUE, the value read as TOML where it is TOML, else as a string."""
    import tomllib

    field, separator, value = text.partition("=")
    if not separator:
        raise recipes.RecipeError(f"--set {text!r}: write FIELD=VALUE, for example training.epochs=3")
    try:
        return field, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return field, value


if __name__ == "__main__":
    sys.exit(main())
