"""The files that install, build and ship the service agree with each other. The tests read them and install nothing."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
LOCKS = {extra: extra if extra in ("serve", "gpu", "peers") else "all" for extra in EXTRAS}
PYTHONS = ("3.11", "3.12", "3.13")
HOMES = re.compile(rf"{re.escape(str(ROOT))}/|(?<![\w.-])/(?:home|Users)/\w+|(?<![\w.-])/root/")


def lines(lock: str) -> list[str]:
    """Return the requirements of a lock, each with its hashes on one line."""
    text = (ROOT / "requirements" / f"{lock}.txt").read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def locked(lock: str, python: str = "3.11") -> dict[str, Version]:
    """Return the packages that a lock installs on Linux with a version of Python."""
    platform = default_environment() | {
        "python_version": python,
        "python_full_version": f"{python}.7",
        "sys_platform": "linux",
    }
    found = {}
    for line in lines(lock):
        pin = Requirement(line.partition(" --hash")[0])
        if pin.marker is None or pin.marker.evaluate({key: str(value) for key, value in platform.items()}):
            (exact,) = pin.specifier
            assert exact.operator == "==", line
            found[canonicalize_name(pin.name)] = Version(exact.version)
    return found


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("extra", EXTRAS)
def test_lock_contains_every_requirement_at_an_allowed_version(extra: str, python: str) -> None:
    lock = locked(LOCKS[extra], python) | locked("torch", python)
    for wanted in map(Requirement, PROJECT["dependencies"] + EXTRAS[extra]):
        assert lock.get(canonicalize_name(wanted.name)) in wanted.specifier, f"{wanted}: run `make lock`"


def test_requires_python_allows_the_versions_that_the_locks_support() -> None:
    allowed = Requirement(f"python{PROJECT['requires-python']}").specifier
    assert [python for python in ("3.10", *PYTHONS, "3.14") if python in allowed] == list(PYTHONS)


def test_serve_lock_agrees_with_the_development_lock() -> None:
    assert locked("serve").items() <= locked("all").items()


@pytest.mark.parametrize("lock", ["serve", "gpu", "sbom"])
def test_every_package_that_an_image_build_installs_has_hashes(lock: str) -> None:
    assert [line for line in lines(lock) if "--hash=sha256:" not in line] == []


def test_serving_does_not_install_torch() -> None:
    assert "torch" not in locked("serve").keys() | locked("gpu").keys()


@pytest.mark.parametrize("lock", ["all", "peers"])
def test_torch_is_a_cpu_build_without_cuda_libraries(lock: str) -> None:
    assert locked("torch")["torch"].local == "cpu"
    cuda = {name for name in locked(lock) if name.startswith(("nvidia-", "cuda-", "triton"))}
    assert cuda <= {"nvidia-ml-py", "tritonclient"}, "add new CUDA packages to requirements/no-cuda.txt"


def test_serving_environments_have_one_build_of_onnxruntime() -> None:
    assert "onnxruntime-gpu" not in locked("serve")
    assert "onnxruntime" not in locked("gpu")
    assert {"nvidia-cudnn-cu13", "nvidia-cuda-runtime"} <= locked("gpu").keys()


def test_gpu_extra_differs_from_serve_only_in_onnxruntime() -> None:
    serve, gpu = ({line for line in EXTRAS[extra] if not line.startswith("onnxruntime")} for extra in ("serve", "gpu"))
    assert serve == gpu


def test_image_copies_every_module() -> None:
    copied = re.findall(r"^COPY (\S+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    for module in (ROOT / "seqserve.py", *(ROOT / "service").rglob("*.py"), *(ROOT / "models").rglob("*.py")):
        path = module.relative_to(ROOT)
        assert any(path.is_relative_to(source.rstrip("/")) or path.match(source) for source in copied), path


def test_bento_contains_only_the_service_and_the_models() -> None:
    bentofile = yaml.safe_load((ROOT / "bentofile.yaml").read_text())
    assert {pattern.partition("/")[0] for pattern in bentofile["include"]} == {"seqserve.py", "service", "models"}


def test_no_file_contains_a_home_directory() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    for path in (ROOT / name for name in listed.stdout.splitlines()):
        if path.is_file() and path != Path(__file__) and path.suffix not in {".onnx", ".png"}:
            found = HOMES.findall(path.read_text(errors="replace"))
            assert not found, f"{path.relative_to(ROOT)} contains {found}"


def test_the_base_image_is_named_by_digest_and_by_a_tag_for_readers() -> None:
    text = (ROOT / "Dockerfile").read_text()
    (base,) = re.findall(r"^ARG BASE=(.*)$", text, re.MULTILINE)
    found = re.fullmatch(r"python:(3\.\d+)-slim-\w+@sha256:[0-9a-f]{64}", base)
    assert found is not None
    assert found[1] in PYTHONS
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"${BASE}"}
    assert base.partition("@")[0] in (ROOT / "docs/how-to/deploy-docker.md").read_text("utf-8")
