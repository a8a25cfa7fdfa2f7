"""The files that install, build and ship the service agree with each other. Reads them; installs nothing."""

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
BENTOFILE = yaml.safe_load((ROOT / "bentofile.yaml").read_text())
HOMES = re.compile(rf"{re.escape(str(ROOT))}/|(?<![\w.-])/(?:home|Users)/\w+|(?<![\w.-])/root/")


def locked(extra: str) -> dict[str, Version]:
    """Return the packages of a lock that this platform gets."""
    lines = (ROOT / "requirements" / f"{extra}.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    here = [pin for pin in pins if pin.marker is None or pin.marker.evaluate()]
    assert all(re.fullmatch(r"==[^*,]+", str(pin.specifier)) for pin in here), "a lock pins with == only"
    return {canonicalize_name(pin.name): Version(str(pin.specifier).removeprefix("==")) for pin in here}


def tracked() -> list[Path]:
    """Return the text files that are, or would be, in the repository."""
    listing = ["git", "ls-files", "-co", "--exclude-standard"]
    done = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


@pytest.mark.parametrize("extra", EXTRAS)
def test_every_dependency_is_in_its_lock_at_an_allowed_version(extra: str) -> None:
    lock = locked(extra)
    for wanted in map(Requirement, PROJECT["dependencies"] + EXTRAS[extra]):
        assert lock.get(canonicalize_name(wanted.name)) in wanted.specifier, f"{wanted}: `make lock`"


def test_locks_that_share_an_environment_agree() -> None:
    seen: dict[str, Version] = {}
    for extra in ("serve", "train", "loadtest", "dev"):
        for name, version in locked(extra).items():
            assert seen.setdefault(name, version) == version, name


def test_serving_needs_no_torch() -> None:
    assert "torch" not in locked("serve").keys() | locked("gpu").keys()


def test_training_gets_torch_without_cuda() -> None:
    assert str(locked("train")["torch"]) == "2.13.0+cpu"
    everything = {name for extra in ("serve", "train", "loadtest", "dev") for name in locked(extra)}
    # nvidia-ml-py is BentoML's, a few kilobytes of Python that look for a GPU; tritonclient speaks HTTP
    named = {name for name in everything if name.startswith(("nvidia-", "triton"))}
    assert named == {"nvidia-ml-py", "tritonclient"}


def test_one_onnxruntime_in_each_serving_environment() -> None:
    assert "onnxruntime-gpu" not in locked("serve")
    assert "onnxruntime" not in locked("gpu")
    assert {"nvidia-cudnn-cu13", "nvidia-cuda-runtime"} <= locked("gpu").keys()


def test_the_gpu_extra_differs_from_serve_in_the_runtime_only() -> None:
    others = [{line for line in EXTRAS[extra] if not line.startswith("onnxruntime")} for extra in ("serve", "gpu")]
    assert others[0] == others[1]


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/deployment.md", ".ci/run"])
def test_documented_verbs_exist(page: str) -> None:
    verbs = set(re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`|=\S* )make ([a-z]+)", (ROOT / page).read_text(), re.MULTILINE))
    assert named, "none found: is the pattern still right?"
    assert named <= verbs


def test_ci_calls_the_verbs_of_the_makefile() -> None:
    script = (ROOT / ".ci/run").read_text()
    assert re.findall(r"^make .*", script, re.MULTILINE) == ["make check", "make test"]
    assert "set -euo pipefail" in script
    assert (ROOT / ".ci/run").stat().st_mode & 0o100


def test_the_image_does_not_run_as_root() -> None:
    users = re.findall(r"^USER (\S+)", DOCKERFILE, re.MULTILINE)
    assert [user for user in users if user.partition(":")[0] in ("0", "root")] == []
    assert users


def test_the_image_takes_its_base_as_an_argument() -> None:
    assert "ARG BASE=python:3.11-slim-bookworm" in DOCKERFILE
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) == {"${BASE}"}


def test_the_weights_are_the_last_layer() -> None:
    assert re.findall(r"^(?:COPY|RUN|ADD) .*", DOCKERFILE, re.MULTILINE)[-1] == "COPY models/zoo models/zoo"


@pytest.mark.parametrize("name", ["service", "models"])
def test_the_image_has_every_module(name: str) -> None:
    copied = [source.rstrip("/") for source in re.findall(r"^COPY (\S+) \S+$", DOCKERFILE, re.MULTILINE)]
    for module in (ROOT / name).rglob("*.py"):
        path = module.relative_to(ROOT)
        assert any(path.is_relative_to(source) or path.match(source) for source in copied), path


def test_the_image_starts_without_a_shell_so_that_sigterm_arrives() -> None:
    (command,) = re.findall(r"^CMD (.*)", DOCKERFILE, re.MULTILINE)
    assert json.loads(command)[:5] == ["python", "-m", "bentoml", "serve", "service.app:Seqserve"]


def test_the_bento_has_the_service_and_the_models_only() -> None:
    assert BENTOFILE["service"] == "service.app:Seqserve"
    assert {pattern.partition("/")[0] for pattern in BENTOFILE["include"]} == {"service", "models"}
    assert BENTOFILE["python"]["requirements_txt"] == "./requirements/serve.txt"


def test_no_file_names_a_folder_of_somebodys_machine() -> None:
    for path in tracked():
        if path != Path(__file__) and path.suffix not in {".onnx", ".png"}:
            found = HOMES.findall(path.read_text(errors="replace"))
            assert not found, f"{path.relative_to(ROOT)} names {found}"
