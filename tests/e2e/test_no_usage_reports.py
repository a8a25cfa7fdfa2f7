"""A started service reports to nobody: it looks up no host and leaves the home folder alone."""

import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.support.bentoml_server import served

# Name look-ups of every library in a process, whether written in Python or C++.
LOOKUPS = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>

typedef int (*lookup)(const char *, const char *, const struct addrinfo *, struct addrinfo **);

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    FILE *log = fopen(getenv("LOOKUPS_LOG"), "a");
    if (log) {
        fprintf(log, "%s\\n", node ? node : "");
        fclose(log);
    }
    return ((lookup)dlsym(RTLD_NEXT, "getaddrinfo"))(node, service, hints, found);
}
"""
OBSERVED_S = 15.0  # ONNX Runtime looks up its host after 9 s


@pytest.fixture(scope="module")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library to preload, which records name look-ups."""
    if shutil.which("cc") is None or not sys.platform.startswith("linux"):
        pytest.skip("needs a C compiler and LD_PRELOAD")
    folder = tmp_path_factory.mktemp("recorder")
    source, library = folder / "lookups.c", folder / "lookups.so"
    source.write_text(LOOKUPS)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    return library


def test_the_recorder_sees_a_lookup(tmp_path: Path, recorder: Path) -> None:
    environ = {"LD_PRELOAD": str(recorder), "LOOKUPS_LOG": str(tmp_path / "lookups")}
    code = "import socket; socket.getaddrinfo('localhost', 80)"
    subprocess.run([sys.executable, "-c", code], env=environ, check=True)
    assert (tmp_path / "lookups").read_text().split() == ["localhost"]


def test_a_service_looks_up_no_host_and_leaves_the_home_folder_alone(
    tmp_path: Path, tiny_zoo: Path, recorder: Path
) -> None:
    home, log = tmp_path / "home", tmp_path / "lookups"
    home.mkdir()
    environ: dict[str, str | None] = {
        **dict.fromkeys(("ORT_DISABLE_TELEMETRY", "BENTOML_DO_NOT_TRACK", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")),
        **{"HOME": str(home), "LD_PRELOAD": str(recorder), "LOOKUPS_LOG": str(log)},
        **{"SEQSERVE_BUNDLES": str(tiny_zoo), "SEQSERVE_DEVICE": "cpu"},
    }
    started_s = time.monotonic()
    with served(tmp_path, service="service.app:Seqserve", **environ) as (address, _, _):
        while time.monotonic() - started_s < OBSERVED_S:  # nothing to wait for: it must not happen
            assert httpx.post(f"{address}/v1/classify", json={"inputs": "a film"}).status_code == 200
            assert httpx.get(address).status_code == 200
            time.sleep(0.5)
    looked_up = set(log.read_text().split()) if log.exists() else set()
    assert looked_up <= {"127.0.0.1", "localhost", "0.0.0.0", socket.gethostname()}
    assert [path for path in home.rglob("*") if path.is_file()] == []
