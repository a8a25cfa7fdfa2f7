"""The service with the fake engine, for ``bentoml serve tests.support.fake_app:svc``."""

import os
from typing import cast

from service.app import build_service
from service.engine import Engine
from service.settings import Settings
from tests.support.fake_engine import FakeEngine

svc = build_service(Settings.read(os.environ), lambda *args: cast(Engine, FakeEngine(*args)))
