"""From a run folder to a bundle: graphs, parity, variants, scores, examples, card.

Nothing is written before the fp32 graph equals the PyTorch network on ragged batches.
Knows the order of these steps. Leaves the graph to graph.py, the score to score.py, the files to models.bundle.
"""

import hashlib
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from models import bundle as bundles
from models import self_test
from models.bundle import Bundle, vocabulary_text
from models.manifest import (
    FORMAT_VERSION,
    MANIFEST_FILE,
    BundleError,
    Data,
    Example,
    InputLimits,
    Manifest,
    Provenance,
    Variant,
    read,
)
from models.onnx_session import Placement
from models.tasks import Generation, as_json
from training import card, metrics, score
from training.data import loading as choice
from training.data.examples import DataError, digest_of, inputs_of
from training.nn.networks import Network
from training.onnx_export.graph_builder import Drawing, Precision
from training.onnx_export.network_graph import draw
from training.onnx_export.parity import worst_difference
from training.onnx_export.stack import has_int8
from training.run import Run

PARITY = 1e-5  # largest absolute difference from PyTorch, in probability
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
SHORTEST_GREEDY, LONGEST_GREEDY = 8, 48  # characters of an example for generation
TIMING_NOISE = 1.1  # two measurements of the same on a busy machine
EXAMPLES, CANDIDATES, PROMPT = 5, 50, 16  # examples from the data: how many, out of how many, characters of a prompt

Say = Callable[[str], None]


def export(finished: Run, target: Path, say: Say, *, force: bool = False, only: str | None = None) -> Manifest:
    """Make the bundle of a run in directory `target`; returns its manifest.

    With `only` it has that variant alone, which is judged beside the others all the same. Raises BundleError when the
    graph differs from the network by more than PARITY, when no example holds in every variant, when the variant asked
    for does not pay, or when `target` already holds a bundle with a better score (unless `force`).
    """
    _check_target(target)
    splits = choice.answered(finished.recipe, choice.splits(finished.recipe))
    if choice.source(splits, choice.auxiliary(finished.recipe)).files != finished.source.files:
        raise DataError(f"{splits.source.name} has changed since {finished.folder} was trained: run fit --fresh")
    if digest_of(splits) != finished.digest:
        raise DataError(
            f"{finished.folder} was trained on other examples than its recipe gives, as a fold is: its scores would be "
            "on what it has seen; export a run of fit"
        )
    network = finished.network()
    drawings = {precision: draw(network, precision) for precision in PRECISIONS if _has(network, precision)}
    worst = worst_difference(network, finished.codec, drawings["fp32"], splits.dev)
    if not worst <= PARITY:
        raise BundleError(f"{finished.folder}: the graph differs from PyTorch by {worst:.1e}, more than {PARITY:.0e}")
    say(f"fp32 graph equals PyTorch on ragged batches: largest difference {worst:.1e} (limit {PARITY:.0e})")
    files = {f"{precision}.onnx": drawing.model.SerializeToString() for precision, drawing in drawings.items()}
    files |= {name: vocabulary_text(entries).encode() for name, entries in finished.codec.vocabularies.items()}
    sizes = (len(splits.train), len(splits.dev))
    manifest = _manifest(finished, network, drawings, files, sizes)
    with tempfile.TemporaryDirectory() as scratch:
        draft = Path(scratch) / "draft"
        bundles.save(draft, manifest, files)
        variants = {name: bundles.load(draft, variant=name, placement=Placement(device="cpu")) for name in drawings}
        manifest = _measured(manifest, variants, splits.dev, say)
        manifest = manifest if only is None else _with_one(manifest, only)
        variants = {name: variants[name] for name in manifest.variants}
        files = {name: content for name, content in files.items() if not _is_of_another(name, manifest)}
        manifest = manifest.model_copy(update={"examples": _examples(finished, variants, manifest, splits.dev)})
    _keep_the_better(target, manifest, force)
    files["README.md"] = card.write(manifest).encode()
    manifest = manifest.model_copy(update={"files": _sums(files)})
    bundles.save(target, manifest, files)
    self_test.run(bundles.load(target, placement=Placement(device="cpu")))
    return manifest


def _has(network: Network, precision: Precision) -> bool:
    return precision == "fp32" or has_int8(network.stack)


def _sums(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}


def _manifest(
    finished: Run,
    network: Network,
    drawings: Mapping[Precision, Drawing],
    files: Mapping[str, bytes],
    sizes: tuple[int, int],
) -> Manifest:
    """Everything but scores and examples."""
    recipe, drawing = finished.recipe, drawings["fp32"]
    spans = recipe.task in ("tag", "joint") and metrics.in_spans(finished.labels)
    return Manifest(
        format=FORMAT_VERSION,
        name=recipe.name,
        task=recipe.task,
        description=recipe.description,
        languages=recipe.languages,
        codec=recipe.codec,
        labels=tuple(recipe.merge) or finished.labels,
        text_labels=finished.text_labels,
        scheme="iob2" if spans else None,
        inputs=drawing.inputs,
        outputs=drawing.outputs,
        state=drawing.state,
        variants={precision: Variant(file=f"{precision}.onnx") for precision in drawings},
        default_variant="fp32",
        files=_sums(files),
        limits=InputLimits(max_length=recipe.max_length),
        metric=finished.metric,
        provenance=_provenance(finished, network, sizes),
        examples=(Example(inputs="", outputs=None),),
    )


def _provenance(finished: Run, network: Network, sizes: tuple[int, int]) -> Provenance:
    recipe = finished.recipe
    source = choice.with_lenders(recipe, finished.source)
    return Provenance(
        recipe=recipe.model_dump_json(),
        command=f"{finished.command or f'python -m training fit {recipe.name}'} && "
        f"python -m training export {finished.folder}",
        data=Data(
            name=source.name,
            url=source.url,
            licence=source.licence,
            sha256=source.files,
            train=sizes[0],
            dev=sizes[1],
        ),
        seed=recipe.training.seed,
        created=datetime.now(UTC).date(),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        versions={name: version(name) for name in ("torch", "onnx", "onnxruntime")},
    )


def _measured(manifest: Manifest, variants: Mapping[str, Bundle], dev: Any, say: Say) -> Manifest:
    """With the scores and times of every variant that pays; the default is the last that is not slower alone."""
    measured: dict[str, Variant] = {}
    for name, opened in variants.items():
        scores, times = score.score(opened, dev), score.milliseconds(opened, dev)
        variant = manifest.variants[name].model_copy(update={"scores": scores, "milliseconds": times})
        say(f"{name}: {scores}, ms per {'token' if manifest.task == 'generate' else 'sequence'} {times}")
        if reason := _no_gain(manifest.metric, measured["fp32"], variant) if measured else "":
            say(f"{name} is left out: {reason}")
        else:
            measured[name] = variant
    alone = TIMING_NOISE * measured["fp32"].milliseconds["batch_1"]
    default = [name for name, variant in measured.items() if variant.milliseconds["batch_1"] <= alone][-1]
    return manifest.model_copy(update={"variants": measured, "default_variant": default})


def _with_one(manifest: Manifest, only: str) -> Manifest:
    if only not in manifest.variants:
        there = ", ".join(manifest.variants)
        raise BundleError(
            f"{manifest.name}: no variant {only!r} is worth its place: there are {there}; leave --only out"
        )
    return manifest.model_copy(update={"variants": {only: manifest.variants[only]}, "default_variant": only})


def _no_gain(metric: str, exact: Variant, quantised: Variant) -> str:
    """Why a variant is not worth its place, "" if it is: it loses little and is faster in a batch."""
    if not metrics.loses_little(metric, exact.scores[metric], quantised.scores[metric]):
        return f"its {metric} of {quantised.scores[metric]} is too far from {exact.scores[metric]}"
    times = quantised.milliseconds["batch_16"] / exact.milliseconds["batch_16"]
    return f"in a batch of 16 it takes {times:.2f} times as long as fp32" if times * TIMING_NOISE > 1 else ""


def _examples(finished: Run, variants: Mapping[str, Bundle], manifest: Manifest, dev: Any) -> tuple[Example, ...]:
    """Inputs with the answers that every variant gives; an input on which the variants differ is left out.

    A recipe without examples takes the first of the development data that hold.
    """
    inputs, most = finished.recipe.examples, len(finished.recipe.examples)
    if not inputs:
        inputs, most = _candidates(manifest.task, dev), EXAMPLES
    found: list[Example] = []
    for text in inputs:
        if len(found) == most:
            break
        parameters = _greedy(variants, text) if manifest.task == "generate" else {}
        if parameters is None:
            continue
        answers = [as_json(self_test.answer(opened, text, parameters)) for opened in variants.values()]
        if answers[0] and all(self_test.same(answer, answers[0], manifest.tolerance / 2) for answer in answers):
            found.append(Example(inputs=text, parameters=parameters, outputs=answers[0]))
    if not found:
        raise BundleError(f"{finished.folder}: the variants agree on no example: give other `examples` in the recipe")
    return tuple(found)


def _candidates(task: str, dev: Any) -> tuple[Any, ...]:
    if task == "generate":
        return tuple(dev[start : start + PROMPT] for start in range(0, len(dev) - PROMPT, PROMPT))[:CANDIDATES]
    found = [inputs_of(example) for example in dev[:CANDIDATES]]
    # Words of a data set that comes split are put together again: an example is what a person would send.
    return tuple(
        " ".join(one) if one and isinstance(one[0], str) and not isinstance(one, str) else one for one in found
    )


def _greedy(variants: Mapping[str, Bundle], prompt: str) -> dict[str, Any] | None:
    """Parameters of the longest greedy continuation on which all variants agree; None if that is too short."""
    texts = []
    for opened in variants.values():
        assert isinstance(opened.task, Generation)
        options = self_test.generate_options({"max_new_tokens": LONGEST_GREEDY, "temperature": 0.0})
        texts.append(self_test.generate(opened, prompt, options).generated_text)
    common = 0
    while common < LONGEST_GREEDY and len({text[: common + 1] for text in texts}) == 1:
        common += 1
    return {"max_new_tokens": common, "temperature": 0.0} if common >= SHORTEST_GREEDY else None


def _is_of_another(file: str, manifest: Manifest) -> bool:
    """Whether a file is the graph of a variant that was left out."""
    return file.endswith(".onnx") and file not in {variant.file for variant in manifest.variants.values()}


def _check_target(target: Path) -> None:
    """A bundle takes the place of a bundle, never of a directory with something else in it."""
    if target.exists() and not (target / MANIFEST_FILE).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise BundleError(
            f"{target}: exists and is no bundle (it has no {MANIFEST_FILE}): give another place with --to"
        )


def _keep_the_better(target: Path, manifest: Manifest, force: bool) -> None:
    """Weights are replaced by better ones only."""
    if force or not (target / MANIFEST_FILE).exists():
        return
    old = read(target)
    new_score = manifest.variants[manifest.default_variant].scores[manifest.metric]
    old_score = old.variants[old.default_variant].scores.get(manifest.metric)
    if old_score is not None and metrics.better(manifest.metric, old_score, new_score):
        raise BundleError(
            f"{target}: holds a bundle with {manifest.metric} {old_score}, better than {new_score}: "
            "left as it is (--force replaces it all the same)"
        )
