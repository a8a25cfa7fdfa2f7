"""Model cards: the facts of a manifest, measurements on the development data, and Hugging Face's metadata."""

import json
import shlex
from collections.abc import Mapping
from typing import Any

from models.manifest import SERVES, FramesSpec, ImageSpec, Manifest
from models.tasks.beam_search import TranslateOptions
from training.metrics import BLEU, LAST_TOP1, LAST_TOP5, MSE, NATS, PERPLEXITY, TOP5, UNITS
from training.report import describe_interval, unbeaten_baseline
from training.score import BEAMS, ChecklistScore, TextScore

ALSO_SHOWN = ("macro_f1", BLEU, TOP5, LAST_TOP1, LAST_TOP5, PERPLEXITY)  # next to those of baselines
LONGEST_EXAMPLE = 400  # characters
LONGEST_REQUEST = 2000  # characters in a command; a longer example is taken from the service
MOST_LABELS = 30  # rows of a table
PENALTY = TranslateOptions().length_penalty
LICENSES = {  # identifiers of the Hugging Face Hub by the start of a license
    "CC BY-SA 4.0": "cc-by-sa-4.0",
    "CC BY 4.0": "cc-by-4.0",
    "CC0": "cc0-1.0",
    "GPL v3": "gpl-3.0",
    "MIT": "mit",
}
PIPELINES = {
    "tag": "token-classification",
    "joint": "token-classification",
    "classify": "text-classification",
    "generate": "text-generation",
    "forecast": "time-series-forecasting",
    "translate": "translation",
    "caption": "image-to-text",
    "fill": "fill-mask",
}


def write(
    manifest: Manifest,
    *,
    checklist: ChecklistScore | None = None,
    measured: Mapping[str, Any] | None = None,
) -> str:
    """Return the model card of a bundle as Markdown, with metadata in YAML as the Hugging Face Hub reads it.

    `checklist` is the result of the default variant, and so is `measured`: see `report.measure_bundle`.
    """
    origin = manifest.provenance
    parts = "characters" if manifest.task == "generate" else "examples"
    example = min(manifest.examples, key=lambda each: len(json.dumps(each.inputs)))  # one that fits on a line
    data = f"[{origin.data.name}]({origin.data.url})" if origin.data.url else origin.data.name
    recipe = json.loads(origin.recipe)
    options = {"generate_parameters": example.parameters} if manifest.memory else example.parameters
    parameters = {"parameters": options} if example.parameters else {}
    inputs = [{"target": example.inputs}] if manifest.task == "forecast" else example.inputs
    request = json.dumps({"inputs": inputs, **parameters}, ensure_ascii=False)
    answer = example.outputs["tags"] if manifest.task == "joint" else example.outputs  # the URL is that of the tags
    if manifest.task == "caption":  # the name of a route for pictures
        answer = {"generated_text": answer["translation_text"]}
    answer = [answer] if manifest.memory else answer  # the texts of one input
    url = f"http://localhost:3000/models/{manifest.name}/{SERVES[manifest.task][0]}"
    measured = measured or {}
    command = f"curl -s {url} --json {shlex.quote(request)}"
    if len(request) > LONGEST_REQUEST:
        place = manifest.examples.index(example)
        card = f"http://localhost:3000/v1/models/{manifest.name}"
        command = f"curl -s {card} | jq '{{inputs: .examples[{place}]}}' | curl -s {url} --json @-"
    return f"""---
{_metadata(manifest)}
---

# {manifest.name}

{manifest.description}

- **Task:** {manifest.task}
- **Languages:** {", ".join(manifest.languages) or "not stated"}
- **Architecture:** {_architecture(manifest, recipe["architecture"])}; {origin.parameters:,} parameters
- **Data:** {data}, license: {origin.data.licence or "not stated"}
- **Size of the data:** {origin.data.train:,} {parts} for training, {origin.data.dev:,} held out for the scores
- **Labels:** {_labels(manifest)}{_frames(manifest)}{_tokens((measured or {}).get("texts"))}
- **Created:** {origin.created}, seed {origin.seed}, {", ".join(f"{k} {v}" for k, v in origin.versions.items())}

## Scores

{_scores(manifest)}

{_interval(manifest, measured)}{_selection(recipe)} \
Times are for the network alone, on one thread of the machine that made the bundle.
{_measured(manifest, measured)}{_checklist(manifest, checklist)}
## Training

```
{origin.command}
```

## Example

```
{command}
```

```
{_shorten(json.dumps(answer, ensure_ascii=False))}
```
"""


