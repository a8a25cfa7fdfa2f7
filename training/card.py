"""The model card of a bundle, written from its manifest alone, so that it cannot say anything else.

Knows the manifest. Measures nothing.
"""

import json

from models.manifest import Manifest

UNITS = {"accuracy": "accuracy, %", "nats_per_character": "nats per character"}


def write(manifest: Manifest) -> str:
    """The card as Markdown."""
    origin = manifest.provenance
    recipe = json.loads(origin.recipe)
    shape = recipe["architecture"]
    direction = "bidirectional" if shape["bidirectional"] else "one direction"
    unit = "token" if manifest.task == "generate" else "sentence"
    parts = "characters" if manifest.task == "generate" else "examples"
    example = manifest.examples[0]
    rows = "\n".join(
        f"| {name}{' (default)' if name == manifest.default_variant else ''} "
        f"| {variant.scores[manifest.metric]} "
        f"| {variant.milliseconds['batch_1']:.3f} | {variant.milliseconds['batch_16']:.3f} |"
        for name, variant in manifest.variants.items()
    )
    data = f"[{origin.data.name}]({origin.data.url})" if origin.data.url else origin.data.name
    return f"""# {manifest.name}

{manifest.description}

- **Task** {manifest.task}; languages {", ".join(manifest.languages) or "not stated"}
- **Architecture** {shape["cell"].upper()}, {shape["layers"]} layer(s) of {shape["hidden"]}, {direction};
  {origin.parameters:,} parameters
- **Data** {data}; licence: {origin.data.licence or "not stated"};
  {origin.data.train:,} {parts} trained on, {origin.data.dev:,} held out for the scores
- **Labels** {", ".join(f"`{label}`" for label in manifest.labels) or "none (a language model)"}
- **Made** {origin.created}, seed {origin.seed}, with {", ".join(f"{k} {v}" for k, v in origin.versions.items())}

| variant | {UNITS[manifest.metric]} (whole development set) | ms per {unit}, batch of 1 | batch of 16 |
|---|---|---|---|
{rows}

Times: one thread, the network alone, on the machine that made the bundle, in the same run.

```
{origin.command}
```

```
{json.dumps({"inputs": example.inputs, "parameters": example.parameters}, ensure_ascii=False)}
→ {json.dumps(example.outputs, ensure_ascii=False)[:400]}
```
"""
