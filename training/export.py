"""From a run folder to a bundle: graphs, parity with PyTorch, variants, scores, examples and the model card."""

import base64
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from models import bundle as bundles
from models import languages, self_test
from models.bundle import Bundle, vocabulary_text
from models.manifest import (
    CARD_FILE,
    FORMAT_VERSION,
    MANIFEST_FILE,
    BundleError,
    Data,
    Example,
    InputLimits,
    LanguagePair,
    Manifest,
    Provenance,
    TranslationSpec,
    Variant,
    read,
)
from models.onnx_session import Placement
from models.tasks import as_json
from models.tasks.fill import DEFAULT_WORDS
from training import card, metrics, report, score
from training.data import loading, scenes
from training.data.examples import DataError, Splits, digest_of, inputs_of, tags_of
from training.data.tag_schemes import are_iob2
from training.missing_words import without_last_word
from training.nn.networks import Forecaster, Network
from training.nn.translator import EncoderDecoder
from training.onnx_export.builder import ExportedGraph, Precision
from training.onnx_export.network_graph import export_graph
from training.onnx_export.parity import worst_difference, worst_difference_of_steps
from training.onnx_export.speller import graph_files
from training.onnx_export.stack import has_int8
from training.prepare import source_codec
from training.recipe import Recipe
from training.run import TrainingRun

LARGEST_DIFFERENCE = 1e-5  # from PyTorch, in probability
SHORTEST_GREEDY, LONGEST_GREEDY = 8, 48  # characters of an example for generation
# Largest CPU times of int8, relative to fp32: in batches of 16, to be kept, and one by one, to be the default. The
# medians of two measurements differ by about 3 %, so that both decide the same except near the limit.
KEPT_RATIO, DEFAULT_RATIO = 0.9, 1.1
EXAMPLE_HORIZON, EXAMPLE_TOLERANCE = 24, 0.01  # values of an example forecast; tolerance in deviations of a series
CHOSEN_FRAMES, STRIDE = 20, 10  # frames of an example for a tagger of frames, and parts from one to the next
EXAMPLES, CANDIDATES, PROMPT = 5, 50, 16  # examples from the data: number, candidates, characters of a prompt

UNDETERMINED = "und"  # the language tag of BCP 47 for an unknown language

Say = Callable[[str], None]


def export_run(
    run: TrainingRun,
    target: Path,
    say: Say,
    *,
    force: bool = False,
    only: str | None = None,
    version: str = "1",
) -> Manifest:
    """Write the bundle of a run to directory `target` and return its manifest, which has this `version`.

    `only` keeps one variant, which is still compared with the others. Raises BundleError in these cases: The graph
    differs from the network by more than LARGEST_DIFFERENCE. No example has the same answer in every variant. Variant
    `only` is not worth keeping. `target` holds a bundle with a better score, without `force`. Raises DataError for
    other data than the run was trained on.
    """
    if target.exists() and not (target / MANIFEST_FILE).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise BundleError(f"{target} exists and is not a bundle (no {MANIFEST_FILE}): choose another path with --out")
    splits = _load_same_splits(run)
    dev, network = splits.dev, run.network()
    precisions: list[Precision] = ["fp32", "int8"] if _has_int8(network) else ["fp32"]
    graphs = {precision: export_graph(network, precision) for precision in precisions}
    if isinstance(network, EncoderDecoder):
        worst = worst_difference_of_steps(network, source_codec(run.recipe, run.codec), graphs["fp32"], dev)
    else:
        worst = worst_difference(network, run.codec, graphs["fp32"], dev)
    if not worst <= LARGEST_DIFFERENCE:
        raise BundleError(
            f"{run.folder}: the graph differs from PyTorch by {worst:.1e}, limit {LARGEST_DIFFERENCE:.0e}"
        )
    say(f"the fp32 graph differs from PyTorch by at most {worst:.1e} (limit {LARGEST_DIFFERENCE:.0e})")
    files = {name: vocabulary_text(entries).encode() for name, entries in run.codec.vocabularies.items()}
    written: dict[str, Variant] = {}
    for precision, graph in graphs.items():
        reader = f"{precision}-reader.onnx" if graph.reader is not None else None
        written[precision], parts = graph_files(Variant(file=f"{precision}.onnx", reader=reader), graph.model)
        files |= parts
        if reader is not None and graph.reader is not None:
            files[reader] = graph.reader.model.SerializeToString()
    manifest = _manifest(run, network, graphs["fp32"], splits, written, bundles.digests(files))
    manifest = manifest.model_copy(update={"version": version})
    with tempfile.TemporaryDirectory() as scratch:
        draft = Path(scratch) / "draft"
        bundles.save(draft, manifest, files)
        cpu = Placement(device="cpu")
        variants = {name: bundles.load(draft, variant=name, placement=cpu) for name in manifest.variants}
        manifest = _with_worthwhile_variants(manifest, variants, splits, say)
        if only is not None and only not in manifest.variants:
            raise BundleError(
                f"{manifest.name}: no variant {only!r} among those worth keeping, {', '.join(manifest.variants)}: "
                "choose one of these, or leave --only out"
            )
        if only is not None:
            update = {"variants": {only: manifest.variants[only]}, "default_variant": only}
            manifest = manifest.model_copy(update=update)
        variants = {name: variants[name] for name in manifest.variants}
        manifest = manifest.model_copy(update={"examples": _examples(run, variants, manifest, dev)})
    kept = manifest.graph_files
    files = {name: data for name, data in files.items() if name in kept or not name.endswith(".onnx")}
    _check_not_worse(target, manifest, force)
    manifest = manifest.model_copy(update={"files": bundles.digests(files)})
    # The report of a run has the baselines of the examples that chose the epoch.
    known = None if splits.choice else report.read(run.folder).get("baselines")
    text = card_of(manifest, variants[manifest.default_variant], run.recipe, splits, known)
    bundles.save(target, manifest, {**files, CARD_FILE: text.encode()})
    self_test.run(bundles.load(target, placement=Placement(device="cpu")))
    return manifest


