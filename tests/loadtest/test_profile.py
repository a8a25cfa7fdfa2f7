"""Tests of loadtest.profile."""

import pytest

from loadtest.profile import LOOP, count_parts

OUTER = "main (uvicorn/server.py:86);uv_run (core.c:464);"


def test_a_sample_belongs_to_its_innermost_known_part() -> None:
    stacks = [
        f"{OUTER}handle (service/api/pipeline.py:9);step (service/server/http_protocol.py:9) 1",
        f"{OUTER}_turn (service/scheduling/loop.py:8);Tagging.decode (models/tasks/tag.py:7);argmax (numpy/core.so) 2",
        f"{OUTER}_turn (service/scheduling/loop.py:84);run (models/onnx_session.py:85);0x7f (onnxruntime/a.so) 4",
        f"{OUTER}write (libc.so.6) 1",
    ]
    shares = count_parts(stacks)
    assert {part: share for part, share in shares.items() if share} == {
        "ONNX Runtime": 0.5,
        "collate, decode": 0.25,
        "HTTP, headers, telemetry": 0.125,
        LOOP: 0.125,
    }
    assert sum(shares.values()) == pytest.approx(1)


def test_waiting_for_requests_takes_no_time() -> None:
    idle = "_worker (concurrent/futures/thread.py:81);PyThread_acquire_lock_timed (libpython.so);0x7f (libc.so.6)"
    shares = count_parts([f"{OUTER}epoll_pwait (libc.so.6) 7", f"{idle} 5", f"{OUTER}read (libc.so.6) 3"])
    assert shares[LOOP] == 1
