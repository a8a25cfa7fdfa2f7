"""The wiring: what is imported, and what stops the start."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from service import app
from service.releases import DIRECTORY, ReleaseFiles
from service.repository import read_release
from service.settings import Settings
from service.telemetry import Telemetry

ROOT = Path(__file__).resolve().parents[2]


def python(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command, env = [sys.executable, *arguments], {**os.environ, **environ}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_the_service_is_imported_without_torch() -> None:
    done = python("-c", "import sys, service.app; sys.exit('torch' in sys.modules)")
    assert done.returncode == 0, done.stderr


def test_a_bad_setting_stops_the_start_with_one_sentence() -> None:
    done = python("-c", "import service.app", SEQSERVE_DEVICE="gpu")
    assert done.returncode == 1
    assert done.stderr.startswith("SEQSERVE_DEVICE=gpu is not allowed: ")
    assert done.stderr.count("\n") == 1


def test_a_bad_bundle_stops_the_start_with_one_sentence(tmp_path: Path) -> None:
    done = python(
        *("-m", "bentoml", "serve", "service.app:Seqserve", "--port", "0"),
        **{"SEQSERVE_BUNDLES": str(tmp_path), "BENTOML_HOME": str(tmp_path), "BENTOML_DO_NOT_TRACK": "True"},
    )
    assert done.returncode == 1
    assert f"SEQSERVE_BUNDLES={tmp_path}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("settings", "warnings"),
    [
        ({"model_control": "explicit"}, ["SEQSERVE_MODEL_CONTROL"]),
        ({"model_control": "explicit", "api_keys": ("a-key-of-a-client",)}, []),
        ({"model_control": "watch"}, []),
        ({}, []),
    ],
)
def test_the_start_warns_if_any_client_may_load_models(
    caplog: pytest.LogCaptureFixture, settings: dict[str, Any], warnings: list[str]
) -> None:
    app.warn_of_open_models(Settings(**settings))
    assert [record.args[0] for record in caplog.records if isinstance(record.args, tuple)] == warnings


def test_the_example_is_a_command_for_any_shell() -> None:
    """Zsh expands the brackets of an IPv6 address unless they are quoted."""
    done = python("-c", "from service import app; print(app.curl('http://[::1]:3000', '/v1/tag -d 1', key=True))")
    assert shlex.split(done.stdout)[:2] == ["curl", "http://[::1]:3000/v1/tag"]
    assert "'http://[::1]:3000/v1/tag'" in done.stdout
    assert "Bearer $KEY" in done.stdout


def test_a_worker_that_starts_later_loads_the_active_release(
    tiny_zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo, releases = tmp_path / "zoo", tmp_path / "releases"
    releases.mkdir()
    for name in ("tiny-tag", "tiny-classify"):
        shutil.copytree(tiny_zoo / name, zoo / name)
    settings = Settings(bundles=(str(zoo),), device="cpu")
    ReleaseFiles(releases).activate(read_release(settings))
    shutil.copytree(tiny_zoo / "tiny-generate", zoo / "tiny-generate")
    (zoo / "order.txt").write_text("tiny-tag")
    (zoo / "tiny-tag/README.md").write_text("# Edited")
    monkeypatch.setenv(DIRECTORY, str(releases))
    assert list(app.load_engine(settings, Telemetry()).runtimes) == ["tiny-classify", "tiny-tag"]
