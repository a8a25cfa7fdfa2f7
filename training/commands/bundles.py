"""Commands for bundles: export one, score it, show its model card, and split the graphs of an older one."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from models.manifest import Manifest, locate
from training.recipe import Recipe, RecipeError
from training.terminal import (
    MOST_LABELS,
    add_command,
    add_file_options,
    add_option,
    console,
    echo,
    given_file_options,
    label_table,
    read_manifest,
)

if TYPE_CHECKING:
    from models.bundle import Bundle


# What the rows of a test file are, for tasks without labels.
COUNTED = {"generate": "characters", "translate": "pairs", "caption": "pairs", "fill": "texts"}


def register(commands: Any) -> None:
    parser = add_command(commands, "export", export_run)
    parser.add_argument("run", type=Path, metavar="RUN", help="Export this run folder.")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="Write the bundle here (default: RUN/bundle).")
    parser.add_argument("--force", action="store_true", help="Replace a bundle that has a better score.")
    parser.add_argument("--only", metavar="VARIANT", help="Export only this variant, e.g. int8, for a smaller bundle.")
    add_option(parser, "--version", "Write this version into the manifest, such as 2", default="1")

    parser = add_command(commands, "score", score_bundle)
    parser.add_argument(
        "bundle", type=locate, metavar="BUNDLE", help="Score this bundle, e.g. runs/NAME/bundle or pos-en."
    )
    parser.add_argument("--data", type=Path, metavar="FILE", help="Score on this labeled file, and show each label.")
    add_option(parser, "--variant", "Score only this variant, e.g. fp32 or int8", default="all")
    add_file_options(parser.add_argument_group("the test file"))

    parser = add_command(commands, "show", show_card)
    parser.add_argument(
        "bundle", type=locate, metavar="BUNDLE", help="Show this bundle, e.g. runs/NAME/bundle or pos-en."
    )

    parser = add_command(commands, "card", write_cards)
    parser.add_argument("bundles", type=locate, nargs="+", metavar="BUNDLE", help="Write the cards of these bundles.")

    parser = add_command(commands, "split-speller", split_speller)
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE", help="Split the graphs of these bundles.")


def export_run(options: argparse.Namespace) -> None:
    """Export a run to ONNX, compare it with PyTorch, score every variant, and write the bundle."""
    from training import export
    from training.run import open_run

    target = options.out or options.run / "bundle"
    manifest = export.export_run(
        open_run(options.run), target, echo, force=options.force, only=options.only, version=options.version
    )
    echo(
        f"{target}: {manifest.name}, default variant {manifest.default_variant}, {len(manifest.examples)} examples; "
        f"serve it: seqserve serve --bundles models/zoo,{target}"
    )


def score_bundle(options: argparse.Namespace) -> None:
    """Score a bundle with the code that serves it: on its development data, or on any file that `fit` reads.

    The columns are those that the bundle was trained with, unless you name others.
    """
    from models import bundle
    from training import score
    from training.data.loading import load_splits, merge_dev_labels
    from training.recipe import reopen

    manifest = read_manifest(options.bundle)
    recipe = reopen(json.loads(manifest.provenance.recipe))
    if options.data is not None:
        _score_file(recipe, manifest, options)
        return
    if given := given_file_options(options):
        raise RecipeError(f"--{next(iter(given)).replace('_', '-')} needs a test file; give it with --data")
    examples = merge_dev_labels(recipe, load_splits(recipe))
    known = manifest.provenance.data.sha256
    if changed := sorted(file for file, sha256 in examples.source.files.items() if known.get(file, sha256) != sha256):
        echo(f"note: {', '.join(changed)} changed after the bundle was made, so its scores may differ")
    table = Table("variant", manifest.metric, "in the manifest", box=None)
    notes: list[str] = []
    variants = list(manifest.variants) if options.variant == "all" else [options.variant]
    shown = manifest.default_variant if manifest.default_variant in variants else variants[0]
    for name in variants:
        loaded = bundle.load(options.bundle, variant=name)
        scores, interval = score.score_with_interval(loaded, examples.dev)
        if name == shown:
            notes += _notes(loaded, interval, examples.dev)
        table.add_row(name, str(scores[manifest.metric]), str(manifest.variants[name].scores[manifest.metric]))
        if checklist := score.score_checklist(loaded):
            wrong = "; ".join(checklist.wrong)
            notes.append(f"checklist, {name}: {checklist} right{'; wrong: ' if wrong else ''}{wrong}")
    console.print(table)
    for line in notes:
        echo(line)


def _notes(loaded: "Bundle", interval: Any, rows: Sequence[Any]) -> list[str]:
    """Return lines about the interval of the score, and about the score on texts."""
    from training import report, score

    found = score.score_texts(loaded, rows)
    shown = [] if interval is None else [report.describe_interval(loaded.manifest.metric, interval, len(rows))]
    return shown if found is None else [*shown, str(found)]


def _score_file(recipe: Recipe, manifest: Manifest, options: argparse.Namespace) -> None:
    from models import bundle
    from training import metrics, score
    from training.data.loading import load_test_file

    # Scores of spans compare IOB2 tags, also if the recipe's published data needed no conversion.
    scheme = {"tag_scheme": "auto"} if manifest.scheme else {}
    changes = {"name": None, "path": options.data, "dev": None, "parallel": None, "dev_parallel": None}
    changes |= {**scheme, **given_file_options(options)}
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update=changes)})
    variants = list(manifest.variants) if options.variant == "all" else [options.variant]
    loaded = {name: bundle.load(options.bundle, variant=name) for name in variants}
    if recipe.forecast is not None:
        _score_series(recipe, loaded)
        return
    rows, notes = load_test_file(recipe)
    for note in notes:
        echo(f"note: {note}")
    measured = {name: score.score_with_interval(each, rows) for name, each in loaded.items()}
    _print_scores({name: scores for name, (scores, _) in measured.items()})
    if manifest.memory:
        _print_signatures([pair.target for pair in rows])
    if unit := COUNTED.get(recipe.task):
        echo(f"{len(rows):,} {unit} of {options.data}")
        return
    shown = manifest.default_variant if manifest.default_variant in loaded else variants[0]
    for line in _notes(loaded[shown], measured[shown][1], rows):
        echo(line)
    expected = [metrics.ExampleLabels.of(example) for example in rows]
    reports = metrics.report_labels(recipe.task, expected, score.predict(loaded[shown], rows))
    for kind, found in reports.items():
        if found and not (kind == "labels" and recipe.task == "tag" and reports["spans"]):
            console.print(label_table(kind, [asdict(row) for row in found]))
            if len(found) > MOST_LABELS:
                echo(f"… and {len(found) - MOST_LABELS} more {kind}")
    known = {*manifest.labels, *manifest.text_labels}
    labels = [label for each in expected for label in (*each.steps, each.text) if label is not None]
    if unknown := sorted(set(labels) - known):
        echo(f"note: {manifest.name} never answers these labels of {options.data}: {', '.join(unknown)}")
    echo(f"{len(rows):,} examples of {options.data}; the table of labels is for {shown}")


def _print_signatures(references: Sequence[str]) -> None:
    """Print how the scores of translations are computed."""
    from training import score, translations

    echo(f"bleu and chrf with {score.BEAMS} beams, greedy_bleu with one; signatures:")
    for name, signature in translations.signatures(references).items():
        echo(f"{name}: {signature}")


def _score_series(recipe: Recipe, loaded: Mapping[str, "Bundle"]) -> None:
    """Print the scores of a forecaster on a file, next to the baselines."""
    from training import forecasts, score
    from training.data.loading import load_test_series

    train, windows = load_test_series(recipe)
    scores = {name: score.score(each, windows) for name, each in loaded.items()}
    _print_scores(scores | forecasts.baselines(train, windows, recipe.forecast.horizon))
    found, known = train[0].frequency, recipe.forecast.frequency
    if known and found != known:
        echo(f"note: the step of the file is {found}, but {recipe.name} was trained on {known}")
    echo(f"{len(windows):,} windows of the second half of {len(train):,} series in {recipe.data.path}")


def _print_scores(scores: Mapping[str, Mapping[str, float]]) -> None:
    """Print a row of scores for each variant, and for each baseline, which may not have all of them."""
    names = list(next(iter(scores.values())))
    table = Table("variant", *names, box=None)
    for name, row in scores.items():
        table.add_row(name, *(f"{round(row[metric], 4)}" if metric in row else "" for metric in names))
    console.print(table)


def write_cards(options: argparse.Namespace) -> None:
    """Measure bundles on their development data and write their model cards (README.md) again.

    Nothing else in the bundles changes.
    """
    from models import bundle
    from models.manifest import CARD_FILE
    from models.onnx_session import Placement
    from training.data.loading import load_splits, merge_dev_labels
    from training.export import card_of
    from training.recipe import reopen

    for folder in options.bundles:
        loaded = bundle.load(folder, placement=Placement(device="cpu"))
        recipe = reopen(json.loads(loaded.manifest.provenance.recipe))
        text = card_of(loaded.manifest, loaded, recipe, merge_dev_labels(recipe, load_splits(recipe)))
        (folder / CARD_FILE).write_text(text, "utf-8")
        echo(f"wrote {folder / CARD_FILE}")


def show_card(options: argparse.Namespace) -> None:
    from models.manifest import CARD_FILE
    from training import card

    manifest, written = read_manifest(options.bundle), options.bundle / CARD_FILE
    echo(written.read_text("utf-8") if written.is_file() else card.write(manifest))


def split_speller(options: argparse.Namespace) -> None:
    """Split the graphs of bundles with an LSTM over the characters of words, and write them in place.

    The service then caches the vectors of words. Answers keep their bits, but state tokens become invalid.
    """
    from training.onnx_export.speller import split_bundle

    for path in options.bundles:
        spellers = [variant.speller for variant in split_bundle(path).variants.values() if variant.speller]
        echo(f"{path}: {', '.join(spellers) or 'has no LSTM over the characters of words, so it stays as it is'}")
