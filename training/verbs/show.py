"""What a bundle is: its model card."""

import argparse
from pathlib import Path

from training.terminal import say

HELP = "what a bundle is"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path)


def run(options: argparse.Namespace) -> None:
    from models.manifest import read
    from training import card

    say(card.write(read(options.bundle)))
