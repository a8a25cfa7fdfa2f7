"""The BentoML service, which ``bentoml serve service.app:Seqserve`` starts: wiring only.

``Service.to_asgi`` returns what the worker process gives to uvicorn. Overriding it puts our application in front of
BentoML's and keeps BentoML's lifecycle.
"""

import json
import logging
import os
import secrets
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar, cast

import bentoml
import click
from _bentoml_sdk import Service
from _bentoml_sdk import service as bentoml_service
from bentoml._internal.server.http.traffic import TimeoutMiddleware
from pydantic import Field
from starlette.applications import Starlette

from service import logs
from service.api import oip_grpc, openapi, schemas
from service.api.application import ROUTES, create_app, fast_routes
from service.engine import Engine
from service.rate_limits import shared_store
from service.releases import DIRECTORY, ReleaseFiles
from service.repository import read_release
from service.server import listening
from service.server.install import install
from service.server.watchdog import write_stacks_on_signal
from service.settings import ROOT, BadSetting, Settings, authority, variable
from service.telemetry import Telemetry
from service.temporary import KeptDirectory
from service.worker import Worker, report, reported_failures

log = logging.getLogger(__name__)

# The text of BentoML's page.
BENTOML_PAGE = f"""{openapi.ABOUT}

The three routes below have the same bodies and answers as `/v1/tag`, `/v1/classify` and `/v1/generate`, which are
faster. `/v1/models` lists the bundles. Every answer has the headers `X-Request-Id` and `Server-Timing`; errors are
`application/problem+json`.
"""
BENTOML_ADDRESS = ("0.0.0.0", 3000)  # of `bentoml serve` without --host and --port
LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # where a client on this machine reaches all interfaces
NO_DIRECTORY = "no temporary directory can be written: {}; set TMPDIR to one that can"
ONLY_HTTP = "this API is only served over HTTP, by api/bentoml_routes.py"
LoadEngine = Callable[[Settings, Telemetry], Engine]
Sentence = Field(json_schema_extra={"example": "Harry met Hermione in London ."})
Film = Field(json_schema_extra={"example": "a lovely film"})
Prompt = Field(json_schema_extra={"example": "ROMEO:"})
MODEL = Field(default=None, description="A name from /v1/models. Default: the first bundle of the task.")


class Api:
    """The tasks that BentoML can list: tagging, classification and generation.

    The signatures of its APIs are the schemas that BentoML shows and that its client reads. Requests are answered by
    the routes in api/bentoml_routes.py.
    """

    worker: ClassVar[Worker]  # set in a subclass by build_service
    grpc_server: Any = None

    def __init__(self) -> None:
        logs.configure(self.worker.settings.log_format)
        write_stacks_on_signal()
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            from service.server import metrics_files  # imports prometheus_client, which reads the variable

            metrics_files.install()
        with reported_failures():
            self.worker.load()

    async def __is_ready__(self) -> bool:
        return self.worker.ready

    @bentoml.on_startup
    async def start(self) -> None:
        with reported_failures():
            self.worker.start()
            if self.worker.settings.grpc_port:
                self.grpc_server, _ = await oip_grpc.start(self.worker)
        report(ready=example_request(self.worker.engine))

    @bentoml.on_shutdown
    async def close(self) -> None:
        await self.worker.close()
        if self.grpc_server is not None:
            await oip_grpc.stop(self.grpc_server)

    @bentoml.api
    async def tag(
        self,
        inputs: Annotated[schemas.BentoTagInputs, Sentence],
        model: str | None = MODEL,
        parameters: schemas.TagParameters | None = None,
    ) -> schemas.BentoTagAnswer:
        """Label every token: word, character, base or frame. One input gives a list; a list gives a list of lists."""
        raise NotImplementedError(ONLY_HTTP)

    @bentoml.api
    async def classify(
        self,
        inputs: Annotated[schemas.BentoClassifyInputs, Film],
        model: str | None = MODEL,
        parameters: schemas.ClassifyParameters | None = None,
    ) -> list[list[schemas.LabelObject]]:
        """Score every label of an input. Each input gives one list, best label first."""
        raise NotImplementedError(ONLY_HTTP)

    @bentoml.api
    async def generate(
        self,
        inputs: Annotated[schemas.BentoTextInputs, Prompt],
        model: str | None = MODEL,
        parameters: schemas.GenerateParameters | None = None,
    ) -> schemas.BentoGenerateAnswer:
        """Continue a text. A list of prompts gives a list of texts."""
        raise NotImplementedError(ONLY_HTTP)