def card_of(
    manifest: Manifest,
    bundle: Bundle,
    recipe: Recipe,
    splits: Splits[Any],
    known: report.BaselineScores | None = None,
) -> str:
    """Return the model card of a manifest, with measurements of `bundle`, its default variant.

    `known` are the scores of the baselines, if they were measured before.
    """
    return card.write(
        manifest,
        checklist=score.score_checklist(bundle),
        measured=report.measure_bundle(bundle, recipe, splits, known),
    )


def _has_int8(network: Network) -> bool:
    if isinstance(network, EncoderDecoder):
        return network.stack is None or has_int8(network.stack)
    return not isinstance(network, Forecaster) and has_int8(network.stack)


def _load_same_splits(run: TrainingRun) -> Splits[Any]:
    """Load the data of a run. Raises DataError if the run was trained on other data."""
    splits = loading.merge_dev_labels(run.recipe, loading.load_splits(run.recipe))
    if loading.combine_sources(splits, loading.load_auxiliary(run.recipe)).files != run.source.files:
        raise DataError(f"{splits.source.name} has changed since {run.folder} was trained: run fit --fresh")
    if digest_of(splits) != run.digest:
        raise DataError(
            f"{run.folder} was trained on other examples than its recipe gives, such as a fold, and would be scored on "
            "its training data: export a run of fit"
        )
    return splits


def _manifest(
    run: TrainingRun,
    network: Network,
    graph: ExportedGraph,
    splits: Splits[Any],
    variants: dict[str, Variant],
    digests: dict[str, str],
) -> Manifest:
    """Return the manifest without scores and examples."""
    recipe, source = run.recipe, loading.add_donor_sources(run.recipe, run.source)
    fit_command = run.command or f"seqserve fit {recipe.name}"
    initial = {f"initial weights: {recipe.init}": run.init_digest} if run.init_digest else {}
    provenance = Provenance(
        recipe=recipe.model_dump_json(),
        command=f"{fit_command} && seqserve export {run.folder}",
        data=Data(
            name=source.name,
            url=source.url,
            licence=source.licence,
            sha256=source.files | initial,
            train=len(splits.train),
            dev=len(splits.dev),
        ),
        seed=recipe.training.seed,
        created=datetime.now(UTC).date(),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        versions={name: version(name) for name in ("torch", "onnx", "onnxruntime")},
    )
    return Manifest(
        format=FORMAT_VERSION,
        name=recipe.name,
        task=recipe.task,
        description=recipe.description,
        languages=recipe.languages,
        codec=recipe.codec,
        labels=tuple(recipe.merge) or run.labels,
        text_labels=run.text_labels,
        forecast=recipe.forecast,
        source=source_codec(recipe, run.codec).spec if graph.reader is not None else None,
        translation=_translation(recipe, splits),
        scheme="iob2" if recipe.task in ("tag", "joint") and are_iob2(run.labels) else None,
        inputs=graph.inputs,
        outputs=graph.outputs,
        state=graph.state,
        memory=graph.memory,
        variants=variants,
        default_variant="fp32",
        files=digests,
        limits=InputLimits(max_length=recipe.max_length),
        metric=metrics.SCENES if recipe.data.name == scenes.NAME else run.metric,
        provenance=provenance,
        **({"tolerance": EXAMPLE_TOLERANCE * max(each.unit for each in splits.dev)} if recipe.forecast else {}),
        examples=(Example(inputs="", outputs=None),),
    )


