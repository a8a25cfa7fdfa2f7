"""Model cards, written from the manifest and the share of tokens that the tokenizer splits differently."""

import json
from collections.abc import Mapping
from typing import Any

from models.manifest import Manifest
from training.metrics import UNITS
from training.score import ChecklistScore

LONGEST_EXAMPLE = 400  # characters


def write(manifest: Manifest, *, tokens_cut_differently: float = 0, checklist: ChecklistScore | None = None) -> str:
    """Return the model card of a bundle as Markdown.

    `tokens_cut_differently` is the share of training tokens that the codec does not cut in the same way from a text.
    `checklist` is the result of the default variant.
    """
    origin = manifest.provenance
    parts = "characters" if manifest.task == "generate" else "examples"
    example = manifest.examples[0]
    data = f"[{origin.data.name}]({origin.data.url})" if origin.data.url else origin.data.name
    recipe = json.loads(origin.recipe)
    options = recipe["architecture"]
    architecture = f"{'bidirectional' if options['bidirectional'] else 'unidirectional'} {options['cell'].upper()}, "
    architecture += (
        f"{options['layers']} {'layer' if options['layers'] == 1 else 'layers'} of {options['hidden']} units"
    )
    if options.get("skip", "none") != "none":
        architecture += f", {options['skip']} connections"
    architecture += ", CRF" if options.get("crf") else ""
    request = json.dumps({"inputs": example.inputs, "parameters": example.parameters}, ensure_ascii=False)
    return f"""# {manifest.name}

{manifest.description}

- **Task:** {manifest.task}
- **Languages:** {", ".join(manifest.languages) or "not stated"}
- **Architecture:** {architecture}; {origin.parameters:,} parameters
- **Data:** {data}, license: {origin.data.licence or "not stated"}
- **Size of the data:** {origin.data.train:,} {parts} for training, {origin.data.dev:,} held out for the scores
- **Labels:** {_labels(manifest)}{_tokens(tokens_cut_differently)}
- **Created:** {origin.created}, seed {origin.seed}, {", ".join(f"{k} {v}" for k, v in origin.versions.items())}

## Scores

{_scores(manifest)}

{_selection(recipe)} Times are for the network alone, on one thread of the machine that made the bundle.
{_checklist(manifest, checklist)}
## Training

```
{origin.command}
```

## Example

```
{_shorten(request)}
→ {_shorten(json.dumps(example.outputs, ensure_ascii=False))}
```
"""


def _selection(recipe: Mapping[str, Any]) -> str:
    """Return which examples chose the epoch and the threshold, and which gave the scores."""
    chosen = "the epoch and the threshold" if recipe["training"].get("threshold") else "the epoch"
    if share := recipe["data"].get("choice_share"):
        return (
            f"Scores are on development data that chose nothing. {share:.0%} of the first data set's training examples "
            f"were held out and chose {chosen}."
        )
    return (
        f"Scores are on all held-out data, which also chose {chosen} and the recipe's settings: expect slightly lower "
        "scores on new data."
    )


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
`training/checklists`. No model is trained on them, but they may decide between seeds, together with the scores.{
        " Wrong inputs:" if wrong else ""
    }
{wrong and wrong + chr(10)}"""


def _labels(manifest: Manifest) -> str:
    if manifest.task == "generate":
        return "none (a language model)"
    text = ", ".join(f"`{label}`" for label in manifest.labels)
    if not manifest.text_labels:
        return text
    return f"{text}; of the whole text: {', '.join(f'`{label}`' for label in manifest.text_labels)}"


def _tokens(share: float) -> str:
    if not share:
        return ""
    return f"\n- **Tokens:** {share:.1%} of the training tokens are split differently in a text; send lists of tokens"


def _shorten(text: str) -> str:
    return text if len(text) <= LONGEST_EXAMPLE else text[:LONGEST_EXAMPLE] + "…"
