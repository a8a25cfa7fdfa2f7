"""The service with the fake engine, for ``bentoml serve tests.support.fake_app:svc``.

Its workers cannot load while the file exists that the variable FAIL names.
"""

import os
from pathlib import Path
from typing import Any

from service.app import build_service
from service.settings import Settings
from tests.support.fake_engine import FakeEngine


def load(settings: Settings, telemetry: Any) -> Any:
    if (path := os.environ.get("FAIL")) and Path(path).exists():
        raise RuntimeError("the device has no memory left")
    return FakeEngine(settings, telemetry)


svc = build_service(Settings.read(os.environ), load)
