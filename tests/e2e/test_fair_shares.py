"""Long requests on one connection refuse no short requests on another."""

import threading
from collections import Counter
from pathlib import Path

import httpx

from loadtest.service_process import start_seqserve
from tests.support.live_service import ROOT

LONG = {"inputs": ["the cat sat on the mat " * 682] * 16}  # of about 4,096 words each


def test_long_requests_refuse_no_short_ones(tmp_path: Path) -> None:
    with start_seqserve(tmp_path, "service", {"bundles": str(ROOT / "models/zoo/pos-en")}) as process:
        address, stopped = process.address.url, threading.Event()
        long: Counter[int] = Counter()
        short: Counter[int] = Counter()

        def send_long() -> None:
            with httpx.Client(base_url=address, timeout=60) as client:
                while not stopped.is_set():
                    long[client.post("/v1/tag", json=LONG).status_code] += 1

        sender = threading.Thread(target=send_long)
        sender.start()
        with httpx.Client(base_url=address, timeout=60) as client:
            for _ in range(60):
                short[client.post("/v1/tag", json={"inputs": "Harry met Hermione in London ."}).status_code] += 1
        stopped.set()
        sender.join()
    print(f"long requests: {dict(long)}, short requests: {dict(short)}")
    assert long[200] > 0
    assert set(short) == {200}
