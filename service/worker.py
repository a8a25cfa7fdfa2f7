"""One worker process: its loaded bundles, readiness, background tasks and shutdown.

``bentoml serve`` shuts down as follows (circus 0.19, uvicorn 0.54). SIGTERM reaches circus, which sends it to every
worker and waits. uvicorn then closes idle connections, waits without limit for running requests, and runs the shutdown
hooks; the application is not notified before that. A signal handler of the worker therefore runs before uvicorn's.

From the signal on, the worker is not ready. For ``lame_duck_s``, it still answers new requests, and asks clients to
connect elsewhere. Then uvicorn gets the signal and the drain begins: new requests get 503, and accepted ones are
answered. After ``drain_s``, the engine fails the remaining jobs, and a client that is still sending its body gets 503.
Clients that do not read their answer are disconnected by server/http_protocol.py. A second signal ends the lame duck
period.
"""

import asyncio
import contextlib
import gc
import json
import logging
import math
import os
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

from service.auth import Authenticator, open_authenticator
from service.errors import Unavailable
from service.inspections import Inspections
from service.logs import AccessLog
from service.rate_limits import IN_PROCESS, RateLimiter
from service.resting_thread import RestingThread
from service.settings import Settings
from service.telemetry import RequestRecord, Telemetry
from service.tracing import Tracer, open_tracer

if TYPE_CHECKING:
    from service.engine import Engine
    from service.releases import Releases

log = logging.getLogger(__name__)

SHUTTING_DOWN = "the service is shutting down; send the request to another replica"
REPORTS = "_SEQSERVE_REPORTS_FD"  # variable: the pipe on which workers report to the supervising process
REASON_CHARACTERS = 500
CHORES_S = 1.0  # between two heartbeats, metrics flushes, key refreshes or connection sweeps
SAME_SIGNAL_S = 1.0  # a supervisor such as systemd signals all processes, and circus signals the workers again
# New objects that survive before the garbage collector looks for cycles among them. Waiting requests have none, and at
# Python's default of 700 the collector takes a fifth of the core with 500 requests waiting. See docs/decisions.md.
GC_THRESHOLD = 20_000

LARGE_BYTES = 1 << 16  # of a body that is parsed in a thread, with bounds, and whose errors do not repeat the value

BACK_OFF_S = 0.5  # before the first restart; doubled for each failure in a row
BACK_OFF_MAX_S = 30.0
PERSISTENT_FAILURES = 5  # failures in a row after which a task counts as failing
RECOVERY_S = 10.0  # a run of this length ends a row of failures

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[None]]


