"""What requests hold is given back, whatever ends them, and a client has its part of every limit."""

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codescaler.serve.holding import Holding, SharedLimit

from .conftest import send


def test_a_holding_gives_back_in_reverse_whatever_ends_it():
    given_back = []

    def fail():
        with Holding() as holding:
            holding.add(lambda: given_back.append("first"))
            holding.add(lambda: given_back.append("second"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert given_back == ["second", "first"]


def test_what_a_thread_takes_after_the_end_goes_back_at_once():
    with Holding() as holding:
        pass
    given_back = []
    thread = threading.Thread(target=lambda: holding.add(lambda: given_back.append(1)))
    thread.start()
    thread.join()
    assert holding.has_ended and given_back == [1]


def test_a_clients_backlog_leaves_others_their_part():
    limit = SharedLimit(100.0)
    backlog = [limit.take("flood", 10) for _ in range(10)]
    assert all(backlog) and limit.take("flood", 1) is None
    other = [limit.take("other", 10) for _ in range(6)]
    assert [share is not None for share in other] == [True] * 5 + [False]  # half of the limit
    backlog[0].give_back()
    assert limit.take("flood", 10) is None  # others hold more than before
    assert limit.num_held == 140


def test_what_is_larger_than_the_limit_is_taken_when_nothing_else_is():
    limit = SharedLimit(10.0)
    share = limit.take("a", 1000)
    assert share is not None and limit.num_held == 1000
    assert limit.take("a", 1) is None
    share.give_back(990)
    assert limit.take("a", 1) is not None
    share.give_back()
    share.give_back()  # nothing is left to give
    assert limit.num_held == 1


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 60), st.integers(0, 60)), max_size=40))
def test_a_limit_is_bounded_and_ends_empty(calls):
    limit = SharedLimit(100.0)
    shares = []
    for client, count, returned in calls:
        share = limit.take(client, count)
        if share is not None:
            share.give_back(returned)
            shares.append(share)
        held = [sum(share.count for share in shares if share.client == name) for name in "abcd"]
        assert limit.num_held == sum(held) <= 100 * (1 + 1 / 2 + 1 / 3 + 1 / 4)
    for share in shares:
        share.give_back()
    assert limit.num_held == 0 and limit.take("a", 100) is not None


@pytest.mark.parametrize("fails_at", [0, 1, 2])
def test_tokens_are_given_back_if_a_part_cannot_be_queued(server, engine, monkeypatch, fails_at):
    """A request of three parts, of which one raises: nothing stays held, and what was queued is not computed."""
    monkeypatch.setattr(engine.scheduler, "budget", 4)
    submit, parts = engine.submit_tokens, []

    def fail(*arguments, **options):
        if len(parts) == fails_at:
            raise RuntimeError("no room")
        parts.append(submit(*arguments, **options))
        return parts[-1]

    monkeypatch.setattr(engine, "submit_tokens", fail)
    assert send(server.url + "/classify", {"input": [[1, 2, 3]] * 3})[0] == 500
    assert server.service.num_waiting_tokens == 0
    assert server.service._bodies.num_held == 0
    assert all(part.done() for part in parts)
