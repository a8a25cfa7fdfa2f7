"""The decoding scheduler: sequences join and leave between steps, and none reads the state of another."""

import pytest

from models.tasks.generate import GeneratedText
from service.errors import InternalError, Overloaded, Unavailable
from service.scheduling.generation_batch import DecodingSteps, PromptPrefill
from tests.support.scheduling import Client, DecodingHarness, expected_text, generation_item, state_after


def test_a_text_is_what_the_model_generates_alone() -> None:
    harness = DecodingHarness()
    client = harness.ask("romeo", max_new_tokens=7)
    harness.run_all()
    assert client.texts == [expected_text("romeo", 7)]


def test_texts_are_in_the_order_of_the_request_whichever_is_done_first() -> None:
    harness = DecodingHarness()
    items = [generation_item("a", 9), generation_item("bb", 2), generation_item("ccc", 5)]
    client = Client(harness.clock).submit(harness.scheduler, items)
    harness.run_all()
    assert client.texts == [expected_text("a", 9), expected_text("bb", 2), expected_text("ccc", 5)]


def test_a_new_sequence_joins_between_two_steps() -> None:
    harness = DecodingHarness()
    first = harness.ask("first", max_new_tokens=9)
    for _ in range(3):
        harness.run_once()
    second = harness.ask("second", max_new_tokens=9)
    harness.run_once()
    harness.run_once()
    assert harness.model.calls[-1] == (1, 2)
    harness.run_all()
    assert first.texts + second.texts == [expected_text("first", 9), expected_text("second", 9)]


@pytest.mark.parametrize("shortest", range(4))
def test_the_last_row_moves_into_the_place_of_a_finished_one(shortest: int) -> None:
    harness = DecodingHarness()
    names = ["a", "bb", "ccc", "dddd"]
    clients = [harness.ask(name, max_new_tokens=3 if row == shortest else 8) for row, name in enumerate(names)]
    harness.run_all()
    for row, client in enumerate(clients):
        assert client.texts == [expected_text(names[row], 3 if row == shortest else 8)]
    assert harness.model.calls[-1] == (1, 3)


def test_a_batch_whose_slots_are_in_use_is_saturated() -> None:
    harness = DecodingHarness(slots=2)
    harness.ask("a", max_new_tokens=9)
    harness.run_once()
    assert harness.scheduler.saturation == 0.5
    harness.ask("b", max_new_tokens=9)
    harness.run_once()
    assert harness.scheduler.saturation == 1
    harness.run_all()


def test_several_rows_can_finish_in_the_same_step() -> None:
    harness = DecodingHarness()
    lengths = [4, 8, 4, 4, 8]
    clients = [harness.ask("x" * (row + 1), max_new_tokens=length) for row, length in enumerate(lengths)]
    harness.run_all()
    assert [client.texts[0] for client in clients] == [expected_text("x" * (i + 1), n) for i, n in enumerate(lengths)]


def test_new_prompts_are_read_in_one_ragged_call() -> None:
    harness = DecodingHarness()
    clients = [harness.ask("abc"), harness.ask("a")]
    harness.run_once()
    assert harness.model.calls == [(3, 2)]
    (call,) = harness.metrics.calls["prefill"]
    assert (call["rows"], call["padded_tokens"], call["real_tokens"]) == (2, 6, 4)
    harness.run_all()
    assert [client.texts for client in clients] == [[expected_text("abc", 5)], [expected_text("a", 5)]]


def test_a_long_prompt_is_read_in_chunks_between_decoding_steps() -> None:
    harness = DecodingHarness(prefill_steps=4)
    writing = harness.ask("w", max_new_tokens=20)
    harness.run_once()
    reading = harness.ask("abcdefghijkl", max_new_tokens=2)
    kinds = [type(harness.run_once()) for _ in range(6)]
    assert kinds == [DecodingSteps, PromptPrefill, DecodingSteps, PromptPrefill, DecodingSteps, PromptPrefill]
    harness.run_all()
    assert writing.texts + reading.texts == [expected_text("w", 20), expected_text("abcdefghijkl", 2)]


def test_prompts_are_read_together_up_to_the_limit_on_padded_tokens() -> None:
    harness = DecodingHarness(prefill_tokens=12)
    clients = [harness.ask(prompt, max_new_tokens=2) for prompt in ("abc", "ab", "abcde", "a" * 20)]
    harness.run_once()
    assert harness.model.calls == [(3, 2)]
    harness.run_all()
    assert [client.texts[0] for client in clients] == [expected_text(p, 2) for p in ("abc", "ab", "abcde", "a" * 20)]


