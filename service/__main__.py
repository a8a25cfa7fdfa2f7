"""``python -m service``: what the settings are, whether the bundles are sound, and how to start them.

Serves nothing itself: that is what ``bentoml serve`` is for.
"""

import os
import sys

from service.auth import open_authenticator
from service.settings import Settings, is_secret, variable
from service.telemetry import Telemetry

HELP = """\
bentoml serve service.app:Seqserve

serves every bundle of models/zoo on http://localhost:3000 (--host, --port: elsewhere).

python -m service settings   every setting, its value now, its default and what it does
python -m service check      load and self-test every bundle, as the start does; say which one fails, and why
"""


def main(arguments: list[str]) -> int:
    """Run one command; return the exit status."""
    commands = {"settings": settings, "check": check}
    if len(arguments) == 1 and arguments[0] in commands:
        try:
            commands[arguments[0]]()
        except (ValueError, RuntimeError, OSError) as error:  # BadSetting, BundleError, DeviceUnavailable, files
            print(error, file=sys.stderr)
            return 1
        return 0
    print(HELP, end="")
    return 0 if arguments in ([], ["--help"], ["-h"], ["help"]) else 2


def settings() -> None:
    """Print the settings in force."""
    print(table(Settings.read(os.environ)), end="")


def check() -> None:
    """Read the keys, load every bundle and run its examples."""
    from service.engine import Engine  # late: it brings ONNX Runtime, which the other commands need not wait for

    values = Settings.read(os.environ)
    open_authenticator(values)
    for card in Engine.load(values, Telemetry()).cards():
        print(f"{card['id']} ({card['task']}, {card['variant']}): OK")


def table(values: Settings) -> str:
    """Return every setting as ``NAME = value (default …)`` with its explanation below."""
    lines = []
    for field, info in Settings.model_fields.items():
        value = getattr(values, field)
        default = info.get_default()
        shown = ("set" if value else "not set") if is_secret(field) else _text(value)
        changed = "" if value == default else f"  (default {_text(default) or 'not set'})"
        lines.append(f"{variable(field)} = {shown}{changed}\n    {info.description}\n")
    return "".join(lines)


def _text(value: object) -> str:
    """Return a value as one would write it into the variable."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
