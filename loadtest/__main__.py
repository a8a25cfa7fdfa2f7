"""The commands of seqserve that measure a service: speed, load, bench, limits and profile."""

import sys

from seqserve import CommandParser, required_packages

with required_packages():
    from loadtest import bench, limits, profile, run, speed
    from loadtest.service_process import ServiceStartError, end_on_signals

COMMANDS = {"speed": speed, "load": run, "bench": bench, "limits": limits, "profile": profile}
ALIASES = {"load": ["run"]}


def make_parser() -> CommandParser:
    parser = CommandParser(prog="seqserve", description="Measure a running service over HTTP.")
    commands = parser.add_commands()
    for name, module in COMMANDS.items():
        summary = (module.__doc__ or "").partition("\n")[0]
        command = commands.add_parser(name, aliases=ALIASES.get(name, []), help=summary, description=summary)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def main(words: list[str] | None = None) -> int:
    """Return 0 if all checks passed, 1 if one failed, 2 if nothing could be measured."""
    arguments = make_parser().parse_args(words)
    end_on_signals()
    try:
        return int(arguments.run(arguments))
    except (ConnectionError, ServiceStartError, ValueError, LookupError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