def _architecture(manifest: Manifest, options: Mapping[str, Any]) -> str:
    text = f"{'bidirectional' if options['bidirectional'] else 'unidirectional'} {options['cell'].upper()}, "
    text += f"{options['layers']} {'layer' if options['layers'] == 1 else 'layers'} of {options['hidden']} units"
    if options.get("skip", "none") != "none":
        text += f", {options['skip']} connections"
    text += ", CRF" if options.get("crf") else ""
    if not manifest.memory:
        return text
    if isinstance(manifest.source, ImageSpec):
        widths = ", ".join(map(str, options["filters"]))
        text = f"convolutions of {widths} filters; a linear layer of {2 * options['hidden']} units for each patch"
    elif manifest.task == "caption":
        text = f"a linear layer of {2 * options['hidden']} units for each vector"
    attention = f"attention of {options['attention']} units" if options["attention"] else "no attention"
    return f"{text}; {attention}; conditional GRU of {options['decoder_hidden']} units"


def _metadata(manifest: Manifest) -> str:
    """Return the metadata in YAML, one field per line: JSON values are YAML, too."""
    origin, variant = manifest.provenance, manifest.variants[manifest.default_variant]
    licence = origin.data.licence
    known = next(
        (each for start, each in LICENSES.items() if licence == start or licence.startswith(f"{start} (")), None
    )
    metrics = [name for name in variant.scores if " " not in name]
    pipeline = PIPELINES[manifest.task] if manifest.codec.kind != "frames" else None
    fields: dict[str, Any] = {
        "license": known or "other",
        "license_name": None if known else licence or "not stated",
        "language": list(manifest.languages) or None,
        "library_name": "seqserve",
        "pipeline_tag": pipeline,
        "tags": ["onnx", "seqserve", json.loads(origin.recipe)["architecture"]["cell"]],
        "datasets": [origin.data.name],
        "metrics": metrics,
        "model-index": [
            {
                "name": manifest.name,
                "results": [
                    {
                        "task": {"type": pipeline or "other"},
                        "dataset": {"type": origin.data.name, "name": origin.data.name, "split": "validation"},
                        "metrics": [
                            {"type": name, "value": variant.scores[name], "name": UNITS.get(name, name)}
                            for name in metrics
                        ],
                    }
                ],
            }
        ],
    }
    shown = {name: value for name, value in fields.items() if value is not None}
    return "\n".join(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in shown.items())


def _measured(manifest: Manifest, measured: Mapping[str, Any]) -> str:
    """Return the sections about baselines, labels, and a generated sample, as far as they were measured."""
    text, metric = "", manifest.metric
    if scores := measured.get("baselines"):
        own = manifest.variants[manifest.default_variant].scores
        common = [name for name in ALSO_SHOWN if all(name in row for row in (own, *scores.values()))]
        shown = list(dict.fromkeys((metric, *common)))
        digits = 4 if metric in (NATS, MSE) else 2
        lines = "".join(
            f"| {model} | {' | '.join(f'{round(row[name], digits):g}' for name in shown)} |\n"
            for model, row in {"**this model**": own, **scores}.items()
        )
        heads = " | ".join(map(_head, shown))
        text += f"\n## Baselines\n\n| model | {heads} |\n|{'---|' * (1 + len(shown))}\n{lines}"
        if unbeaten := unbeaten_baseline(metric, own[metric], scores):
            text += f"\n**This model does not beat its baseline** ({unbeaten[0]}). Use more data or another recipe.\n"
    kind = "spans" if measured.get("spans") else "labels"
    if rows := sorted(measured.get(kind, ()), key=lambda row: -row["support"]):
        columns = ("precision", "recall", "f1")
        lines = "".join(
            f"| `{row['label']}` | {' | '.join(f'{row[name]:.1f}' for name in columns)} | {row['support']} |\n"
            for row in rows[:MOST_LABELS]
        )
        head = f"| {kind[:-1]} | precision | recall | F1 | expected |\n|---|---|---|---|---|\n"
        text += f"\n## {kind.capitalize()}\n\n{head}{lines}"
        text += f"\nThe {len(rows) - MOST_LABELS} rarest are left out.\n" if len(rows) > MOST_LABELS else ""
    if found := measured.get("signatures"):
        text += "\n## How texts are scored\n\n"
        text += f"With {BEAMS} beams and the length penalty {PENALTY}, by sacreBLEU. Its signatures:\n\n"
        text += "".join(f"- {_head(name)}: `{signature}`\n" for name, signature in found.items())
    if found := measured.get("forecasts"):
        which = "test data, which chose nothing" if found["split"] == "test" else "development data"
        text += f"\n## Scores by history and horizon\n\nSquared and absolute errors, on the {which}. The unit is the "
        text += f"standard deviation of each series in the training data.\n\n{found['table']}\n"
    if sample := measured.get("sample"):
        text += (
            f"\n## Sample\n\nTemperature {sample['temperature']}, seed {sample['seed']}, prompt "
            f"{json.dumps(sample['prompt'], ensure_ascii=False)}:\n\n```\n{sample['text']}\n```\n"
        )
    return text


