"""The owner's process: its door, and its end. ``python -m service own`` runs it; workers start it.

Knows the lanes of an engine. Knows no HTTP.
"""

import asyncio
import logging
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from time import monotonic

from service.model_runtime import ModelRuntime
from service.owner import start
from service.owner.serve import Owner
from service.telemetry import Telemetry, drop_dead_workers

log = logging.getLogger(__name__)

LOOK_S = 0.5
ALONE_S = 3.0  # without a worker, after which an owner ends
FIRST_S = 60.0  # in which the first worker comes


async def serve(path: str, lanes: Mapping[str, ModelRuntime], telemetry: Telemetry) -> None:
    """Serve the workers until none has been there for a while."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        drop_dead_workers(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]))
    owner, began_s = Owner(lanes), monotonic()

    async def alone() -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            telemetry.flush()
            until_s = began_s + FIRST_S if owner.left_s is None else owner.left_s + ALONE_S
            if not owner.guests and monotonic() > until_s:
                return

    # What ends the service ends the workers, after the answers that they have accepted: those need this process.
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, lambda: None)
    log.info("the models are here for all workers: %s", ", ".join(lanes))
    room = asyncio.ensure_future(owner.tell_room())
    try:
        await start.serve(path, owner.welcome, alone)
    finally:
        room.cancel()
        telemetry.flush()
        start.forget_socket(path)
