"""A rolling restart of two services behind haproxy, with the configuration of the documentation: no request fails."""

import contextlib
import csv
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.bentoml_server import ROOT, free_port, served
from tests.support.live_service import FULL
from tests.support.open_load import OpenLoad
from tests.support.polling import wait_until

pytestmark = [
    pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed (apt install haproxy)"),
    pytest.mark.timeout(600),
]
GUIDE = ROOT / "docs/how-to/rolling-restart.md"
ROUNDS = 5 if FULL else 1
RATE_PER_S = 100.0 if FULL else 10.0
LAME_DUCK_S = 5.0


class Replica:
    """A service that can be restarted on its port."""

    def __init__(self, folder: Path, bundles: str) -> None:
        self.port = free_port()
        self._folder, self._bundles = folder, bundles
        self._running = contextlib.ExitStack()
        folder.mkdir()
        self.start()

    def start(self) -> None:
        settings = {"SEQSERVE_BUNDLES": self._bundles, "SEQSERVE_LAME_DUCK_S": str(LAME_DUCK_S)}
        self._running.enter_context(served(self._folder, service="service.app:Seqserve", port=self.port, **settings))

    def stop(self) -> None:
        self._running.close()


class Proxy:
    """haproxy with the configuration of the guide, in front of two ports."""

    def __init__(self, folder: Path, ports: list[int]) -> None:
        port = free_port()
        found = re.search(r"```haproxy\n(.*?)```", GUIDE.read_text(), re.DOTALL)
        assert found is not None
        text = found[1].replace(":80\n", f"127.0.0.1:{port}\n")
        for name, own in zip(("seqserve-1:3000", "seqserve-2:3000"), ports, strict=True):
            assert name in text
            text = text.replace(name, f"127.0.0.1:{own}")
        config = folder / "haproxy.cfg"
        config.write_text(text)
        self.url = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(["haproxy", "-f", str(config)])
        wait_until(lambda: self.states() == ["UP", "UP"])

    def states(self) -> list[str]:
        assert self.process.poll() is None
        with contextlib.suppress(httpx.TransportError):
            text = httpx.get(f"{self.url}/haproxy;csv").text
            rows = csv.DictReader(text.removeprefix("# ").splitlines())
            return [row["status"] for row in rows if row["svname"].startswith("seqserve-")]
        return []

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)


@pytest.fixture
def replicas(tmp_path: Path, live_bundles: tuple[Path, ...]) -> Iterator[list[Replica]]:
    bundles = ",".join(map(str, live_bundles))
    found = [Replica(tmp_path / name, bundles) for name in ("one", "two")]
    yield found
    for replica in found:
        replica.stop()


def test_a_rolling_restart_fails_no_request(tmp_path: Path, replicas: list[Replica]) -> None:
    proxy = Proxy(tmp_path, [replica.port for replica in replicas])
    with contextlib.closing(proxy), OpenLoad(url=proxy.url, rate_per_s=RATE_PER_S) as load:
        for replica in replicas * ROUNDS:
            wait_until(lambda: proxy.states() == ["UP", "UP"])
            answered = sum(load.counts.values())
            replica.stop()
            replica.start()
            assert sum(load.counts.values()) > answered
    print(load.counts)
    assert load.failures == []
    assert all(load.counts.values())