def test_prefill_and_decoding_steps_alternate() -> None:
    harness = DecodingHarness()
    harness.ask("a", max_new_tokens=50)
    kinds = []
    for _ in range(6):
        harness.ask("b", max_new_tokens=50)
        kinds.append(type(harness.run_once()))
    assert kinds == [PromptPrefill, DecodingSteps, PromptPrefill, DecodingSteps, PromptPrefill, DecodingSteps]


def test_a_text_of_one_token_needs_no_decoding_step() -> None:
    harness = DecodingHarness()
    client = harness.ask("a", max_new_tokens=1)
    harness.run_all()
    assert (client.texts, len(harness.model.calls)) == ([expected_text("a", 1)], 1)


def test_a_stop_string_ends_a_text() -> None:
    harness = DecodingHarness()
    whole = expected_text("romeo", 20)
    client = harness.ask("romeo", max_new_tokens=20, stop=(whole[5:8],))
    harness.run_all()
    assert client.texts == [whole[: whole.index(whole[5:8]) + 3]]
    assert client.job.results[0].finish_reason == "stop"


def test_slots_bound_the_batch_and_are_reused() -> None:
    harness = DecodingHarness(slots=2)
    clients = [harness.ask(name, max_new_tokens=4) for name in ("a", "b", "c", "d", "e")]
    harness.run_all()
    assert max(rows for _, rows in harness.model.calls) == 2
    assert [client.texts[0] for client in clients] == [expected_text(name, 4) for name in "abcde"]


def test_one_bad_prompt_fails_alone() -> None:
    harness = DecodingHarness()
    clients = [harness.ask(prompt) for prompt in ("good", "b!d", "fine")]
    harness.run_all()
    assert [client.error for client in clients] == [None, "InternalError", None]
    assert clients[0].texts + clients[2].texts == [expected_text("good", 5), expected_text("fine", 5)]


def test_one_bad_row_fails_alone_in_a_step() -> None:
    harness = DecodingHarness()
    harness.model.bad_states = {state_after("bad", 3)}
    clients = [harness.ask(prompt, max_new_tokens=8) for prompt in ("one", "bad", "two")]
    harness.run_all()
    assert [client.error for client in clients] == [None, "InternalError", None]
    assert clients[0].texts + clients[2].texts == [expected_text("one", 8), expected_text("two", 8)]
    assert all(client.completions == 1 for client in clients)


@pytest.mark.parametrize("turns", [0, 2])
def test_missing_rows_fail_their_requests(turns: int) -> None:
    harness = DecodingHarness()
    clients = [harness.ask(prompt) for prompt in ("one", "two", "three")]
    for _ in range(turns):
        harness.run_once()
    harness.model.missing = 1
    harness.run_all()
    assert [(client.error, client.completions) for client in clients] == [("InternalError", 1)] * 3


@pytest.mark.parametrize(("how", "error"), [("leaves", "ClientGone"), ("is late", "DeadlinePassed")])
def test_a_disconnect_or_deadline_frees_the_slot_before_the_next_step(how: str, error: str) -> None:
    harness = DecodingHarness()
    gone = harness.ask("gone", max_new_tokens=50, timeout_s=10)
    there = harness.ask("there", max_new_tokens=6)
    harness.run_once()
    harness.run_once()
    if how == "leaves":
        gone.connected = False
    else:
        harness.clock.now_s += 10
    harness.run_once()
    assert (gone.error, harness.model.calls[-1]) == (error, (1, 1))
    harness.run_all()
    assert there.texts == [expected_text("there", 6)]


@pytest.mark.parametrize("stage", ["waiting", "reading"])
def test_a_disconnect_before_the_first_token_costs_no_more_calls(stage: str) -> None:
    harness = DecodingHarness(prefill_steps=2)
    client = harness.ask("abcdefgh")
    if stage == "reading":
        harness.run_once()
    calls = len(harness.model.calls)
    client.connected = False
    harness.run_all()
    assert (client.error, client.completions, len(harness.model.calls)) == ("ClientGone", 1, calls)


