"""The decoding batch of translations: rows of beams join and leave together, and share the memory of their source."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from models.tasks.translation_rows import MemoryColumns
from service.scheduling.translation_batch import SourcePrefill, TranslationSteps
from tests.support.translation import TranslationHarness, found_by, number_after, translated_alone


def test_targets_are_those_that_a_source_has_alone() -> None:
    harness = TranslationHarness()
    asked = {"num_beams": 5, "num_return_sequences": 3, "max_new_tokens": 12}
    client = harness.ask("abc", "a", "bcab", **asked)
    harness.run_all()
    assert found_by(client) == [translated_alone(source, **asked) for source in ("abc", "a", "bcab")]


def test_63_neighbors_change_nothing() -> None:
    harness = TranslationHarness(slots=512)
    sources = ["".join(letters) for letters in itertools.product("abcd", repeat=3)]
    clients = [harness.ask(source, num_beams=1 + number % 4, max_new_tokens=9) for number, source in enumerate(sources)]
    harness.run_all()
    for number, (client, source) in enumerate(zip(clients, sources, strict=True)):
        assert found_by(client) == [translated_alone(source, num_beams=1 + number % 4, max_new_tokens=9)]


def test_sources_are_read_in_one_ragged_call() -> None:
    harness = TranslationHarness()
    harness.ask("abc", max_new_tokens=2)
    harness.ask("a", max_new_tokens=2)
    assert isinstance(harness.run_once(), SourcePrefill)
    assert harness.model.reads == [2]
    (call,) = harness.metrics.calls["prefill"]
    assert (call["rows"], call["padded_tokens"], call["real_tokens"]) == (2, 8, 6)


def test_a_source_is_read_between_two_steps() -> None:
    harness = TranslationHarness()
    harness.ask("abc", max_new_tokens=50, num_beams=4)
    harness.run_once()
    harness.run_once()
    harness.ask("b", max_new_tokens=5)
    kinds = [type(harness.run_once()) for _ in range(3)]
    assert kinds == [SourcePrefill, TranslationSteps, TranslationSteps]


@pytest.mark.parametrize(("how", "error"), [("leaves", "ClientGone"), ("is late", "DeadlinePassed")])
def test_a_disconnect_or_deadline_frees_all_rows_before_the_next_step(how: str, error: str) -> None:
    harness = TranslationHarness()
    gone = harness.ask("abc", "aab", num_beams=8, num_return_sequences=8, max_new_tokens=60, timeout_s=10)
    there = harness.ask("b", max_new_tokens=9)
    for _ in range(4):
        harness.run_once()
    assert harness.model.steps[-1] > 10
    if how == "leaves":
        gone.connected = False
    else:
        harness.clock.now_s += 10
    harness.run_once()
    assert (gone.error, harness.model.steps[-1]) == (error, 1)
    harness.run_all()
    assert found_by(there) == [translated_alone("b", max_new_tokens=9)]


def test_a_failed_row_fails_its_request_and_no_other() -> None:
    harness = TranslationHarness()
    asked = {"num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 9}
    ((first, *_), *_) = (pieces for pieces, _, _ in translated_alone("bad", **asked))
    harness.model.bad_numbers = {number_after("bad", [first])}
    clients = [harness.ask(*sources, **asked) for sources in (["abc"], ["bad", "cab"], ["bca"])]
    harness.run_all()
    assert [client.error for client in clients] == [None, "InternalError", None]
    assert found_by(clients[0]) + found_by(clients[2]) == [
        translated_alone(source, **asked) for source in ("abc", "bca")
    ]


def test_a_source_that_cannot_be_read_fails_alone() -> None:
    harness = TranslationHarness()
    clients = [harness.ask(source, max_new_tokens=4) for source in ("abc", "b!d", "cab")]
    harness.run_all()
    assert [client.error for client in clients] == [None, "InternalError", None]


def test_a_search_waits_until_all_its_rows_have_slots() -> None:
    harness = TranslationHarness(slots=5)
    wide = {"num_beams": 4, "num_return_sequences": 4, "max_new_tokens": 30}
    first, second = harness.ask("abc", **wide), harness.ask("cab", **wide)
    harness.ask("b", max_new_tokens=2)  # one slot is free, but not for a later request
    harness.run_once()
    assert harness.model.reads == [1]
    harness.run_all()
    assert max(harness.model.steps) <= 5
    assert found_by(first) + found_by(second) == [translated_alone(source, **wide) for source in ("abc", "cab")]


def test_the_first_token_and_all_tokens_are_counted() -> None:
    harness = TranslationHarness()
    harness.ask("abc", num_beams=2, max_new_tokens=3)
    harness.run_all()
    assert len(harness.metrics.calls["first_token"]) == 1
    assert sum(call["count"] for call in harness.metrics.calls["tokens"]) == sum(harness.model.steps)


def test_steps_run_together_for_the_time_of_a_dispatch() -> None:
    harness = TranslationHarness(dispatch_s=1.0)
    client = harness.ask("abc", max_new_tokens=30)
    harness.run_once()
    harness.run_once()
    assert found_by(client) == [translated_alone("abc", max_new_tokens=30)]


def memory(value: float, steps: int) -> tuple[NDArray[np.float32]]:
    return (np.full((steps, 2), value, np.float32),)


def test_columns_keep_their_content_while_others_come_and_go() -> None:
    columns = MemoryColumns()
    first, second = columns.add(memory(1, 3)), columns.add(memory(2, 40))
    columns.free(second)
    third = columns.add(memory(3, 2))
    (array,), lengths = columns.memory
    assert third == second
    assert array.shape[0] == lengths[first] == 3
    assert array.flags.c_contiguous
    np.testing.assert_array_equal(array[:3, first], 1)
    np.testing.assert_array_equal(array[:, third, 0], [3, 3, 0])


def test_an_empty_batch_keeps_no_memory() -> None:
    columns = MemoryColumns()
    columns.free(columns.add(memory(1, 3)))
    assert columns.memory.arrays == ()
