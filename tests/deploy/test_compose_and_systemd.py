"""The Compose file, the configuration of haproxy, and the systemd unit."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from service.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "deploy/compose/compose.yaml"
HAPROXY = ROOT / "deploy/compose/haproxy.cfg"
UNIT = ROOT / "deploy/systemd/seqserve.service"
END_S = 10  # to end the processes after the drain


def test_every_mounted_file_exists() -> None:
    compose = yaml.safe_load(COMPOSE.read_text())
    mounts = [mount for service in compose["services"].values() for mount in service.get("volumes", [])]
    paths = [path for path in (mount.partition(":")[0] for mount in mounts) if path.startswith(".")]
    assert len(paths) == 5
    assert [path for path in paths if not (COMPOSE.parent / path).exists()] == []


def test_the_services_of_the_compose_file_have_time_to_drain() -> None:
    compose = yaml.safe_load(COMPOSE.read_text())
    for name in ("seqserve-1", "seqserve-2"):
        service = compose["services"][name]
        environ = {key: value for key, value in service["environment"].items() if "${" not in value}
        settings = Settings.read(environ)
        assert int(service["stop_grace_period"].removesuffix("s")) >= settings.lame_duck_s + settings.drain_s + END_S
        assert service["read_only"]
        assert name in HAPROXY.read_text()
        assert f"{name}:3000" in (ROOT / "deploy/prometheus/prometheus.yml").read_text()


def test_the_ports_of_the_compose_file_differ_and_are_of_this_machine_only() -> None:
    compose = yaml.safe_load(COMPOSE.read_text())
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    published = [re.fullmatch(r"127\.0\.0\.1:(\d+):\d+", port) for port in ports]
    assert None not in published
    assert len({found[1] for found in published if found}) == len(ports) > 0


def test_every_named_volume_is_declared() -> None:
    compose = yaml.safe_load(COMPOSE.read_text())
    mounts = [mount for service in compose["services"].values() for mount in service.get("volumes", [])]
    assert {mount.partition(":")[0] for mount in mounts if not mount.startswith(".")} == set(compose["volumes"])


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed (apt install haproxy)")
def test_haproxy_accepts_its_configuration(tmp_path: Path) -> None:
    config = tmp_path / "haproxy.cfg"
    config.write_text(re.sub(r"seqserve-\d:3000$", "127.0.0.1:3000", HAPROXY.read_text(), flags=re.MULTILINE))
    done = subprocess.run(["haproxy", "-c", "-f", str(config)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_haproxy_is_configured_as_in_the_guide() -> None:
    """An end-to-end test restarts two services behind the configuration of the guide."""
    (block,) = re.findall(
        r"```haproxy\n(.*?)```", (ROOT / "docs/how-to/rolling-restart.md").read_text("utf-8"), re.DOTALL
    )
    assert block == HAPROXY.read_text()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_the_systemd_unit_has_no_faults(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/seqserve/.venv/bin/seqserve", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False
    )
    assert unit.name not in done.stdout + done.stderr
    assert done.returncode == 0, done.stderr


def test_the_systemd_unit_has_time_to_drain() -> None:
    text = UNIT.read_text()
    (line,) = re.findall(r"^Environment=(.*)$", text, re.MULTILINE)
    settings = Settings.read(dict(pair.split("=", 1) for pair in line.split()))
    (stop_s,) = re.findall(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)
    assert int(stop_s) >= settings.lame_duck_s + settings.drain_s + END_S
