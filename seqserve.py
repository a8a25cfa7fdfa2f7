"""The command `seqserve`: the commands of all packages under one name. Uses the standard library only.

`make setup` and `make serve` install it. `python -m service`, and likewise models, training and loadtest, run the
commands of one package.
"""

from __future__ import annotations  # old versions of Python must be able to read this file, to name the one to use

import argparse
import importlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from models.messages import suggest

ROOT = Path(__file__).resolve().parent
OLDEST_PYTHON = (3, 11)
PIPE_CLOSED = 141  # the status of a shell for SIGPIPE
PICTURES = (".png", ".pdf", ".svg")
# Group -> command -> package and summary, so that --help imports no package.
COMMANDS = {
    "serve": {
        "serve": ("service", "Serve bundles over HTTP until Ctrl-C."),
        "check": ("service", "Load and self-test every bundle and read the API keys, as the start does."),
        "settings": ("service", "List every setting with its value, its default, what it does, and what is allowed."),
    },
    "use": {
        "predict": ("models", "Answer the inputs of a file, without a server."),
    },
    "train": {
        "list": ("training", "List the recipes."),
        "data": ("training", "List the published data sets, or fetch some."),
        "fit": ("training", "Train a recipe."),
        "export": ("training", "Make the bundle of a run."),
        "card": ("training", "Write the model cards of bundles again."),
        "split-speller": ("training", "Make a bundle of format 1 to 3 faster."),
        "score": ("training", "Score a bundle on its development data, or on a test file."),
        "cross-validate": ("training", "Score a recipe over folds of its data."),
        "find-lr": ("training", "Suggest a learning rate."),
    },
    "look": {
        "show": ("training", "Print a bundle's model card."),
        "compare": ("training", "Compare runs: scores, recipes and curves."),
        "inspect": ("models", "Show gates and cells at every step of an input, or the attention of a translator."),
        "gradients": ("training", "Plot how far back gradients reach."),
        "dependencies": ("training", "Test which cell learns long dependencies."),
        "tunes": ("training", "Measure the share of generated tunes that parse."),
    },
    "measure": {
        "speed": ("loadtest", "Measure requests and inputs per second, and latency, of one model in half a minute."),
        "bench": ("loadtest", "Compare seqserve with other servers of the same bundles, or with another checkout."),
        "load": ("loadtest", "Run a Locust scenario and check every answer."),
        "limits": ("loadtest", "Measure the limits of this service, each with a reference."),
        "profile": ("loadtest", "Show where the CPU time of a request goes, part by part."),
        "measure": ("models", "Check bundles on a device and measure their speed."),
        "benchmark": ("training", "Measure tokens per second of the trainer."),
    },
}
PACKAGES = {name: package for group in COMMANDS.values() for name, (package, _) in group.items()}


class CommandParser(argparse.ArgumentParser):
    """A parser with subcommands. An error is one line, with a suggestion for a misspelled name."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **keywords)
        self.commands: dict[str, CommandParser] = {}

    def add_commands(self) -> Any:
        """Return what argparse's `add_subparsers` returns."""
        added = self.add_subparsers(
            dest="command",
            required=True,
            metavar="COMMAND",
            title="commands",
            prog="seqserve",
            parser_class=CommandParser,
        )
        self.commands = added.choices
        return added

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            command = self.commands.get(options.command, self)
            word = unknown[0].partition("=")[0]
            known = re.findall(r"--([\w-]+)", command.format_help())
            near = suggest(word.lstrip("-"), known, others=False).replace("mean ", "mean --")
            command.error(f"unknown argument {word!r}; {near or command.remedy}")
        return options

    @property
    def remedy(self) -> str:
        return f"see {self.prog} --help"

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {_explain(message, self.remedy)}\n")


def _explain(message: str, remedy: str) -> str:
    """Return a message of argparse as value, limit and remedy."""
    if found := re.fullmatch(r"argument (\S+): invalid choice: (.*) \(choose from (.*)\)", message, re.DOTALL):
        option, value, choices = found.groups()
        what = "unknown command" if option == "COMMAND" else f"{option}: unknown value"
        return f"{what} {value}; {suggest(value.strip(chr(39)), [each.strip(chr(39)) for each in choices.split(', ')])}"
    if found := re.fullmatch(r"argument (\S+): invalid (int|float) value: (.*)", message, re.DOTALL):
        option, kind, value = found.groups()
        return f"{option}: {value} must be {'a whole number' if kind == 'int' else 'a number'}"
    if found := re.fullmatch(r"the following arguments are required: (.*)", message):
        return f"{found[1]} is missing; {remedy}"
    return message.removeprefix("argument ")


def picture_file(text: str) -> Path:
    """Return a path that a picture can be written to, for `type=` of an option."""
    path = Path(text)
    if path.suffix.lower() not in PICTURES:
        raise argparse.ArgumentTypeError(f"{text!r} must end in {', '.join(PICTURES[:-1])} or {PICTURES[-1]}")
    return path


def positive(text: str) -> int:
    """Return a whole number of at least 1, for `type=` of an option."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of at least 1")
    return int(text)


@contextmanager
def required_packages() -> Iterator[None]:
    """Exit with one sentence if Python is too old, or if a package is not installed."""
    if sys.version_info < OLDEST_PYTHON:
        sys.exit(f"error: this is Python {sys.version.split()[0]}, but 3.11 or newer is needed; {_remedy()}")
    try:
        yield
    except ModuleNotFoundError as error:
        package, _, module = (error.name or "").partition(".")
        if module and package in PACKAGES.values():
            raise
        sys.exit(f"error: {package} is not installed in {sys.prefix}; {_remedy()}")


def _remedy() -> str:
    environment = ROOT / ".venv"
    if (environment / "bin/python").exists() and environment.resolve() != Path(sys.prefix).resolve():
        return f"activate the environment: . {environment}/bin/activate"
    return f"run `make setup` in {ROOT if (ROOT / 'Makefile').exists() else 'a clone of the repository'}"


def version() -> str:
    """Return the version, which service/__init__.py has, without importing the package."""
    found = re.search(r'^VERSION = "(.*)"', (ROOT / "service/__init__.py").read_text("utf-8"), re.MULTILINE)
    assert found is not None
    return found[1]


def usage() -> str:
    """Return the summary of every command, in groups."""
    lines = ["usage: seqserve COMMAND …", "", "Train, export and serve recurrent sequence models."]
    for group, commands in COMMANDS.items():
        lines += ["", f"{group}:", *(f"  {name:<16}{summary}" for name, (_, summary) in commands.items())]
    return "\n".join(
        [
            *lines,
            "",
            "`seqserve COMMAND --help` describes the options of a command. `seqserve --version` prints the version.",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        status = _run(words)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    return status


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if words else 2
    if words[0] in ("-V", "--version", "version"):
        print(f"seqserve {version()}")
        return 0
    if words[0] not in PACKAGES:
        print(f"error: unknown command {words[0]!r}; {suggest(words[0], PACKAGES)}", file=sys.stderr)
        return 2
    with required_packages():
        package = importlib.import_module(f"{PACKAGES[words[0]]}.__main__")
        status: int = package.main(words)
    return status


if __name__ == "__main__":
    sys.exit(main())
