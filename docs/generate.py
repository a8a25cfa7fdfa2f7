"""Write the generated parts of README.md and docs/reference: tables from the code, the bundles, and the results.

A part stands between `<!-- generated: NAME -->` and `<!-- end -->`. `make docs` runs this script;
tests/test_docs.py checks that running it changes nothing.
"""

import ast
import dataclasses
import importlib
import inspect
import json
import math
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pydantic import BaseModel  # noqa: E402
from pydantic.fields import FieldInfo  # noqa: E402

import seqserve  # noqa: E402
from models import manifest  # noqa: E402
from models.codecs import InputError  # noqa: E402
from models.codecs.characters import CharactersCodec, DnaCodec  # noqa: E402
from models.codecs.frames import FramesCodec  # noqa: E402
from seqserve import CommandParser  # noqa: E402
from service.api.application import ROUTES  # noqa: E402
from service.api.fields import UNSET, RequestModel  # noqa: E402
from service.api.forecast import ForecastParameters  # noqa: E402
from service.api.huggingface import EmbedRequest, PredictRequest  # noqa: E402
from service.api.inspect import InspectParameters  # noqa: E402
from service.api.native import FillParameters  # noqa: E402
from service.api.openai import CompletionRequest, EmbeddingRequest  # noqa: E402
from service.api.openapi import PAGES  # noqa: E402
from service.api.problems import PREFIX, TABLE  # noqa: E402
from service.api.schemas import ClassifyParameters, GenerateParameters, TagParameters  # noqa: E402
from service.api.translate import SearchParameters, TranslateParameters  # noqa: E402
from service.settings import Settings, allowed, variable  # noqa: E402
from service.telemetry import METRICS  # noqa: E402
from training.data.fetch import PUBLISHED  # noqa: E402
from training.data.published import READERS  # noqa: E402
from training.recipe import Recipe  # noqa: E402
from training.studies.long_dependencies import StudyTable, read_attempts  # noqa: E402

PART = re.compile(r"(<!-- generated: (?P<name>[\w-]+) -->\n+).*?(\n+<!-- end -->)", re.DOTALL)
RESULTS = ROOT / "docs/results"
HELP_COLUMNS = "100"
PACKAGES = ("service", "models", "training", "loadtest")


def main() -> None:
    """Rewrite every page that has a generated part."""
    for page, text in pages():
        if page.read_text("utf-8") != text:
            page.write_text(text, "utf-8")
            print(f"wrote {page.relative_to(ROOT)}")


