"""The command line: ``python -m service settings | check``."""

import argparse
import os
import sys

from service.auth import open_authenticator
from service.rate_limits import RateLimiter
from service.settings import BadSetting, Settings, is_secret, variable
from service.telemetry import Telemetry
from service.tracing import open_tracer


def settings() -> None:
    """List every setting with its value, its default and what it does."""
    values = Settings.read(os.environ)
    for field, info in Settings.model_fields.items():
        value, default = getattr(values, field), info.get_default()
        shown = ("set" if value else "not set") if is_secret(field) else _text(value)
        changed = "" if value == default else f"  (default {_text(default) or 'not set'})"
        print(f"{variable(field)} = {shown}{changed}\n    {info.description}")


def check() -> None:
    """Load and self-test every bundle and read the API keys, as the start does."""
    from service.engine import Engine  # imports ONNX Runtime, which the other command does not need

    values = Settings.read(os.environ)
    open_authenticator(values)
    if values.rate_limit_store:
        try:
            RateLimiter(values.rate_limit_store).check()
        except Exception as error:  # of the client of the store, which may quote a password
            name = variable("rate_limit_store")
            raise BadSetting(f"{name} cannot be used ({type(error).__name__}); check its host, port and path") from None
    if (tracer := open_tracer(os.environ)) is not None:
        tracer.close()
    try:
        runtimes = Engine.load(values, Telemetry()).runtimes
    except (ValueError, RuntimeError) as error:  # of the setting, a bundle or the device
        chosen = [f"{variable(name)}={getattr(values, name)}" for name in ("device", "variant")]
        chosen = [text for text in chosen if not text.endswith("=auto")]
        raise BadSetting(f"{error} ({', '.join(chosen)})" if chosen else str(error)) from error
    for runtime in runtimes.values():
        print(f"{runtime.name} ({runtime.bundle.manifest.task}, {runtime.bundle.variant}): OK")


COMMANDS = {"settings": settings, "check": check}


def main(words: list[str] | None = None) -> int:
    """Run one command. Return 0, or 1 if it fails."""
    parser = argparse.ArgumentParser(
        prog="python -m service",
        description="Show or check the configuration of the service.",
        epilog="Start the service with: bentoml serve service.app:Seqserve",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        summary = (command.__doc__ or "").partition("\n")[0]
        commands.add_parser(name, help=summary, description=summary)
    arguments = parser.parse_args(words)
    try:
        COMMANDS[arguments.command]()
    except (ValueError, RuntimeError, OSError) as error:  # BadSetting, BadKeys, BundleError, DeviceUnavailable, files
        print(error, file=sys.stderr)
        return 1
    return 0


def _text(value: object) -> str:
    """Return a value as it is written in the variable."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


if __name__ == "__main__":
    sys.exit(main())
