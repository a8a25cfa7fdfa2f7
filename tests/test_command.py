"""The command `seqserve`: its table of commands, its environments, and its errors."""

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

import seqserve
from service import VERSION
from service.__main__ import main as serve_main
from tests.support import bundles
from tests.support.bentoml_server import free_port
from tests.support.polling import wait_until

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = sorted(set(seqserve.PACKAGES.values()))


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkout whose environment has the command and no packages."""
    checkout = tmp_path_factory.mktemp("check out")
    for name in ("Makefile", "seqserve.py"):
        shutil.copy(ROOT / name, checkout)
    for name in PACKAGES:
        (checkout / name).symlink_to(ROOT / name)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", checkout / ".venv"], check=True)
    made = ["make", "-s", ".venv/bin/seqserve", "-o", ".venv/bin/pip"]
    subprocess.run(made, cwd=checkout, check=True)
    return checkout


def run(command: list[str | Path], folder: Path) -> tuple[int, str]:
    """Return the status and the output of a command in another folder."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout + done.stderr


def test_help_lists_every_command_from_any_folder_without_packages(bare: Path, tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text("raise SystemExit('the module of another project')")
    status, shown = run([bare / ".venv/bin/seqserve", "--help"], tmp_path)
    assert status == 0, shown
    assert all(f"  {name} " in shown for name in seqserve.PACKAGES)


def test_version_is_printed_from_any_folder_without_packages(bare: Path, tmp_path: Path) -> None:
    assert run([bare / ".venv/bin/seqserve", "--version"], tmp_path) == (0, f"seqserve {VERSION}\n")


@pytest.mark.parametrize("command", ["fit", "serve", "inspect", "bench"])
def test_command_without_its_packages_names_the_remedy(bare: Path, tmp_path: Path, command: str) -> None:
    status, shown = run([bare / ".venv/bin/seqserve", command], tmp_path)
    assert (status, shown.count("\n")) == (1, 1), shown
    assert f"make setup` in {bare}" in shown


@pytest.mark.parametrize("package", PACKAGES)
def test_package_without_the_environment_names_the_remedy(bare: Path, tmp_path: Path, package: str) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "other"], check=True)
    status, shown = run([tmp_path / "other/bin/python", "-m", package, "--help"], bare)
    assert (status, shown.count("\n")) == (1, 1), shown
    assert f". {bare}/.venv/bin/activate" in shown


def test_packages_can_be_imported_from_any_folder(bare: Path, tmp_path: Path) -> None:
    assert run([bare / ".venv/bin/python", "-c", "import models, service"], tmp_path) == (0, "")


@pytest.mark.parametrize("package", PACKAGES)
def test_table_of_commands_agrees_with_the_parsers(package: str) -> None:
    parser = importlib.import_module(f"{package}.__main__").make_parser()
    shown = " ".join(parser.format_help().split())
    summaries = {
        name: summary for group in seqserve.COMMANDS.values() for name, (of, summary) in group.items() if of == package
    }
    assert set(summaries) <= set(parser.commands)
    assert {command.prog for command in parser.commands.values()} == {f"seqserve {name}" for name in summaries}
    assert [summary for summary in summaries.values() if summary not in shown] == []


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["srve"], "serve"),
        (["xyz"], "export"),
        (["serve", "--prt", "3100"], "--port"),
        (["serve", "--port", "many"], "'many'"),
        (["inspect", "pos-em", "text"], "pos-en"),
        (["inspect", "pos-en", "text", "--direction", "backwards"], "backward"),
        (["inspect", str(ROOT / "Makefile"), "text"], "not a directory"),
        (["inspect", "nowhere/at/all", "text"], "does not exist"),
        (["inspect", "pos-en", "text", "--out", "x.txt"], ".png"),
        (["gradients", "--out", "x.txt"], ".png"),
        (["measure", "pos-en", "--rows", "1,a"], "whole numbers"),
        (["load", "--scenario", "tags"], "tag"),
        (["fit", "pos-em"], "pos-en"),
    ],
)
def test_misspelled_word_gets_one_line_with_a_suggestion(
    words: list[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = seqserve.main(words)
    except SystemExit as left:
        status = left.code
    shown = capsys.readouterr().err
    assert status == 2
    assert shown.startswith("error: ")
    assert shown.count("\n") == 1
    assert part in shown


def test_paths_of_settings_start_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "keys.txt").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEQSERVE_BUNDLES", "not this")
    monkeypatch.setenv("SEQSERVE_API_KEYS_FILE", "keys.txt")
    assert serve_main(["settings", "--bundles", "mine, models/zoo,names"]) == 0
    shown = capsys.readouterr().out
    assert f"SEQSERVE_BUNDLES = {tmp_path}/mine,models/zoo,{ROOT}/models/zoo/names " in shown
    assert f"SEQSERVE_API_KEYS_FILE = {tmp_path}/keys.txt " in shown


def test_serve_names_a_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "file/home"))
    assert serve_main(["serve"]) == 1
    assert f" {tmp_path}/file/home/3000 " in capsys.readouterr().err


def test_serve_serves_a_bundle_of_the_current_folder_without_torch(tmp_path: Path) -> None:
    bundles.tagger(tmp_path)
    port = free_port()
    command = [
        sys.executable,
        ROOT / "seqserve.py",
        "serve",
        "--host",
        "localhost",
        "--port",
        str(port),
        "--bundles",
        "tiny-tag",
    ]
    process = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "BENTOML_HOME": str(tmp_path / "home")})
    try:
        wait_until(lambda: served(port) == ["tiny-tag"], timeout_s=60)
        assert (tmp_path / "home" / str(port)).is_dir()
        assert "torch" not in Path(f"/proc/{process.pid}/maps").read_text()
    finally:
        process.terminate()
        process.wait(30)


def served(port: int) -> list[str]:
    """Return the names of the served bundles, or nothing before the service is ready."""
    try:
        return [each["id"] for each in httpx.get(f"http://127.0.0.1:{port}/v1/models").json()["data"]]
    except httpx.TransportError:
        return []


def test_a_closed_pipe_ends_the_command_without_a_traceback() -> None:
    shell = f"{sys.executable} seqserve.py --help | true; exit ${{PIPESTATUS[0]}}"
    for _ in range(3):
        done = subprocess.run(["bash", "-c", shell], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode in (0, 141)  # 0 if it was faster than the end of its reader
        assert done.stderr == ""
