"""The Prometheus rules and the Grafana dashboard: they are valid, and name what exists."""

import json
import re
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from service.settings import Settings, variable
from service.telemetry import METRICS

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS, GRAFANA = ROOT / "deploy/prometheus", ROOT / "deploy/grafana"
RUNBOOK = ROOT / "docs/how-to/runbook.md"
SERIES = re.compile(r"(?<!:)\bseqserve_\w+")  # and not job:seqserve_…, a recording rule

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (apt install prometheus)"
)


def rules() -> list[dict[str, object]]:
    return [
        rule for group in yaml.safe_load((PROMETHEUS / "rules.yaml").read_text())["groups"] for rule in group["rules"]
    ]


def alerts() -> list[dict[str, object]]:
    return [rule for rule in rules() if "alert" in rule]


def series() -> set[str]:
    """Return the names of the series that /metrics can have."""
    parts = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
    return {metric.name + part for metric in METRICS for part in parts[metric.kind]}


@needs_promtool
@pytest.mark.parametrize("words", ["check config --lint=all prometheus.yml", "test rules rules_test.yaml"])
def test_the_rules_are_valid_and_alert_as_their_tests_say(words: str) -> None:
    done = subprocess.run(["promtool", *words.split()], cwd=PROMETHEUS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested() -> None:
    tests = (PROMETHEUS / "rules_test.yaml").read_text()
    assert {rule["alert"] for rule in alerts() if str(rule["alert"]) not in tests} == set()


@pytest.mark.parametrize("path", [PROMETHEUS / "rules.yaml", GRAFANA / "panels.yaml"], ids=lambda path: path.name)
def test_every_query_names_metrics_that_exist(path: Path) -> None:
    named = set(SERIES.findall(path.read_text()))
    assert named
    assert named - series() == set()


def test_every_alert_has_an_entry_in_the_runbook() -> None:
    entries = re.findall(r"^## (\w+)$", RUNBOOK.read_text("utf-8"), re.MULTILINE)
    assert set(entries) == {rule["alert"] for rule in alerts()}
    for rule in alerts():
        annotations = rule["annotations"]
        assert isinstance(annotations, dict)
        assert annotations["runbook_url"] == f"{RUNBOOK.relative_to(ROOT)}#{str(rule['alert']).lower()}"


def test_the_memory_alert_fits_the_limit_of_the_chart() -> None:
    values = yaml.safe_load((ROOT / "deploy/helm/seqserve/values.yaml").read_text())
    (expression,) = (str(rule["expr"]) for rule in alerts() if rule["alert"] == "SeqserveMemory")
    assert values["memory"] == "1Gi"
    assert f"> 0.9 * {2**30}" in expression


def test_the_dashboard_is_written_from_its_panels() -> None:
    written = runpy.run_path(str(GRAFANA / "dashboard.py"))["dashboard"]()
    assert json.loads((GRAFANA / "seqserve.json").read_text()) == written, "run python deploy/grafana/dashboard.py"


def test_the_dashboard_names_settings_that_exist() -> None:
    named = set(re.findall(r"SEQSERVE_\w+", (GRAFANA / "panels.yaml").read_text()))
    assert named <= {variable(field) for field in Settings.model_fields}
