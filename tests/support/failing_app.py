"""A service whose workers cannot load their bundles while the file FAIL exists.

For ``bentoml serve tests.support.failing_app:svc``.
"""

import os
from pathlib import Path
from typing import Any

from service.app import build_service
from service.settings import Settings
from tests.support.fake_engine import FakeEngine


def load(settings: Settings, telemetry: Any) -> Any:
    if Path(os.environ["FAIL"]).exists():
        raise RuntimeError("the device has no memory left")
    return FakeEngine(settings, telemetry)


svc = build_service(Settings.read(os.environ), load)
