"""A bundle that is replaced on disk while the service runs, and a worker that is killed."""

import shutil
from pathlib import Path

import httpx
import psutil

from models.manifest import read
from tests.support.bentoml_server import served
from tests.support.polling import wait_until


def test_restarted_worker_refuses_a_replaced_bundle(tiny_zoo: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(tiny_zoo / "tiny-tag", tmp_path / "tiny-tag"))
    with served(tmp_path, service="service.app:Seqserve", SEQSERVE_BUNDLES=str(path)) as (address, process, log):
        assert httpx.post(f"{address}/v1/tag", json={"inputs": "the cat"}).status_code == 200
        changed = read(path).model_copy(update={"labels": ("W", "X", "Y", "Z"), "examples": read(path).examples[:1]})
        (path / "manifest.json").write_text(changed.model_dump_json(), "utf-8")
        for worker in psutil.Process(process.pid).children(recursive=True):
            worker.kill()
        wait_until(lambda: f"{path}/manifest.json: was replaced" in log.read_text(), timeout_s=60)
