"""A real Prometheus that has scraped a loaded service answers every query of the dashboard."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.bentoml_server import ROOT, free_port
from tests.support.live_service import LiveService
from tests.support.open_load import OpenLoad
from tests.support.polling import wait_until

pytestmark = [
    pytest.mark.skipif(
        shutil.which("prometheus") is None, reason="Prometheus is not installed (apt install prometheus)"
    ),
    pytest.mark.timeout(600),
]
DEPLOY = ROOT / "deploy"
RATE_PER_S = 8.0
WINDOW = "30s"  # for Grafana's $__rate_interval


class Prometheus:
    """A Prometheus with the rules of `deploy`, which scrapes one service every second."""

    def __init__(self, folder: Path, target: str) -> None:
        config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(DEPLOY / "prometheus/rules.yaml")]
        (scrape,) = config["scrape_configs"]
        scrape["static_configs"] = [{"targets": [target]}]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        address = f"127.0.0.1:{free_port()}"
        self._url = f"http://{address}"
        options = ("--config.file=prometheus.yml", "--storage.tsdb.path=data", f"--web.listen-address={address}")
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(["prometheus", *options], cwd=folder, stderr=log)

    def query(self, expression: str) -> list[dict[str, Any]]:
        answer = httpx.get(f"{self._url}/api/v1/query", params={"query": expression}, timeout=30)
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["data"]["result"]
        return found

    def has(self, expression: str) -> bool:
        """Return whether a query has a result yet."""
        try:
            return bool(self.query(expression))
        except httpx.TransportError:
            return False

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(30)


@pytest.fixture
def prometheus(tmp_path: Path, live_service: LiveService) -> Iterator[Prometheus]:
    address = live_service.address
    running = Prometheus(tmp_path, f"{address.host}:{address.port}")
    yield running
    running.close()


def queries() -> dict[str, str]:
    """Return the queries of the dashboard by panel and legend, with values for Grafana's variables."""
    panels = json.loads((DEPLOY / "grafana/seqserve.json").read_text())["panels"]
    values = {"$job": "seqserve", "$model": ".*", "$__rate_interval": WINDOW}
    found = {}
    for panel in panels:
        for target in panel.get("targets", []):
            expression = target["expr"]
            for name, value in values.items():
                expression = expression.replace(name, value)
            found[f"{panel['title']}: {target['legendFormat']}"] = expression
    return found


def test_every_query_of_the_dashboard_has_data(live_service: LiveService, prometheus: Prometheus) -> None:
    url = live_service.address.url
    assert httpx.post(f"{url}/v1/tag", json={"inputs": "x", "unknown": 1}).status_code == 422  # a refusal
    with OpenLoad(url=url, rate_per_s=RATE_PER_S) as load:
        slowest = "job:seqserve_slow:ratio_rate5m >= 0"  # needs two scrapes, and then the rules
        wait_until(lambda: prometheus.has(slowest), timeout_s=120)
        wait_until(lambda: all(load.counts.values()), timeout_s=120)
        wait_until(lambda: all(map(prometheus.has, queries().values())), timeout_s=120)
    assert load.failures == []
    numbers = {name: [each["value"][1] for each in prometheus.query(query)] for name, query in queries().items()}
    assert [name for name, values in numbers.items() if all(value == "NaN" for value in values)] == []
    firing = {each["metric"]["alertname"] for each in prometheus.query('ALERTS{alertstate="firing"}')}
    assert firing <= {"SeqserveSlow"}  # a shared machine can be slow


def test_the_metrics_follow_the_conventions_of_prometheus(live_service: LiveService) -> None:
    lines = re.findall(r"^(?:# \w+ )?seqserve_.*\n", live_service.metrics(), re.MULTILINE)  # without those of BentoML
    done = subprocess.run(
        ["promtool", "check", "metrics"], input="".join(lines), capture_output=True, text=True, check=False
    )
    assert lines
    assert done.returncode == 0, done.stdout + done.stderr
