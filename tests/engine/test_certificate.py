"""A stream of problems that leaves what a certificate was counted on is noticed, and one that stays is not."""

import threading

import numpy as np
import pytest

from codescaler.engine.certificate import DriftMonitor, compare_samples, describe_problem
from codescaler.engine.exits import DROPPED


def draw_statistics(random, num, shift=0.0, scale=1.0):
    return random.normal(shift, scale, (num, 3))


def watch(random, num, before=0, **settings):
    """Returns after how many problems a monitor warns, None if it does not; `before` others are as the reference."""
    monitor = DriftMonitor(draw_statistics(random, 299).T.tolist())
    for row in draw_statistics(random, before):
        monitor.add(tuple(row))
    for number, row in enumerate(draw_statistics(random, num, **settings), 1):
        monitor.add(tuple(row))
        if monitor.has_drifted:
            return number
    return None


def test_a_stationary_stream_is_hardly_ever_taken_for_another():
    random = np.random.default_rng(0)
    alarms = sum(watch(random, 64 * 10) is not None for _ in range(300))
    assert alarms <= 0.05 * 300 + 1.65 * (300 * 0.05 * 0.95) ** 0.5


@pytest.mark.parametrize("settings", [{"shift": 1.0}, {"scale": 2.5}])
def test_a_stream_that_drifted_is_noticed_soon(settings):
    random = np.random.default_rng(1)
    found = [watch(random, 64 * 4, **settings) for _ in range(50)]
    assert None not in found and np.median(found) <= 128


def test_a_small_change_that_comes_late_is_noticed_if_it_lasts():
    random = np.random.default_rng(2)
    found = [watch(random, 64 * 64, before=64 * 100, shift=0.5) for _ in range(20)]
    assert None not in found and np.median(found) <= 64 * 32


def test_it_warns_once(caplog):
    monitor = DriftMonitor([[0.0] * 100] * 4)
    for _ in range(200):
        monitor.add((0.0, 0.0, 9.0, 0.0))
    assert [record.message for record in caplog.records if "spread_at_first_exit differs" in record.message] == [
        caplog.records[0].message
    ]
    assert len(caplog.records) == 1


class SlowLock:
    """A lock after whose first use another thread closes a window, before the first one goes on."""

    def __init__(self, monitor):
        self.lock, self.monitor, self.is_first = threading.Lock(), monitor, True

    def __enter__(self):
        self.lock.acquire()

    def __exit__(self, *_):
        self.lock.release()
        if self.is_first:
            self.is_first = False
            for _ in range(63):
                self.monitor.add((9.0, 9.0, 9.0, 9.0))


def test_threads_that_see_a_drift_together_do_not_fail(caplog):
    monitor = DriftMonitor([[0.0] * 100] * 4)
    monitor._lock = SlowLock(monitor)
    monitor.add((9.0, 9.0, 9.0, 9.0))
    assert monitor.has_drifted and len(caplog.records) == 1


def test_the_chance_of_two_samples():
    assert compare_samples([1.0, 2.0], [1.0, 2.0]) == 1.0
    left, right = np.arange(100.0), np.arange(50.0) + 30  # 30 of the 100 are below all of the 50
    assert compare_samples(left, right) == pytest.approx(2 * np.exp(-2 * 100 * 50 / 150 * 0.3**2))


def test_what_is_watched_does_not_depend_on_who_was_dropped():
    full = np.array([[1.0, 3.0], [0.0, 1.0], [5.0, 2.0]], np.float32)
    cut = full.copy()
    cut[1, 1] = DROPPED
    assert describe_problem(full) == describe_problem(cut) == (3.0, 5.0, 3.0, 3.0)
