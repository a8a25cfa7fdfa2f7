"""The BentoML service: wiring and routes. ``bentoml serve service.app:Seqserve`` starts it.

Requests go three ways: ``/v1/…`` to the lean application, ``/tag``, ``/classify`` and ``/generate`` through
BentoML's API machinery, BentoML's own pages to BentoML. ``Service.to_asgi`` is what the worker process hands
to uvicorn: overriding it puts our front before BentoML's middleware and keeps its lifecycle.
"""

import os
import secrets
import subprocess
import sys
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, cast

import bentoml
from _bentoml_sdk import Service
from _bentoml_sdk import service as bentoml_service
from pydantic import Field
from starlette.applications import Starlette

from service import logs
from service.api import answers, openapi, schemas
from service.api import native as lean
from service.api import oip_grpc as rpc
from service.api.asgi import Application
from service.api.bentoml_routes import answered, exchange_of
from service.engine import Engine
from service.server import fast_path as direct
from service.server.root_app import Front
from service.settings import ROOT, BadSetting, Settings, variable
from service.telemetry import Telemetry
from service.worker import Worker

# What the page on / says: without it BentoML would speak of itself there.
ABOUT = """Tags, classifies and generates text with small recurrent networks.

The same three routes answer faster under `/v1/` (`/v1/tag`, `/v1/classify`, `/v1/generate`): same bodies, same answers.
`/v1/models` lists the bundles that are served. Every answer carries `X-Request-Id` and `Server-Timing`; errors are
`application/problem+json`.
"""
LoadEngine = Callable[[Settings, Telemetry], Engine]
Sentence = Field(json_schema_extra={"example": "Harry met Hermione in London ."})
Film = Field(json_schema_extra={"example": "a lovely film"})
Prompt = Field(json_schema_extra={"example": "ROMEO:"})
MODEL = Field(default=None, description="A name of /v1/models; the first bundle of the task if left out.")


class Api:
    """Tags, classifies and generates text with small recurrent networks."""

    worker: ClassVar[Worker]  # build_service makes a subclass that has one
    rpc: Any = None  # the gRPC server, where there is one

    def __init__(self) -> None:
        logs.configure(self.worker.settings.log_format)
        self.worker.load()

    async def __is_ready__(self) -> bool:
        return self.worker.ready

    @bentoml.on_startup
    async def start(self) -> None:
        self.worker.start()
        if self.worker.settings.grpc_port:
            self.rpc, _ = await rpc.start(self.worker)

    @bentoml.on_shutdown
    async def close(self) -> None:
        await self.worker.close()
        if self.rpc is not None:
            await rpc.stop(self.rpc)

    @bentoml.api
    @answered
    async def tag(
        self,
        inputs: Annotated[schemas.BentoTagInputs, Sentence],
        ctx: bentoml.Context,
        model: str | None = MODEL,
        parameters: schemas.TagParameters | None = None,
    ) -> schemas.BentoTagAnswer:
        """Label every step: word, letter, base or frame. One input gives a list; a list gives a list of lists."""
        request = schemas.TagRequest(inputs=inputs, model=model, parameters=parameters)
        call = exchange_of(ctx.request).request
        answer = await self.worker.engine.tag(inputs, model=model, aggregation=request.aggregation, request=call)
        return answers.tag_answer(answer)

    @bentoml.api
    @answered
    async def classify(
        self,
        inputs: Annotated[schemas.BentoClassifyInputs, Film],
        ctx: bentoml.Context,
        model: str | None = MODEL,
        parameters: schemas.ClassifyParameters | None = None,
    ) -> list[list[answers.LabelObject]]:
        """Score every label of the whole. One list an input, best first."""
        request = schemas.ClassifyRequest(inputs=inputs, model=model, parameters=parameters)
        call = exchange_of(ctx.request).request
        answer = await self.worker.engine.classify(inputs, model=model, top_k=request.top_k, request=call)
        return cast(list[list[answers.LabelObject]], list(map(answers.label_objects, answer)))

    @bentoml.api
    @answered
    async def generate(
        self,
        inputs: Annotated[schemas.BentoTextInputs, Prompt],
        ctx: bentoml.Context,
        model: str | None = MODEL,
        parameters: schemas.GenerateParameters | None = None,
    ) -> schemas.BentoGenerateAnswer:
        """Continue a text. A list of prompts gives a list of texts."""
        options = schemas.generate_options(parameters, limit=self.worker.settings.max_new_tokens)
        call = exchange_of(ctx.request).request
        answer = await self.worker.engine.generate(inputs, model=model, options=options, request=call)
        return answers.generate_answer(answer, with_state=options.return_state)


def nothing() -> None:
    """Check nothing."""


def build_service(settings: Settings, load_engine: LoadEngine, *, check: Callable[[], None] = nothing) -> Service[Any]:
    """Return the BentoML service.

    ``check`` is called once by the supervising process, before it starts any worker; ``load_engine`` once by
    every worker process, before it is ready.
    """

    class Wired(Api):
        __doc__ = Api.__doc__
        worker = Worker(settings, load_engine)

        @bentoml.on_deployment
        @staticmethod
        def check() -> None:
            logs.configure(settings.log_format)
            if not settings.state_key:
                # The workers, which are started after this, take over the environment: states of one are taken by all.
                os.environ.setdefault(variable("state_key"), secrets.token_urlsafe())
            check()

    class Fronted(Service[Any]):
        @property
        def doc(self) -> str:
            return ABOUT

        def to_asgi(self, is_main: bool = True) -> Application:
            direct.install()
            return Front(Wired.worker, cast(Starlette, super().to_asgi(is_main)))

        @property
        def openapi_spec(self) -> Any:
            # What `bentoml build` puts into a Bento: no bundle is loaded there. A running service has its own route.
            return openapi.document(lean.DOCUMENTED, (), keys=bool(settings.api_keys or settings.api_keys_file))

    return bentoml_service(
        name="seqserve",
        service_class=Fronted,
        workers=settings.workers,
        # Deadlines are ours. BentoML's timeout cannot be switched off, only be put out of the way.
        traffic={"timeout": 2 * settings.deadline_max_s + settings.drain_s},
        # One line a request and a span that nobody collects: the metrics say the same for less.
        logging={"access": {"enabled": False}},
        tracing={"excluded_urls": ".*"},
    )(Wired)


def check_bundles() -> None:
    """End the process if the bundles cannot be served: BentoML would start failing workers again and again.

    In a process of its own, so that the supervisor holds no model and no part of a GPU.
    """
    done = subprocess.run([sys.executable, "-m", "service", "check"], cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(done.returncode)


try:
    SETTINGS = Settings.read(os.environ)
except BadSetting as error:
    sys.exit(str(error))

Seqserve = build_service(SETTINGS, Engine.load, check=check_bundles)