def _selection(recipe: Mapping[str, Any]) -> str:
    """Return which examples chose the epoch, the threshold, the seed and settings, and which gave the scores."""
    chosen = "the epoch and the threshold" if recipe["training"].get("threshold") else "the epoch"
    expect = recipe.get("expect", {})
    if share := recipe["data"].get("choice_share"):
        part = f"{share:.0%} of the first data set's training examples were"
        if (recipe["task"], recipe["codec"]["kind"]) == ("tag", "frames"):
            part = f"The last {share:.0%} of each training series was"
        text = f"{part} held out and chose {chosen}. The scores are on development data, which did not choose these."
    else:
        text = f"Scores are on all held-out data, which also chose {chosen} and the recipe's settings: "
        text += "expect slightly lower scores on new data."
    if folds := expect.get("folds"):
        text += (
            f" Over {folds} folds, each scored by the last epoch of a network that was not trained on it, the score is "
        )
        text += f"{expect['score']:g}."
    tried = [f" {name.capitalize()}: {expect[name]}." for name in ("seeds", "settings") if expect.get(name)]
    return text + "".join(tried)


def _scores(manifest: Manifest) -> str:
    names = list(next(iter(manifest.variants.values())).scores)
    heads = " | ".join(_head(name) for name in names)
    unit = "token" if manifest.task == "generate" else "sequence"
    lines = [f"| variant | {heads} | ms per {unit}, batch of 1 | batch of 16 |", f"|---|{'---|' * len(names)}---|---|"]
    for name, variant in manifest.variants.items():
        shown = f"{name} (default)" if name == manifest.default_variant else name
        scores = " | ".join(str(variant.scores[score]) for score in names)
        times = " | ".join(f"{variant.milliseconds[size]:.3f}" for size in ("batch_1", "batch_16"))
        lines.append(f"| {shown} | {scores} | {times} |")
    return "\n".join(lines)


def _head(score: str) -> str:
    """Return the table head of a score, which may be on a further data set: "f1 btc"."""
    metric, _, source = score.partition(" ")
    unit = UNITS.get(metric, metric)
    return f"{unit}, on {source}" if source else unit


def _checklist(manifest: Manifest, result: ChecklistScore | None) -> str:
    if result is None:
        return ""
    wrong = "".join(f"\n- {text}" for text in result.wrong)
    return f"""
## Checklist

{result} everyday inputs have the right answer in variant {manifest.default_variant}. The inputs are in \
`training/checklists`. No list is training data, but its names and phrases may occur there. \
Lists and scores together may decide between seeds.{" Wrong inputs:" if wrong else ""}
{wrong and wrong + chr(10)}"""


def _labels(manifest: Manifest) -> str:
    if manifest.task == "generate":
        return "none (a language model)"
    if manifest.translation is not None:
        pairs = ", ".join(f"{pair.source} to {pair.target}" for pair in manifest.translation.pairs)
        return f"none (a translator); {pairs}"
    if manifest.memory:
        return "none (a captioner)"
    if manifest.task == "fill":
        return f"none (a filler); up to {manifest.outputs[0].shape[1]} words for each gap, `[MASK]` or `<mask>`"
    if manifest.forecast is not None:
        levels = ", ".join(f"{level:g}" for level in manifest.forecast.quantile_levels)
        return f"none (a forecaster); quantiles {levels} of up to {manifest.forecast.horizon} values"
    text = ", ".join(f"`{label}`" for label in manifest.labels)
    if not manifest.text_labels:
        return text
    return f"{text}; of the whole text: {', '.join(f'`{label}`' for label in manifest.text_labels)}"


def _frames(manifest: Manifest) -> str:
    if not isinstance(manifest.codec, FramesSpec):
        return ""
    rate, delay = manifest.codec.frame_rate, manifest.codec.delay
    facts = [f"{rate:g} per second"] if rate else []
    facts += [f"a stream labels a frame {delay} frames later"] if delay else []
    return f"\n- **Frames:** {'; '.join(facts)}" if facts else ""


def _tokens(texts: TextScore | None) -> str:
    return f"\n- **Tokens:** {texts}. Send lists of tokens, or score your own texts" if texts else ""


def _interval(manifest: Manifest, measured: Mapping[str, Any]) -> str:
    """Return the paragraph about the interval of the score, on which several seeds may differ."""
    if not (found := measured.get("interval")):
        return ""
    return f"{describe_interval(manifest.metric, found, manifest.provenance.data.dev)}.\n\n"


def _shorten(text: str) -> str:
    return text if len(text) <= LONGEST_EXAMPLE else text[:LONGEST_EXAMPLE] + "…"