def _translation(recipe: Recipe, splits: Splits[Any]) -> TranslationSpec | None:
    """Return the languages of a translator. The first language of the recipe is read and the second is written."""
    if recipe.task != "translate":
        return None
    source, target = recipe.languages or (UNDETERMINED, UNDETERMINED)
    profiles = {}
    if recipe.languages:
        profiles = {
            source: languages.profile(example.source for example in splits.train),
            target: languages.profile(example.target for example in splits.train),
        }
    return TranslationSpec(pairs=(LanguagePair(source=source, target=target),), profiles=profiles)


def _with_worthwhile_variants(
    manifest: Manifest, variants: Mapping[str, Bundle], splits: Splits[Any], say: Say
) -> Manifest:
    """Measure all variants and keep the worthwhile ones.

    The default is the last variant that takes at most DEFAULT_RATIO of the CPU time of fp32 for a single input.
    """
    measured: dict[str, Variant] = {}
    milliseconds = score.milliseconds(variants, splits.dev)
    for name, bundle in variants.items():
        scores, times = score.score(bundle, splits.dev), milliseconds[name]
        for source, examples in splits.elsewhere.items():
            scores[f"{manifest.metric} {source}"] = score.score(bundle, examples)[manifest.metric]
        variant = manifest.variants[name].model_copy(update={"scores": scores, "milliseconds": times})
        say(f"{name}: {scores}, CPU ms per {'token' if manifest.task == 'generate' else 'sequence'} {times}")
        if measured:
            one, sixteen = (time_ratio(measured["fp32"], variant, size) for size in ("batch_1", "batch_16"))
            say(
                f"{name} takes {sixteen:.2f} times the CPU time of fp32 in batches of 16 (kept up to {KEPT_RATIO}), "
                f"and {one:.2f} one by one (the default up to {DEFAULT_RATIO})"
            )
        if reason := drawback(manifest.metric, measured["fp32"], variant) if measured else "":
            say(f"{name} is left out: {reason}")
        else:
            measured[name] = variant
    fp32 = measured["fp32"]
    default = [name for name, each in measured.items() if time_ratio(fp32, each, "batch_1") <= DEFAULT_RATIO][-1]
    return manifest.model_copy(update={"variants": measured, "default_variant": default})


def time_ratio(exact: Variant, other: Variant, size: str) -> float:
    """Return the CPU time of a variant relative to that of fp32, in batches of this size ("batch_1", "batch_16")."""
    return other.milliseconds[size] / exact.milliseconds[size]


def drawback(metric: str, exact: Variant, quantized: Variant) -> str:
    """Return why a variant is not worth keeping; "" if it loses little and is faster in a batch."""
    if not metrics.loses_little(metric, exact.scores[metric], quantized.scores[metric]):
        return f"its {metric} of {quantized.scores[metric]} is too far from {exact.scores[metric]}"
    ratio = time_ratio(exact, quantized, "batch_16")
    return f"{ratio:.2f} is more than {KEPT_RATIO} times the CPU time of fp32" if ratio > KEPT_RATIO else ""


def _examples(run: TrainingRun, variants: Mapping[str, Bundle], manifest: Manifest, dev: Any) -> tuple[Example, ...]:
    """Return inputs with their answers, leaving out inputs on which the variants differ.

    A recipe without examples takes inputs from the development data. Empty answers, and wrong descriptions of scenes,
    come last.
    """
    inputs, most = run.recipe.examples, len(run.recipe.examples)
    if not inputs:
        inputs, most = candidates(manifest.task, manifest.codec.kind, dev), EXAMPLES
    found: list[Example] = []
    empty: list[Example] = []
    targets = {_as_text(pair.source, ""): pair.target for pair in dev} if manifest.task == "caption" else {}
    for text in inputs:
        if len(found) == most:
            break
        parameters = _common_greedy_parameters(variants, text) if manifest.task == "generate" else {}
        if manifest.forecast is not None:
            parameters = {"prediction_length": min(EXAMPLE_HORIZON, manifest.forecast.horizon)}
        if manifest.memory:
            parameters = {"num_beams": score.BEAMS}
        if manifest.task == "fill":
            parameters = _common_top_k(variants, text)
        if parameters is None:
            continue
        answers = [as_json(self_test.answer(bundle, text, parameters)) for bundle in variants.values()]
        if all(self_test.same(answer, answers[0], manifest.tolerance / 2) for answer in answers):
            example = Example(inputs=text, parameters=parameters, outputs=answers[0])
            is_wrong = text in targets and scenes.contradict(answers[0]["translation_text"], targets[text])
            (empty if is_wrong or answers[0] in ([], {}, "") else found).append(example)
    found = (found + empty)[:most]
    if not found:
        raise BundleError(f"{run.folder}: the variants agree on no example: give other `examples` in the recipe")
    return tuple(found)


