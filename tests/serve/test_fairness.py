"""Which client comes next, in forwards and on the threads that encode."""

import threading
from concurrent.futures import Future
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codescaler.engine.scheduler import Request
from codescaler.serve.fair_pool import LARGE_BYTES, FairPool
from codescaler.serve.fairness import LINGER_S, FairSelect


def make_request(client, tokens):
    return Request([np.array(tokens, dtype=np.int32)], client=client)


def make_select(speed=0.0):
    return FairSelect(lambda: speed)


def test_two_clients_that_flood_have_half_of_every_turn():
    flood = [make_request("a", [1000 + i] * 100) for i in range(50)]
    others = [make_request("b", [5000 + i] * 100) for i in range(50)]
    select = make_select()
    waiting = [*flood, *others]
    for _ in range(4):
        chosen = select(waiting, 1000)
        counts = [sum(request.client == name for request in chosen) for name in "ab"]
        assert min(counts) >= 4, counts
        waiting = [request for request in waiting if request not in chosen]


def test_a_client_of_single_rows_waits_for_turns_of_its_own_size():
    """It takes part in every second turn. The turn before is as large as its row: its time is twice that alone."""
    flood = [make_request("flood", [1000 + i] * 100) for i in range(500)]
    select = make_select()
    assert len(select(flood, 8000)) == 80, "alone, a client has whole turns"
    select([*flood, make_request("single", [8000] * 100)], 8000)  # of equals, the one who came first
    select([*flood, make_request("single", [8000] * 100)], 8000)
    assert len(select(flood, 8000)) == 1
    for number in range(5):
        row = make_request("single", [9000 + number] * 100)
        chosen = select([*flood, row], 8000)
        assert chosen == [row], "who has had less comes first, and the turn ends with its demand"
        assert len(select(flood, 8000)) == 1, "while it is about to send the next row, turns stay small"


def test_a_turn_holds_what_a_fast_device_computes_in_a_moment():
    flood = [make_request("flood", [1000 + i] * 100) for i in range(500)]
    select = make_select(speed=200_000.0)
    select([*flood, make_request("single", [1] * 100)], 8000)
    assert len(select(flood, 8000)) == 10


def test_turns_are_whole_again_when_the_other_client_has_left(monkeypatch):
    now = 100.0
    monkeypatch.setattr("codescaler.serve.fairness.time.monotonic", lambda: now)
    flood = [make_request("flood", [1000 + i] * 100) for i in range(500)]
    select = make_select()
    select([*flood, make_request("single", [1] * 100)], 8000)
    select(flood, 8000)  # its answer came just before this turn
    now += LINGER_S
    assert len(select(flood, 8000)) == 80


def test_a_client_that_waited_long_has_no_credit_for_it():
    select = make_select()
    for number in range(50):
        select([make_request("a", [number] * 100), *([make_request("b", [7] * 10)] if number == 0 else [])], 1000)
    waiting = [make_request(client, [i] * 100) for i in range(100) for client in "ab"]
    counts = {"a": 0, "b": 0}
    for _ in range(10):
        for request in select(waiting, 1000):
            counts[request.client] += 1
            waiting.remove(request)
    assert counts["b"] - counts["a"] <= 11, counts


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_every_request_has_its_turn(data):
    clients = data.draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=30))
    waiting = [
        make_request(client, [data.draw(st.integers(0, 3))] * data.draw(st.integers(1, 150))) for client in clients
    ]
    select = make_select()
    for _ in range(len(waiting)):
        if not waiting:
            return
        chosen = select(waiting, 100)
        assert chosen and len(set(map(id, chosen))) == len(chosen)
        assert waiting[0] in chosen or len({request.client for request in waiting}) > 1
        waiting = [request for request in waiting if request not in chosen]
    assert not waiting


def test_siblings_of_a_client_come_together():
    beginnings = [[7] * 64, [8] * 64]
    waiting = [make_request(client, [*beginnings[i % 2], i]) for i in range(8) for client in "ab"]
    chosen = make_select()(waiting, 200)
    for name in "ab":
        taken = [request for request in chosen if request.client == name]
        assert len({request.beginning for request in taken}) < len(taken)


@pytest.fixture
def pool():
    pool = FairPool(2)
    yield pool
    pool.close()


def occupy(pool, client="holder", num_bytes=1):
    """Keeps a thread of the pool busy until the event is set."""
    begun, go_on = threading.Event(), threading.Event()

    def run():
        begun.set()
        assert go_on.wait(30)

    future = pool.submit(run, client=client, num_bytes=num_bytes)
    return begun, go_on, future


def test_a_client_with_many_bodies_does_not_keep_another_waiting(pool):
    holders = [occupy(pool) for _ in range(2)]
    for begun, _, _ in holders:
        assert begun.wait(30)
    order = []
    flood = [pool.submit(lambda: order.append("flood"), client="flood", num_bytes=100) for _ in range(100)]
    other = pool.submit(lambda: order.append("other"), client="other", num_bytes=100)
    holders[0][1].set()
    other.result(30)
    assert order.index("other") <= 1
    for future in flood:
        future.result(30)
    holders[1][1].set()


def test_a_client_pays_for_the_rows_that_its_body_becomes():
    pool = FairPool(1)
    begun, go_on, _ = occupy(pool, client="small body, many rows")
    assert begun.wait(30)
    order = []
    clients = ["small body, many rows", "other"] * 5
    futures = [pool.submit(partial(order.append, client), client=client, num_bytes=1) for client in clients]
    pool.charge("small body, many rows", 1, 1 << 20)
    go_on.set()
    for future in futures:
        future.result(30)
    pool.close()
    assert order[:5] == ["other"] * 5


def test_large_bodies_leave_a_thread_to_small_ones(pool):
    begun, go_on, large = occupy(pool, num_bytes=LARGE_BYTES + 1)
    assert begun.wait(30)
    second = pool.submit(lambda: "second", client="holder", num_bytes=LARGE_BYTES + 1)
    assert pool.submit(lambda: "small", client="holder", num_bytes=1).result(30) == "small"
    assert not second.running() and not second.done()
    go_on.set()
    assert second.result(30) == "second"
    large.result(30)


def test_what_is_cancelled_is_not_run_and_errors_reach_the_caller(pool):
    holders = [occupy(pool) for _ in range(2)]
    for begun, _, _ in holders:
        assert begun.wait(30)
    ran = []
    cancelled = pool.submit(lambda: ran.append(1), client="a", num_bytes=1)
    failing = pool.submit(lambda: 1 / 0, client="a", num_bytes=1)
    assert cancelled.cancel()
    for _, go_on, _ in holders:
        go_on.set()
    assert isinstance(failing.exception(30), ZeroDivisionError)
    assert not ran and pool._queues == {}


def test_a_pool_that_closes_cancels_what_waits():
    pool = FairPool(1)
    begun, go_on, future = occupy(pool)
    assert begun.wait(30)
    waiting: Future = pool.submit(lambda: None, client="a", num_bytes=1)
    pool.close()
    assert waiting.cancelled()
    go_on.set()
    assert future.result(30) is None