def pages() -> Iterator[tuple[Path, str]]:
    """Yield each page that has a generated part, with its current text."""
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        old = page.read_text("utf-8")
        new = PART.sub(lambda part: f"{part[1]}{PARTS[part['name']]().rstrip(chr(10))}{part[3]}", old)
        if PART.search(old):
            yield page, new


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a Markdown table."""
    cells = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in row)} |\n" for row in cells)


def code(value: Any) -> str:
    """Return a value as inline code, or nothing if it is empty."""
    return f"`{value}`" if value not in ("", None) else ""


def settings() -> str:
    """Return every setting with its default."""
    rows = []
    for field, info in Settings.model_fields.items():
        default = info.get_default()
        text = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
        rows.append([code(variable(field)), code(text), allowed(field), info.description])
    return table(["variable", "default", "allowed", "effect"], rows)


def metrics() -> str:
    """Return every metric with its labels."""
    rows = [[code(each.name), each.kind, ", ".join(each.labels), each.about] for each in METRICS]
    return table(["metric", "kind", "labels", "meaning"], rows)


def errors() -> str:
    """Return every error type with its statuses."""
    rows = [[code(PREFIX + kind.slug), kind.status, kind.grpc_status, kind.title] for kind in TABLE.values()]
    return table(["type", "status", "gRPC", "title"], rows)


def input_errors() -> str:
    """Return the message for each kind of bad input."""
    splice, frames = DnaCodec(manifest.DnaSpec(positions=60)), FramesCodec(manifest.FramesSpec(features=12))
    names, good = CharactersCodec(manifest.CharactersSpec(), "ab"), [[0.0] * 12]
    cases: list[tuple[str, Any, Any]] = [
        ("more bases than the model takes", splice, "A" * 61),
        ("a letter that is not a base", splice, "ACXT"),
        ("a token that is not one character", names, ["a", "cd"]),
        ("a frame of another width", frames, [*good * 3, [0.0] * 11]),
        ("a number that is not finite", frames, [*good * 5, [math.nan] * 12]),
        ("text for a model of frames", frames, "text"),
    ]
    rows = []
    for name, codec, raw in cases:
        try:
            codec.encode(raw)
        except InputError as error:
            rows.append([name, error])
    return table(["input", "message"], rows)


def routes() -> str:
    """Return every route with its summary."""
    rows = [
        [code(route.pattern), ", ".join(route.methods), route.docs.summary if route.docs else ""] for route in ROUTES
    ]
    rows.append([code("/v1/stream"), "WebSocket", "[Tagging streams](#tagging-streams)"])
    rows += [[code(page.path), "GET, HEAD", page.summary] for page in PAGES]
    return table(["route", "methods", "purpose"], rows)


SEARCH = "Search of translations and captions"
PLACES = {SEARCH: "On the native routes and model URLs, these go into `parameters.generate_parameters`."}
PARAMETERS: dict[str, type[RequestModel]] = {
    "Tag": TagParameters,
    "Classify": ClassifyParameters,
    "Generate": GenerateParameters,
    "Forecast": ForecastParameters,
    "Translate": TranslateParameters,
    SEARCH: SearchParameters,
    "Fill": FillParameters,
    "OpenAI completions": CompletionRequest,
    "OpenAI embeddings": EmbeddingRequest,
    "Embed": EmbedRequest,
    "Predict": PredictRequest,
    "Inspect": InspectParameters,
}


def parameters() -> str:
    """Return the parameters of each task, and those that are not offered."""
    parts = []
    for title, model in PARAMETERS.items():
        properties = model.model_json_schema()["properties"]
        rows = [parameter(name, properties[name]) for name in model.offered() if "description" in properties[name]]
        place = f"{PLACES[title]}\n\n" if title in PLACES else ""
        parts.append(f"## {title}\n\n{place}{table(['parameter', 'type', 'range', 'default', 'effect'], rows)}")
        absent = []
        for name, values in {**model.neutral_values(), **dict.fromkeys(sorted(model.not_offered), ())}.items():
            accepted = ", ".join(json_code(each) for each in values if each is not None)
            absent.append([code(name), accepted or "nothing"])
        if absent:
            parts.append(table(["not offered", "accepted values"], absent))
    return "\n".join(parts)


def parameter(name: str, schema: dict[str, Any]) -> list[str]:
    """Return the row of one parameter from its JSON schema."""
    kinds = [kind for kind in schema.get("anyOf", [schema]) if kind.get("type") != "null"]
    types_ = " or ".join(dict.fromkeys(kind.get("type", "object").replace("array", "list") for kind in kinds))
    limits = "; ".join(filter(None, dict.fromkeys(map(range_of, kinds))))
    return [code(name), types_, limits, schema.get(UNSET) or json_code(schema["default"]), schema["description"]]


BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "maxLength": "at most {} characters",
    "maxItems": "at most {} {}",
}


def range_of(schema: dict[str, Any]) -> str:
    """Return the values that a JSON schema allows."""
    if "enum" in schema or "const" in schema:
        return ", ".join(map(json_code, schema.get("enum", [schema.get("const")])))
    items = schema.get("items", {})
    item = {"string": "strings", "number": "numbers"}.get(items.get("type"), "values")
    ends = [words.format(number(schema[key]), item) for key, words in BOUNDS.items() if key in schema]
    each = range_of(items) if items else ""
    return ", ".join(ends) + (f", each {each}" if each else "")


def number(value: float) -> str:
    """Return a number for people, and a large power of two as such."""
    if isinstance(value, float):
        return f"{value:g}"
    exponent = abs(value).bit_length() - 1
    sign = "-" if value < 0 else ""
    return f"{sign}2^{exponent}" if exponent > 40 and abs(value) == 1 << exponent else f"{value:,}"


def json_code(value: Any) -> str:
    """Return a value as JSON in inline code."""
    return code(json.dumps(value))


def recipes() -> str:
    """Return the fields of a recipe, one table for each part."""
    return "\n".join(f"## {title}\n\n{fields(part)}" for title, part in parts_of(Recipe, ""))


def parts_of(model: Any, path: str, *, repeated: bool = False) -> Iterator[tuple[str, Any]]:
    """Yield a model and the models of its fields, each with a heading such as `[codec.subwords]` or `[[data.more]]`."""
    kind = getattr(model.model_fields.get("kind"), "default", "") if issubclass(model, BaseModel) else ""
    heading = f"[[{path}]]" if repeated else f"[{path}]" if path else "Top level"
    yield heading + (f" with kind = {kind!r}" if kind else ""), model
    hints = typing.get_type_hints(model, include_extras=True)
    for name in fields_of(model):
        repeated = typing.get_origin(hints[name]) is tuple
        for part in members(typing.get_args(hints[name])[0] if repeated else hints[name]):
            yield from parts_of(part, f"{path}.{name}".lstrip("."), repeated=repeated)


def members(hint: Any) -> list[Any]:
    """Return the models in a type."""
    if typing.get_origin(hint) is typing.Annotated:
        return members(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [model for each in typing.get_args(hint) for model in members(each)]
    is_model = isinstance(hint, type) and (issubclass(hint, BaseModel) or dataclasses.is_dataclass(hint))
    return [hint] if is_model else []


def fields_of(model: Any) -> dict[str, Any]:
    """Return the fields of a pydantic model or a dataclass by name."""
    if issubclass(model, BaseModel):
        return dict(model.model_fields)
    return {field.name: field for field in dataclasses.fields(model)}


def fields(model: Any) -> str:
    """Return the fields of one part of a recipe with type, default, and meaning."""
    comments = dict(re.findall(r"^    (\w+): [^\n#]*#+ *([^\n]*)$", inspect.getsource(model), re.MULTILINE))
    hints = typing.get_type_hints(model, include_extras=True)
    rows = []
    for name, info in fields_of(model).items():
        described = info.description if isinstance(info, FieldInfo) else info.metadata.get("description")
        own_table = bool(members(hints[name]))
        parts = members(hints[name])
        about = first_line(parts[0]) if len(parts) == 1 else "What a token is. The kinds are below." if parts else ""
        meaning = described or comments.get(name) or about or specified(model.__name__, name)
        rows.append(
            [code(name), "table" if own_table else type_name(hints[name]), default_of(info, own_table), meaning]
        )
    return table(["field", "type", "default", "meaning"], rows)


def first_line(documented: Any) -> str:
    """Return the first line of a docstring."""
    return (inspect.getdoc(documented) or "").partition("\n")[0]


def specified(part: str, field: str) -> str:
    """Return the meaning of a codec's field from models/FORMAT.md."""
    page = (ROOT / "models/FORMAT.md").read_text("utf-8")
    section = re.search(rf"^### {part}\n(.*?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL)
    row = re.search(rf"^\| `{field}` \|.*\| (.+?) \|$", section[1], re.MULTILINE) if section else None
    return row[1] if row else ""


def type_name(hint: Any) -> str:
    """Return a type as a reader of TOML would say it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return type_name(arguments[0])
    if origin is typing.Literal:
        return ", ".join(f"`{each}`" for each in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_name(each) for each in arguments if each is not type(None))
    if origin in (tuple, list):
        return f"list of {type_name(arguments[0])}"
    if origin is dict or hint is dict:
        return "table"
    if members(hint):
        return "table"
    names = {str: "string", int: "integer", float: "number", bool: "boolean", Path: "path"}
    return names.get(hint, getattr(hint, "__name__", "any"))


def default_of(info: Any, own_table: bool) -> str:
    """Return the default of a field as TOML."""
    default = info.get_default(call_default_factory=True) if isinstance(info, FieldInfo) else info.default
    if repr(default) in ("PydanticUndefined", "MISSING") or default is dataclasses.MISSING:
        return "required"
    if own_table or default is None or default in ((), {}, ""):
        return ""
    return code(json.dumps(list(default) if isinstance(default, tuple) else default, ensure_ascii=False))


def data_sets() -> str:
    """Return the published data sets with their sizes, sources, and licenses."""
    rows = []
    for name, each in PUBLISHED.items():
        size = first_line(READERS[name]).removeprefix("Read ").rstrip(".")
        source = f"[{each.repository.removeprefix('https://github.com/')}]({each.repository})"
        rows.append([code(name), each.task, each.description, size, source, each.license])
    return table(["data set", "task", "content", "size", "source", "license"], rows)


def dependencies() -> str:
    """Return the solved seeds of the study of long dependencies."""
    study = StudyTable(read_attempts(RESULTS / "dependencies.json"))
    rows = [[task, method, *cells] for task, method, cells in study.rows()]
    return table(["task", "method", *(f"T = {steps}" for steps in study.lengths)], rows)


def modules() -> str:
    """Return every module with the first line of its docstring."""
    parts = []
    for package in PACKAGES:
        rows = []
        for path in sorted((ROOT / package).rglob("*.py")):
            if "Generated by" in (text := path.read_text("utf-8"))[:200]:
                continue
            summary = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
            if summary:
                rows.append([code(path.relative_to(ROOT)), summary])
        parts.append(f"## {package}\n\n{table(['module', 'purpose'], rows)}")
    return "\n".join(parts)


def cli() -> str:
    """Return the help of every command and subcommand."""
    texts = [f"```\n{seqserve.usage()}\n```\n"]
    with mock.patch.dict(os.environ, COLUMNS=HELP_COLUMNS, NO_COLOR="1"):
        for package in PACKAGES:
            parser: CommandParser = importlib.import_module(f"{package}.__main__").make_parser()
            texts.append(f"## {package}\n\n{help_of(parser)}")
            texts += [f"### seqserve {name}\n\n{help_of(command)}" for name, command in unique(parser.commands)]
    return "\n".join(texts)


def unique(commands: dict[str, CommandParser]) -> list[tuple[str, CommandParser]]:
    """Return the commands without their aliases, which come later."""
    return list({id(parser): (name, parser) for name, parser in reversed(commands.items())}.values())[::-1]


def help_of(parser: CommandParser) -> str:
    """Return the help of a parser as a code block."""
    return f"```\n{parser.format_help().strip()}\n```\n"


def zoo() -> str:
    """Return the first bundle of each kind in models/zoo: by task, input, spans, and streams."""
    kinds = {(each.task, each.codec.kind, each.scheme, each.streams): each for each in reversed(published())}
    return bundle_table("README.md", [each for each in published() if each in kinds.values()])


def bundles() -> str:
    """Return all bundles of models/zoo."""
    return bundle_table("docs/reference/bundles.md", published())


def published() -> list[manifest.Manifest]:
    """Return the manifests of models/zoo in the order in which they are served."""
    first = (ROOT / "models/zoo/order.txt").read_text().split()
    found = [manifest.read(path.parent) for path in sorted((ROOT / "models/zoo").glob("*/manifest.json"))]
    return sorted(found, key=lambda each: (first.index(each.name) if each.name in first else len(first), each.name))


def bundle_table(page: str, shown: Iterable[manifest.Manifest]) -> str:
    """Return a table of bundles with their scores, with links from a page."""
    rows, root = [], "../" * page.count("/")
    for each in shown:
        default = each.variants[each.default_variant]
        name = f"[`{each.name}`]({root}models/zoo/{each.name}/README.md)"
        rows.append([name, each.task, each.description.rstrip("."), score(default.scores[each.metric], each.metric)])
    return table(["bundle", "task", "what it does", "score"], rows)


def score(value: float, metric: str) -> str:
    """Return a score with its unit."""
    names = {"accuracy": "accuracy", "f1": "span F1", "exact": "exact matches", "top1": "of left-out words"}
    names |= {"scenes": "of scenes described right"}
    units = {"nats_per_character": "nats/character", "mse": "mean squared error", "bleu": "BLEU"}
    return f"{value} {units[metric]}" if metric in units else f"{value}% {names[metric]}"


def result(name: str) -> dict[str, Any]:
    """Return a file of docs/results."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text("utf-8"))
    return found


def median(server: dict[str, Any], connections: int) -> dict[str, Any]:
    """Return the medians of a server at a number of connections."""
    found: dict[str, Any] = next(row for row in server["medians"] if row["connections"] == connections)
    return found


def bench() -> str:
    """Return the part of the comparison that the README shows: first those with the same file."""
    servers = result("bench-vnni")["servers"]
    rows = []
    for name in ("seqserve-int8", "mosec-int8", "seqserve-fp32", "mosec"):
        server, row = servers[name], median(servers[name], 32)
        title = server["title"].removesuffix(" int8").removesuffix(" fp32")
        numbers = [f"{row['per_s']:,.0f}", f"{row['p50_ms']:.0f} ms", f"{row['p99_ms']:.0f} ms"]
        rows.append([title, server["variant"], *numbers, f"{row['padding_waste']:.0%}"])
    return table(["server", "variant", "requests/s", "p50", "p99", "padding"], rows)


def benchmarks() -> str:
    """Return the tables of every result file that the documentation uses."""
    return "\n".join(
        [
            comparison("bench-vnni", "Comparison with other servers, on a processor with VNNI"),
            comparison("bench-avx2", "The same on a processor without VNNI"),
            turns(),
            generation(),
            targets(),
            training(),
        ]
    )


def machine(found: dict[str, Any]) -> str:
    """Return the sentence about the command and the machine of a result."""
    about = found["machine"]
    sets = f" ({', '.join(about['instruction_sets'])})" if "instruction_sets" in about else ""
    cpu = about["cpu"].replace("(R)", "")
    return f"`{found['command']}` on {found['date'][:10]}, {cpu}{sets}, {about['cores']} cores.\n\n"


def comparison(name: str, title: str) -> str:
    """Return the table of all servers at 32 connections, and the latency at one."""
    found = result(name)
    rows = []
    for server in found["servers"].values():
        if server.get("medians"):
            one, row = median(server, 1), median(server, 32)
            numbers = [f"{row['per_s']:,.0f}", f"{row['p50_ms']:.1f} ms", f"{row['p99_ms']:.0f} ms"]
            more = [f"{row['padding_waste']:.0%}", f"{row['cpu_ms_per_request']:.2f} ms", f"{one['p50_ms']:.2f} ms"]
            rows.append([server["title"], server.get("setting") or "", server["variant"], *numbers, *more])
    head = [
        "server",
        "batching",
        "variant",
        "requests/s",
        "p50",
        "p99",
        "padding",
        "CPU per request",
        "p50, 1 connection",
    ]
    return f"## {title}\n\n{machine(found)}{table(head, rows)}"


def turns() -> str:
    """Return the ratios of alternating runs."""
    rows = []
    for name in ("bench-vnni", "bench-avx2", "bench-avx2-turns"):
        for each in result(name).get("turns", ()):
            low, high = each["quartiles"]["per_s"]
            rate = each.get("at_rate")
            at_rate = f"{rate['ratios']['p99_ms']:.2f}" if rate else ""
            ratios = each["ratios"]
            rows.append(
                [
                    name,
                    f"{each['ours']} / {each['peer']}",
                    f"{ratios['per_s']:.2f} ({low:.2f} to {high:.2f})",
                    f"{ratios['p99_ms']:.2f}",
                    at_rate,
                ]
            )
    head = ["file", "pair", "requests/s, ratio (quartiles)", "p99, ratio", "p99 at the same rate, ratio"]
    about = "32 connections, turns of one second on one core."
    return f"## Alternating runs against the best peer\n\n{about}\n\n{table(head, rows)}"


def generation() -> str:
    """Return the tokens per second of 64 concurrent texts."""
    servers = result("bench-avx2")["generate"]["servers"].values()
    rows = [[each["title"], each["weights"], f"{each['median']['tokens_per_s']:,.0f}"] for each in servers]
    about = "64 texts of 200 characters at once on one core."
    return f"## Generation\n\n{about}\n\n{table(['server', 'weights', 'tokens/s'], rows)}"


def profile() -> str:
    """Return the parts of the CPU time of one request."""
    found = result("profile-vnni")
    total = found["cpu_us_per_request"]
    rows = [[part, f"{each:.0f}", f"{each / total:.0%}"] for part, each in found["parts_us"].items()]
    return machine(found) + table(["part", "µs", "share"], [*rows, ["all", f"{total:.0f}", "100%"]])


def targets() -> str:
    """Return which targets of `loadtest limits` are met, in each of its result files."""
    rows = []
    for file in sorted(RESULTS.glob("limits*.json")):
        for name, part in result(file.stem)["parts"].items():
            for check in part.get("checks", ()):
                value = f"{check['is']:.2f}" if isinstance(check["is"], float) else check["is"]
                met = "yes" if check["met"] else "no"
                rows.append([file.name, name, check["what"], value, check["wanted"], met])
    header = ["file", "part", "measured", "value", "target", "met"]
    return f"## Limits of the service\n\n{machine(result('limits'))}{table(header, rows)}"


def training() -> str:
    """Return the speed of the training loop on published recipes."""
    rows = []
    for file in sorted(RESULTS.glob("training-*.json")):
        found = result(file.stem)
        row = [f"{found['loop']:,.0f}", f"{found['share']:.0f}%", f"{found['padding_percent']:.0f}%"]
        rows.append([code(found["command"]), *row])
    header = ["command", "tokens/s", "share of forward, backward and step alone", "padding"]
    return f"## Training loop\n\n{table(header, rows)}"


PARTS: dict[str, Callable[[], str]] = {
    "settings": settings,
    "metrics": metrics,
    "errors": errors,
    "input-errors": input_errors,
    "routes": routes,
    "parameters": parameters,
    "recipes": recipes,
    "data-sets": data_sets,
    "dependencies": dependencies,
    "modules": modules,
    "cli": cli,
    "zoo": zoo,
    "bundles": bundles,
    "bench": bench,
    "benchmarks": benchmarks,
    "profile": profile,
}

if __name__ == "__main__":
    main()
