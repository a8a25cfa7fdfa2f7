"""The model card of a bundle, written from its manifest alone, so that it cannot say anything else.

Knows the manifest. Measures nothing.
"""

import json
from typing import Any

from models.manifest import Manifest
from training.metrics import UNITS

SHOWN = 400  # characters of an example


def write(manifest: Manifest) -> str:
    """The card as Markdown."""
    origin = manifest.provenance
    shape = json.loads(origin.recipe)["architecture"]
    parts = "characters" if manifest.task == "generate" else "examples"
    example = manifest.examples[0]
    data = f"[{origin.data.name}]({origin.data.url})" if origin.data.url else origin.data.name
    asked = json.dumps({"inputs": example.inputs, "parameters": example.parameters}, ensure_ascii=False)
    return f"""# {manifest.name}

{manifest.description}

- **Task** {manifest.task}; languages {", ".join(manifest.languages) or "not stated"}
- **Architecture** {_architecture(shape)}; {origin.parameters:,} parameters
- **Data** {data}; licence: {origin.data.licence or "not stated"};
  {origin.data.train:,} {parts} trained on, {origin.data.dev:,} held out for the scores
- **Labels** {_labels(manifest)}
- **Made** {origin.created}, seed {origin.seed}, with {", ".join(f"{k} {v}" for k, v in origin.versions.items())}

{_scores(manifest)}

Scores on the whole development set. Times: one thread, the network alone, on the machine that made the bundle, in the
same run.

```
{origin.command}
```

```
{_short(asked)}
→ {_short(json.dumps(example.outputs, ensure_ascii=False))}
```
"""


def _scores(manifest: Manifest) -> str:
    """The table of the variants."""
    names = list(next(iter(manifest.variants.values())).scores)
    heads = " | ".join(UNITS.get(name, name) for name in names)
    unit = "token" if manifest.task == "generate" else "sequence"
    lines = [f"| variant | {heads} | ms per {unit}, batch of 1 | batch of 16 |", f"|---|{'---|' * len(names)}---|---|"]
    for name, variant in manifest.variants.items():
        shown = f"{name} (default)" if name == manifest.default_variant else name
        scores = " | ".join(str(variant.scores[score]) for score in names)
        times = " | ".join(f"{variant.milliseconds[size]:.3f}" for size in ("batch_1", "batch_16"))
        lines.append(f"| {shown} | {scores} | {times} |")
    return "\n".join(lines)


def _architecture(shape: dict[str, Any]) -> str:
    direction = "bidirectional" if shape["bidirectional"] else "one direction"
    text = f"{shape['cell'].upper()}, {shape['layers']} layer(s) of {shape['hidden']}, {direction}"
    if shape.get("skip", "none") != "none":
        text += f", {shape['skip']} connections"
    return text + (", CRF" if shape.get("crf") else "")


def _labels(manifest: Manifest) -> str:
    if manifest.task == "generate":
        return "none (a language model)"
    text = ", ".join(f"`{label}`" for label in manifest.labels)
    return (
        f"{text}; of the whole: {', '.join(f'`{label}`' for label in manifest.text_labels)}"
        if manifest.text_labels
        else text
    )


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"
