"""The law of the house: who may import whom. Read from the source, so that no import hides in a function.

A unit is a top-level package's module or subpackage as the tables below name it. An import that no table allows, a
cycle, a second door to ONNX Runtime or to torch: each fails with the file and the line.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("models", "service", "training", "loadtest", "seqserve")
FOLDERS = {"seqserve": "client"}  # where a package is, if it is not at the root

# From unit to the units that it may import. A leaf imports none. `codecs`, `tasks`, `batching`, `protocols` stand
# for all files of the folder of that name, which may import one another as long as there is no cycle.
MODELS = {
    "models": set(),
    "models.manifest": set(),
    "models.padding": set(),
    "models.sampling": set(),
    "models.network": set(),
    "models.state": {"models.manifest"},
    "models.codecs": {"models.manifest", "models.padding"},
    "models.tasks": {"models.codecs", "models.manifest", "models.sampling", "models.state"},
    "models.bundle": {"models.manifest", "models.codecs", "models.network", "models.tasks"},
    "models.feeds": {"models.codecs", "models.manifest"},
    "models.reference": {"models.bundle", "models.manifest", "models.sampling", "models.state", "models.tasks"},
}
# What looks into a bundle: nothing that serves one may import it.
INSPECT = {
    "models.inspect": {"models.bundle", "models.manifest", "models.network", "models.state", "models.tasks"},
    "models.measure": {"models.bundle", "models.manifest", "models.network", "models.padding", "models.reference"}
    | {"models.state", "models.tasks"},
    "models.__main__": {"models.inspect", "models.measure", "models.bundle", "models.manifest", "models.network"},
}
LEAVES = {"service.errors", "service.settings", "service.telemetry", "service.call", "service.inputs"}
WATCHING = {"service.ended", "service.accesslog", "service.tracing"}
SERVICE = {
    "service": set(),
    "service.errors": set(),
    "service.settings": set(),
    "service.telemetry": set(),
    "service.call": set(),
    "service.inputs": set(),
    "service.collector": set(),
    "service.logs": {"service.settings"},
    # The schedulers see states, paddings and tasks, never a bundle, a graph or a setting.
    "service.batching": {"service.call", "service.errors"}
    | {"models.padding", "models.sampling", "models.state", "models.tasks"},
    "service.observers": {"service.telemetry"},
    "service.graphs": {"service.batching", *LEAVES, *MODELS},
    "service.lanes": {"service.batching", "service.graphs", "service.observers", *LEAVES, *MODELS},
    "service.states": {"service.errors"},
    "service.texts": {"service.states", *MODELS},
    "service.writing": {"service.lanes", "service.texts", "service.call", "service.errors", *MODELS},
    "service.following": {"models.manifest", "models.state"},
    # The owner's process and how a worker reaches it: tickets go over, and nothing of HTTP.
    "service.owner": {"service.batching", "service.graphs", "service.lanes", *LEAVES}
    | {"models.state", "models.tasks"},
    "service.places": {"service.batching", "service.graphs", "service.lanes", "service.owner", *LEAVES, *MODELS},
    "service.paced": {"service.lanes", *LEAVES},
    "service.engine": {
        "service.paced",
        "service.places",
        "service.lanes",
        "service.graphs",
        "service.batching",
        "service.following",
    }
    | {"service.states", "service.texts", "service.writing", *LEAVES, *MODELS},
    "service.limits": {"service.errors"},
    "service.keys": {"service.limits"},
    "service.gate": {"service.keys", "service.limits", "service.errors", "service.settings"},
    "service.ended": {"service.call"},
    "service.accesslog": {"service.ended"},
    "service.tracing": {"service.ended"},
    "service.worker": {"service", "service.collector", "service.engine", "service.gate", *WATCHING, *LEAVES},
    "service.protocols": {"service", "service.engine", "service.graphs", "service.worker", "service.writing"}
    | {"service.ended", "service.following", "service.texts", "service.gate", "service.limits", *LEAVES},
    "service.app": {"service.protocols", "service.engine", "service.owner", "service.worker", "service.logs", *LEAVES},
    "service.__main__": {"service", "service.collector", "service.engine", "service.gate", "service.logs"}
    | {"service.owner", *LEAVES},
}
TRAINING = {"training": {"training", *MODELS}}
LOADTEST = {"loadtest": {"loadtest"}, "loadtest.peers": set(MODELS)}
CLIENT: dict[str, set[str]] = {"seqserve": set()}
ALLOWED: dict[str, set[str]] = MODELS | INSPECT | SERVICE | TRAINING | LOADTEST | CLIENT

# Third parties with one door each: package -> the units that may import it.
DOORS = {
    "onnxruntime": {"models.network", "training"},
    "torch": {"training", "loadtest.peers"},
    "bentoml": {"service.app", "service.protocols", "loadtest.peers"},
    "_bentoml_sdk": {"service.app"},
    "locust": {"loadtest"},
    "starlette": {"service.app", "service.protocols", "loadtest.peers"},
    "prometheus_client": {"service.telemetry"},
    "grpc": {"service.protocols"},
    "google": {"service.protocols"},
    "opentelemetry": {"service.tracing"},
}
# What a package says that it deliberately does not know, beyond the doors.
FORBIDDEN = {
    "service.batching": {"asyncio": {"service/batching/pump.py"}, "time": set(), "random": set()},
    "models": {"asyncio": set(), "time": {"models/bundle.py", "models/measure.py"}, "random": set()},
}


@dataclass(frozen=True, kw_only=True)
class Import:
    """`file` imports `target`, a dotted name; a name imported from a package is looked up as a module first."""

    file: str
    line: int
    source: str
    target: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.source} imports {self.target}"


def modules(root: Path) -> dict[str, Path]:
    """Dotted name -> file, for every module of the packages."""
    found = {}
    for package in PACKAGES:
        home = root / FOLDERS.get(package, "")
        for file in sorted((home / package).rglob("*.py")):
            parts = file.relative_to(home).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imports(root: Path) -> list[Import]:
    """Every import of every module, wherever in the file it stands."""
    known = modules(root)
    found = []
    for source, file in known.items():
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            for target in _targets(node, known):
                name = file.relative_to(root).as_posix()
                found.append(Import(file=name, line=node.lineno, source=source, target=target))  # type: ignore[attr-defined]
    return found


def _targets(node: ast.AST, known: dict[str, Path]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"line {node.lineno}: imports are absolute here"
        module = node.module or ""
        for alias in node.names:
            inner = f"{module}.{alias.name}"
            yield inner if inner in known else module


def unit(module: str) -> str:
    """The row of the table that a module belongs to: the longest that it lies in."""
    fitting = [name for name in ALLOWED if module == name or module.startswith(f"{name}.")]
    best = max(fitting, key=len, default=module)
    # Units of models and service are named one by one: a new module has to be entered into the table.
    return module if best in ("models", "service") and module != best else best


def of_house(name: str) -> bool:
    return name.split(".")[0] in PACKAGES


def broken_edges(root: Path) -> list[str]:
    """Imports within the house that no row of the table allows."""
    problems = []
    for each in imports(root):
        source, target = unit(each.source), unit(each.target)
        if not of_house(each.target) or source == target:
            continue
        if source not in ALLOWED:
            problems.append(f"{each} but {source} is not in the table of tests/test_architecture.py: enter it there")
        elif target not in ALLOWED[source]:
            allowed = ", ".join(sorted(ALLOWED[source])) or "nothing of the house"
            problems.append(f"{each}; {source} may import {allowed}")
    return problems


def broken_doors(root: Path) -> list[str]:
    """Imports of a third party past its door, or of what a package must not know."""
    problems = []
    for each in imports(root):
        top, source = each.target.split(".")[0], unit(each.source)
        if top in DOORS and source not in DOORS[top]:
            problems.append(f"{each}; only {', '.join(sorted(DOORS[top]))} may import {top}")
        for package, names in FORBIDDEN.items():
            within = each.source == package or each.source.startswith(f"{package}.")
            if within and top in names and each.file not in names[top]:
                problems.append(f"{each}; {package} does not know {top}: it is handed in")
    return problems


def cycle(root: Path) -> list[str]:
    """The modules of one import cycle in their order, [] if there is none."""
    known, edges = modules(root), dict[str, set[str]]()
    for each in imports(root):
        if each.target in known and each.target != each.source:
            edges.setdefault(each.source, set()).add(each.target)
    done: set[str] = set()

    def search(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for target in sorted(edges.get(module, ())):
            if found := search(target, [*path, module]):
                return found
        done.add(module)
        return []

    return next((found for module in sorted(edges) if (found := search(module, []))), [])


def report(problems: list[str]) -> str:
    return "\n".join(["the house's import rules are broken:", *problems])


def test_imports_point_one_way() -> None:
    problems = broken_edges(ROOT)
    assert not problems, report(problems)


def test_there_is_no_import_cycle() -> None:
    found = cycle(ROOT)
    assert not found, " -> ".join(found)


def test_third_parties_come_in_by_one_door() -> None:
    problems = broken_doors(ROOT)
    assert not problems, report(problems)


def test_every_row_of_the_table_exists() -> None:
    known = {unit(module) for module in modules(ROOT)}
    assert set(ALLOWED) <= known, f"no such module any more: {sorted(set(ALLOWED) - known)}"


def test_the_packages_with_generic_names_are_packages() -> None:
    # Without an __init__.py Python would merge or shadow them with others of the same name.
    for package in (*PACKAGES, "tests"):
        assert (ROOT / FOLDERS.get(package, "") / package / "__init__.py").is_file(), package


def test_the_client_needs_httpx_and_nothing_else() -> None:
    foreign = {each.target.split(".")[0] for each in imports(ROOT) if each.source.startswith("seqserve")}
    assert foreign - set(sys.stdlib_module_names) == {"seqserve", "httpx"}


def test_the_service_starts_without_torch() -> None:
    program = "import sys, service.app, service.engine; sys.exit('torch' in sys.modules or 'training' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, f"torch or training was imported by service.app\n{ended.stderr}"


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A small house that keeps the rules; tests break one."""
    for name in ("models/network", "models/bundle", "service/app", "service/engine", "service/errors", "training/loop"):
        file = tmp_path / f"{name}.py"
        file.parent.mkdir(exist_ok=True)
        file.touch()
        (file.parent / "__init__.py").touch()
    (tmp_path / "service" / "engine.py").write_text("from models import bundle\nimport service.errors\n")
    return tmp_path


