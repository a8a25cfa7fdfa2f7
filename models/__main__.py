"""The command line: python -m models inspect, measure. Arguments and printing only; the work is in the modules."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from models import bundle
from models.inspect import rows, terminal, units
from models.inspect.operators import DIRECTIONS, PARTS, UnknownOperator
from models.inspect.trace import PARITY, VARIANT, Inspection, Layer, NotInstalled, inspect
from models.manifest import BundleError
from models.measure import ROWS, measure
from models.onnx_session import Device, DeviceUnavailable, Placement

EPILOG = """try:
  python -m models inspect models/zoo/pos-en "They can fish ."
  python -m models inspect models/zoo/shakespeare - --strip < part-of-a-play.txt
  python -m models inspect models/zoo/sentiment-en "Not bad at all ." --direction backward --out gates.png
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 2 for what cannot be done, said in one sentence."""
    parser = argparse.ArgumentParser(prog="python -m models", description="Look at bundles.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    verb = verbs.add_parser(
        "inspect",
        help="what the gates and cells of a bundle do at every step of an input",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add(verb)
    verb.set_defaults(do=_inspect)
    verb = verbs.add_parser("measure", help="whether bundles come out right on a device, and how fast")
    verb.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE")
    verb.add_argument("--device", choices=get_args(Device), default="auto")
    verb.add_argument("--threads", type=int, default=1, help="of the processor, for one network (default: 1)")
    verb.add_argument("--rows", type=_numbers, metavar="N,N…", default=ROWS, help="sizes of batches")
    verb.add_argument("--to", type=Path, metavar="JSON", help="also a file")
    verb.set_defaults(do=_measure)
    options = parser.parse_args(arguments)
    try:
        options.do(options)
    except (BundleError, NotInstalled, UnknownOperator, DeviceUnavailable, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _add(parser: argparse.ArgumentParser) -> None:
    parts = sorted({part for names in PARTS.values() for part in names})
    parser.add_argument("bundle", type=Path)
    parser.add_argument("text", help="an input, or - for standard input")
    parser.add_argument("--json", action="store_true", help="the input is JSON: words already split, or frames")
    parser.add_argument("--layer", help="by name (default: the last)")
    parser.add_argument("--direction", choices=DIRECTIONS["bidirectional"], default="forward")
    parser.add_argument(
        "--part",
        choices=parts,
        help="what is shown of a unit (default: memory, tanh of the cell; state where there is none)",
    )
    parser.add_argument("--units", type=_numbers, metavar="N,N…", help="these units (default: chosen by --by)")
    parser.add_argument("--top", type=int, default=6, metavar="K", help="how many units are chosen (default: 6)")
    parser.add_argument("--by", choices=get_args(units.Ranking), default="varying", help="how units are chosen")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--table", dest="form", action="store_const", const="table", help="numbers, a line a step")
    form.add_argument(
        "--strip", dest="form", action="store_const", const="strip", help="the text, coloured by each row"
    )
    parser.add_argument("--out", type=Path, metavar="PNG", help="also a heat map")


def _inspect(options: argparse.Namespace) -> None:
    loaded = bundle.load(options.bundle, variant=VARIANT, placement=Placement(device="cpu"))
    found = inspect(loaded, _read(options))
    layer = _chosen(found, options)
    part = options.part or layer.memory
    if part not in layer.parts:
        raise ValueError(f"a layer of kind {layer.kind} has no part {part!r}: choose of {', '.join(layer.parts)}")
    chosen = units.rank(layer.parts[part], options.by)[: options.top] if options.units is None else options.units
    if wrong := [unit for unit in chosen if not 0 <= unit < layer.hidden]:
        raise ValueError(f"unit {wrong[0]}: {layer.name} has the units 0 to {layer.hidden - 1}")
    means, of_units = rows.means(layer), rows.of_units(layer, part, chosen)
    print(_heading(found, layer))
    terminal.show(found.steps, [*means, *of_units], form=options.form or "auto")
    for each in units.followers(layer.parts[layer.memory], found.steps):
        where = "on the half that it was not chosen on"
        print(f"unit {each.unit} follows {each.mark}: correlation {each.correlation:+.2f} {where}")
    if options.out:
        from models.inspect import picture

        groups = [(f"mean of {layer.hidden} units", means), (f"{part} of single units", of_units)]
        picture.draw(found.steps, [group for group in groups if group[1]], options.out, _title(found, layer))
        print(f"written: {options.out}")


def _measure(options: argparse.Namespace) -> None:
    """One line a variant; the file is written after each bundle, so that what was measured is kept."""
    placement = Placement(device=options.device, threads=options.threads)
    found: list[dict[str, Any]] = []
    for path in options.bundles:
        for entry in measure(path, placement, options.rows):
            found.append(entry)
            speeds = ", ".join(f"{count}: {rate:,.0f}" for count, rate in entry["per_s"].items())
            alike = "the same bits in company" if all(entry["same_bits"].values()) else "OTHER BITS in company"
            print(
                f"{entry['bundle']} {entry['variant']} on {entry['device']}: self-test {entry['self_test']}; {alike}; "
                f"{entry['unit']}/s by rows {speeds}"
            )
        if options.to:
            options.to.write_text(json.dumps({"variants": found}, indent=1) + "\n", "utf-8")


def _read(options: argparse.Namespace) -> Any:
    text = sys.stdin.read().rstrip("\n") if options.text == "-" else options.text
    return json.loads(text) if options.json else text


def _chosen(found: Inspection, options: argparse.Namespace) -> Layer:
    """The layer that the options ask for; raises ValueError that names those there are."""
    there = ", ".join(dict.fromkeys(layer.name for layer in found.layers))
    if not found.layers:
        raise ValueError(f"{found.bundle}: no LSTM, GRU or RNN runs along the steps of its input")
    named = [layer for layer in found.layers if layer.name == (options.layer or found.layers[-1].name)]
    if not named:
        raise ValueError(f"no layer {options.layer!r} runs along the input: choose of {there}")
    fitting = [layer for layer in named if layer.direction == options.direction]
    if not fitting:
        raise ValueError(f"{named[0].name} runs {named[0].direction} only, not {options.direction}")
    return fitting[0]


def _title(found: Inspection, layer: Layer) -> str:
    return f"{found.bundle}, {layer.name}: {layer.kind} of {layer.hidden} units, {layer.direction}"


def _heading(found: Inspection, layer: Layer) -> str:
    """What is shown, what else there is, and whether the gates are those that the graph computed."""
    others = ", ".join(f"{each.name} {each.direction}" for each in found.layers if each is not layer)
    heading = _title(found, layer) + (f" (also: {others})" if others else "")
    if layer.difference <= PARITY:
        return f"{heading}\nstates as the graph's own, within {layer.difference:.0e}"
    return (
        f"{heading}\nWARNING: the states computed here differ from the graph's own by {layer.difference:.0e}, more "
        f"than {PARITY:.0e}: the gates below are not what the graph does"
    )


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
