"""Clients share the queue: long requests of one neither delay nor refuse the short ones of another."""

from collections import defaultdict
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InternalError, Overloaded
from service.scheduling.job import TURN_TOKENS, ClientShare, FairQueue
from tests.support.scheduling import Client, DecodingHarness, FixedCostModel, Item, SequenceHarness

LONG = 16 * [4096]


def ask(harness: SequenceHarness, *lengths: int, **asked: Any) -> Client:
    """Send a request whose number of tokens is known before it is encoded."""
    client = Client(harness.clock, **asked)
    items = [Item(f"{client.request.client or 'x'}{number}", length) for number, length in enumerate(lengths)]
    return client.submit(harness.scheduler, items, sum(lengths))


def test_a_long_request_refuses_no_short_one_of_another_client() -> None:
    harness = SequenceHarness(cost=FixedCostModel(1e-3), queue_s=10.0)
    ask(harness, *LONG, name="long")  # 65 s of work
    short = [ask(harness, 20) for _ in range(50)]
    while sum("long" in batch[0] for batch in harness.model.batches) < 2:
        harness.run_once()
    assert all(client.job.done for client in short)
    assert not any(client.error for client in short)


def test_the_short_requests_of_all_clients_still_have_a_limit() -> None:
    harness = SequenceHarness(cost=FixedCostModel(1e-3), queue_s=10.0)
    ask(harness, *LONG)
    for _ in range((10_000 - TURN_TOKENS) // 20 + 1):  # 10 s of work, of which the long request has one turn
        ask(harness, 20)
    with pytest.raises(Overloaded):
        ask(harness, 20)


def test_a_half_full_queue_refuses_the_client_that_holds_most_of_it() -> None:
    harness = SequenceHarness(queue_tokens=20_000)
    ask(harness, 8000)
    ask(harness, 3000)
    with pytest.raises(Overloaded):
        ask(harness, 8000)
    assert ask(harness, 4000).error is None


def test_a_client_alone_may_fill_the_queue() -> None:
    harness = SequenceHarness(queue_tokens=20_000)
    for _ in range(2):
        assert ask(harness, 8000, name="key").error is None


def test_a_half_full_queue_refuses_the_client_that_holds_most_of_its_inputs() -> None:
    harness = SequenceHarness(queue_items=16)
    ask(harness, *7 * [1], name="many")
    ask(harness, 1, 1, name="few")
    with pytest.raises(Overloaded):
        ask(harness, 1, name="many")
    assert ask(harness, 1, name="few").error is None


def test_one_client_waits_for_all_of_its_own_work() -> None:
    harness = SequenceHarness(cost=FixedCostModel(1e-3), queue_s=10.0)
    ask(harness, *LONG, name="key")
    with pytest.raises(Overloaded):
        ask(harness, 20, name="key")


def test_a_deadline_is_compared_with_the_work_before_it() -> None:
    harness = SequenceHarness(cost=FixedCostModel(1e-3), queue_s=100.0)
    ask(harness, *LONG)
    assert ask(harness, 20, timeout_s=5.0).error is None


def test_ordinary_requests_are_done_in_the_order_of_their_arrival() -> None:
    harness = SequenceHarness(batch_rows=4)
    clients = [ask(harness, *[5 + number] * 8, name=f"key {number}") for number in range(5)]
    for done in range(1, 6):
        harness.run_once()
        harness.run_once()
        assert [client.job.done for client in clients] == [number < done for number in range(5)]


def test_a_long_list_of_prompts_leaves_slots_to_other_clients() -> None:
    harness = DecodingHarness(slots=2)
    many = harness.ask(*["a"] * 20, max_new_tokens=3000)
    other = harness.ask("b")
    for _ in range(7000):
        harness.run_once()
    assert other.job.done
    assert not many.job.done


def test_a_failed_scheduler_forgets_what_clients_held() -> None:
    harness = SequenceHarness(queue_tokens=20_000)
    ask(harness, 15_000, name="key")
    encoding = harness.scheduler.admit(Client(harness.clock, name="key").request, 1, 100)
    harness.scheduler.abandon(InternalError())
    assert encoding.share.tokens == 100
    assert ask(harness, 15_000, name="key").error is None


@given(actions=st.lists(st.one_of(st.integers(1, 4), st.sampled_from(["run", "modest"])), max_size=60))
def test_many_small_requests_of_one_client_refuse_no_request_of_a_modest_one(actions: list[int | str]) -> None:
    harness = SequenceHarness(queue_items=32, batch_rows=4)
    modest = [ask(harness, 1, name="modest")]
    for action in actions:
        if action == "run":
            harness.run_once()
        elif action == "modest":
            if modest[-1].job.done:
                modest.append(ask(harness, 1, name="modest"))
        else:
            with suppress(Overloaded):
                while True:
                    ask(harness, *[1] * int(action), name="many")
    harness.run_all()
    assert all(client.job.results for client in modest)


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(0, 4), st.integers(1, TURN_TOKENS + 500)),
        st.tuples(st.just("pop"), st.just(0), st.just(0)),
        st.tuples(st.just("drop"), st.integers(0, 4), st.just(0)),
    ),
    max_size=120,
)


