"""The service's settings: one frozen object, read once from SEQSERVE_* variables. Knows nothing of models.

An unknown name or a bad value stops the start with one sentence. ``python -m service settings`` shows them all.
"""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

PREFIX = "SEQSERVE_"
ELSEWHERE = frozenset({"SEQSERVE_DATA", "SEQSERVE_CACHE", "SEQSERVE_E2E"})  # read by training and by the tests
# Settings of earlier versions, and what to do instead.
REMOVED = {
    "SEQSERVE_OWNER": "the owner process was removed; use SEQSERVE_WORKERS or more replicas",
    "SEQSERVE_CACHE_BYTES": "the response cache was removed; put a caching proxy in front of the service",
}
ROOT = Path(__file__).resolve().parent.parent
MANIFEST = "manifest.json"
ORDER = "order.txt"  # of a directory of bundles: the names of those that come first


class BadSetting(ValueError):
    """A setting that the service does not start with. The message is for the person who set it."""


def _split(value: object) -> object:
    """Return the parts of a comma-separated text."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


Parts = Annotated[tuple[str, ...], BeforeValidator(_split)]
Key = Annotated[str, Field(min_length=8)]
StateKey = Annotated[str, Field(min_length=16)]
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
SECRET: dict[str, Any] = {"secret": True}


class Settings(BaseModel):
    """Every setting, its default and what it does; ``SEQSERVE_`` and the name in capitals is its variable."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundles: Parts = Field(
        default=("models/zoo",),
        min_length=1,
        description="Bundles to serve, separated by commas: bundle directories, or directories full of them"
        " (by name, those first that its order.txt lists). The first that can do a task answers where none is named."
        " Relative paths start at the repository's root.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="Where the networks run.")
    variant: str = Field(
        default="auto",
        pattern=r"^[a-z0-9][a-z0-9_-]*$",
        description="Which variant of each bundle: fp32, int8, …; auto: the fastest one that costs no accuracy.",
    )
    workers: Count = Field(default=1, le=256, description="Worker processes, each with its own sessions.")
    threads: Count = Field(default=1, le=256, description="Threads of one network in one worker.")
    batch_tokens: Count = Field(
        default=2048, description="Padded tokens in one batch of whole sequences (longest times rows), at most."
    )
    batch_rows: Count = Field(default=32, description="Sequences in one batch, at most.")
    slots: Count = Field(default=64, le=4096, description="Texts that a model generates at the same time.")
    queue_requests: Count = Field(
        default=512, description="Requests under way for one model in one worker, at most; then 429."
    )
    queue_tokens: Count = Field(
        default=262_144, description="Tokens waiting for one model in one worker, at most; then 429."
    )
    queue_items: Count = Field(
        default=4096, description="Inputs waiting for one model in one worker, at most; then 429."
    )
    queue_s: Seconds = Field(
        default=1.0,
        description="Seconds of work waiting for one tagger or classifier in one worker, at the pace of the last"
        " batches, at most; then 429.",
    )
    deadline_s: Seconds = Field(
        default=30.0, description="Seconds for a request that brings no X-Request-Timeout-S; then 504."
    )
    deadline_max_s: Seconds = Field(
        default=300.0, description="Seconds that a request can ask for; more is cut down to this."
    )
    keepalive_s: Seconds = Field(
        default=15.0, description="Seconds after which a stream that has nothing to say sends a comment."
    )
    write_timeout_s: Seconds = Field(
        default=30.0, description="Seconds for which a client may take nothing of its answer; then it is disconnected."
    )
    drain_s: Seconds = Field(default=30.0, description="Seconds after SIGTERM to answer what was accepted; then 503.")
    header_bytes: Count = Field(default=16_384, description="Bytes of a request's head, at most; then 431.")
    header_timeout_s: Seconds = Field(
        default=10.0,
        description="Seconds for a request's head, and from the connection to the first one; then 408.",
    )
    connections_max: Count = Field(default=4096, description="Connections to one worker, at most; then 503.")
    body_bytes: Count = Field(default=1 << 20, description="Bytes of a request's body, at most; then 413.")
    request_tokens: Count = Field(
        default=65_536,
        description="Words or characters in all inputs of one request, and new tokens asked for, at most; then 413.",
    )
    inputs_max: Count = Field(default=1024, description="Inputs in one request, at most; then 413.")
    streams: Count = Field(default=256, description="Streams of /v1/stream open in one worker, at most; then 429.")
    stream_idle_s: Seconds = Field(
        default=300.0, description="Seconds that a stream waits for its client to send or to read; then it is closed."
    )
    max_new_tokens: Count = Field(
        default=4096, description="Highest max_new_tokens that a request may ask for; then 422."
    )
    api_keys: Annotated[tuple[Key, ...], BeforeValidator(_split)] = Field(
        default=(),
        repr=False,
        json_schema_extra=SECRET,
        description="Keys of which a request must bring one (Authorization: Bearer …), separated by commas;"
        " none: open to all.",
    )
    api_keys_file: str = Field(
        default="",
        description="File of more such keys, read again within seconds when it changes: a line for each, `key` or"
        " `name key`, the key as it is or as sha256:…, then rate=… and day_requests=… if it has limits of its own.",
    )
    rate_limit: str = Field(
        default="",
        pattern=r"^([1-9][0-9]{0,8}/(s|min|h))?$",
        description="Requests that an API key, or without keys an address, may send: 100/s, 600/min, 1000/h; then 429."
        " The window starts with the first request.",
    )
    day_requests: int = Field(
        default=0,
        ge=0,
        description="Requests that an API key, or without keys an address, may send in 24 hours; then 429."
        " 0: no limit.",
    )
    rate_limit_store: str = Field(
        default="",
        pattern=r"^((rediss?|sqlite)://.+)?$",
        json_schema_extra=SECRET,
        repr=False,
        description="Where requests are counted: redis://host:6379 for one count over all replicas. Default: one count"
        " for all workers of this service.",
    )
    cors_origins: Parts = Field(
        default=(),
        description="Origins whose pages may call the service from a browser, separated by commas"
        " (https://example.org); *: all.",
    )
    state_key: Annotated[tuple[StateKey, ...], BeforeValidator(_split)] = Field(
        default=(),
        repr=False,
        json_schema_extra=SECRET,
        description="Keys of the states that clients are handed, separated by commas: the first signs, all are taken."
        " The same on all replicas; none: a new one for each start.",
    )
    state_ttl_s: Annotated[float, Field(gt=0, le=31_536_000)] = Field(
        default=86_400.0, description="Seconds after which a state is refused; then 422."
    )
    grpc_port: int = Field(
        default=0,
        ge=0,
        le=65_535,
        description="Port of the Open Inference Protocol over gRPC, in plain text. 0: none.",
    )
    grpc_host: str = Field(
        default="127.0.0.1", min_length=1, description="Address on which that port listens; 0.0.0.0: all."
    )
    access_log: Literal["off", "errors", "all"] = Field(
        default="off", description="Requests of which a line is logged when they end, without what was in them."
    )
    log_format: Literal["text", "json"] = Field(default="text", description="Lines for people or for programs.")

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> "Settings":
        """Return the settings of ``environ``; an empty value counts as none. Raises BadSetting."""
        given = {name: value for name, value in environ.items() if name.startswith(PREFIX)}
        values: dict[str, str] = {}
        for name, value in given.items():
            field = name.removeprefix(PREFIX).lower()
            if name in ELSEWHERE:
                continue
            if name in REMOVED:
                raise BadSetting(f"{name} is no longer a setting: {REMOVED[name]}. Unset {name}.")
            if field not in cls.model_fields or name != variable(field):
                raise BadSetting(_unknown(name, value))
            if value:
                values[field] = value
        try:
            settings = cls.model_validate(values)
        except ValidationError as error:
            raise BadSetting(_bad(error)) from None
        if settings.deadline_s > settings.deadline_max_s:
            raise BadSetting(
                f"SEQSERVE_DEADLINE_S={settings.deadline_s:g} is over SEQSERVE_DEADLINE_MAX_S="
                f"{settings.deadline_max_s:g}: lower the first or raise the second"
            )
        return settings

    def bundle_paths(self) -> list[Path]:
        """Return the bundle directories, in the order given, those of one directory by its order.txt and by name.

        Raises BadSetting for a path that holds no bundle.
        """
        found: list[Path] = []
        for part in self.bundles:
            path = ROOT / part
            inside = [path] if (path / MANIFEST).is_file() else _inside(path)
            if not inside:
                raise BadSetting(
                    f"SEQSERVE_BUNDLES names {part!r}, which is no bundle and holds none (no {MANIFEST} in it or one"
                    " level down); give a directory that `python -m training export` wrote"
                )
            found += [bundle for bundle in inside if bundle not in found]
        return found


