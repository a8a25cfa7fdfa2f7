"""The sequence scheduler: which sequences run together, and that every request is answered."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InternalError, TooLarge, Unavailable
from tests.support.scheduling import Item, SequenceHarness, answers


def test_queued_sequences_run_together() -> None:
    harness = SequenceHarness()
    items = [Item(str(number)) for number in range(5)]
    clients = [harness.ask(item) for item in items]
    assert harness.run_once()
    assert [client.job.results for client in clients] == [[answer] for answer in answers(*items)]
    assert not harness.run_once()


def test_a_batch_does_not_wait_to_fill() -> None:
    harness = SequenceHarness()
    harness.ask(Item("a"))
    batch = harness.scheduler.take()
    assert batch is not None
    late = harness.ask(Item("b"))
    assert harness.scheduler.queued_items == 1
    batch.run()
    batch.complete()
    harness.run_once()
    assert late.job.results == ["answer to b"]


def test_a_disconnected_client_is_dropped_before_its_batch() -> None:
    harness = SequenceHarness()
    gone, there = harness.ask(Item("gone")), harness.ask(Item("there"))
    gone.connected = False
    harness.run_all()
    assert (gone.error, gone.completions, there.completions) == ("ClientGone", 1, 1)
    assert harness.model.batches == [["there"]]


def test_a_client_that_disconnects_is_left_out_of_the_batch() -> None:
    harness = SequenceHarness()
    first, second = harness.ask(Item("first")), harness.ask(Item("second"))
    second.connected = False
    harness.run_all()
    assert (first.error, second.error, harness.model.batches) == (None, "ClientGone", [["first"]])


def test_an_expired_request_is_answered_and_not_run() -> None:
    harness = SequenceHarness()
    late, patient = harness.ask(Item("late"), timeout_s=1.0), harness.ask(Item("patient"), timeout_s=3.0)
    harness.clock.now_s += 2.0
    harness.run_all()
    assert (late.error, patient.error, harness.model.batches) == ("DeadlinePassed", None, [["patient"]])


def test_a_deadline_far_back_in_the_queue_is_answered_at_the_next_batch() -> None:
    harness = SequenceHarness(batch_rows=1)
    for number in range(5):
        harness.ask(Item(str(number)))
    last = harness.ask(Item("last"), timeout_s=0.5)
    harness.clock.now_s += 1.0
    harness.run_once()
    assert last.error == "DeadlinePassed"


def test_one_bad_sequence_fails_alone() -> None:
    harness = SequenceHarness()
    bad = Item("bad", bad=True)
    good = [Item(str(number)) for number in range(6)]
    clients = [harness.ask(item) for item in (*good[:3], bad, *good[3:])]
    harness.run_all()
    assert [client.error for client in clients] == [None] * 3 + ["InternalError"] + [None] * 3
    healthy = clients[:3] + clients[4:]
    assert [client.job.results for client in healthy] == [[answer] for answer in answers(*good)]
    assert all(client.completions == 1 for client in clients)


def test_the_error_of_a_bad_sequence_reveals_no_input() -> None:
    harness = SequenceHarness()
    bad = harness.ask(Item("secret", bad=True))
    harness.run_all()
    assert "secret" not in str(bad.job.error)
    assert "a bad item" not in str(bad.job.error)


def test_a_service_error_reaches_the_client_unchanged() -> None:
    harness = SequenceHarness()

    def refuse(items: Sequence[Item]) -> list[str]:
        raise TooLarge("too long", limit=5)

    harness.scheduler.run = refuse
    client = harness.ask(Item("a"))
    harness.run_all()
    assert client.error == "TooLarge"


@pytest.mark.parametrize("spare", [-1, 1])
def test_a_wrong_number_of_results_never_shifts_an_answer(spare: int) -> None:
    harness = SequenceHarness()
    harness.model.surplus = spare
    clients = [harness.ask(Item(str(number))) for number in range(3)]
    harness.run_all()
    assert [(client.error, client.completions) for client in clients] == [("InternalError", 1)] * 3


def test_a_batch_with_a_wrong_number_of_results_is_retried() -> None:
    harness = SequenceHarness()
    clients = [harness.ask(Item(str(number))) for number in range(3)]
    harness.model.surplus = -1
    harness.run_once()
    harness.model.surplus = 0
    harness.run_all()
    assert [client.job.results for client in clients] == [["answer to 0"], ["answer to 1"], ["answer to 2"]]


def test_a_closed_scheduler_answers_what_was_admitted_before() -> None:
    harness = SequenceHarness()
    accepted = harness.ask(Item("a"))
    harness.scheduler.close()
    with pytest.raises(Unavailable):
        harness.ask(Item("b"))
    harness.run_all()
    assert accepted.job.results == ["answer to a"]


def test_a_request_of_many_inputs_is_split_and_answered_in_order() -> None:
    harness = SequenceHarness(batch_rows=4)
    items = [Item(str(number), length=1 + number * 7 % 10) for number in range(11)]
    client, other = harness.ask(*items), harness.ask(Item("other", length=3))
    harness.run_all()
    assert client.job.results == answers(*items)
    assert other.job.results == ["answer to other"]
    assert len(harness.model.batches) >= 3


def test_after_the_first_failure_the_other_inputs_of_a_request_do_not_run() -> None:
    harness = SequenceHarness(batch_rows=1)
    client = harness.ask(Item("bad", bad=True), Item("b"), Item("c"))
    harness.run_all()
    assert (client.error, client.completions, harness.model.batches) == ("InternalError", 1, [["bad"]])


def test_the_time_of_a_batch_counts_once_per_request() -> None:
    harness = SequenceHarness()
    client = harness.ask(Item("a"), Item("b"), Item("c"))
    harness.clock.now_s += 0.25
    harness.run_all()
    assert client.request.compute_s == pytest.approx(0.001)
    assert client.request.queue_s == pytest.approx(0.25)
    assert client.request.batch_items == 3


@pytest.mark.parametrize(("limits", "reason"), [({"batch_rows": 2}, "rows"), ({"batch_tokens": 12}, "tokens")])
def test_limits_end_a_batch(limits: dict[str, int], reason: str) -> None:
    harness = SequenceHarness(**limits)
    for name in "abc":
        harness.ask(Item(name))
    harness.run_all()
    assert [len(batch) for batch in harness.model.batches] == [2, 1]
    assert [call["reason"] for call in harness.metrics.calls["batch"]] == [reason, "queue_empty"]


def test_a_batch_of_equal_lengths_is_kept_short() -> None:
    harness = SequenceHarness(target_s=0.0045, batch_tokens=10_000)  # 18 rows at the initial costs
    for number in range(40):
        harness.ask(Item(str(number), length=100))
    harness.run_all()
    assert len(harness.model.batches[0]) <= 18
    assert harness.metrics.calls["batch"][0]["reason"] == "brief"


def test_a_sequence_over_the_token_limit_runs_by_itself() -> None:
    harness = SequenceHarness(batch_tokens=10)
    client = harness.ask(Item("long", length=50))
    harness.run_all()
    assert client.job.results == ["answer to long"]


def test_a_short_sequence_is_not_padded_to_a_long_one() -> None:
    harness = SequenceHarness()
    harness.ask(Item("short", length=2))
    for number in range(4):
        harness.ask(Item(f"long{number}", length=500))
    harness.run_all()
    assert harness.model.batches[0] == ["short"]
    assert sorted(harness.model.batches[1]) == [f"long{number}" for number in range(4)]
    assert harness.metrics.calls["batch"][0]["reason"] == "padding"


def test_a_little_padding_is_cheaper_than_a_batch_of_its_own() -> None:
    harness = SequenceHarness()
    for length in (9, 11, 10):
        harness.ask(Item(str(length), length=length))
    harness.run_once()
    assert sorted(harness.model.batches[0]) == ["10", "11", "9"]
    (call,) = harness.metrics.calls["batch"]
    assert (call["items"], call["padded_tokens"], call["real_tokens"]) == (3, 33, 30)


@given(lengths=st.lists(st.integers(1, 300), min_size=1, max_size=40), extra=st.lists(st.integers(1, 300)))
def test_a_sequence_behind_n_others_runs_at_the_latest_in_batch_n_plus_1(lengths: list[int], extra: list[int]) -> None:
    harness = SequenceHarness(batch_rows=4, batch_tokens=600)
    clients = [harness.ask(Item(str(number), length=length)) for number, length in enumerate(lengths)]
    newcomers = iter(extra)
    for client in clients:
        harness.run_once()
        assert client.completions
        # New sequences of a better matching length do not delay it.
        if (length := next(newcomers, None)) is not None:
            harness.ask(Item("new", length=length))


def test_a_failed_batch_is_halved_until_the_bad_sequence_is_found() -> None:
    harness = SequenceHarness()
    for number in range(8):
        harness.ask(Item(str(number), bad=number == 5))
    harness.run_all()
    assert [len(batch) for batch in harness.model.batches] == [8, 4, 4, 2, 1, 1, 2]


def test_a_disconnected_client_is_not_retried_after_a_failed_batch() -> None:
    harness = SequenceHarness()
    harness.ask(Item("bad", bad=True))
    other = harness.ask(Item("other"))
    harness.run_once()
    other.connected = False
    harness.run_all()
    assert (other.error, harness.model.batches) == ("ClientGone", [["bad", "other"], ["bad"]])


def test_abandon_fails_running_requests_too() -> None:
    harness = SequenceHarness()
    client = harness.ask(Item("a"))
    assert harness.scheduler.take() is not None
    harness.scheduler.abandon(InternalError())
    assert client.error == "InternalError"
    assert not harness.scheduler.jobs


def test_a_batch_that_could_not_be_completed_is_still_abandoned() -> None:
    harness = SequenceHarness()
    client = harness.ask(Item("a"))
    batch = harness.scheduler.take()
    assert batch is not None
    batch.run()
    harness.scheduler.cost.learn = None  # type: ignore[assignment]  # a bug
    with pytest.raises(TypeError):
        batch.complete()
    harness.scheduler.abandon(InternalError())
    assert client.error == "InternalError"


def test_a_failure_is_logged_with_its_request_id(caplog: pytest.LogCaptureFixture) -> None:
    harness = SequenceHarness()
    client = harness.ask(Item("bad", bad=True), request_id="the-id")
    harness.run_all()
    assert client.error == "InternalError"
    assert [message for message in caplog.messages if "the-id" in message]
