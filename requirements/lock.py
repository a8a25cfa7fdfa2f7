"""Writes requirements/*.txt from pyproject.toml: every extra with all that it needs, pinned. `make lock` runs it.

Asks pip what it would install and installs nothing. Knows no index: pip's own configuration says where to look.
"""

import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOGETHER = ("serve", "train", "loadtest", "dev")  # one environment holds these four; gpu is one of its own
APART = ("peers",)  # wants older releases of what those have: resolved by itself, into an environment of its own
HEAD = "# The extra `{extra}` of pyproject.toml with all that it needs: Python 3.11, Linux. Written by `make lock`.\n"


def main() -> None:
    """Pin the four extras that live together in one resolution, then gpu as close to that as it gets, then peers."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]
    wanted = {name: project["dependencies"] + extra for name, extra in project["optional-dependencies"].items()}
    together = resolve([line for extra in TOGETHER for line in wanted[extra]], constraints=[])
    for extra, requirements in wanted.items():
        pins = resolve(requirements, constraints=[] if extra in APART else together)
        (HERE / f"{extra}.txt").write_text(HEAD.format(extra=extra) + "".join(f"{pin}\n" for pin in pins))
        print(f"requirements/{extra}.txt: {len(pins)} packages")


def resolve(requirements: list[str], *, constraints: list[str]) -> list[str]:
    """Return ``name==version`` of everything that pip would install, by name."""
    with tempfile.TemporaryDirectory() as scratch:
        bounds, report = Path(scratch, "constraints.txt"), Path(scratch, "report.json")
        bounds.write_text("\n".join(constraints))
        pip = [sys.executable, "-m", "pip", "install", "-qq", "--dry-run", "--ignore-installed"]
        subprocess.run([*pip, "--constraint", bounds, "--report", report, *requirements], check=True)
        chosen = [entry["metadata"] for entry in json.loads(report.read_text())["install"]]
    pins = sorted((f"{package['name']}=={package['version']}" for package in chosen), key=str.lower)
    return [line for pin in pins for line in on_each_platform(pin)]


def on_each_platform(pin: str) -> list[str]:
    """Return the pin; for a CPU build of torch, which exists for Linux only, two that exclude each other.

    The local version +cpu is pinned on purpose: a plain 2.13.0 would bring gigabytes of CUDA from the public index.
    """
    public, _, local = pin.partition("+")
    return [f'{pin} ; sys_platform == "linux"', f'{public} ; sys_platform != "linux"'] if local == "cpu" else [pin]


if __name__ == "__main__":
    main()