def _inside(folder: Path) -> list[Path]:
    """The bundles of a directory: first those that its order.txt names, one a line, then the others by name."""
    order = folder / ORDER
    first = order.read_text("utf-8").split() if order.is_file() else []
    bundles = sorted(found.parent for found in folder.glob(f"*/{MANIFEST}"))
    return sorted(bundles, key=lambda path: first.index(path.name) if path.name in first else len(first))


def variable(field: str) -> str:
    """Return the environment variable of a field."""
    return PREFIX + field.upper()


def is_secret(field: str) -> bool:
    """Return whether the value of a field must never be shown."""
    return Settings.model_fields[field].json_schema_extra == SECRET


def _unknown(name: str, value: str) -> str:
    """Say that no setting has this name; the value only if it cannot be that of a misspelt secret."""
    fields = {variable(field): field for field in Settings.model_fields}
    if address := {"PORT": "PORT=3100", "HOST": "HOST=0.0.0.0"}.get(name.removeprefix(PREFIX)):
        return f"{name}={value} is no setting of this service; the address is the server's: make serve {address}"
    near = difflib.get_close_matches(name.upper(), fields, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    secret = "KEY" in name.upper() or any(is_secret(fields[other]) for other in near)
    shown = "" if secret else f"={value}"
    return f"{name}{shown} is no setting of this service ({hint}`python -m service settings` shows them all)"


def _bad(error: ValidationError) -> str:
    """Say which value is bad and what is allowed."""
    first = error.errors(include_url=False)[0]
    field = str(first["loc"][0])
    shown = "" if is_secret(field) else f"={first['input']}"
    allowed = first["msg"][0].lower() + first["msg"][1:]
    what = Settings.model_fields[field].description or ""
    return f"{variable(field)}{shown} is not allowed: {allowed}. What it sets: {what}"
