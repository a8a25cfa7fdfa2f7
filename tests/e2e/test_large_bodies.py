"""A client that sends nothing but large bodies does not stop the answers to another one."""

import threading
import time

import httpx

from tests.support import large_bodies
from tests.support.live_service import FULL, LiveService


def test_large_bodies_do_not_stop_another_client(live_service: LiveService) -> None:
    address = live_service.address.url
    statuses: dict[str, int] = {}
    tagger = next(model for model in live_service.models if "tag" in model.tasks)

    def send_large() -> None:
        headers = {"content-type": "application/json"}
        with httpx.Client(base_url=address, headers=headers, timeout=30) as client:
            for path, field in large_bodies.ROUTES.items():
                for name, body in large_bodies.bodies(field):
                    statuses[f"{path} {name}"] = client.post(
                        path.replace("tiny-tag", tagger.id), content=body
                    ).status_code

    sender = threading.Thread(target=send_large)
    latencies_s: list[float] = []
    with httpx.Client(base_url=address, timeout=30) as client:
        sender.start()
        while sender.is_alive():
            started_s = time.monotonic()
            assert client.post("/v1/tag", json={"inputs": "the cat", "model": tagger.id}).status_code == 200
            latencies_s.append(time.monotonic() - started_s)
    sender.join()
    assert max(statuses.values()) < 500, {name: status for name, status in statuses.items() if status >= 500}
    print(f"{len(latencies_s)} small requests, the longest took {max(latencies_s):.3f} s")
    assert len(latencies_s) > len(statuses)  # several small requests for each large one
    if FULL:
        assert max(latencies_s) < 0.15
