"""From a run folder to a bundle: graphs, parity, variants, scores, examples, card.

Nothing is written before the fp32 graph equals the PyTorch network on ragged batches.
Knows the order of these steps. Leaves the graph to graph.py, the score to score.py, the files to models.bundle.
"""

import hashlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from models import bundle as bundles
from models import reference
from models.bundle import Bundle, vocabulary_text
from models.codecs.characters import CharactersCodec
from models.manifest import (
    MANIFEST_FILE,
    BundleError,
    Data,
    Example,
    Limits,
    Manifest,
    Provenance,
    Variant,
    read,
)
from models.network import Placement
from models.tasks import Generation
from training import card, run, score
from training.batches import tensors
from training.data.errors import DataError
from training.data.examples import Tagged
from training.graph import draw
from training.layers import Drawing, Precision
from training.networks import LanguageModel, Network
from training.run import Run

PARITY = 1e-5  # largest absolute difference from PyTorch, in probability
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
SHORTEST_GREEDY, LONGEST_GREEDY = 8, 48  # characters of an example for generation
TIMING_NOISE = 1.1  # two measurements of the same on a busy machine
EXAMPLES, CANDIDATES, PROMPT = 5, 50, 16  # examples from the data: how many, out of how many, characters of a prompt

Say = Callable[[str], None]


def export(finished: Run, target: Path, say: Say, *, force: bool = False) -> Manifest:
    """Make the bundle of a run in directory `target`; returns its manifest.

    Raises BundleError when the graph differs from the network by more than PARITY, when no example holds in every
    variant, or when `target` already holds a bundle with a better score (unless `force`).
    """
    _check_target(target)
    splits = run.splits(finished.recipe.data, finished.recipe.task)
    if splits.source.files != finished.source.files:
        raise DataError(f"{splits.source.name} has changed since {finished.folder} was trained: run fit --fresh")
    network = finished.network()
    drawings = {precision: draw(network, precision) for precision in PRECISIONS if _has(network, precision)}
    worst = _parity(network, finished, drawings["fp32"], splits.dev)
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
        manifest = manifest.model_copy(update={"examples": _examples(finished, variants, manifest, splits.dev)})
    _keep_the_better(target, manifest, force)
    files["README.md"] = card.write(manifest).encode()
    manifest = manifest.model_copy(update={"files": _sums(files)})
    bundles.save(target, manifest, files)
    reference.self_test(bundles.load(target, placement=Placement(device="cpu")))
    return manifest


def _has(network: Network, precision: Precision) -> bool:
    """ONNX Runtime quantises the LSTM alone: a GRU in int8 would be fp32 under another name."""
    return precision == "fp32" or network.stack.layers[0].cell == "lstm"