class Worker:
    """The state of one worker process, filled in when BentoML starts the service."""

    def __init__(self, settings: Settings, load_engine: "Callable[[Settings, Telemetry], Engine]") -> None:
        self.settings = settings
        self.telemetry = Telemetry()
        self.parser = BodyParser()
        self.inspections = Inspections()
        self.stopping = False  # since SIGTERM: not ready, and no connection is kept
        self._stopping_since_s = -math.inf  # on the clock of the loop
        self.draining = False  # since the end of the lame duck period: no new requests
        self.authenticator: Authenticator | None = None  # None: no keys and no limits
        self.rate_limiter: RateLimiter | None = None
        self.observers: tuple[Callable[[RequestRecord], None], ...] = ()  # called for each finished request
        self.releases: Releases | None = None  # None: what is served does not change
        self._tracer: Tracer | None = None
        self._load_engine = load_engine
        # A plain attribute: it is read for every request. Without an engine, any use of it raises Unavailable.
        self.engine = cast("Engine", _NoEngine("the models are still loading; retry in a second"))
        self._engine: Engine | None = None
        self.default_models: dict[str, str] = {}  # by task: what answers a request without a model, the first that can
        self._chores: dict[str, Callable[[], None]] = {"metrics flush": self.telemetry.flush}
        self._tasks: list[asyncio.Task[None]] = []
        self._failing: set[str] = set()  # background tasks that keep failing
        self._drain: asyncio.Task[None] | None = None
        self._load_hooks: list[Callable[[], None]] = []
        self._stop_hooks: list[Callable[[], None]] = []
        self._drain_hooks: list[Callable[[], None]] = []
        self._time_limits: set[asyncio.Timeout] = set()

    @property
    def ready(self) -> bool:
        """Whether the worker takes requests and every model can answer them."""
        return not self.stopping and not self._failing and self._engine is not None and self._engine.ready

    def check_ready(self) -> None:
        """Raise Unavailable unless the worker is ready."""
        if self.stopping:
            raise Unavailable(SHUTTING_DOWN)
        if not self.ready:
            self.engine.defaults()  # raises the reason while there is no engine
            raise Unavailable("a part of the service has failed and is being restarted; retry in a second")

    def checks(self) -> dict[str, bool]:
        """Return the parts that readiness depends on, and whether each is ready."""
        runtimes = {} if self._engine is None else self._engine.runtimes
        return {
            "running": not self.stopping,
            "loaded": self._engine is not None,
            **{f"model {name}": runtime.ready for name, runtime in runtimes.items()},
            **{f"task {name}": name not in self._failing for name in self._chores},
        }

    def add_chore(self, name: str, action: Callable[[], None]) -> None:
        """Call ``action`` about once a second, in a supervised task, while the worker runs."""
        self._chores[name] = action

    def on_load(self, hook: Callable[[], None]) -> None:
        """Call ``hook`` when the bundles are loaded, or now if they are, and after each release."""
        self._load_hooks.append(hook)
        if self._engine is not None:
            hook()

    def on_stop(self, hook: Callable[[], None]) -> None:
        """Call ``hook`` on the event loop after SIGTERM, while requests are still answered for ``lame_duck_s``."""
        self._stop_hooks.append(hook)

    def on_drain(self, hook: Callable[[], None]) -> None:
        """Call ``hook`` on the event loop when the drain begins."""
        self._drain_hooks.append(hook)

    def load(self) -> None:
        """Read the keys, and load and self-test every bundle. Blocks. Raises the errors of these steps."""
        self.authenticator = open_authenticator(self.settings)
        if self.authenticator is not None:
            try:
                self.rate_limiter = RateLimiter(self.settings.rate_limit_store or IN_PROCESS)
            except sqlite3.Error as error:  # a full disk, for example
                log.error("this worker counts requests for rate limits on its own: %s", error)
                self.rate_limiter = RateLimiter(IN_PROCESS)
            self.add_chore("API key refresh", self.authenticator.refresh)
        self._tracer = open_tracer(os.environ)
        which = self.settings.access_log
        self.observers = (
            *(() if which == "off" else (_guarded(AccessLog(which)),)),
            *(() if self._tracer is None else (_guarded(self._tracer),)),
        )
        self.engine = self._engine = self._load_engine(self.settings, self.telemetry)
        if self.settings.model_control != "none":
            from service.releases import DIRECTORY, ReleaseFiles, Releases  # imports the engine

            files = ReleaseFiles(Path(os.environ[DIRECTORY]))
            self.releases = Releases(
                files, self._engine.models, self.settings, on_change=self._announce, time_limit=self.time_limit
            )
            self.releases.join()
        self._announce()
        # Exclude loaded objects from garbage collection: a full collection would stop every request for 10 ms and more.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD, *gc.get_threshold()[1:])

    def _announce(self) -> None:
        """Tell everything that depends on it that other models are served."""
        if self._engine is not None and not self.draining:
            self.default_models = self._engine.defaults()
            for hook in self._load_hooks:
                hook()

    @contextlib.asynccontextmanager
    async def time_limit(self, timeout_s: float) -> AsyncIterator[None]:
        """Limit the time to read a body, or to load a model, to ``timeout_s`` and to the end of the drain.

        Raises TimeoutError, or Unavailable if the drain ended first.
        """
        if self.draining:  # the answer would come too late
            raise Unavailable(SHUTTING_DOWN)
        until_s = asyncio.get_running_loop().time() + timeout_s
        timeout = asyncio.timeout_at(until_s)
        self._time_limits.add(timeout)
        try:
            async with timeout:
                yield
        except TimeoutError:
            if timeout.when() != until_s:
                raise Unavailable(SHUTTING_DOWN) from None
            raise
        finally:
            self._time_limits.discard(timeout)

    def start(self) -> None:
        """Start the background tasks and the signal handlers. Call it on the running event loop."""
        background: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            name: partial(every, CHORES_S, action) for name, action in self._chores.items()
        }
        if self.releases is not None:
            background["releases"] = self.releases.follow
            if self.settings.model_control == "watch":
                background["watch of the bundles"] = self.releases.watch
        for name, run in background.items():
            task = supervise(
                name,
                run,
                on_persistent_failure=partial(self._failing.add, name),
                on_recovery=partial(self._failing.discard, name),
            )
            self._tasks.append(task)
        previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        for number, handler in previous.items():
            if callable(handler):  # otherwise no server handles it: a test runs the application alone
                signal.signal(number, self._signal_handler(handler))

    def _signal_handler(self, stop_server: Callable[[int, FrameType | None], object]) -> Callable[..., None]:
        """Return the handler of a signal. ``stop_server`` is that of the server, for the end of the lame duck."""
        loop = asyncio.get_running_loop()

        def handle(number: int, frame: FrameType | None) -> None:
            if self.settings.lame_duck_s and not self.stopping:
                self.stopping, self._stopping_since_s = True, loop.time()
                loop.call_soon_threadsafe(self._begin_lame_duck, partial(end, number, frame))
            elif loop.time() - self._stopping_since_s > SAME_SIGNAL_S:
                end(number, frame)

        def end(number: int, frame: FrameType | None) -> None:
            if not self.draining:
                self.refuse_requests()
                loop.call_soon_threadsafe(self._begin_drain)
                stop_server(number, frame)

        return handle

    def _begin_lame_duck(self, end: Callable[[], None]) -> None:
        seconds = self.settings.lame_duck_s
        log.info("shutting down: not ready, and answering new requests for %g s", seconds)
        _call_hooks(self._stop_hooks)
        asyncio.get_running_loop().call_later(seconds, end)

    def refuse_requests(self) -> None:
        """Answer new requests with Unavailable from now on, because the worker shuts down."""
        self.stopping = self.draining = True
        self.engine = cast("Engine", _NoEngine(SHUTTING_DOWN))

    async def close(self) -> None:
        """Answer or fail the accepted requests, then write the last metrics and spans."""
        self.refuse_requests()
        self._begin_drain()
        if self._drain is not None:
            await self._drain
        if self._tracer is not None:
            try:
                await asyncio.to_thread(self._tracer.close)
            except Exception:  # of an exporter; the shutdown continues without the last spans
                log.exception("the last spans cannot be exported")
        for task in self._tasks:  # with the heartbeat, so that a slow exporter does not count as a hung event loop
            task.cancel()
        if self.releases is not None:
            self.releases.close()
        self.telemetry.flush()

    def _begin_drain(self) -> None:
        if self._drain is not None or self._engine is None:
            return
        log.info("shutting down: answering accepted requests for at most %g s", self.settings.drain_s)
        loop = asyncio.get_running_loop()
        _call_hooks(self._drain_hooks)
        self._drain = loop.create_task(self._engine.drain(self.settings.drain_s))
        end_s = loop.time() + self.settings.drain_s
        for timeout in self._time_limits:
            until_s = timeout.when()
            if until_s is not None and until_s > end_s:  # an expired one is in the past
                timeout.reschedule(end_s)