def build_service(
    settings: Settings, load_engine: LoadEngine, *, check: Callable[[], object] = lambda: None
) -> Service[Any]:
    """Return the BentoML service.

    The supervising process calls ``check`` once before it starts the workers, and keeps what it returns to its end.
    Each worker process calls ``load_engine`` once before it is ready.
    """
    folders: list[object] = []  # deleted when the supervising process ends
    wanted, settings = settings, listening.allow_open_files(settings)

    class ConfiguredApi(Api):
        __doc__ = Api.__doc__
        worker = Worker(settings, load_engine)

        @bentoml.on_deployment
        @staticmethod
        def check() -> None:
            logs.configure(settings.log_format)
            # The workers inherit the environment, so all accept the state tokens and count for the limits of each.
            if not settings.state_key:
                os.environ.setdefault(variable("state_key"), secrets.token_urlsafe())
            if settings.workers > 1 and not settings.rate_limit_store:
                try:
                    os.environ[variable("rate_limit_store")], folder = shared_store()
                except OSError as error:
                    sys.exit(NO_DIRECTORY.format(error.strerror))
                folders.append(folder)
            http = http_address()
            try:
                listening.check_addresses(settings, http)
            except BadSetting as error:
                sys.exit(str(error))
            listening.warn_of_few_files(wanted, settings)
            warn_of_open_models(settings)
            folders.append(check())
            supervise_workers(http, settings)

    class SeqserveService(Service[Any]):
        @property
        def doc(self) -> str:
            return BENTOML_PAGE

        def to_asgi(self, is_main: bool = True) -> Starlette:
            worker = ConfiguredApi.worker
            bentoml_app = cast(Starlette, super().to_asgi(is_main))
            # Deadlines are ours, and this middleware keeps each request in memory until its timeout.
            kept = [each for each in bentoml_app.user_middleware if cast(type, each.cls) is not TimeoutMiddleware]
            bentoml_app.user_middleware = kept
            app = create_app(worker, bentoml_app)
            install(app, worker, fast_routes)
            return app

        @property
        def openapi_spec(self) -> Any:
            # For `bentoml build`, which loads no bundle. A running service answers /docs.json itself.
            return openapi.document(ROUTES, (), keys=needs_key(settings))

    return bentoml_service(
        name="seqserve",
        service_class=SeqserveService,
        workers=settings.workers,
        # Our own access log and spans cover every protocol.
        logging={"access": {"enabled": False}},
        tracing={"excluded_urls": ".*"},
    )(ConfiguredApi)


def example_request(engine: Engine) -> str:
    """Return path and body of a request to the first bundle with a text example, as arguments of curl."""
    for runtime in engine.runtimes.values():
        manifest = runtime.bundle.manifest
        for example in manifest.examples:
            if isinstance(example.inputs, str):
                body = json.dumps({"inputs": example.inputs}, ensure_ascii=False)
                return f"/v1/{manifest.task} -H content-type:application/json -d {shlex.quote(body)}"
    return ""


def needs_key(settings: Settings) -> bool:
    return bool(settings.api_keys or settings.api_keys_file)


def warn_of_open_models(settings: Settings) -> None:
    """Log that the settings let any client change what is served."""
    if settings.model_control == "explicit" and not needs_key(settings):
        log.warning("%s=explicit: without API keys, any client may load models", variable("model_control"))


def curl(url: str, example: str, *, key: bool) -> str:
    """Return the command for an `example_request`, with the key in the variable KEY if one is needed."""
    path, _, options = example.partition(" ")
    return f"curl {shlex.quote(url + path)} {options}" + (' -H "Authorization: Bearer $KEY"' if key else "")


def http_address() -> tuple[str, int] | None:
    """Return the host and port of ``bentoml serve``, which only its command line knows."""
    context = click.get_current_context(silent=True)
    if context is None or "host" not in context.params:
        return None
    (host, port), given = BENTOML_ADDRESS, context.params
    return given["host"] or host, port if given["port"] is None else given["port"]


def supervise_workers(http: tuple[str, int] | None, settings: Settings) -> None:
    """Restart workers immediately, and report when all are ready."""
    from service.server import supervisor  # imports circus, which the workers do not need

    context = click.get_current_context(silent=True)
    scheme = "https" if context is not None and context.params.get("ssl_certfile") else "http"

    def say_ready(example: str) -> None:
        host, port = http or BENTOML_ADDRESS
        url = f"{scheme}://" + authority(LOOPBACK.get(host, host), port)
        line = f"ready: {url}" + (f"  Try: {curl(url, example, key=needs_key(settings))}" if example else "")
        log.info(line) if settings.log_format == "json" else print(line, file=sys.stderr, flush=True)

    supervisor.install(say_ready, watchdog_s=settings.watchdog_s, start_s=settings.load_timeout_s)


def check_bundles() -> KeptDirectory:
    """Exit if the bundles cannot be served, before every worker fails on them. Return the directory of the releases.

    The check runs in its own process, so that the supervisor holds no model and no GPU memory.
    """
    done = subprocess.run([sys.executable, "-m", "service", "check"], cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    release = read_release(SETTINGS)
    try:
        folder = KeptDirectory("seqserve-releases-")
        ReleaseFiles(Path(folder.name)).activate(release)
    except OSError as error:
        sys.exit(NO_DIRECTORY.format(error.strerror))
    os.environ[DIRECTORY] = folder.name  # inherited by the workers
    return folder


def load_engine(settings: Settings, telemetry: Telemetry) -> Engine:
    """Load what the other workers serve, also in a worker that starts later."""
    release = ReleaseFiles(Path(os.environ[DIRECTORY])).active() if DIRECTORY in os.environ else None
    return Engine.load(settings, telemetry, release=release)


try:
    SETTINGS = Settings.read(os.environ)
    Seqserve = build_service(SETTINGS, load_engine, check=check_bundles)
except BadSetting as error:
    sys.exit(str(error))
