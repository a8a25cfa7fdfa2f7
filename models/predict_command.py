"""The command predict: the answers of a bundle to the inputs of a file, as JSON lines, without a server."""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO, get_args, get_origin

from models.codecs import InputError
from models.files.inputs import FORMATS, KEYS, TEXT, Format, read_inputs
from models.manifest import locate
from models.onnx_session import Device
from models.predictor import PARAMETERS, Predictor, StopString, load
from models.tasks import as_json
from seqserve import positive

CHUNK = 256  # inputs that are answered together and then written
STDIN = Path("/dev/stdin")
EXAMPLES = """examples:
  seqserve predict pos-en sentences.txt                    an input on each line
  seqserve predict runs/mine/bundle new.csv --text review  a column of a table
  seqserve predict ner-en tweets.jsonl --out found.jsonl   the key text, or tokens
  seqserve predict ett-h1 loads.csv --prediction-length 24 every column of numbers
  seqserve predict shapes-caption scene.png                a picture
  echo ROMEO: | seqserve predict shakespeare - --seed 7
"""


def register(commands: Any) -> None:
    summary = "Answer the inputs of a file, without a server."
    parser = commands.add_parser(
        "predict",
        help=summary,
        description='Write one JSON line for each input of a file: {"inputs": …, "outputs": …}, or an error.',
        epilog=EXAMPLES,
    )
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("bundle", type=locate, metavar="BUNDLE", help="Bundle directory, or the name of a shipped bundle or of a run.")
    suffixes = "; ".join(f"{form}: {' '.join(names)}" for form, names in FORMATS.items())
    add("file", type=Path, metavar="FILE", help="File of inputs, or - for standard input.")
    add("--out", type=Path, metavar="FILE", help="Write the answers here (default: standard output).")
    add(
        "--format",
        choices=get_args(Format),
        metavar="FORMAT",
        help=f"Read the file as one of {', '.join(get_args(Format))} (default: by suffix; {suffixes}; others: lines).",
    )
    keys = ", ".join((TEXT, "tokens", *KEYS.values()))
    add("--text", metavar="COLUMN", help=f"Read inputs from this column or key (default: {keys}).")
    add(
        "--series", metavar="COLUMN", default="id", help="Group frames or values by this column (default: %(default)s)."
    )
    add("--label", metavar="COLUMN", default="label", help="Ignore this column of frames (default: %(default)s).")
    add("--token-column", type=int, metavar="N", help="Read CoNLL tokens from this column, counted from 0.")
    add("--encoding", default="utf-8", help="Decode with this encoding (default: %(default)s).")
    add("--variant", default="auto", help="Variant of the bundle (default: %(default)s).")
    add("--device", choices=get_args(Device), default="auto", help="Device to run on (default: %(default)s).")
    add("--threads", type=positive, default=1, metavar="N", help="CPU threads (default: %(default)s).")
    own = parser.add_argument_group("parameters, as in HTTP requests")
    for name, (kind, about) in _described_parameters().items():
        flag, dest = f"--{name.replace('_', '-')}", f"parameter_{name}"
        if kind is bool:
            own.add_argument(flag, dest=dest, action="store_true", default=None, help=about)
        elif kind == tuple[StopString, ...]:
            own.add_argument(flag, dest=dest, action="append", metavar="VALUE", help=f"{about}; can be repeated")
        elif get_origin(kind) is tuple:
            own.add_argument(flag, dest=dest, type=_split, metavar="N,N…", help=about)
        else:
            own.add_argument(flag, dest=dest, metavar="VALUE", help=about)


def _split(text: str) -> list[str]:
    return text.split(",")


def run(options: argparse.Namespace) -> int:
    """Write the answers. Return 1 if the bundle could not read an input."""
    predictor = load(options.bundle, variant=options.variant, device=options.device, threads=options.threads)
    prefix = "parameter_"
    given = {name.removeprefix(prefix): value for name, value in vars(options).items() if name.startswith(prefix)}
    parameters = {name: value for name, value in given.items() if value is not None}
    predictor.check_parameters(parameters)
    inputs = read_inputs(
        STDIN if str(options.file) == "-" else options.file,
        codec=predictor.bundle.manifest.reads.kind,
        form=options.format,
        text=options.text,
        label=options.label,
        series=options.series,
        token_column=options.token_column,
        encoding=options.encoding,
    )
    if options.out is None:
        return _write(predictor, inputs, parameters, sys.stdout)
    with options.out.open("w", encoding="utf-8") as out:
        return _write(predictor, inputs, parameters, out)


def _write(predictor: Predictor, inputs: list[Any], parameters: dict[str, Any], out: TextIO) -> int:
    started_s, failed = time.perf_counter(), 0
    try:
        for start in range(0, len(inputs), CHUNK):
            for row in _answers(predictor, inputs[start : start + CHUNK], parameters):
                failed += "error" in row
                _write_line(out, row)
            out.flush()
            if sys.stderr.isatty():
                print(f"\r{min(start + CHUNK, len(inputs)):,} of {len(inputs):,}", end="\r", file=sys.stderr)
    except BrokenPipeError:  # the reader, such as head, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    seconds = time.perf_counter() - started_s
    rate = f"{len(inputs):,} inputs in {seconds:.1f} s ({len(inputs) / seconds:,.0f}/s)"
    print(f"{rate}; {failed:,} could not be read" if failed else rate, file=sys.stderr)
    return int(failed > 0)


def _write_line(out: TextIO, row: dict[str, Any]) -> None:
    """Write a row as JSON. Characters that the file cannot hold, such as half a surrogate pair, are escaped."""
    try:
        out.write(json.dumps(row, ensure_ascii=False) + "\n")
    except UnicodeEncodeError:
        out.write(json.dumps(row) + "\n")


def _answers(predictor: Predictor, inputs: list[Any], parameters: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the line of each input. One that cannot be read does not fail the others."""
    try:
        answers = predictor(inputs, **parameters)
    except InputError as error:
        if len(inputs) == 1:
            yield {"inputs": inputs[0], "error": str(error).removeprefix("input 0").lstrip(": ")}
            return
        for each in inputs:
            yield from _answers(predictor, [each], parameters)
        return
    for each, answer in zip(inputs, answers, strict=True):
        yield {"inputs": each, "outputs": as_json(answer)}


def _described_parameters() -> dict[str, tuple[Any, str]]:
    """Return the type of each parameter and what it means, with the tasks that have it."""
    kinds: dict[str, Any] = {}
    meanings: dict[str, dict[str, list[str]]] = {}  # by parameter and by description, with the tasks
    for task, model in PARAMETERS.items():
        for name, field in model.model_fields.items():
            kinds[name] = field.annotation
            meanings.setdefault(name, {}).setdefault(str(field.description), []).append(task)
    return {
        name: (kinds[name], "; ".join(f"{', '.join(tasks)}: {about}" for about, tasks in each.items()))
        for name, each in meanings.items()
    }
