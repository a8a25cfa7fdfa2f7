"""The settings of the service, read once from ``SEQSERVE_*`` environment variables.

Unknown names and invalid values prevent the start, with one line for each. ``seqserve settings`` lists all settings.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from models.manifest import not_a_bundle
from models.messages import closest
from service.cpu_limit import available_cpus

PREFIX = "SEQSERVE_"
ELSEWHERE = frozenset({"SEQSERVE_DATA", "SEQSERVE_CACHE", "SEQSERVE_E2E"})  # read by training and by the tests
RENAMED = {
    "SEQSERVE_SLOTS": "SEQSERVE_GENERATION_SLOTS",
    "SEQSERVE_QUEUE_S": "SEQSERVE_QUEUE_MAX_WAIT_S",
    "SEQSERVE_STREAMS": "SEQSERVE_STREAMS_MAX",
}
REMOVED = {
    "SEQSERVE_OWNER": "the owner process was removed; use SEQSERVE_WORKERS or more replicas",
    "SEQSERVE_CACHE_BYTES": "the response cache was removed; put a caching proxy in front of the service",
}
ROOT = Path(__file__).resolve().parent.parent
MANIFEST = "manifest.json"
SERVING = "serving.json"  # in the directory of a model with versions: which of them are served
ORDER = "order.txt"  # in a directory of bundles: the names of those that come first


RUN_BUNDLE = "bundle"  # where `seqserve export` puts the bundle of a run
RUN_FILE = "run.json"  # in the directory of a run


class BadSetting(ValueError):
    """A setting that prevents the start. The message is for the operator."""


def _split(value: object) -> object:
    """Return the parts of a comma-separated text."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(?:\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[1-9][0-9]{0,4})?").fullmatch
WATCHDOG_MIN_S = 5.0
HOST_PATTERN = re.compile(r"\*|(?:\*\.)?[A-Za-z0-9._-]+").fullmatch
DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def _check_origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    """Raise ValueError for an origin that no browser sends: the comparison would never match."""
    for origin in origins:
        found = ORIGIN(origin)
        if origin in ("*", "null"):
            continue
        if found is None:
            raise ValueError(
                f"{origin!r} would never match; write scheme://host or scheme://host:port in lower case, without a"
                " path, a slash at the end, or a wildcard"
            )
        if found[2] and found[2] == DEFAULT_PORTS.get(found[1]):
            raise ValueError(f"{origin!r} would never match, because browsers omit the default port; omit {found[2]}")
    return origins


def _check_hosts(hosts: tuple[str, ...]) -> tuple[str, ...]:
    """Raise ValueError for a host name that would never match."""
    for host in hosts:
        if not HOST_PATTERN(host):
            raise ValueError(f"{host!r} would never match; write host, *.domain or *, without a scheme, port or path")
    return hosts


def _check_watchdog(seconds: float) -> float:
    """Raise ValueError for a limit that a healthy worker could miss: it sends a heartbeat once a second."""
    if 0 < seconds < WATCHDOG_MIN_S:
        raise ValueError(f"a busy worker can be {WATCHDOG_MIN_S:g} s late; set 0 or at least {WATCHDOG_MIN_S:g}")
    return seconds


def _count_of_workers(value: object) -> object:
    """Return the number that ``auto`` stands for."""
    return available_cpus() if value == "auto" else value


Parts = Annotated[tuple[str, ...], BeforeValidator(_split)]
Key = Annotated[str, Field(min_length=8)]
StateKey = Annotated[str, Field(min_length=16)]
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]


def setting(default: Any, description: str, *, allowed: str = "", secret: bool = False, **limits: Any) -> Any:
    """Return a field. ``allowed``: what it may be, if its type does not tell. ``secret``: its value is never shown."""
    extra: dict[str, Any] = {"allowed": allowed, "secret": secret}
    return Field(default, description=description, repr=not secret, json_schema_extra=extra, **limits)


