"""The Prometheus rules and the Grafana dashboard: they are valid, and name what exists."""

import json
import re
import runpy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import Settings, variable
from service.telemetry import METRICS

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS, GRAFANA = ROOT / "deploy/prometheus", ROOT / "deploy/grafana"
RUNBOOK = ROOT / "docs/how-to/runbook.md"
UNITS = {"bytes", "cps", "percentunit", "reqps", "s", "short"}  # of the value formats that Grafana has
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


def panels() -> list[dict[str, Any]]:
    """Return the panels of the dashboard, without its rows."""
    found = json.loads((GRAFANA / "seqserve.json").read_text())["panels"]
    return [panel for panel in found if panel["type"] != "row"]


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


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_a_panel_has_a_data_source_queries_and_a_unit(panel: dict[str, Any]) -> None:
    assert panel["description"]
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    source = {"type": "prometheus", "uid": "${datasource}"}
    assert [each["datasource"] for each in (panel, *panel["targets"])] == [source] * (1 + len(panel["targets"]))
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) > 0
    for target in panel["targets"]:
        labels = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        kept = {each.strip() for found in re.findall(r"by \(([^)]*)\)", target["expr"]) for each in found.split(",")}
        assert target["legendFormat"]
        assert labels <= kept


def test_the_dashboard_has_a_place_for_each_panel_and_defines_its_variables() -> None:
    dashboard = json.loads((GRAFANA / "seqserve.json").read_text())
    places = [each["gridPos"] for each in dashboard["panels"]]
    cells = [
        (x, y) for at in places for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24  # the width of Grafana's grid
    assert len({each["id"] for each in dashboard["panels"]}) == len(places)
    defined = {each["name"] for each in dashboard["templating"]["list"]} | {"__rate_interval"}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard["panels"]))) == defined


def test_the_dashboard_names_settings_that_exist() -> None:
    named = set(re.findall(r"SEQSERVE_\w+", (GRAFANA / "panels.yaml").read_text()))
    assert named <= {variable(field) for field in Settings.model_fields}