def _parity(network: Network, finished: Run, drawing: Drawing, dev: Any) -> float:
    """The largest difference between the probabilities of the graph and of the network, over ragged batches."""
    session = onnxruntime.InferenceSession(drawing.model.SerializeToString(), providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    worst = 0.0
    for size in (1, 2, 7, 32):
        items = _ragged(finished, dev, size, random)
        feeds = finished.codec.collate(items)
        memory = {t.input: random.uniform(-0.9, 0.9, (size, t.width)).astype(np.float32) for t in drawing.state}
        found, *after = session.run(None, feeds | memory)
        with torch.no_grad():
            expected = _expected(network, tensors(feeds), memory)
        if isinstance(network, LanguageModel):
            found = np.exp(found)
            worst = max(worst, _state_difference(network, items, memory, after))
        for column, item in enumerate(items):
            ours, theirs = (
                (found[: item.length, column], expected[: item.length, column])
                if found.ndim == 3
                else (found[column], expected[column])
            )
            worst = max(worst, float(np.abs(ours - theirs).max()))
    if not worst <= PARITY:
        raise BundleError(f"{finished.folder}: the graph differs from PyTorch by {worst:.1e}, more than {PARITY:.0e}")
    return worst


def _state_difference(
    network: LanguageModel, items: Sequence[Any], memory: Mapping[str, Any], after: Sequence[Any]
) -> float:
    """The largest difference between the states after each text, at its own length."""
    worst = 0.0
    for row, item in enumerate(items):
        start = _layers(network, [torch.from_numpy(part[row : row + 1]) for part in memory.values()])
        characters = torch.from_numpy(item.rows).long()[:, None]
        with torch.no_grad():
            _, state = network(characters, torch.tensor([len(characters)]), start)
        expected = [part for layer in state for part in layer]
        for ours, theirs in zip(after, expected, strict=True):
            # The state of an LSTM's cell is not bounded by 1: beyond, the difference is relative.
            difference = np.abs(ours[row] - theirs[0].numpy()) / np.maximum(1, np.abs(ours[row]))
            worst = max(worst, float(difference.max()))
    return worst


def _layers(network: LanguageModel, parts: Sequence[Any]) -> list[tuple[Any, ...]]:
    """State tensors in the order of the graph, grouped by layer."""
    count = len(parts) // len(network.stack.layers)
    return [tuple(parts[start : start + count]) for start in range(0, len(parts), count)]


def _ragged(finished: Run, dev: Any, size: int, random: np.random.Generator) -> list[Any]:
    if isinstance(finished.codec, CharactersCodec):
        lengths = random.integers(1, min(200, len(dev)), size)
        return [finished.codec.encode(dev[: int(length)]) for length in lengths]
    picked = random.choice(len(dev), size)
    items = [finished.codec.encode(_raw(dev[int(index)])) for index in picked]
    return [item for item in items if item.length]


def _expected(network: Network, feeds: Any, memory: Mapping[str, Any]) -> Any:
    """Probabilities; a language model starts from `memory`."""
    if not isinstance(network, LanguageModel):
        return torch.softmax(network(**feeds), -1).numpy()
    state = _layers(network, [torch.from_numpy(part) for part in memory.values()])
    logits, _ = network(feeds["characters"], feeds["lengths"], state)
    return torch.softmax(logits, -1).numpy()


def _raw(example: Any) -> Any:
    return example.tokens if isinstance(example, Tagged) else example.text


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
    recipe, source, drawing = finished.recipe, finished.source, drawings["fp32"]
    spans = recipe.task == "tag" and all(label == "O" or label[:2] in ("B-", "I-") for label in finished.labels)
    return Manifest(
        format=1,
        name=recipe.name,
        task=recipe.task,
        description=recipe.description,
        languages=recipe.languages,
        codec=recipe.codec,
        labels=finished.labels,
        scheme="iob2" if spans else None,
        inputs=drawing.inputs,
        outputs=drawing.outputs,
        state=drawing.state,
        variants={precision: Variant(file=f"{precision}.onnx") for precision in drawings},
        default_variant="fp32",
        files=_sums(files),
        limits=Limits(max_length=recipe.max_length),
        metric="nats_per_character" if recipe.task == "generate" else "accuracy",
        provenance=Provenance(
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
        ),
        examples=(Example(inputs="", outputs=None),),
    )


def _measured(manifest: Manifest, variants: Mapping[str, Bundle], dev: Any, say: Say) -> Manifest:
    """With the scores and times of every variant, and the default among them."""
    measured = {}
    for name, opened in variants.items():
        scores, times = score.score(opened, dev), score.milliseconds(opened, dev)
        measured[name] = manifest.variants[name].model_copy(update={"scores": scores, "milliseconds": times})
        say(f"{name}: {scores}, ms per {'token' if manifest.task == 'generate' else 'sentence'} {times}")
    default = "int8" if "int8" in measured and _pays(manifest.metric, measured["fp32"], measured["int8"]) else "fp32"
    return manifest.model_copy(update={"variants": measured, "default_variant": default})


def _pays(metric: str, exact: Variant, quantised: Variant) -> bool:
    """Whether int8 may be the default: it loses little and is not slower, as it is in a network of a few units."""
    slower = sum(quantised.milliseconds.values()) > TIMING_NOISE * sum(exact.milliseconds.values())
    return not slower and score.loses_little(metric, exact.scores[metric], quantised.scores[metric])


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
        answers = [reference.answer(opened, text, parameters) for opened in variants.values()]
        if answers[0] and all(reference.same(answer, answers[0], manifest.tolerance / 2) for answer in answers):
            found.append(Example(inputs=text, parameters=parameters, outputs=answers[0]))
    if not found:
        raise BundleError(f"{finished.folder}: the variants agree on no example: give other `examples` in the recipe")
    return tuple(found)


def _candidates(task: str, dev: Any) -> tuple[str, ...]:
    if task == "generate":
        return tuple(dev[start : start + PROMPT] for start in range(0, len(dev) - PROMPT, PROMPT))[:CANDIDATES]
    raw = [_raw(example) for example in dev[:CANDIDATES]]
    return tuple(text if isinstance(text, str) else " ".join(text) for text in raw)


def _greedy(variants: Mapping[str, Bundle], prompt: str) -> dict[str, Any] | None:
    """Parameters of the longest greedy continuation on which all variants agree; None if that is too short."""
    texts = []
    for opened in variants.values():
        assert isinstance(opened.task, Generation)
        options = reference.options({"max_new_tokens": LONGEST_GREEDY, "temperature": 0.0})
        texts.append(reference.generate(opened, prompt, options)["generated_text"])
    common = 0
    while common < LONGEST_GREEDY and len({text[: common + 1] for text in texts}) == 1:
        common += 1
    return {"max_new_tokens": common, "temperature": 0.0} if common >= SHORTEST_GREEDY else None


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
    if old_score is not None and score.better(manifest.metric, old_score, new_score):
        raise BundleError(
            f"{target}: holds a bundle with {manifest.metric} {old_score}, better than {new_score}: "
            "left as it is (--force replaces it all the same)"
        )