@given(actions=ACTIONS)
def test_every_client_has_its_turn(actions: list[tuple[str, int, int]]) -> None:
    queue: FairQueue[tuple[int, int, int]] = FairQueue()
    shares = [ClientShare(str(number)) for number in range(5)]
    waiting: defaultdict[int, list[tuple[int, int, int]]] = defaultdict(list)
    since: defaultdict[int, int] = defaultdict(int)  # tokens of others while a client waited
    for number, (action, who, tokens) in enumerate([*actions, *[("pop", 0, 0)] * len(actions)]):
        if action == "push":
            if not waiting[who]:
                since[who] = 0
            waiting[who].append((who, tokens, number))
            queue.push(shares[who], waiting[who][-1:])
        elif action == "drop":
            assert sorted(queue.drop(lambda item, who=who: item[0] == who)) == sorted(waiting.pop(who, []))  # type: ignore[misc]
        elif (item := queue.pop()) is None:
            assert not any(waiting.values())
        else:
            owner, spent, _ = item
            assert waiting[owner].pop(0) == item
            queue.spend(shares[owner], spent)
            since[owner] = 0
            for other, items in waiting.items():
                if items and other != owner:
                    since[other] += spent
                    assert since[other] <= 4 * (2 * TURN_TOKENS + 500)
    assert not any(waiting.values())


REQUESTS = st.lists(
    st.one_of(
        st.tuples(
            st.just("ask"), st.sampled_from(["", "a", "b"]), st.lists(st.integers(1, 6000), min_size=1, max_size=4)
        ),
        st.tuples(st.just("admit"), st.sampled_from(["", "a", "b"]), st.integers(0, 9000)),
        st.tuples(st.just("disconnect"), st.integers(0, 20), st.none()),
        st.tuples(st.just("cancel"), st.integers(0, 20), st.none()),
        st.tuples(st.just("run"), st.none(), st.none()),
        st.tuples(st.just("sweep"), st.none(), st.none()),
    ),
    max_size=40,
)


@given(actions=REQUESTS)
def test_what_clients_hold_is_what_is_queued_and_reserved(actions: list[tuple[str, Any, Any]]) -> None:
    harness = SequenceHarness(queue_tokens=20_000)
    scheduler, clients = harness.scheduler, list[Client]()
    shares: set[ClientShare] = set()
    for action, who, what in actions:
        try:
            if action == "ask":
                clients.append(ask(harness, *what, name=who))
            elif action == "admit":
                clients.append(Client(harness.clock, name=who))
                clients[-1].job = scheduler.admit(clients[-1].request, 1, what)
        except Overloaded:
            clients = [client for client in clients if hasattr(client, "job")]
        if action in ("disconnect", "cancel") and clients:
            client = clients[who % len(clients)]
            client.connected = False
            if action == "cancel":
                client.job.cancel()
        elif action == "run":
            harness.run_once()
        elif action == "sweep":
            harness.clock.now_s += 1.0
            scheduler.drop_cancelled()
        shares |= {client.job.share for client in clients}
        reserved = sum(job.reserved_tokens for job in scheduler.jobs)
        assert sum(share.tokens for share in shares) == scheduler.queued_tokens + reserved
        assert sum(share.jobs for share in shares) == len(scheduler.jobs)
        assert sum(share.items for share in shares) == sum(job.items for job in scheduler.jobs)
        assert all(share.tokens >= 0 for share in shares)
    for client in clients:
        client.job.cancel()
    harness.run_all()
