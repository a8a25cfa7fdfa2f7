"""The command line: `python -m loadtest run | bench | limits`."""

import argparse
import sys
from types import ModuleType

from loadtest import bench, limits, run
from loadtest.service_process import ServiceStartError, end_on_signals

COMMANDS: dict[str, ModuleType] = {"run": run, "bench": bench, "limits": limits}


def main(words: list[str] | None = None) -> int:
    """Return 0 if all checks passed, 1 if one failed, 2 if nothing could be measured."""
    parser = argparse.ArgumentParser(prog="python -m loadtest", description="Measure a running service over HTTP.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        summary = (module.__doc__ or "").partition("\n")[0]
        module.add_arguments(commands.add_parser(name, help=summary, description=summary))
    arguments = parser.parse_args(words)
    end_on_signals()
    try:
        return int(COMMANDS[arguments.command].run(arguments))
    except (ConnectionError, ServiceStartError, ValueError, LookupError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
