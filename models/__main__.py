"""The commands of seqserve that read bundles without a server: predict, inspect and measure."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from seqserve import CommandParser, picture_file, positive, required_packages

with required_packages():
    from models import bundle, predict_command
    from models.codecs import ImageCodec
    from models.files.inputs import read_inputs
    from models.inspect import TOLERANCE, VARIANT, Inspection, Layer, NotInstalled, inspect, render, units
    from models.inspect.operators import DIRECTIONS, PARTS, UnsupportedOperator
    from models.manifest import BundleError, locate, read
    from models.measure import ROWS, measure
    from models.messages import plain, suggest
    from models.onnx_session import Device, DeviceUnavailable, Placement

INSPECT_EXAMPLES = """examples:
  seqserve inspect pos-en "They can fish ."
  seqserve inspect shakespeare - --strip < part-of-a-play.txt
  seqserve inspect sentiment-en "Not bad at all ." --direction backward --out gates.png
  seqserve inspect en-de "Two young men are outside." --out attention.png
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status: 0, or 2 after an error."""
    options = make_parser().parse_args(arguments)
    try:
        return options.run(options) or 0
    except (BundleError, NotInstalled, UnsupportedOperator, DeviceUnavailable, ValueError, OSError) as error:
        print(f"error: {plain(error)}", file=sys.stderr)
        return 2


def make_parser() -> CommandParser:
    parser = CommandParser(prog="seqserve", description="Use and inspect bundles, and measure their speed.")
    commands = parser.add_commands()
    predict_command.register(commands)
    summary = "Show gates and cells at every step of an input, or the attention of a translator."
    command = commands.add_parser("inspect", help=summary, description=summary, epilog=INSPECT_EXAMPLES)
    command.set_defaults(run=_inspect)
    add = command.add_argument
    add("bundle", type=locate, metavar="BUNDLE", help="Bundle directory, or the name of a shipped bundle.")
    add("text", metavar="TEXT", help="Input, - for standard input, or the file of a picture.")
    add("--json", action="store_true", help="Read the input as JSON: a list of words or frames.")
    add("--layer", metavar="NAME", help="Layer to show (default: the last).")
    add(
        "--direction",
        choices=DIRECTIONS["bidirectional"],
        default="forward",
        help="Direction of the layer (default: %(default)s).",
    )
    parts = sorted({part for names in PARTS.values() for part in names})
    add("--part", choices=parts, help="Part of a unit to show (default: memory, tanh of the cell, or else state).")
    add("--units", type=_numbers, metavar="N,N…", help="Units to show (default: chosen by --by).")
    add("--top", type=int, default=6, metavar="N", help="Number of units to choose (default: %(default)s).")
    add("--by", choices=get_args(units.Ranking), default="varying", help="How to choose (default: %(default)s).")
    add("--out", type=picture_file, metavar="FILE", help="Also write a heat map to this file: .png, .pdf or .svg.")
    form = command.add_mutually_exclusive_group()
    form.add_argument(
        "--table", dest="form", action="store_const", const="table", default="auto", help="Print one line per step."
    )
    form.add_argument(
        "--strip", dest="form", action="store_const", const="strip", default="auto", help="Print the text in color."
    )
    summary = "Check bundles on a device and measure their speed."
    command = commands.add_parser("measure", help=summary, description=summary)
    command.set_defaults(run=_measure)
    add = command.add_argument
    add("bundles", type=locate, nargs="+", metavar="BUNDLE", help="Bundle directories, or names of shipped bundles.")
    add("--device", choices=get_args(Device), default="auto", help="Device to run on (default: %(default)s).")
    add("--threads", type=positive, default=1, metavar="N", help="CPU threads per graph (default: %(default)s).")
    add("--rows", type=_numbers, metavar="N,N…", default=ROWS, help="Batch sizes (default: 1,16,64,256).")
    add("--replay", type=Path, metavar="FILE", help="Also run the inputs of this file, and measure the word cache.")
    add("--to", type=Path, metavar="FILE", help="Also write the results to this JSON file.")
    return parser


def _inspect(options: argparse.Namespace) -> None:
    text = sys.stdin.read().rstrip("\n") if options.text == "-" else options.text
    raw, placement = json.loads(text) if options.json else text, Placement(device="cpu")
    if read(options.bundle).memory:
        _inspect_attention(bundle.load(options.bundle, placement=placement), raw, options)
        return
    inspection = inspect(bundle.load(options.bundle, variant=VARIANT, placement=placement), raw)
    layer = _find_layer(inspection, options)
    part = options.part or layer.memory
    if part not in layer.parts:
        raise ValueError(f"{layer.kind} has no part {part!r}; {suggest(part, layer.parts)}")
    chosen = units.rank(layer.parts[part], options.by)[: options.top] if options.units is None else options.units
    if missing := [unit for unit in chosen if not 0 <= unit < layer.hidden]:
        raise ValueError(f"{layer.name} has no unit {missing[0]}; choose from 0 to {layer.hidden - 1}")
    mean_rows, unit_rows = units.mean_rows(layer), units.unit_rows(layer, part, chosen)
    print(_heading(inspection, layer))
    render.show(inspection.steps, [*mean_rows, *unit_rows], form=options.form)
    for each in units.followers(layer.parts[layer.memory], inspection.steps):
        print(f"unit {each.unit} follows {each.feature}: correlation {each.correlation:+.2f} on the second half")
    if options.out:
        groups = [(f"mean of {layer.hidden} units", mean_rows), (f"{part} of single units", unit_rows)]
        title = _title(inspection, layer)
        render.save_picture(inspection.steps, [group for group in groups if group[1]], options.out, title)
        print(f"wrote {options.out}")


def _inspect_attention(loaded: bundle.Bundle, raw: Any, options: argparse.Namespace) -> None:
    """Show how much each piece of a translation attends to each piece of the source."""
    codec = getattr(loaded.task, "source", None)
    if isinstance(codec, ImageCodec) and Path(options.text).is_file():
        raw = Path(options.text).read_bytes()
    steps, rows = units.attention_rows(loaded, raw)
    title = f"{loaded.manifest.name}, {loaded.variant}: attention of each piece that is written"
    print(title)
    render.show(steps, rows, form=options.form)
    if options.out and isinstance(codec, ImageCodec):
        render.save_attention(codec.read(raw), rows, options.out, title)
    elif options.out:
        render.save_picture(steps, [("written", rows)], options.out, title)
    if options.out:
        print(f"wrote {options.out}")


def _measure(options: argparse.Namespace) -> None:
    """Print one line per variant. The file is written after each bundle, so that an interruption loses little."""
    placement = Placement(device=options.device, threads=options.threads)
    entries: list[dict[str, Any]] = []
    inputs = read_inputs(options.replay, codec="words") if options.replay else []
    for path in options.bundles:
        for entry in measure(path, placement, options.rows, inputs):
            entries.append(entry)
            speeds = ", ".join(f"{rows}: {rate:,.0f}" for rows, rate in entry["per_s"].items())
            bits = "bit-identical in batches" if all(entry["same_bits"].values()) else "OTHER BITS in batches"
            print(
                f"{entry['bundle']} {entry['variant']} on {entry['device']}: self-test {entry['self_test']}; {bits}; "
                f"{entry['unit']}/s by rows {speeds}"
            )
            if found := entry.get("replay"):
                times = found["cpu_us"]
                print(
                    f"  replay of {found['inputs']:,} inputs: {found['oov_share']:.1%} of the words are OOV, "
                    f"{found['cached_share']:.1%} of these were cached; CPU µs per input {times['first']}, "
                    f"again {times['second']}, with no word cached {times['none_cached']}"
                )
        if options.to:
            options.to.write_text(json.dumps({"variants": entries}, indent=1) + "\n", "utf-8")


def _find_layer(inspection: Inspection, options: argparse.Namespace) -> Layer:
    """Return the layer that the options name. Raises ValueError that lists the layers."""
    if not inspection.layers:
        raise ValueError(f"{inspection.bundle} has no LSTM, GRU or RNN along the steps of its input")
    name = options.layer or inspection.layers[-1].name
    named = [layer for layer in inspection.layers if layer.name == name]
    if not named:
        names = dict.fromkeys(layer.name for layer in inspection.layers)
        raise ValueError(f"there is no layer {options.layer!r}; {suggest(name, names)}")
    matching = [layer for layer in named if layer.direction == options.direction]
    if not matching:
        raise ValueError(f"{name} runs only {named[0].direction}, not {options.direction}")
    return matching[0]


def _title(inspection: Inspection, layer: Layer) -> str:
    return f"{inspection.bundle}, {layer.name}: {layer.kind} of {layer.hidden} units, {layer.direction}"


def _heading(inspection: Inspection, layer: Layer) -> str:
    """Describe the layer, name the others, and report whether the recomputed states equal those of the graph."""
    others = ", ".join(f"{each.name} {each.direction}" for each in inspection.layers if each is not layer)
    heading = _title(inspection, layer) + (f" (also: {others})" if others else "")
    if layer.difference <= TOLERANCE:
        return f"{heading}\nrecomputed states equal the graph's within {layer.difference:.0e}"
    return (
        f"{heading}\nWARNING: recomputed states differ from the graph's by {layer.difference:.0e}, more than "
        f"{TOLERANCE:.0e}: do not trust the gates below"
    )


def _numbers(text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} must be whole numbers, separated by commas") from None


if __name__ == "__main__":
    sys.exit(main())
