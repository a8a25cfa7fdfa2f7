"""Run folders: train a recipe into one, write its report, and open it again."""

import json
import os
import platform
import shutil
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from models import codecs
from models.bundle import vocabulary, vocabulary_text
from models.manifest import MANIFEST_FILE
from models.messages import suggest
from training import metrics, parallel, plots, report, trainer
from training.data import loading
from training.data.examples import DataError, Source, Splits, digest_of
from training.data.time_series import season_of
from training.nn.networks import Network, SequenceNetwork, make_network
from training.objectives import Objective
from training.objectives.forecasting import ForecastObjective
from training.objectives.sequences import SequenceObjective
from training.objectives.translation import TranslationObjective
from training.prepare import prepare, source_codec
from training.recipe import Recipe, reopen
from training.trainer import EpochCallback, ProgressCallback

RUN_FILE = "run.json"
NOT_DECISIVE = ("description", "languages", "expect", "examples", "max_length")  # fields that change no weight
LIBRARIES = ("torch", "numpy", "onnx", "onnxruntime", "onnxscript", "scikit-learn")


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """The content of a run folder except the data: enough to export a bundle."""

    folder: Path
    recipe: Recipe
    codec: codecs.Codec
    labels: tuple[str, ...]  # as trained; recipe.merge maps them to the labels of answers
    text_labels: tuple[str, ...]
    source: Source
    history: list[dict[str, float]]  # one entry per epoch
    command: str = ""  # the command that made the run
    sizes: tuple[int, int] = (0, 0)  # examples or characters, trained on and held out to choose the epoch
    digest: str = ""  # of the examples: see digest_of
    notes: tuple[str, ...] = ()  # about the data, for the user
    init_digest: str = ""  # of the bundle that training started from

    def network(self) -> Network:
        """Return the network with the best weights and the chosen threshold, in evaluation mode."""
        network = make_network(
            self.recipe.architecture,
            self.codec,
            task=self.recipe.task,
            labels=self.labels,
            text_labels=self.text_labels,
            merge=self.recipe.merge,
            forecast=self.recipe.forecast,
            source=source_codec(self.recipe, self.codec),
        )
        weights = torch.load(self.folder / trainer.BEST, map_location="cpu", weights_only=True)
        network.load_state_dict({name: w for name, w in weights.items() if not name.startswith("auxiliary.")})
        if threshold := report.read(self.folder).get("threshold"):
            network.add_to_score(self.labels.index("O"), threshold)
        return network.eval()

    @property
    def metric(self) -> str:
        return metrics.metric_of(self.recipe.task, self.labels)

    @property
    def best_epoch(self) -> int:
        return metrics.best_epoch(self.history, self.metric)

    @property
    def best(self) -> dict[str, float]:
        """The best epoch's entry in the history."""
        return self.history[self.best_epoch - 1]

    @property
    def seconds(self) -> float:
        return sum(entry["seconds"] for entry in self.history)


def fit(
    recipe: Recipe,
    folder: Path,
    progress: ProgressCallback,
    *,
    on_epoch: EpochCallback = lambda history, metric: None,
    fresh: bool = False,
    command: str = "",
    examples: Splits[Any] | None = None,
) -> TrainingRun:
    """Train a recipe into `folder`. Resumes an interrupted run of the same recipe.

    `examples` replaces the recipe's data, as for a fold. Raises DataError for unusable data, before it
    changes the folder.
    """
    prepared = prepare(recipe, examples)
    run = TrainingRun(
        folder=folder,
        recipe=recipe,
        codec=prepared.codec,
        labels=prepared.labels,
        text_labels=prepared.text_labels,
        source=loading.combine_sources(prepared.examples, prepared.auxiliary),
        history=[],
        command=command,
        notes=prepared.notes,
        sizes=(len(prepared.examples.train), len(prepared.examples.choosing)),
        digest=digest_of(prepared.examples),
        init_digest=prepared.init_digest,
    )
    # Other processes look for a checkpoint only after the first one has written the folder, or all raise its error.
    parallel.from_first(lambda: _write_folder(run, fresh))
    objective = prepared.objective(recipe)
    run = replace(run, history=trainer.fit(objective, recipe.training, folder, progress, on_epoch))
    if parallel.rank() == 0:
        _write_report(run, prepared.examples, objective)
    return run