def test_a_failed_text_frees_the_slots_of_its_request() -> None:
    harness = DecodingHarness()
    client = harness.ask("b!d", "long", max_new_tokens=50)
    harness.run_all()
    assert (client.error, client.completions) == ("InternalError", 1)
    assert len(harness.model.calls) < 5


def test_a_full_queue_refuses_the_whole_request() -> None:
    harness = DecodingHarness(slots=1, queue_items=2)
    accepted = harness.ask("a", "b")
    with pytest.raises(Overloaded) as caught:
        harness.ask("c")
    assert caught.value.details == {"limit": 2, "retry_after_s": 1.0}
    harness.run_all()
    assert accepted.texts == [expected_text("a", 5), expected_text("b", 5)]


def test_a_closed_scheduler_finishes_what_was_admitted_before() -> None:
    harness = DecodingHarness(slots=1)
    accepted = [harness.ask("a"), harness.ask("b")]
    harness.run_once()
    harness.scheduler.close()
    with pytest.raises(Unavailable):
        harness.ask("c")
    harness.run_all()
    assert [client.texts[0] for client in accepted] == [expected_text("a", 5), expected_text("b", 5)]


def test_steps_run_together_for_the_time_of_a_dispatch() -> None:
    harness = DecodingHarness(dispatch_s=0.01)
    client = harness.ask("a", max_new_tokens=1000)
    harness.run_once()
    step_s = harness.cost.seconds(1, 1)
    work = harness.run_once()
    assert work is not None
    assert 0.01 - step_s < work.estimate_s <= 0.01
    (call,) = harness.metrics.calls["steps"]
    assert call["count"] == int(0.01 / step_s) > 1
    harness.run_all()
    assert client.texts == [expected_text("a", 1000)]


def test_a_dispatch_has_fewer_steps_on_a_slow_machine() -> None:
    harness = DecodingHarness(dispatch_s=0.01)
    harness.model.seconds = 0.006
    harness.ask("a", max_new_tokens=10**9)
    for _ in range(40):
        harness.run_once()
    assert harness.metrics.calls["steps"][-1]["count"] == 1


def test_a_dispatch_ends_when_a_text_is_done() -> None:
    harness = DecodingHarness(dispatch_s=1.0)
    harness.ask("a", max_new_tokens=4)
    harness.ask("b", max_new_tokens=100)
    harness.run_once()
    harness.run_once()
    assert [call["count"] for call in harness.metrics.calls["steps"]] == [3]


@pytest.mark.parametrize("turns", [0, 1])
def test_abandon_fails_running_requests_too(turns: int) -> None:
    harness = DecodingHarness()
    client = harness.ask("a", max_new_tokens=5)
    for _ in range(turns):
        harness.run_once()
    assert harness.scheduler.take() is not None
    harness.scheduler.abandon(InternalError())
    assert client.error == "InternalError"


def test_requested_tokens_count_in_the_queue() -> None:
    harness = DecodingHarness(queue_tokens=100)
    harness.ask("a", max_new_tokens=90)
    with pytest.raises(Overloaded):
        harness.ask("b", max_new_tokens=20)


def test_all_expired_and_disconnected_requests_end_in_one_pass() -> None:
    harness = DecodingHarness(slots=1)
    harness.ask("long", max_new_tokens=50)
    harness.run_once()
    late = [harness.ask("a", timeout_s=0.5) for _ in range(3)]
    gone = [harness.ask("b") for _ in range(3)]
    for client in gone:
        client.connected = False
    harness.clock.now_s += 1.0
    harness.run_once()
    assert [client.error for client in late + gone] == ["DeadlinePassed"] * 3 + ["ClientGone"] * 3


def test_the_state_is_preallocated_again_after_a_row_has_failed() -> None:
    harness = DecodingHarness()
    harness.model.bad_states = {state_after("bad", 3)}
    clients = [harness.ask(prompt, max_new_tokens=8) for prompt in ("one", "bad")]
    while clients[1].completions == 0:
        harness.run_once()
    assert len(harness.model.empty_states) == 2


def test_abandon_fails_the_jobs_even_if_their_last_tokens_cannot_be_appended(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = DecodingHarness()
    client = harness.ask("a", max_new_tokens=50)
    harness.run_once()
    harness.run_once()
    monkeypatch.setattr(GeneratedText, "extend", None)  # a bug
    harness.scheduler.abandon(InternalError())
    assert client.error == "InternalError"
    assert harness.scheduler.used_slots == 0