@contextlib.contextmanager
def reported_failures() -> Iterator[None]:
    """Report to the supervising process why this worker cannot start."""
    try:
        yield
    except Exception as error:
        report(failure=f"{type(error).__name__}: {error}"[:REASON_CHARACTERS])
        raise


def report(**fields: Any) -> None:
    """Send ``fields`` to the supervising process, if there is one."""
    if REPORTS in os.environ:
        with contextlib.suppress(OSError):
            os.write(int(os.environ[REPORTS]), json.dumps({"pid": os.getpid(), **fields}).encode() + b"\n")


def _call_hooks(hooks: Iterable[Callable[[], None]]) -> None:
    for hook in hooks:
        try:
            hook()
        except Exception:  # a bug; the shutdown continues without it
            log.exception("a hook of the shutdown failed")


def _guarded(observe: Callable[[RequestRecord], None]) -> Callable[[RequestRecord], None]:
    """Return an observer whose failures cost no request its answer."""

    def call(record: RequestRecord) -> None:
        try:
            observe(record)
        except Exception:
            log.exception("a request cannot be logged or traced")

    return call


class BodyParser(RestingThread):
    """Parses large bodies in a thread, and small ones at once.

    A parser holds Python's global lock (GIL) for up to tens of milliseconds.
    """

    def __init__(self, sleep: Callable[[float], None] = time.sleep) -> None:
        super().__init__("parse", f"bodies of over {LARGE_BYTES} bytes", sleep=sleep)

    async def run(self, parse: Callable[..., T], *args: Any, size: int) -> T:
        """Return ``parse(*args)``. ``size``: the bytes that it reads. Raises what it raises, and Overloaded."""
        return parse(*args) if size <= LARGE_BYTES else await self.call(parse, *args)