def open_run(folder: Path) -> TrainingRun:
    """Open a run folder that `fit` wrote. Raises DataError if it is incomplete or damaged."""
    try:
        description = _read_description(folder)
        history = json.loads((folder / trainer.HISTORY).read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        if not folder.exists():
            runs = [str(file.parent) for file in folder.parent.glob(f"*/{RUN_FILE}")]
            raise DataError(f"{folder} does not exist; {suggest(str(folder), runs) or 'check the path'}") from None
        if (folder / MANIFEST_FILE).exists():
            near = folder.resolve().parent
            run = f"run seqserve export {near}" if (near / RUN_FILE).exists() else "give the folder of a run"
            raise DataError(f"{folder} is a bundle, which has been exported; {run}") from None
        missing = Path(error.filename).name
        raise DataError(f"{folder} is not a finished run, {missing} is missing; run fit first") from None
    recipe = reopen(description["recipe"])
    return TrainingRun(
        folder=folder,
        recipe=recipe,
        codec=codecs.build(recipe.codec, lambda name: vocabulary(folder / name)),
        labels=tuple(description["labels"]),
        text_labels=tuple(description["text_labels"]),
        sizes=(description["examples"]["train"], description["examples"]["dev"]),
        digest=description["examples"]["sha256"],
        source=Source(**description["source"]),
        history=history,
        command=description.get("command", ""),
        init_digest=description.get("init_sha256", ""),
    )


def _write_report(run: TrainingRun, examples: Splits[Any], objective: Objective) -> None:
    """Write report.json and, for labels, confusion.png and errors.tsv; for translations, those and attention.png.

    The report has "threshold" if one was chosen. The labels and errors below it then have it, the scores do not.
    """
    dev = examples.choosing
    # A resumed run has the same data, so its baselines are still right.
    before = report.read(run.folder)
    scores = before.get("baselines") or report.measure_baselines(run.recipe, examples.train, dev)
    content: dict[str, Any] = {
        "baselines": scores,
        "advice": report.advise(run.recipe, run.metric, run.history, run.best_epoch, scores),
        "stopped": trainer.describe_stop(run.history, run.metric, run.recipe.training),
    }
    if isinstance(objective, ForecastObjective):
        rows, spec = objective.predict(run.network()), run.recipe.forecast
        plots.draw_forecasts(dev, rows, spec.quantile_levels, run.folder / "forecasts.png")
        plots.draw_errors(dev, rows, season_of(spec.frequency), run.folder / "errors-by-horizon.png")
    if isinstance(objective, TranslationObjective):
        network = run.network()
        report.write_translations(run.folder, dev, objective.predict(network))
        first = run.recipe.examples[0] if run.recipe.examples else dev[0].source
        plots.draw_attention(objective.attend(network, first), run.folder / "attention.png")
    if isinstance(objective, SequenceObjective):
        network = run.network()
        if run.recipe.training.threshold and isinstance(network, SequenceNetwork):
            content["threshold"] = before.get("threshold", 0.0) + objective.set_threshold(network)
        predicted, _ = objective.predict(network)
        content |= report.label_scores(run.recipe.task, run.metric, objective.expected, predicted)
        content["errors"] = report.write_errors(run.folder, dev, predicted)
        pairs = metrics.label_lists(run.recipe.task, objective.expected, predicted)
        plots.draw_confusion(metrics.confusion(*pairs), run.folder / "confusion.png", run.folder.name)
    report.write(run.folder, content)


def describe_machine() -> dict[str, Any]:
    """Describe processor and versions for run.json and results, without host or user names."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in LIBRARIES},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _write_folder(run: TrainingRun, fresh: bool) -> None:
    """Write run.json and the vocabularies. Raises DataError if the folder holds a run of another recipe."""
    folder = run.folder
    if fresh and folder.exists():
        if any(folder.iterdir()) and not (folder / RUN_FILE).is_file():
            raise DataError(f"{folder} has no {RUN_FILE}, so it is not a run and was not removed; give another --run")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    source = asdict(run.source)
    del source["note"]
    description = {
        "recipe": run.recipe.model_dump(mode="json"),
        "labels": list(run.labels),
        "text_labels": list(run.text_labels),
        "source": source,
        "codec": run.recipe.codec.model_dump(mode="json"),
        "examples": {"train": run.sizes[0], "dev": run.sizes[1], "sha256": run.digest},
        "command": run.command,
        "init_sha256": run.init_digest,
        "machine": describe_machine(),
    }
    path = folder / RUN_FILE
    if path.exists():
        before, now = _decisive_fields(_read_description(folder)), _decisive_fields(description)
        if changed := sorted(key for key in before | now if before.get(key) != now.get(key)):
            raise DataError(
                f"{folder} holds another run, with different {', '.join(changed)}; give another folder with --run, or "
                "start over with --fresh"
            )
    path.write_text(json.dumps(description, indent=1, ensure_ascii=False) + "\n", "utf-8")
    for name, entries in run.codec.vocabularies.items():
        (folder / name).write_text(vocabulary_text(entries), "utf-8")


def _decisive_fields(description: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of run.json that weights depend on. Descriptions may change without training again."""
    # Validation adds the defaults of fields that did not exist when an older run was written.
    fields = Recipe.model_validate(description["recipe"]).model_dump(mode="json")
    recipe = {key: value for key, value in fields.items() if key not in NOT_DECISIVE}
    recipe["codec"].pop("frame_rate", None)
    data = recipe.pop("data")
    if data["path"] is not None:  # the columns of a published data set belong to its reader
        recipe["data"] = data
    training = {
        f"training.{key}": value for key, value in recipe.pop("training").items() if key not in ("device", "threads")
    }
    labels = {"labels": description["labels"], "text labels": description.get("text_labels", [])}
    files, examples = description["source"]["files"], description["examples"]["sha256"]
    init = description.get("init_sha256", "")
    return {**recipe, **training, **labels, "data files": files, "examples": examples, "init": init}


def _read_description(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / RUN_FILE).read_text("utf-8"))
    except ValueError as error:
        raise DataError(f"{folder / RUN_FILE}: damaged ({error}); start over with --fresh") from None
