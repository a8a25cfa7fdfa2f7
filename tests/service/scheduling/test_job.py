"""A job is done exactly once, and records where the time went."""

import asyncio

import pytest

from service.errors import ClientGone, InternalError, Unavailable
from service.scheduling.job import ClientShare, Job
from tests.support.scheduling import Client, FakeClock, Item, SequenceHarness


def job_of(client: Client, items: int = 1) -> Job:
    client.job = Job(client.request, share=ClientShare(""), items=items, tokens=0, now_s=100.0, forget=lambda _: None)
    client.job.expect(items)
    client.job.on_done = client.record_completion
    return client.job


def test_results_are_in_the_order_of_the_items() -> None:
    client = Client(FakeClock())
    job = job_of(client, 3)
    for index in (2, 0, 1):
        assert client.completions == 0
        job.complete(index, index)
    assert (client.completions, job.results, client.error) == (1, [0, 1, 2], None)


def test_the_first_error_ends_it_and_later_results_are_ignored() -> None:
    client = Client(FakeClock())
    job = job_of(client, 2)
    job.fail(InternalError("first"))
    job.fail(InternalError("second"))
    job.complete(0, "late")
    job.complete(1, "late")
    assert (client.completions, str(job.error), job.results) == (1, "first", [None, None])


def test_the_deadline_ends_it() -> None:
    clock = FakeClock()
    client = Client(clock, timeout_s=2.0)
    job = job_of(client)
    assert not job.is_over(clock() + 1.999)
    assert job.is_over(clock() + 2.0)
    assert client.error == "DeadlinePassed"
    assert job.error is not None
    assert job.error.details["limit"] == 2.0
    assert job.is_over(clock())
    assert client.completions == 1


def test_a_disconnect_ends_it() -> None:
    clock = FakeClock()
    client = Client(clock)
    job = job_of(client)
    assert not job.is_over(clock())
    client.connected = False
    assert job.is_over(clock())
    assert client.error == "ClientGone"


def test_queue_time_ends_with_the_first_item_and_compute_time_adds_up() -> None:
    clock = FakeClock()
    client = Client(clock)
    job = job_of(client, 2)
    job.start(clock() + 0.5)
    job.start(clock() + 0.9)
    job.record_batch(0.25, 7)
    job.record_batch(0.25, 3)
    assert (client.request.queue_s, client.request.compute_s, client.request.batch_items) == (0.5, 0.5, 7)


def test_the_time_of_prompts_is_a_part_of_the_compute_time() -> None:
    client = Client(FakeClock())
    job = job_of(client)
    job.record_batch(0.5, 1)
    assert client.request.prefill_s is None
    job.record_prefill(0.25, 2)
    job.record_prefill(0.25, 2)
    assert (client.request.prefill_s, client.request.compute_s, client.request.batch_items) == (0.5, 1.0, 2)


async def test_awaiting_returns_the_results() -> None:
    client = Client(FakeClock())
    job = job_of(client)
    asyncio.get_running_loop().call_soon(job.complete, 0, "answer")
    assert await job == ["answer"]
    assert await job == ["answer"]


async def test_awaiting_raises_the_error() -> None:
    job = job_of(Client(FakeClock()))
    asyncio.get_running_loop().call_soon(job.fail, Unavailable("over"))
    with pytest.raises(Unavailable):
        await job


async def test_cancelling_the_waiting_task_cancels_the_job() -> None:
    harness = SequenceHarness()
    client = harness.ask(Item("a"))

    async def wait() -> None:
        with client.job:
            await client.job

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert isinstance(client.job.error, ClientGone)
    harness.run_all()
    assert harness.model.batches == []


def test_an_internal_error_logs_the_ids_of_the_failed_requests(caplog: pytest.LogCaptureFixture) -> None:
    harness = SequenceHarness()
    clients = [harness.ask(Item("a"), request_id=f"r{number}") for number in range(3)]
    clients[1].job.cancel()
    harness.scheduler.abandon(InternalError())
    assert [client.error for client in clients] == ["InternalError", "ClientGone", "InternalError"]
    assert [message for message in caplog.messages if "r0, r2" in message]
    assert "r1" not in caplog.text


def test_an_abandoned_scheduler_is_empty_and_runs_new_requests() -> None:
    harness = SequenceHarness()
    harness.ask(Item("a"))
    harness.scheduler.abandon(InternalError())
    assert (harness.scheduler.queued_items, harness.scheduler.take()) == (0, None)
    client = harness.ask(Item("b"))
    harness.run_all()
    assert client.job.results == ["answer to b"]