class Settings(BaseModel):
    """All settings with their defaults. The variable of a field is ``SEQSERVE_`` and its name in capitals."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundles: Parts = setting(
        ("models/zoo",),
        "Bundles, or directories of bundles or runs (in the order of their order.txt, then by name). The first bundle"
        " of a task answers requests without a model. Relative paths start at the repository's root.",
        allowed="1 path or more, with commas between them",
        min_length=1,
    )
    model_control: Literal["none", "explicit", "watch"] = setting(
        "none",
        "How served versions change without a restart. explicit: by load and unload requests of the Open Inference"
        " Protocol. watch: when the directories change.",
    )
    watch_s: Seconds = setting(1.0, "Seconds between two looks at the directories of bundles.")
    load_timeout_s: Seconds = setting(
        300.0,
        "Seconds in which all workers must have loaded new versions; then the old ones stay. A worker that is not"
        " ready so long after its start is replaced, unless SEQSERVE_WATCHDOG_S is 0.",
    )
    retire_s: Annotated[float, Field(ge=0, le=86_400)] = setting(
        60.0,
        "Seconds for which a replaced version stays loaded. Until then, clients can continue its state tokens, and it"
        " can be served again without loading.",
    )
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "Device that runs the models.")
    variant: str = setting(
        "auto",
        "Variant of each bundle. auto: the fastest that costs no accuracy.",
        allowed="auto, fp32, int8, or another variant of the bundles",
        pattern=r"^[a-z0-9][a-z0-9_-]*$",
    )
    workers: Annotated[int, BeforeValidator(_count_of_workers), Field(ge=1, le=256)] = setting(
        1,
        "Worker processes. Each loads all bundles. auto: one for each whole CPU that the affinity and the CPU limit of"
        " the container allow.",
        allowed="auto, or a whole number from 1 to 256",
    )
    threads: Count = setting(1, "Threads of one model in one worker.", le=256)
    batch_tokens: Count = setting(2048, "Padded tokens in one batch of sequences (rows times the longest), at most.")
    batch_rows: Count = setting(32, "Sequences in one batch, at most.")
    generation_slots: Count = setting(
        64, "Texts, or hypotheses of translations, that one model writes at once in each worker.", le=4096
    )
    queue_requests: Count = setting(512, "Unanswered requests to one model in one worker, at most; then 429.")
    queue_tokens: Count = setting(262_144, "Tokens that wait for one model in one worker, at most; then 429.")
    queue_items: Count = setting(4096, "Inputs that wait for one model in one worker, at most; then 429.")
    queue_max_wait_s: Seconds = setting(
        1.0, "Estimated seconds until a new request to a tagger or classifier would run, at most; then 429."
    )
    deadline_s: Seconds = setting(30.0, "Deadline of a request without X-Request-Timeout-S; then 504.")
    deadline_max_s: Seconds = setting(300.0, "Longest deadline that a request can set. A longer one is reduced to it.")
    keepalive_s: Seconds = setting(15.0, "Seconds without an event after which an event stream sends a comment.")
    write_timeout_s: Seconds = setting(
        30.0, "Disconnect a client that reads nothing of its answer for this many seconds."
    )
    lame_duck_s: Annotated[float, Field(ge=0, le=3600)] = setting(
        0.0,
        "Seconds after SIGTERM in which the service is not ready but still answers new requests, so that load"
        " balancers can notice. 0: the drain begins immediately.",
    )
    drain_s: Seconds = setting(
        30.0,
        "Seconds of the drain, in which accepted requests are answered and new ones get 503. It begins after"
        " SEQSERVE_LAME_DUCK_S.",
    )
    watchdog_s: Annotated[float, AfterValidator(_check_watchdog), Field(ge=0, le=86_400)] = setting(
        30.0,
        "Replace a worker whose event loop has not responded for this many seconds. After a third of them, the worker"
        " writes its stacks to the log. 0: never.",
        allowed=f"0, or a number from {WATCHDOG_MIN_S:g} to 86400",
    )
    header_bytes: Count = setting(16_384, "Bytes of a request's head, at most; then 431.")
    header_timeout_s: Seconds = setting(
        10.0, "Seconds for a request's head, and for the first request of a connection; then 408."
    )
    idle_timeout_s: Seconds = setting(
        75.0,
        "Seconds for which a connection is kept open between two requests. Keep it above the same setting of a proxy"
        " in front, which is often 60 s.",
    )
    connections_max: Count = setting(4096, "Connections to one worker, at most; then 503.")
    body_bytes: Count = setting(1 << 20, "Bytes of a request's body, at most; then 413.")
    request_tokens: Count = setting(
        65_536, "Tokens of one request, at most: those of all inputs and max_new_tokens; then 413."
    )
    inputs_max: Count = setting(1024, "Inputs in one request, at most; then 413.")
    streams_max: Count = setting(256, "Open /v1/stream connections in one worker; then 429.")
    stream_idle_s: Seconds = setting(
        300.0, "Close a /v1/stream connection whose client neither sends nor reads for this long."
    )
    max_new_tokens: Count = setting(4096, "Highest max_new_tokens of a request; then 422.")
    api_keys: Annotated[tuple[Key, ...], BeforeValidator(_split)] = setting(
        (),
        "API keys. A request needs one of them (Authorization: Bearer …). Default: no key is needed.",
        allowed="keys of at least 8 characters, with commas between them",
        secret=True,
    )
    api_keys_file: str = setting(
        "",
        "File with more API keys, reloaded within seconds of a change. A line is `key` or `name key`, with the key in"
        " plain text or as sha256:…, then optionally rate=… and day_requests=… for its own limits.",
        allowed="a path",
    )
    rate_limit: str = setting(
        "",
        "Requests that an API key, or without keys an address, may send; then 429. The window starts with the first"
        " request. Default: no limit.",
        allowed="a number per s, min or h, such as 100/s, 600/min or 1000/h",
        pattern=r"^([1-9][0-9]{0,8}/(s|min|h))?$",
    )
    day_requests: int = setting(
        0, "Requests that an API key, or without keys an address, may send in 24 hours; then 429. 0: no limit.", ge=0
    )
    rate_limit_store: str = setting(
        "",
        "Where requests are counted: redis://host:6379 for one count over all replicas. Default: one count for all"
        " workers of this service.",
        allowed="a URL that begins with redis://, rediss:// or sqlite://",
        secret=True,
        pattern=r"^((rediss?|sqlite)://.+)?$",
    )
    cors_origins: Annotated[Parts, AfterValidator(_check_origins)] = setting(
        (),
        "Origins whose pages may call the service from a browser. *: all.",
        allowed="origins such as https://example.org, or *, with commas between them",
    )
    allowed_hosts: Annotated[Parts, AfterValidator(_check_hosts)] = setting(
        (),
        "Host names under which clients reach the service, in addition to addresses and names without a dot. *: all."
        " Checked on loopback addresses and for browsers.",
        allowed="names such as seqserve.example.org, *.example.org, or *, with commas between them",
    )
    state_key: Annotated[tuple[StateKey, ...], BeforeValidator(_split)] = setting(
        (),
        "Keys for signing state tokens. The first signs; all are accepted. Use the same on all replicas. Default: a"
        " new key for each start.",
        allowed="keys of at least 16 characters, with commas between them",
        secret=True,
    )
    state_ttl_s: Annotated[float, Field(gt=0, le=31_536_000)] = setting(
        86_400.0, "Seconds for which a state token is accepted; then 422."
    )
    grpc_port: int = setting(0, "Port of the Open Inference Protocol over gRPC, without TLS. 0: none.", ge=0, le=65_535)
    grpc_host: str = setting(
        "127.0.0.1",
        "Address of the gRPC port. 0.0.0.0: all interfaces.",
        allowed="an address or a host name",
        min_length=1,
    )
    page: Literal["on", "off"] = setting(
        "on", "The page at / that shows what the models do, and the reference at /docs."
    )
    access_log: Literal["off", "errors", "all"] = setting(
        "off", "Requests that are logged when they end. Their contents are never logged."
    )
    log_format: Literal["text", "json"] = setting("text", "Format of log lines.")

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> "Settings":
        """Return the settings in ``environ``. An empty value means the default.

        Raises BadSetting, with one line for each problem.
        """
        values: dict[str, str] = {}
        problems = []
        for name, value in environ.items():
            if name.startswith(PREFIX) and name not in ELSEWHERE:
                field = name.removeprefix(PREFIX).lower()
                if field not in cls.model_fields or name != variable(field):
                    problems.append(_unknown(name, value))
                elif value:
                    values[field] = value
        try:
            settings = cls.model_validate(values)
        except ValidationError as error:
            first = {str(each["loc"][0]): each for each in reversed(error.errors(include_url=False))}
            problems += [_invalid(field, values[field], first[field]) for field in values if field in first]
        else:
            if settings.deadline_s > settings.deadline_max_s:
                problems.append(
                    f"SEQSERVE_DEADLINE_S={settings.deadline_s:g} is over SEQSERVE_DEADLINE_MAX_S="
                    f"{settings.deadline_max_s:g}; lower the first or raise the second"
                )
        if problems:
            raise BadSetting("\n".join(problems))
        return settings

    def bundle_paths(self) -> list[Path]:
        """Return the directory of each bundle, or of each model with versions, in order.

        Raises BadSetting for a path without a bundle or a run.
        """
        found: list[Path] = []
        for part in self.bundles:
            path = ROOT / part
            inside = [path] if is_bundle(path) or _has_versions(path) else _bundles_in(path)
            if not inside and not _unexported_runs(path):
                if not path.is_dir():
                    raise BadSetting(f"SEQSERVE_BUNDLES={part} {not_a_bundle(Path(part))}")
                raise BadSetting(
                    f"SEQSERVE_BUNDLES={part} has no {MANIFEST}, and neither does any subdirectory; name a directory"
                    " that `seqserve export` wrote"
                )
            found += [bundle for bundle in inside if bundle not in found]
        if not found:
            run = self.unexported_runs()[0]
            raise BadSetting(f"SEQSERVE_BUNDLES={','.join(self.bundles)} has no bundle yet: seqserve export {run}")
        return found

    def unexported_runs(self) -> list[Path]:
        """Return the runs that have no bundle yet, in order."""
        return list(dict.fromkeys(run for part in self.bundles for run in _unexported_runs(ROOT / part)))


def _unexported_runs(path: Path) -> list[Path]:
    """Return a run without a bundle, or those in a directory of runs."""
    runs = [file.parent for pattern in (RUN_FILE, f"*/{RUN_FILE}") for file in sorted(path.glob(pattern))]
    return [run for run in runs if not (run / RUN_BUNDLE / MANIFEST).exists()]


def _bundles_in(folder: Path) -> list[Path]:
    """Return the bundles in a directory of bundles or runs: those in its order.txt, one a line, then the others."""
    order = folder / ORDER
    try:
        first = order.read_text("utf-8").split() if order.is_file() else []
        names = sorted(os.listdir(folder)) if folder.is_dir() else []
    except (OSError, UnicodeDecodeError) as error:
        raise BadSetting(f"{getattr(error, 'filename', None) or order} cannot be read: {error}") from None
    # Names with a dot are bundles that are being written. A file system makes lost+found for itself.
    paths = [folder / name for name in names if not name.startswith(".") and name != "lost+found"]
    bundles = {}  # by the name of the bundle's directory, or of its run
    for path in paths:
        if is_bundle(path):
            bundles[path.name] = path
        elif is_bundle(path / RUN_BUNDLE):
            bundles[path.name] = path / RUN_BUNDLE
        elif _has_versions(path):
            bundles[path.name] = path
    return [
        bundles[name] for name in sorted(bundles, key=lambda name: first.index(name) if name in first else len(first))
    ]


def _has_versions(path: Path) -> bool:
    """Return whether a directory has the versions of one model: see repository.py."""
    if (path / SERVING).exists():
        return True
    numbers = (each for each in path.glob("[0-9]*") if each.name.isascii() and each.name.isdigit())
    return any(is_bundle(each) for each in numbers)


def is_bundle(path: Path) -> bool:
    """Return whether a path is a directory with a manifest. Raises BadSetting if that cannot be seen."""
    try:
        (path / MANIFEST).lstat()
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink() and not path.exists():
            raise BadSetting(f"{path} is a broken link; remove it") from None
        return False
    except OSError as error:
        raise BadSetting(
            f"{path} cannot be read: {error.strerror}; permit it, or leave it out of SEQSERVE_BUNDLES"
        ) from None
    return True


def variable(field: str) -> str:
    """Return the environment variable of a field."""
    return PREFIX + field.upper()


def authority(host: str, port: int) -> str:
    """Return host and port as in a URL, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_secret(field: str) -> bool:
    """Return whether the value of a field must never be shown."""
    return bool(_extra(field).get("secret"))


