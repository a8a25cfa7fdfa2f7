"""How many of a bundle's tunes an ABC parser accepts.

The first and the last bar of a part may be upbeats and are not counted.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from training.terminal import console, say

HELP = "the share of a bundle's ABC tunes that parse (pip install music21)"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--count", type=int, default=200, help="how many tunes (default: 200)")
    parser.add_argument("--to", type=Path, help="a JSON file for the figures and the tunes that do not parse")


def run(options: argparse.Namespace) -> None:
    from rich.progress import track

    from models import bundle
    from models.onnx_session import Placement
    from training.studies import tunes

    opened = bundle.load(options.bundle, placement=Placement(device="cpu"))
    tunes.check_tune("X:1\nK:C\nCDEF|\n")  # without the parser there is no need to begin
    ticks = iter(track(range(options.count), "writing", console=console, disable=not console.is_terminal))
    texts = tunes.generate_tunes(opened, options.count, lambda: next(ticks, None))
    checks = [tunes.check_tune(text) for text in texts]
    found = tunes.summarize(checks)
    say(f"of {found.samples} tunes {found.parse:.1f} % parse; of their inner bars {found.full_bars:.1f} % are full")
    if options.to:
        command = f"python -m training tunes {options.bundle} --count {options.count}"
        refused = [check.text for check in checks if not check.parses]
        content = {"command": command, **asdict(found), "refused": refused}
        options.to.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
