"""Show where the CPU time of a request goes, part by part.

py-spy samples the worker while single sentences are sent to one tagger in a closed loop. A sample belongs to the part
of its innermost known frame. The parts add up to the CPU time of one request.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
from rich.table import Table

from loadtest import payloads, report
from loadtest.bench import POOL_SIZE, claim_cores
from loadtest.http_client import encode_requests
from loadtest.load_loops import closed_loop, run_loop
from loadtest.service_process import ServiceProcess, start_seqserve

SAMPLES_PER_S = 100
WARMUP_S = 3.0
START_S = 2.0  # of py-spy, which first reads the symbols of the libraries
LOOP = "event loop, sockets"
WAITING = ("epoll_pwait", "epoll_wait", "PyThread_acquire_lock")  # for requests, or idle threads: no CPU time
# What the frames of each part contain, as "function (file:line)". A frame belongs to the first part that matches.
PARTS: Mapping[str, Sequence[str]] = {
    "ONNX Runtime": ("run (onnxruntime", "(onnxruntime", "run (models/onnx_session.py", "run_list (models/"),
    "collate, decode": ("collate (models/", "pad (models/", "Tagging.decode", "_run_sequences ("),
    "encode": ("encode (models/", "encode (service/", "(models/codecs/"),
    "answer and JSON": ("(orjson", "(pydantic_core", "(models/tasks/", "(service/api/schemas", "(service/api/native"),
    "scheduling": ("(service/scheduling/", "(service/model_runtime.py", "(service/engine.py"),
    "HTTP, headers, telemetry": ("(service/", "(httptools", "(uvicorn/protocols"),
    LOOP: (),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--connections", type=int, default=32, help="Connections of the closed loop (default: %(default)s).")
    add("--seconds", type=float, default=20.0, help="Duration of the measurement (default: %(default)s).")
    add("--variant", default="int8", help="Variant to serve (default: %(default)s).")
    add("--bundle", type=Path, default=Path("models/zoo/pos-en"), help="Tagger to serve (default: %(default)s).")
    add("--seed", type=int, default=0, help="Seed of the texts (default: %(default)s).")
    report.add_option(parser, "build/profile.json")


def run(arguments: argparse.Namespace) -> int:
    """Return 0. Raises LookupError without py-spy, and ConnectionError if requests fail."""
    spy = shutil.which("py-spy", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))))
    if spy is None:
        raise LookupError("py-spy is not installed. Run `pip install py-spy`.")
    server_core, _ = claim_cores()
    folder, settings = arguments.report.parent, {"bundles": str(arguments.bundle), "variant": arguments.variant}
    with start_seqserve(folder, "profile", settings, core=server_core) as service:
        found = _profile(service, spy, arguments)
    report.write_json(arguments.report, {**report.environment_report(), "server_core": server_core, **found})
    report.console().print(profile_table(found))
    return 0


def _profile(service: ServiceProcess, spy: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the CPU time per request first, and then sample: py-spy pauses the worker for each sample."""
    address = service.address
    model = payloads.default_models(payloads.read_models(address.url))["tag"]
    texts = payloads.sample_inputs(model, count=POOL_SIZE, seed=arguments.seed)
    requests = encode_requests(address, "/v1/tag", ({"inputs": text} for text in texts))

    def load(seconds: float) -> int:
        loop = closed_loop(address, requests, connections=arguments.connections, seconds=seconds)
        found = run_loop(loop)
        if found.failed or not found.replies:
            raise ConnectionError(f"requests failed: {dict(found.statuses)}")
        return found.replies

    load(WARMUP_S)
    worker = max(service.tree(), key=_cpu_s)
    before_s = _cpu_s(worker)
    replies = load(arguments.seconds)
    cpu_us = (_cpu_s(worker) - before_s) / replies * 1e6
    stacks = arguments.report.with_suffix(".stacks")
    options = f"--native --format raw --rate {SAMPLES_PER_S} --duration {arguments.seconds:g}".split()
    command = [spy, "record", *options, "--pid", str(worker.pid), "--output", str(stacks)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as sampling:
        load(START_S + arguments.seconds)
        _, errors = sampling.communicate()
    if sampling.returncode:
        raise LookupError(f"py-spy ended with {sampling.returncode}: {errors.strip()}")
    shares = count_parts(stacks.read_text("utf-8", errors="replace").splitlines())
    return {
        "model": model.id,
        "variant": model.variant,
        "connections": arguments.connections,
        "cpu_us_per_request": cpu_us,
        "parts_us": {part: cpu_us * share for part, share in shares.items()},
    }


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def count_parts(stacks: Iterable[str]) -> dict[str, float]:
    """Return the share of each part in py-spy's raw stacks: frames from the outermost, joined by ";", and a count."""
    counts: Counter[str] = Counter()
    for line in stacks:
        frames, _, count = line.rpartition(" ")
        stack = frames.split(";")
        if not any(frame.startswith(WAITING) for frame in stack):
            counts[_part(stack)] += int(count)
    return {part: counts[part] / (counts.total() or 1) for part in PARTS}


def _part(frames: Sequence[str]) -> str:
    parts = (part for frame in reversed(frames) for part, marks in PARTS.items() if any(map(frame.count, marks)))
    return next(parts, LOOP)


def profile_table(found: Mapping[str, Any]) -> Table:
    """Return the µs of each part."""
    title = f"one request to {found['model']} {found['variant']}, {found['connections']} connections"
    table = report.new_table(title, ("part",), ("µs", "share"))
    total = found["cpu_us_per_request"]
    for part, part_us in found["parts_us"].items():
        table.add_row(part, f"{part_us:.0f}", f"{part_us / total:.0%}")
    table.add_row("all", f"{total:.0f}", "100%")
    return table
