"""A run folder: from a recipe to data, codec, network and weights, and back from the folder to all of them.

Knows files and the order of things. Leaves optimisation to loop.py and the graph to export.py.
"""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from models import codecs
from models.bundle import vocabulary, vocabulary_text
from training import data, metrics, parallel
from training import environment as machine
from training import run_report as afterwards
from training import trainer as loop
from training.data import loading as choice
from training.data.examples import Source, Splits, digest_of
from training.nn.networks import Network, make_network
from training.prepare import prepare
from training.recipe import Recipe
from training.trainer import ProgressCallback

RUN = "run.json"
WORDING = ("description", "languages", "expect", "examples", "max_length")  # fields that no weight depends on


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run folder holds, but for the data: enough to export."""

    folder: Path
    recipe: Recipe
    codec: codecs.Codec
    labels: tuple[str, ...]  # as training tells them apart; recipe.merge says what is answered
    text_labels: tuple[str, ...]
    source: Source
    history: list[dict[str, float]]
    command: str = ""  # that made it
    sizes: tuple[int, int] = (0, 0)  # examples or characters trained on and held out
    digest: str = ""  # of these examples: digest_of
    notes: tuple[str, ...] = ()  # what `fit` saw in the data and the user should know

    def network(self) -> Network:
        """The network with the best weights, in evaluation mode."""
        network = make_network(
            self.recipe.architecture,
            self.codec,
            task=self.recipe.task,
            labels=self.labels,
            text_labels=self.text_labels,
            merge=self.recipe.merge,
        )
        weights = torch.load(self.folder / loop.BEST, map_location="cpu", weights_only=True)
        network.load_state_dict({name: w for name, w in weights.items() if not name.startswith("auxiliary.")})
        return network.eval()

    @property
    def metric(self) -> str:
        return metrics.metric_of(self.recipe.task, self.labels)


def fit(
    recipe: Recipe,
    folder: Path,
    report: ProgressCallback,
    *,
    fresh: bool = False,
    command: str = "",
    examples: Splits[Any] | None = None,
) -> Run:
    """Train by the recipe into `folder`; goes on where an interrupted run of the same recipe stopped.

    `examples` are those of the recipe unless they are given, as for a fold. Data that nothing can be learnt from is
    refused (DataError) before the folder is touched.
    """
    made = prepare(recipe, examples)
    run = Run(
        folder=folder,
        recipe=recipe,
        codec=made.codec,
        labels=made.labels,
        text_labels=made.text_labels,
        source=choice.source(made.examples, made.beside),
        history=[],
        command=command,
        notes=made.notes,
        sizes=(len(made.examples.train), len(made.examples.dev)),
        digest=digest_of(made.examples),
    )
    # Nobody looks for a checkpoint before the folder is as it should be; an error there is one in every process.
    parallel.from_first(lambda: _begin(run, fresh))
    objective = made.objective(recipe)
    run = replace(run, history=loop.fit(objective, recipe.training, folder, report))
    if parallel.rank() == 0:
        afterwards.write(folder, recipe, made.examples, objective, run.network())
    return run


def _begin(run: Run, fresh: bool) -> None:
    if fresh and run.folder.exists():
        _remove(run.folder)
    run.folder.mkdir(parents=True, exist_ok=True)
    _write_run(run)


def _remove(folder: Path) -> None:
    """Throw a run away, but never a folder that is something else."""
    if any(folder.iterdir()) and not (folder / RUN).is_file():
        raise data.DataError(f"{folder} is no run folder (it has no {RUN}), so it is not removed: give another --run")
    shutil.rmtree(folder)


def _write_run(run: Run) -> None:
    """run.json and the vocabularies. A folder of another recipe is not continued."""
    source, folder = run.source, run.folder
    description = {
        "recipe": run.recipe.model_dump(mode="json"),
        "labels": list(run.labels),
        "text_labels": list(run.text_labels),
        "source": {"name": source.name, "url": source.url, "licence": source.licence, "files": source.files},
        "codec": run.recipe.codec.model_dump(mode="json"),
        "examples": {"train": run.sizes[0], "dev": run.sizes[1], "sha256": run.digest},
        "command": run.command,
        "machine": machine.description(),
    }
    path = folder / RUN
    if path.exists():
        before, now = _decisive(_description(folder)), _decisive(description)
        if changed := sorted(key for key in before | now if before.get(key) != now.get(key)):
            raise data.DataError(
                f"{folder} holds another run ({', '.join(changed)} differ): give another folder with --run, "
                "or --fresh to start anew"
            )
    path.write_text(json.dumps(description, indent=1, ensure_ascii=False) + "\n", "utf-8")
    for name, entries in run.codec.vocabularies.items():
        (folder / name).write_text(vocabulary_text(entries), "utf-8")


def _decisive(description: dict[str, Any]) -> dict[str, Any]:
    """The fields of run.json that weights depend on: what is published may be worded anew without training anew."""
    # Read again: a run from before a field existed has its default.
    whole = Recipe.model_validate(description["recipe"]).model_dump(mode="json")
    recipe = {key: value for key, value in whole.items() if key not in WORDING}
    choice = recipe.pop("data")
    if choice["path"] is not None:  # the columns of a published data set are its reader's, not the recipe's
        recipe["data"] = choice
    training = {f"training.{key}": value for key, value in recipe.pop("training").items() if key != "device"}
    labels = {"labels": description["labels"], "text labels": description.get("text_labels", [])}
    files, examples = description["source"]["files"], description["examples"]["sha256"]
    return {**recipe, **training, **labels, "the data files": files, "the examples": examples}


def _description(folder: Path) -> dict[str, Any]:
    try:
        description: dict[str, Any] = json.loads((folder / RUN).read_text("utf-8"))
        return description
    except ValueError as error:
        raise data.DataError(f"{folder / RUN}: is damaged ({error}): give --fresh to start anew") from None


def open_run(folder: Path) -> Run:
    """Read a run folder that `fit` has written."""
    try:
        description = _description(folder)
        history = json.loads((folder / loop.HISTORY).read_text("utf-8"))
    except FileNotFoundError as error:
        raise data.DataError(
            f"{folder} is no finished run ({Path(error.filename).name} is missing): run fit first"
        ) from None
    recipe = Recipe.model_validate(description["recipe"])
    return Run(
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
    )