def test_a_house_that_keeps_the_rules_has_no_problem(house: Path) -> None:
    assert (broken_edges(house), broken_doors(house), cycle(house)) == ([], [], [])


@pytest.mark.parametrize(
    ("file", "line", "sentence"),
    [
        ("service/engine.py", "from training import loop", "service.engine imports training.loop; service.engine may"),
        (
            "service/errors.py",
            "import service.engine",
            "service.errors imports service.engine; service.errors may import no",
        ),
        ("models/bundle.py", "from service.errors import X", "models.bundle imports service.errors"),
        ("models/fresh.py", "import models.bundle", "models.fresh is not in the table"),
    ],
)
def test_a_forbidden_import_is_named(house: Path, file: str, line: str, sentence: str) -> None:
    (house / file).write_text(f"def late():\n    {line}\n")
    (problem,) = broken_edges(house)
    assert problem.startswith(f"{file}:2: ")
    assert sentence in problem


@pytest.mark.parametrize(
    ("file", "package"),
    [("models/bundle.py", "onnxruntime"), ("service/engine.py", "torch.nn"), ("models/bundle.py", "asyncio")],
)
def test_a_second_door_is_named(house: Path, file: str, package: str) -> None:
    (house / file).write_text(f"import {package}\n")
    (problem,) = broken_doors(house)
    assert problem.startswith(f"{file}:1: ")


def test_a_cycle_is_shown_in_its_order(house: Path) -> None:
    (house / "models" / "network.py").write_text("import models.bundle\n")
    (house / "models" / "bundle.py").write_text("from models.network import Network\n")
    assert cycle(house) == ["models.bundle", "models.network", "models.bundle"]
