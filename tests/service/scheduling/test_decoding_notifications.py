"""The decoding scheduler notifies readers and metrics, and appends tokens in groups without a reader."""

import pytest

from service.errors import InternalError
from service.scheduling.decoding_batch import NOTIFY_S
from service.scheduling.generation_batch import MAX_PENDING_STEPS, PromptPrefill
from tests.support.scheduling import Client, DecodingHarness, expected_text, generation_item, state_after


def test_a_reader_is_notified_of_the_first_token_before_the_first_step() -> None:
    harness = DecodingHarness()
    client = harness.ask("abc")
    client.read()
    assert isinstance(harness.run_once(), PromptPrefill)
    assert client.notifications == 1


def test_a_single_reader_is_notified_after_every_dispatch() -> None:
    harness = DecodingHarness()
    client = harness.ask("abc", max_new_tokens=6)
    client.read()
    seen = []
    while harness.run_once():
        seen.append(client.notifications)
    assert seen == [1, 2, 3, 4, 5, 5]  # with the last token the job is done
    assert client.completions == 1


def test_many_readers_are_notified_less_often() -> None:
    harness = DecodingHarness(slots=64)
    clients = [harness.ask("a", max_new_tokens=1000) for _ in range(40)]
    for client in clients:
        client.read()
    harness.run_once()
    for _ in range(60):  # of a millisecond each
        harness.run_once()
    assert pytest.approx(0.020) == 40 * NOTIFY_S
    assert {client.notifications for client in clients} <= {1 + 2, 1 + 3}  # the first tokens, then every 20 or 21 ms


def test_tokens_without_a_reader_are_appended_in_groups() -> None:
    harness = DecodingHarness()
    length = 2 * MAX_PENDING_STEPS + 5
    writing = generation_item("romeo", length)
    client = Client(harness.clock).submit(harness.scheduler, [writing])
    grown = []
    while harness.run_once() is not None:
        grown.append(len(writing[1].tokens))
    assert sorted(set(grown)) == [1, 1 + MAX_PENDING_STEPS, 1 + 2 * MAX_PENDING_STEPS, length]
    assert client.texts == [expected_text("romeo", length)]


def test_a_sequence_that_leaves_does_not_take_the_pending_tokens_of_others() -> None:
    harness = DecodingHarness()
    late = harness.ask("tybalt", max_new_tokens=20, timeout_s=0.0065)
    stopped = harness.ask("romeo", max_new_tokens=20, stop=(expected_text("romeo", 12)[8:11],))
    others = [harness.ask(name, max_new_tokens=20) for name in ("juliet", "paris")]
    harness.run_all()
    assert late.error == "DeadlinePassed"
    assert stopped.texts == [expected_text("romeo", 11)]
    assert [other.texts for other in others] == [[expected_text("juliet", 20)], [expected_text("paris", 20)]]


@pytest.mark.parametrize("how", ["deadline", "failure", "abandoned"])
def test_tokens_sampled_before_an_error_are_delivered(how: str) -> None:
    harness = DecodingHarness(slots=64)
    prompts = [f"{letter}romeo" for letter in "abcdefghijklmnopqrst"]
    seen: list[int] = []
    for prompt in prompts:
        item = generation_item(prompt, 1000)
        client = Client(harness.clock, timeout_s=0.0165 if how == "deadline" else 1e9)
        client.at_the_end = lambda text=item[1]: seen.append(len(text.tokens))  # type: ignore[misc]
        client.submit(harness.scheduler, [item]).read()
    for _ in range(11):  # the prompts, then ten steps: less than the interval for so many readers
        harness.run_once()
    if how == "failure":
        harness.model.bad_states |= {state_after(prompt, 12) for prompt in prompts}
    elif how == "abandoned":
        harness.scheduler.abandon(InternalError())
    harness.run_all()
    assert seen == [{"deadline": 17, "failure": 12, "abandoned": 11}[how]] * 20


def test_requests_without_a_reader_do_not_delay_notifications() -> None:
    harness = DecodingHarness()
    for _ in range(7):
        harness.ask("a", max_new_tokens=1000)
    client = harness.ask("b", max_new_tokens=1000)
    client.read()
    for _ in range(9):
        harness.run_once()
    assert client.notifications == 9


def test_times_are_recorded_once_per_text_and_request() -> None:
    harness = DecodingHarness()
    client = harness.ask("ab", "cd", max_new_tokens=3)
    harness.clock.now_s += 0.5
    harness.run_all()
    assert harness.metrics.calls["first_token"] == pytest.approx([0.501, 0.501])
    assert sum(call["count"] for call in harness.metrics.calls["tokens"]) == 6
    assert harness.metrics.calls["queue_time"] == pytest.approx([0.5, 0.5])
    assert (client.request.queue_s, client.request.compute_s) == pytest.approx((0.5, 0.003))
    assert client.request.batch_items == 2


def test_queue_and_slots_are_counted_until_they_are_empty() -> None:
    harness = DecodingHarness(slots=1)
    harness.ask("a", "b", max_new_tokens=2)
    harness.run_once()
    assert (harness.scheduler.queued_items, harness.scheduler.used_slots) == (1, 1)
    harness.run_all()
    assert (harness.scheduler.queued_items, harness.scheduler.used_slots) == (0, 0)


def test_a_finished_text_is_notified_at_once() -> None:
    harness = DecodingHarness(slots=4)
    for _ in range(3):  # so many readers that they are notified after every other step
        harness.ask("a", max_new_tokens=50).read()
    client = harness.ask("x", "y", max_new_tokens=2)
    client.read()
    harness.run_once()
    before = client.notifications
    harness.run_once()
    assert client.job.results[0] is not None
    assert client.notifications == before + 1