def candidates(task: str, codec: str, dev: Any) -> tuple[Any, ...]:
    """Return distinct inputs for examples. Those with a tag other than O come first, wherever they are in `dev`.

    Inputs that are lists of words or symbols become texts, as a client would send them.
    """
    if task == "generate":
        return tuple(dev[start : start + PROMPT] for start in range(0, len(dev) - PROMPT, PROMPT))[:CANDIDATES]
    if task in ("translate", "caption"):
        # The shortest texts, but pictures with the longest captions.
        ordered = sorted(
            dev, key=lambda pair: -len(pair.target) if isinstance(pair.source, bytes) else len(pair.source)
        )
        sources = dict.fromkeys(_as_text(pair.source, codec) for pair in ordered)
        return tuple(sources)[:CANDIDATES]
    if task == "forecast":
        complete = [window.history for window in dev if None not in window.history]
        return tuple(sorted(complete, key=len))[:CANDIDATES]
    if task == "fill":
        return tuple(filter(None, (without_last_word(example.text, "words") for example in dev[:CANDIDATES])))
    with_spans = sorted(dev, key=lambda example: set(tags_of(example)) == {"O"})  # stable: others keep their order
    if task == "tag" and codec == "frames":  # whole recordings are too long for a manifest
        step = CHOSEN_FRAMES * STRIDE
        parts = (e.frames[at : at + CHOSEN_FRAMES] for e in dev for at in range(0, len(e.frames), step))
        return tuple(dict.fromkeys(parts))[:CANDIDATES]
    return tuple(dict.fromkeys(_as_text(inputs_of(example), codec) for example in with_spans))[:CANDIDATES]


def _as_text(inputs: Any, codec: str) -> Any:
    if isinstance(inputs, bytes):
        return base64.b64encode(inputs).decode()
    if isinstance(inputs, str) or not inputs or not isinstance(inputs[0], str):
        return inputs
    return (" " if codec == "words" else "").join(inputs)


def _common_greedy_parameters(variants: Mapping[str, Bundle], prompt: str) -> dict[str, Any] | None:
    """Return parameters for the longest greedy text on which all variants agree; None if it is too short."""
    texts = []
    for bundle in variants.values():
        options = self_test.generate_options({"max_new_tokens": LONGEST_GREEDY, "temperature": 0.0})
        texts.append(self_test.generate(bundle, prompt, options).generated_text)
    common = 0
    while common < LONGEST_GREEDY and len({text[: common + 1] for text in texts}) == 1:
        common += 1
    return {"max_new_tokens": common, "temperature": 0.0} if common >= SHORTEST_GREEDY else None


def _common_top_k(variants: Mapping[str, Bundle], text: str) -> dict[str, Any] | None:
    """Return parameters for the most words on which all variants agree, up to the default; None if there are none."""
    for count in range(DEFAULT_WORDS, 0, -1):
        answers = [self_test.answer(bundle, text, {"top_k": count}) for bundle in variants.values()]
        if len({repr(_words_of(answer)) for answer in answers}) == 1:
            return {} if count == DEFAULT_WORDS else {"top_k": count}
    return None


def _words_of(answer: Any) -> Any:
    return [_words_of(each) if isinstance(each, list) else each.token_str for each in answer]


def _check_not_worse(target: Path, manifest: Manifest, force: bool) -> None:
    if force or not (target / MANIFEST_FILE).exists():
        return
    old = read(target)
    new_score = manifest.variants[manifest.default_variant].scores[manifest.metric]
    old_score = old.variants[old.default_variant].scores.get(manifest.metric)
    if old_score is not None and metrics.better(manifest.metric, old_score, new_score):
        raise BundleError(
            f"{target} holds a bundle with {manifest.metric} {old_score}, better than {new_score}: "
            "replace it with --force, or choose another path with --out"
        )