class _NoEngine:
    """Replaces an engine that accepts no requests."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def __getattr__(self, name: str) -> NoReturn:
        raise Unavailable(self._reason)


def supervise(
    name: str,
    coroutine_factory: Callable[[], Coroutine[Any, Any, None]],
    *,
    on_persistent_failure: Callable[[], None],
    on_recovery: Callable[[], None] = lambda: None,
    recovery_s: float = RECOVERY_S,
    sleep: Sleep = asyncio.sleep,
    clock: Callable[[], float] | None = None,
) -> asyncio.Task[None]:
    """Run a coroutine in a task, and restart it with exponential back-off whenever it raises.

    ``on_persistent_failure`` is called after PERSISTENT_FAILURES failures in a row, and ``on_recovery`` once a later
    run has lasted ``recovery_s``. The task ends when the coroutine returns; cancel it to stop earlier.
    """
    loop = asyncio.get_running_loop()
    now = clock or loop.time

    async def run() -> None:
        failures = 0
        while True:
            started_s = now()
            recovery = loop.call_later(recovery_s, on_recovery) if failures >= PERSISTENT_FAILURES else None
            try:
                await coroutine_factory()
                return
            except Exception:
                failures = failures + 1 if now() - started_s < recovery_s else 1
                delay_s = min(BACK_OFF_MAX_S, BACK_OFF_S * 2 ** (failures - 1))
                log.error(
                    "background task %r failed %d times in a row; restart in %g s",
                    name,
                    failures,
                    delay_s,
                    exc_info=failures == 1,  # one traceback for a row
                )
            finally:
                if recovery is not None:
                    recovery.cancel()
            if failures == PERSISTENT_FAILURES:
                log.critical("background task %r keeps failing: this worker is not ready", name)
                on_persistent_failure()
            await sleep(delay_s)

    return loop.create_task(run(), name=name)


async def every(period_s: float, action: Callable[[], None], sleep: Sleep = asyncio.sleep) -> None:
    """Call ``action`` every ``period_s`` seconds, without end. Raises what it raises."""
    while True:
        await sleep(period_s)
        action()
