"""Neither the long requests of one client nor its many requests refuse those of another."""

import json
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from loadtest.http_client import request_bytes
from loadtest.load_loops import closed_loop, run_loop
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


def test_many_requests_of_one_key_refuse_no_other(tmp_path: Path) -> None:
    keys = {name: f"{name}-{name}-{name}" for name in ("flood", "modest")}
    settings = {"bundles": str(ROOT / "models/zoo/pos-en"), "queue_requests": "32", "api_keys": ",".join(keys.values())}
    headers = {name: {"authorization": f"Bearer {key}"} for name, key in keys.items()}
    body = {"inputs": "Harry met Hermione in London ."}
    with start_seqserve(tmp_path, "service", settings) as process, ThreadPoolExecutor() as threads:
        request = request_bytes(process.address, "/v1/tag", json.dumps(body).encode(), headers=headers["flood"])
        load = closed_loop(process.address, [request], connections=128, seconds=3.0)
        flood, modest = threads.submit(run_loop, load), Counter[int]()
        with httpx.Client(base_url=process.address.url, headers=headers["modest"], timeout=60) as client:
            while not flood.done():
                modest[client.post("/v1/tag", json=body).status_code] += 1
    print(f"flood: {dict(flood.result().statuses)}, modest: {dict(modest)}")
    assert flood.result().statuses[429] > 0
    assert set(modest) == {200}
