"""Write the Grafana dashboard from panels.yaml: python deploy/grafana/dashboard.py."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).with_name("seqserve.json")
PANELS = Path(__file__).with_name("panels.yaml")
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
GRID, COLUMNS, HEIGHT = 24, 3, 8  # units of Grafana's grid: its width, and the height of a panel


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana imports it."""
    source = {"name": "datasource", "type": "datasource", "query": "prometheus", "current": {}}
    return {
        "uid": "seqserve",
        "title": "seqserve",
        "tags": ["seqserve"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [source, _choice("job"), _choice("model")]},
        "panels": [{"id": number, **panel} for number, panel in enumerate(_panels(), 1)],
    }


def _choice(label: str) -> dict[str, Any]:
    """Return a variable whose values are those of a label."""
    return {
        "name": label,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": f"label_values(seqserve_bundle_info, {label})", "refId": label},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _panels() -> Iterator[dict[str, Any]]:
    """Yield the rows and their panels, each with its position."""
    y, width = 0, GRID // COLUMNS
    for title, panels in yaml.safe_load(PANELS.read_text()).items():
        yield {"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": _position(0, y, GRID, 1)}
        y += 1
        for index, panel in enumerate(panels):
            line, column = divmod(index, COLUMNS)
            yield {
                "type": "timeseries",
                "title": panel["title"],
                "description": panel["about"],
                "datasource": DATASOURCE,
                "gridPos": _position(column * width, y + line * HEIGHT, width, HEIGHT),
                "fieldConfig": {"defaults": {"unit": panel["unit"], "min": 0}, "overrides": []},
                "options": {"tooltip": {"mode": "multi", "sort": "desc"}},
                "targets": [
                    {"refId": chr(ord("A") + at), "datasource": DATASOURCE, "expr": query, "legendFormat": legend}
                    for at, (legend, query) in enumerate(panel["queries"].items())
                ],
            }
        y += -(-len(panels) // COLUMNS) * HEIGHT


def _position(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


if __name__ == "__main__":
    FILE.write_text(json.dumps(dashboard(), indent=1) + "\n")
