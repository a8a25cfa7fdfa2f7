"""Every curl of docs/routes.md, executed against the service with the bundles of the repository."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.bentoml_server import served

ROUTES = Path(__file__).resolve().parents[3] / "docs/routes.md"
BLOCKS = re.findall(r"```sh\n(.*?)```", ROUTES.read_text("utf-8"), re.DOTALL)
MISSING = [tool for tool in ("bash", "curl", "jq") if shutil.which(tool) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(tmp_path_factory.mktemp("curls"), service="service.app:Seqserve") as (address, _, _):
        yield address


@pytest.mark.parametrize("block", BLOCKS)
def test_every_curl_is_answered_with_200(address: str, block: str) -> None:
    here = block.replace("localhost:3000", address).replace("curl -s", "curl --fail-with-body -s")
    script = ["bash", "-o", "pipefail", "-ec", here]
    done = subprocess.run(script, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout
