"""What a bundle is: its model card."""

import argparse
from pathlib import Path

from training.terminal import manifest_of, say

HELP = "what a bundle is"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, help="a bundle's folder, e.g. runs/NAME/bundle")


def run(options: argparse.Namespace) -> None:
    from training import card

    say(card.write(manifest_of(options.bundle)))
