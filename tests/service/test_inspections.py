"""Inspections: what ends one before its work, and what they may use of the machine."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from models.inspect import Inspection
from models.manifest import BundleError
from service.errors import ClientGone, DeadlinePassed
from service.inspections import Inspections
from service.scheduling.job import InferenceRequest
from tests.support import bundles

SENTENCE = "the cat sat"


def request(*, left_s: float = 60, gone: bool = False) -> InferenceRequest:
    deadline_s = time.monotonic() + left_s
    return InferenceRequest(request_id="1", route="/v1/inspect", deadline_s=deadline_s, is_disconnected=lambda: gone)


def steps_of(inspection: Inspection) -> int:
    return len(inspection.steps)


async def test_the_answer_is_made_in_the_thread(tmp_path: Path) -> None:
    bundle = bundles.opened(bundles.tagger(tmp_path))
    thread = await Inspections().inspect(bundle, SENTENCE, lambda _: threading.current_thread().name, request=request())
    assert thread.startswith("inspect")


async def test_a_request_does_not_wait_longer_than_its_deadline(tmp_path: Path) -> None:
    bundle = bundles.opened(bundles.tagger(tmp_path))
    inspections, started, ended = Inspections(), threading.Event(), threading.Event()

    def slow(_: Any) -> None:
        started.set()
        ended.wait()

    first = asyncio.create_task(inspections.inspect(bundle, SENTENCE, slow, request=request()))
    answered: list[Any] = []
    try:
        await asyncio.to_thread(started.wait, 30)
        with pytest.raises(DeadlinePassed):
            await inspections.inspect(bundle, SENTENCE, answered.append, request=request(left_s=0.01))
    finally:
        ended.set()
    await first
    await inspections.inspect(bundle, SENTENCE, steps_of, request=request())
    assert answered == []  # the work of a request that has ended is not done


async def test_a_client_that_is_gone_costs_nothing(tmp_path: Path) -> None:
    bundle = bundles.opened(bundles.tagger(tmp_path))
    answered: list[Any] = []
    with pytest.raises(ClientGone):
        await Inspections().inspect(bundle, SENTENCE, answered.append, request=request(gone=True))
    assert answered == []


async def test_a_bundle_that_has_changed_on_disk_is_refused(tmp_path: Path) -> None:
    bundle = bundles.opened(bundles.tagger(tmp_path))
    bundles.tagger(tmp_path, seed=99)
    with pytest.raises(BundleError):
        await Inspections().inspect(bundle, SENTENCE, steps_of, request=request())


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in /proc")
def test_products_of_matrices_use_one_thread() -> None:
    given = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    blas = (
        "import service, os; before = len(os.listdir('/proc/self/task')); import numpy; "
        "a = numpy.ones((512, 512)); a @ a; print(len(os.listdir('/proc/self/task')) - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", blas], env=given, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "0"
