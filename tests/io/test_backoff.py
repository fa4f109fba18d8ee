"""Pauses between tries, and the times that servers ask for."""

from email.message import Message

import pytest

from codescaler.io.backoff import Backoff, read_retry_after


def test_pauses_double_up_to_the_longest():
    backoff = Backoff(0.5, 10.0)
    assert [backoff.step() for _ in range(7)] == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_a_server_that_asks_for_a_time_gets_it_up_to_the_longest():
    backoff = Backoff(0.5, 10.0)
    assert [backoff.step(asked_s) for asked_s in (3.0, 0.1, 99.0, 0.0)] == [3.0, 1.0, 10.0, 4.0]


@pytest.mark.parametrize("value, expected", [("7", 7.0), (None, 0.0), ("", 0.0), ("-1", 0.0), ("1.5", 0.0), ("٣", 0.0),
                                             ("Fri, 27 Nov 2026 04:00:00 GMT", 0.0)])  # fmt: skip
def test_only_whole_seconds_are_read(value, expected):
    headers = Message()
    if value is not None:
        headers["retry-after"] = value
    assert read_retry_after(headers) == expected
