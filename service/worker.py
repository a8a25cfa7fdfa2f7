"""One worker process: its engine once that is loaded, whether it still takes work, and its orderly end.

Knows the event loop and signals; knows no HTTP and no BentoML.

How ``bentoml serve`` ends, as read in the sources of circus 0.19 and uvicorn 0.54: SIGTERM to the parent makes
circus send SIGTERM to every worker and wait (a day) for it. uvicorn notices within 0.1 s, closes idle
connections, waits without limit for the running requests, then runs the shutdown hooks. It does not tell the
application. So the worker chains a handler of its own in front of uvicorn's: from the signal on, readiness is
false and new requests get 503, and what the engine has accepted is answered. After ``drain_s`` the engine gives
up what is left, and a client that is still sending its body gets 503. A client that does not take
its answer, for which uvicorn waits, is given up by protocols/bounded.py.
"""

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from service import collector
from service.access_log import AccessLog
from service.auth import Gate, open_gate
from service.errors import Unavailable
from service.request_record import Ended
from service.settings import Settings
from service.telemetry import Telemetry, drop_dead_workers
from service.tracing import Tracer, open_tracer

if TYPE_CHECKING:
    from service.engine import Engine

log = logging.getLogger(__name__)

FLUSH_S = 1.0  # how old a metric of another worker can be when /metrics is read


class Worker:
    """What the protocols need of the process they run in. Filled in when BentoML starts the service."""

    def __init__(self, settings: Settings, load_engine: "Callable[[Settings, Telemetry], Engine]") -> None:
        self.settings = settings
        self.telemetry = Telemetry()
        self.draining = False
        self.chores: list[Callable[[], None]] = []  # done once a second
        self.watchers: tuple[Callable[[Ended], None], ...] = ()  # are told of every request that has ended
        self._tracer: Tracer | None = None
        self.gate: Gate | None = None  # None: open to all
        self._load_engine = load_engine
        self._engine: Engine | None = None
        self._defaults: dict[str, str] = {}
        self._flusher: asyncio.Task[None] | None = None
        self._drain: asyncio.Task[None] | None = None
        self._reads: set[asyncio.Timeout] = set()
        self._drain_hooks: list[Callable[[], None]] = []

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return self.ready_engine is not None

    @property
    def ready_engine(self) -> "Engine | None":
        """The engine while requests are taken."""
        engine = self._engine
        return engine if engine is not None and engine.ready and not self.draining else None

    @property
    def engine(self) -> "Engine":
        """The engine. Raises Unavailable while the worker is not ready."""
        engine = self.ready_engine
        if engine is not None:
            return engine
        if self.draining:
            raise _shutting_down()
        raise Unavailable("the models are still being loaded; try again in a moment")

    def default_model(self, task: str) -> str | None:
        """Return the bundle that answers a request of ``task`` which names none: the first one that can."""
        return self._defaults.get(task)

    def on_drain(self, hook: "Callable[[], None]") -> None:
        """Call ``hook`` on the event loop when the drain begins."""
        self._drain_hooks.append(hook)

    def load(self) -> None:
        """Load and self-test every bundle. Blocks; raises what the engine raises."""
        self.gate = open_gate(self.settings, time.monotonic)
        self._tracer = open_tracer(os.environ)
        which = self.settings.access_log
        log_of = () if which == "off" else (AccessLog(which),)
        self.watchers = (*log_of, *(() if self._tracer is None else (self._tracer,)))
        self._engine = self._load_engine(self.settings, self.telemetry)
        self._defaults = self._engine.defaults()
        collector.settle()

    @contextlib.asynccontextmanager
    async def reading(self, timeout_s: float) -> AsyncIterator[None]:
        """Bound what is done inside, the reading of a body, by ``timeout_s`` and by the end of the drain.

        Raises TimeoutError, or Unavailable if it was the drain.
        """
        if self.draining:  # it would not be answered any more
            raise _shutting_down()
        until_s = asyncio.get_running_loop().time() + timeout_s
        timeout = asyncio.timeout_at(until_s)
        self._reads.add(timeout)
        try:
            async with timeout:
                yield
        except TimeoutError:
            if timeout.when() != until_s:
                raise _shutting_down() from None
            raise
        finally:
            self._reads.discard(timeout)

    def start(self) -> None:
        """Begin to flush metrics and to listen for signals. To be called on the running event loop."""
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            drop_dead_workers(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]))
        loop = asyncio.get_running_loop()
        self._flusher = loop.create_task(self._flush_forever())
        for number in (signal.SIGTERM, signal.SIGINT):
            self._drain_first(number, loop)

    def _drain_first(self, number: signal.Signals, loop: asyncio.AbstractEventLoop) -> None:
        previous = signal.getsignal(number)
        if not callable(previous):  # no server listens for it: the application runs alone, in a test
            return

        def stop(number: int, frame: FrameType | None) -> None:
            self.draining = True
            loop.call_soon_threadsafe(self._begin_drain)
            previous(number, frame)

        signal.signal(number, stop)

    async def close(self) -> None:
        """Answer or give up what was accepted, then write out the last metrics."""
        self.draining = True
        self._begin_drain()
        if self._drain is not None:
            await self._drain
        if self._flusher is not None:
            self._flusher.cancel()
        if self._tracer is not None:
            await asyncio.to_thread(self._tracer.close)
        self.telemetry.flush()

    def _begin_drain(self) -> None:
        if self._drain is not None or self._engine is None:
            return
        log.info("shutting down: answering what was accepted, for %g s at most", self.settings.drain_s)
        loop = asyncio.get_running_loop()
        for hook in self._drain_hooks:
            try:
                hook()
            except Exception:  # a bug of ours: the drain goes on without it
                log.exception("a hook of the drain failed")
        self._drain = loop.create_task(self._engine.drain(self.settings.drain_s))
        end_s = loop.time() + self.settings.drain_s
        for timeout in self._reads:
            until_s = timeout.when()
            if until_s is not None and until_s > end_s:  # one that has expired already is in the past
                timeout.reschedule(end_s)

    async def _flush_forever(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            self.telemetry.flush()
            if self.gate is not None:
                self.gate.refresh()
            for chore in self.chores:
                chore()


def _shutting_down() -> Unavailable:
    return Unavailable("the service is shutting down; send the request to another replica")
