"""Make the bundle of a run: draw the graphs, prove them equal to PyTorch, score what would be served."""

import argparse
from pathlib import Path

from training.terminal import say

HELP = "make the bundle of a run"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="run folder that fit has written")
    parser.add_argument("--to", type=Path, help="bundle directory (default: RUN/bundle)")
    parser.add_argument("--force", action="store_true", help="replace a bundle that has a better score")
    parser.add_argument("--only", metavar="VARIANT", help="publish this variant alone, e.g. int8: a smaller bundle")


def run(options: argparse.Namespace) -> None:
    from training import export
    from training.run import open_run

    target = options.to or options.run / "bundle"
    manifest = export.export_run(open_run(options.run), target, say, force=options.force, only=options.only)
    say(
        f"{target}: {manifest.name}, default variant {manifest.default_variant}, {len(manifest.examples)} examples; "
        f"serve it: SEQSERVE_BUNDLES={target} make serve"
    )
