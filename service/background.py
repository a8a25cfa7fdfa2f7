"""Background tasks that survive their own failures."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

log = logging.getLogger(__name__)

BACK_OFF_S = 0.5  # before the first restart; doubled for each failure in a row
BACK_OFF_MAX_S = 30.0
PERSISTENT_FAILURES = 5  # failures in a row after which a task counts as failing
RECOVERY_S = 10.0  # a run of this length ends a row of failures

Sleep = Callable[[float], Awaitable[None]]


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
