"""Importing a package turns usage reports off, unless the user has decided otherwise."""

import os
import subprocess
import sys

import pytest

NAMES = ("ORT_DISABLE_TELEMETRY", "BENTOML_DO_NOT_TRACK")


def imported(package: str, shown: str, **given: str) -> str:
    environ = {name: value for name, value in os.environ.items() if name not in NAMES}
    code = f"import {package}, os; print({shown})"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ | given, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


@pytest.mark.parametrize("package", ["models", "training", "service"])
def test_onnxruntime_telemetry_is_off(package: str) -> None:
    assert imported(package, "os.environ['ORT_DISABLE_TELEMETRY']") == "1"


def test_bentoml_tracking_is_off_even_if_bentoml_has_read_the_variable_before() -> None:
    usage = "bentoml._internal.utils.analytics.usage_stats"
    assert imported(f"{usage} as u; u.do_not_track(); import service", "u.do_not_track()") == "True"


def test_a_value_that_the_user_set_stays() -> None:
    assert imported("service", "os.environ['ORT_DISABLE_TELEMETRY']", ORT_DISABLE_TELEMETRY="0") == "0"
    assert imported("service", "os.environ['BENTOML_DO_NOT_TRACK']", BENTOML_DO_NOT_TRACK="False") == "False"