def allowed(field: str) -> str:
    """Return what a field may be."""
    info = Settings.model_fields[field]
    if form := _extra(field).get("allowed"):
        return str(form)
    if get_origin(info.annotation) is Literal:
        return " or ".join(", ".join(get_args(info.annotation)).rsplit(", ", 1))
    kind = "a whole number" if info.annotation is int else "a number"
    bounds = {name: getattr(each, name) for each in info.metadata for name in ("gt", "ge", "le") if hasattr(each, name)}
    if "gt" in bounds:
        return f"{kind} over {bounds['gt']}, at most {bounds['le']}"
    return f"{kind} from {bounds['ge']} to {bounds['le']}" if "le" in bounds else f"{kind} of at least {bounds['ge']}"


def _extra(field: str) -> dict[str, Any]:
    return cast(dict[str, Any], Settings.model_fields[field].json_schema_extra)


def _unknown(name: str, value: str) -> str:
    """Return the message for an unknown name. It omits a value that may be a secret under a misspelled name."""
    if name in RENAMED:
        return f"{name} was renamed; set {RENAMED[name]} instead"
    if name in REMOVED:
        return f"{name} is no longer a setting: {REMOVED[name]}"
    own = name.removeprefix(PREFIX)
    if address := {"PORT": "--port 3100", "HOST": "--host 0.0.0.0"}.get(own):
        return f"{name}={value} is not a setting; set the address with `seqserve serve {address}`"
    near = closest(own, Settings.model_fields)
    hint = f"did you mean {variable(near)}? " if near else ""
    secret = "KEY" in name.upper() or (near is not None and is_secret(near))
    shown = "" if secret else f"={value}"
    return f"{name}{shown} is not a setting; {hint}`seqserve settings` lists all"


def _invalid(field: str, value: str, problem: Mapping[str, Any]) -> str:
    """Return the message for a bad value: what it must be, and what the setting is for."""
    shown = "" if is_secret(field) else f"={value}"
    reason = problem.get("ctx", {}).get("error") or f"it must be {allowed(field)}"  # of a validator above, or ours
    return f"{variable(field)}{shown} is not allowed: {reason}. {Settings.model_fields[field].description}"
