"""`python -m loadtest run | poison | bench | limits | stalls | streams | states`: the command line and nothing else.

python -m loadtest run --url http://127.0.0.1:3000 --scenario mixed --users 32 --seconds 60 --p99-ms 200
"""

import argparse
import sys
from types import ModuleType

from loadtest import bench, limits, poison, run, stalls, states, streams
from loadtest.server import ServerError, end_on_signals

VERBS: dict[str, ModuleType] = {
    "run": run,
    "poison": poison,
    "bench": bench,
    "limits": limits,
    "stalls": stalls,
    "streams": streams,
    "states": states,
}


def main(words: list[str] | None = None) -> int:
    """0: everything was as it has to be; 1: it was not; 2: the load could not be made."""
    parser = argparse.ArgumentParser(prog="python -m loadtest", description="Load tests of a running service.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name, module in VERBS.items():
        says = (module.__doc__ or "").partition("\n")[0].partition(": ")[2]
        module.configure(verbs.add_parser(name, help=says, description=says))
    arguments = parser.parse_args(words)
    end_on_signals()
    try:
        return int(VERBS[arguments.verb].command(arguments))
    except (ConnectionError, ServerError, ValueError, LookupError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
