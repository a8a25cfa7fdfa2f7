"""A service whose workers cannot load their bundles, for ``bentoml serve tests.support.failing_app:svc``."""

import os
from typing import NoReturn

from service.app import build_service
from service.settings import Settings


def fail(*_: object) -> NoReturn:
    raise RuntimeError("the device has no memory left")


svc = build_service(Settings.read(os.environ), fail)
