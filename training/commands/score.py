"""Score a bundle on its development data, as it would be served."""

import argparse
import json
from pathlib import Path

from rich.table import Table

from training.terminal import console, manifest_of, say

HELP = "score a bundle on its development data, as it would be served"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, help="a bundle's folder, e.g. runs/NAME/bundle")
    parser.add_argument("--variant", default="all", help="one of the bundle's, e.g. fp32 or int8 (default: all)")


def run(options: argparse.Namespace) -> None:
    from models import bundle
    from training import score
    from training.data.loading import answered, splits
    from training.recipe import Recipe

    manifest = manifest_of(options.bundle)
    recipe = Recipe.model_validate(json.loads(manifest.provenance.recipe))
    examples = answered(recipe, splits(recipe))
    known = manifest.provenance.data.sha256
    if changed := sorted(file for file, found in examples.source.files.items() if known.get(file, found) != found):
        say(f"note: {', '.join(changed)} changed since the bundle was made, so its scores may differ")
    dev = examples.dev
    table = Table("variant", manifest.metric, "in the manifest", box=None)
    for name in manifest.variants if options.variant == "all" else [options.variant]:
        found = score.score(bundle.load(options.bundle, variant=name), dev)[manifest.metric]
        table.add_row(name, str(found), str(manifest.variants[name].scores[manifest.metric]))
    console.print(table)
