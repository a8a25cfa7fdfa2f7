"""The commands of seqserve that serve: serve, check and settings."""

import os
import sys
from collections.abc import Callable, MutableMapping
from pathlib import Path

from seqserve import CommandParser, required_packages

with required_packages():
    from models.manifest import locate
    from models.messages import plain
    from service.auth import open_authenticator
    from service.rate_limits import RateLimiter
    from service.server.listening import address_of
    from service.settings import ROOT, BadSetting, Settings, allowed, is_secret, variable
    from service.telemetry import Telemetry
    from service.tracing import open_tracer

HOST, PORT = "127.0.0.1", 3000


def serve(host: str, port: int, options: list[str]) -> None:
    """Serve bundles over HTTP until Ctrl-C."""
    Settings.read(os.environ).bundle_paths()  # fails early
    host = address_of(host, port)  # BentoML takes no names
    # BentoML clears the metrics below its home at each start, so each port gets its own home.
    home = Path(os.environ.get("BENTOML_HOME") or ROOT / "build/bentoml") / str(port)
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadSetting(f"{home} cannot be written: {error.strerror}; set BENTOML_HOME to a folder that can") from None
    if not os.access(home, os.W_OK):
        raise BadSetting(f"{home} cannot be written; set BENTOML_HOME to a folder that can")
    os.environ["BENTOML_HOME"] = str(home)
    print("seqserve: starting (Ctrl-C stops it)", flush=True)
    options = [str(Path(option).absolute()) if Path(option).exists() else option for option in options]
    os.chdir(ROOT)
    command = ["-m", "bentoml", "serve", "service.app:Seqserve", "--host", host, "--port", str(port), *options]
    os.execv(sys.executable, [sys.executable, *command])


def settings() -> None:
    """List every setting with its value, its default, what it does, and what is allowed."""
    values = Settings.read(os.environ)
    for field, info in Settings.model_fields.items():
        value, default = getattr(values, field), info.get_default()
        shown = "set" if value and is_secret(field) else _text(value)
        changed = "" if value == default else f"  (default {_text(default)})"
        print(f"{variable(field)} = {shown}{changed}\n    {info.description}\n    Allowed: {allowed(field)}")


def check() -> None:
    """Load and self-test every bundle and read the API keys, as the start does."""
    values = Settings.read(os.environ)
    problems = []
    for part in (open_authenticator, _check_store, _check_tracer, _check_bundles):
        try:
            part(values)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise BadSetting("\n".join(problems))


def _check_store(values: Settings) -> None:
    if values.rate_limit_store:
        try:
            RateLimiter(values.rate_limit_store).check()
        except Exception as error:  # of the client of the store, which may quote a password
            name = variable("rate_limit_store")
            raise BadSetting(f"{name} cannot be used ({type(error).__name__}); check its host, port and path") from None


def _check_tracer(_: Settings) -> None:
    if (tracer := open_tracer(os.environ)) is not None:
        tracer.close()


def _check_bundles(values: Settings) -> None:
    from service.engine import Engine  # imports ONNX Runtime, which the other command does not need

    try:
        models = Engine.load(values, Telemetry()).catalog.models.values()
    except (ValueError, RuntimeError) as error:  # of the setting, a bundle or the device
        chosen = [f"{variable(name)}={getattr(values, name)}" for name in ("device", "variant")]
        chosen = [text for text in chosen if not text.endswith("=auto")]
        raise BadSetting(f"{error} ({', '.join(chosen)})" if chosen else str(error)) from error
    for model in models:
        for version, runtime in model.versions.items():
            name = f"{model.name}@{version}" if len(model.versions) > 1 else model.name
            print(f"{name} ({runtime.bundle.manifest.task}, {runtime.bundle.variant}): OK")
    for run in values.unexported_runs():
        print(f"{run.name}: skipped, because it has no bundle yet: seqserve export {run}")


COMMANDS: dict[str, Callable[..., None]] = {"serve": serve, "check": check, "settings": settings}


def make_parser() -> CommandParser:
    parser = CommandParser(prog="seqserve", description="Serve bundles, or check the configuration of the service.")
    commands = parser.add_commands()
    for name, function in COMMANDS.items():
        summary = (function.__doc__ or "").partition("\n")[0]
        command = commands.add_parser(name, help=summary, description=summary)
        command.add_argument("--bundles", metavar="A,B", help="Serve these instead of SEQSERVE_BUNDLES.")
        if function is serve:
            command.add_argument("--host", default=HOST, help="Listen on this address (default: %(default)s).")
            command.add_argument("--port", type=int, default=PORT, help="Listen on this port (default: %(default)s).")
            command.add_argument(
                "options", nargs="*", metavar="-- OPTION", help="Options of `bentoml serve`, such as --ssl-certfile."
            )
    return parser


@required_packages()
def main(words: list[str] | None = None) -> int:
    """Run one command. Return 0, or 1 if it fails."""
    arguments = vars(make_parser().parse_args(words))
    if (bundles := arguments.pop("bundles")) is not None:
        os.environ[variable("bundles")] = bundles
    _resolve_paths(os.environ)
    try:
        COMMANDS[arguments.pop("command")](**arguments)
    except (ValueError, RuntimeError, OSError) as error:  # BadSetting, BadKeys, BundleError, DeviceUnavailable, files
        for line in plain(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return 1
    return 0


def _resolve_paths(environ: MutableMapping[str, str]) -> None:
    """Make paths in the settings absolute, if they exist below the current folder. A name can be that of a zoo bundle.

    The service runs in the root directory of the repository, where other relative paths start.
    """
    for name, resolve in ((variable("bundles"), locate), (variable("api_keys_file"), Path)):
        if name not in environ:
            continue
        parts = [part.strip() for part in environ[name].split(",")]
        paths = [resolve(part) for part in parts]
        environ[name] = ",".join(
            str(path.absolute()) if part and path.exists() else part for part, path in zip(parts, paths, strict=True)
        )


def _text(value: object) -> str:
    """Return a value as it is written in the variable."""
    return (",".join(map(str, value)) if isinstance(value, tuple) else str(value)) or "not set"


if __name__ == "__main__":
    sys.exit(main())
