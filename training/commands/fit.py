"""Commands that train: fit a recipe, with one seed or several, and cross-validate it."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from training.recipe import Recipe, RecipeError
from training.terminal import (
    MOST_LABELS,
    NOT_SCORES,
    RUNS,
    add_command,
    add_option,
    add_recipe_options,
    command_line,
    console,
    duration,
    echo,
    label_table,
    progress,
    recipe_from,
)

if TYPE_CHECKING:
    from training.run import TrainingRun

# What a task is trained and scored on, one and several.
EXAMPLES, CHARACTERS = ("example", "examples"), ("character", "characters")
COUNTED = {
    "generate": (CHARACTERS, CHARACTERS),
    "forecast": (("series", "series"), ("window", "windows")),
}


def register(commands: Any) -> None:
    parser = add_command(commands, "fit", fit_recipe)
    add_recipe_options(parser)
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="Write the run here (default: runs/NAME).")
    parser.add_argument("--fresh", action="store_true", help="Remove an earlier run in that folder first.")
    parser.add_argument("--seeds", metavar="N|A,B,…", help="Train with seeds 1 to N, or with these, and keep the best.")

    parser = add_command(commands, "cross-validate", cross_validate)
    add_recipe_options(parser)
    add_option(parser, "--folds", "Split the data into N folds", default=10, type=int, metavar="N")
    parser.add_argument("--seeds", metavar="N|A,B,…", help="Repeat each fold with these seeds.")
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="Write the folds here (default: runs/NAME-folds).")
    parser.add_argument("--fresh", action="store_true", help="Remove earlier runs of the folds first.")


def fit_recipe(options: argparse.Namespace) -> None:
    """Train a recipe into a run folder.

    The same command resumes an interrupted run. Several processes share the work under torchrun: torchrun
    --nproc-per-node 2 -m -- training fit pos-en
    """
    from training import parallel

    recipe = recipe_from(options)
    folder = options.run or RUNS / recipe.name
    with parallel.process_group():
        if options.seeds is None:
            _print_run(_fit(recipe, folder, options, command=command_line(options)))
        else:
            _fit_seeds(recipe, folder, options)
        echo(f"next: seqserve export {folder}")


def cross_validate(options: argparse.Namespace) -> None:
    """Hold out every example once and score the last epoch of each fold.

    Nothing stops early, because the best epoch would be chosen on the examples that score it.
    """
    from training import parallel, seeds_and_folds
    from training.data import loading

    recipe = recipe_from(options)
    if recipe.task == "generate":
        raise RecipeError("cross-validation needs examples, and a text has none; use a recipe for another task")
    folder = options.run or RUNS / f"{recipe.name}-folds"
    seeds = [recipe.training.seed] if options.seeds is None else seeds_and_folds.parse_seeds(options.seeds)
    last: dict[str, float] = {}  # scores of the last epoch of each fold, as means over seeds
    best: dict[str, float] = {}  # and of the best epoch
    with parallel.process_group():
        folds = seeds_and_folds.make_folds(loading.load_splits(recipe), options.folds, recipe.training.seed)
        for number, fold in enumerate(folds, 1):
            name = f"fold-{number}"
            for seed in seeds:
                single = len(seeds) == 1
                run = _fit(
                    seeds_and_folds.with_seed(recipe, seed, patience=recipe.training.epochs),
                    folder / name if single else folder / f"seed-{seed}" / name,
                    options,
                    command=command_line(options),
                    label=f"fold {number}" if single else f"fold {number}, seed {seed}",
                    examples=fold,
                )
                last[name] = last.get(name, 0.0) + run.history[-1][run.metric] / len(seeds)
                best[name] = best.get(name, 0.0) + run.best[run.metric] / len(seeds)
        if parallel.rank():
            return
    sizes = [len(fold.dev) for fold in folds]
    table = Table("fold", "held out", "last epoch", "best epoch", box=None)
    for name, size in zip(last, sizes, strict=True):
        table.add_row(name, f"{size}", f"{last[name]:.2f}", f"{best[name]:.2f}")
    console.print(table)
    summary = seeds_and_folds.summarize(last, sizes)
    seeds_and_folds.write_summary(folder / "folds.json", summary, held_out=sizes, best_epochs=best)
    echo(f"over all {sum(sizes):,} examples, each held out once: {summary}")
    optimistic = seeds_and_folds.summarize(best, sizes)
    echo(f"with the best epochs, which is too optimistic: {optimistic.mean:.2f}; all scores: {folder}/folds.json")


def _fit(
    recipe: Recipe, folder: Path, options: argparse.Namespace, *, command: str, label: str = "", examples: Any = None
) -> "TrainingRun":
    """Train with progress on the terminal. After Ctrl-C, raise KeyboardInterrupt with what the folder keeps."""
    from training import parallel, run, trainer

    try:
        with progress(label, recipe.training.epochs) as shown:
            finished = run.fit(
                recipe,
                folder,
                shown.batch,
                on_epoch=shown.epoch,
                fresh=options.fresh,
                command=command,
                examples=examples,
            )
    except KeyboardInterrupt:
        epochs = len(trainer.saved_history(folder))
        if not epochs:
            message = f" in the first epoch: {folder} keeps nothing, and the same command starts over"
            raise KeyboardInterrupt(message) from None
        interrupted = run.open_run(folder)
        _draw_curves(interrupted)
        raise KeyboardInterrupt(
            f": {folder} keeps {epochs} of {recipe.training.epochs} epochs, and the best is {interrupted.best_epoch}. "
            f"The same command resumes; seqserve export {folder} exports the best so far"
        ) from None
    if parallel.rank() == 0:
        _draw_curves(finished)
    return finished


def _draw_curves(run: "TrainingRun") -> None:
    from training import plots, report

    baseline = report.best_baseline(run.metric, report.read(run.folder).get("baselines", {}))
    plots.draw_history(run.history, run.metric, run.folder / "curves.png", run.recipe.name, baseline)


def _print_run(run: "TrainingRun") -> None:
    for note in run.notes:
        echo(f"note: {note}")
    _print_report(run)
    units = COUNTED.get(run.recipe.task, (EXAMPLES, EXAMPLES))
    train, dev = (f"{size:,} {unit[size != 1]}" for size, unit in zip(run.sizes, units, strict=True))
    echo(f"trained on {train}, scored on {dev} that were held out; the best epoch is {run.best_epoch}")
    echo(f"weights, curves, report and wrong examples: {run.folder}")


def _print_report(run: "TrainingRun") -> None:
    """Print the best epoch next to the baselines, and the most frequent labels."""
    from training.report import REPORT, describe_interval, read

    report = read(run.folder)
    if stopped := report.get("stopped"):
        echo(f"stopped after epoch {len(run.history)}: {stopped}")
    scores = [name for name in run.best if name not in NOT_SCORES]
    table = Table("model", *scores, box=None)
    table.add_row(f"this run, epoch {run.best_epoch}", *(f"{run.best[name]:.3f}" for name in scores))
    for name, baseline in report.get("baselines", {}).items():
        table.add_row(name, *(f"{baseline[score]:.3f}" if score in baseline else "" for score in scores))
    console.print(table)
    if interval := report.get("interval"):
        echo(describe_interval(run.metric, interval, run.sizes[1]))
    if threshold := report.get("threshold"):
        echo(f"threshold: {threshold:+.1f} nats on the score of O; the rows below have it, the table above does not")
    if advice := report.get("advice"):
        echo(f"warning: {advice}")
    kind = "spans" if report.get("spans") else "labels"
    rows = report.get(kind, [])
    if not rows:
        return
    console.print(label_table(kind, rows))
    if len(rows) > MOST_LABELS:
        echo(f"… and {len(rows) - MOST_LABELS} more {kind}: {run.folder / REPORT}")


def _fit_seeds(recipe: Recipe, folder: Path, options: argparse.Namespace) -> None:
    """Train once per seed. The folder becomes a copy of the best run."""
    from training import metrics, parallel, plots, seeds_and_folds
    from training.data import loading

    seeds = seeds_and_folds.parse_seeds(options.seeds)
    seeds_and_folds.refuse_single_run(folder)
    examples = loading.load_splits(recipe)
    runs: dict[str, TrainingRun] = {}
    for seed in seeds:
        runs[f"seed-{seed}"] = _fit(
            seeds_and_folds.with_seed(recipe, seed),
            folder / f"seed-{seed}",
            options,
            command=command_line(options, "--set", f"training.seed={seed}"),
            label=f"seed {seed}",
            examples=examples,
        )
    if parallel.rank():
        return
    metric = next(iter(runs.values())).metric
    scores = {name: run.best[metric] for name, run in runs.items()}
    table = Table("seed", metric, "best epoch", "epochs", "time", box=None)
    for name, run in runs.items():
        table.add_row(name, f"{scores[name]:.3f}", f"{run.best_epoch}", f"{len(run.history)}", duration(run.seconds))
    console.print(table)
    summary = seeds_and_folds.summarize(scores)
    choose = max if metrics.higher_is_better(metric) else min
    best = choose(scores, key=lambda name: scores[name])
    seeds_and_folds.keep_best(folder, summary, best)
    plots.draw_comparison({name: run.history for name, run in runs.items()}, metric, folder / "seeds.png")
    _print_report(runs[best])
    echo(f"{metric}: mean {summary}")
    echo(f"{folder} is now the best run, {best}; all scores: {folder / seeds_and_folds.SEEDS}")
