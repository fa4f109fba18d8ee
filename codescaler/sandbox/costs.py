"""What right programs of one problem cost on the same inputs, in processor time, measured from outside of them.

The cost of a program is the processor time of running its text and all that its tests ask of it once, without the start
of Python. For calls that is far below what a clock can tell, so it is repeated, and what it takes to repeat without the
program is taken off. Programs take turns, so that what else the machine does meets all of them.
"""

from collections.abc import Sequence
from typing import Any

from codescaler.sandbox.box import Box
from codescaler.sandbox.inside.codec import ConnectionLost, receive
from codescaler.sandbox.limits import Limits
from codescaler.sandbox.verdicts import attempt_calls, run_main
from codescaler.types import CallTests, StdioTests, Tests

Costs = tuple[float, ...]  # of each round, in seconds

_MIN_SECONDS = 0.05  # of a measurement of calls, which then stands out from the 5 ms that a process takes by itself
_LEAST_COST = 1e-9  # what is said of a program whose cost is lost in noise
_MAX_REPETITIONS = 1 << 16


def costs_of(box: Box, limits: Limits, codes: Sequence[str], tests: Tests, num_rounds: int) -> list[Costs | None]:
    """Returns the cost of each program in each round; None of one that does not pass the tests, or not every time."""
    if isinstance(tests, CallTests):
        runs: list[_Calls | _Output | None] = [_Calls.prepared(box, limits, code, tests) for code in codes]
    else:
        runs = [_Output(box, limits, code, tests) for code in codes]
    rounds = [[None if run is None else run.measured() for run in runs] for _ in range(num_rounds)]
    columns = [[cost for cost in column if cost is not None] for column in zip(*rounds, strict=True)]
    return [tuple(column) if column and len(column) == num_rounds else None for column in columns]


class _Calls:
    """A program with what it was asked, and as many repetitions as a measurement takes."""

    def __init__(self, box: Box, code: str, prelude: str, dialogue: list[Any]) -> None:
        self._box, self._num_repetitions = box, 1
        self._task = {"code": code, "prelude": prelude, "dialogue": dialogue}

    @classmethod
    def prepared(cls, box: Box, limits: Limits, code: str, tests: CallTests) -> "_Calls | None":
        attempt = attempt_calls(box, limits, code, tests, has_to_record=True)
        if attempt.dialogue is None or any(outcome != "passed" for outcome, _ in attempt.reports):
            return None
        run = cls(box, code, tests.prelude, attempt.dialogue)
        start = run._seconds(has_calls=False)
        while start is not None and run._num_repetitions < _MAX_REPETITIONS:
            seconds = run._seconds(has_calls=True)
            if seconds is None:
                return None
            if seconds - start >= _MIN_SECONDS:
                return run
            run._num_repetitions *= 4
        return run if start is not None else None

    def measured(self) -> float | None:
        """The cost of one repetition."""
        with_calls, without = self._seconds(has_calls=True), self._seconds(has_calls=False)
        if with_calls is None or without is None:
            return None
        return max((with_calls - without) / self._num_repetitions, _LEAST_COST)

    def _seconds(self, *, has_calls: bool) -> float | None:
        process = self._box.start("replay")
        process.tell({**self._task, "num_repetitions": self._num_repetitions, "has_calls": has_calls})
        try:
            is_done = receive(process.work) == "done"
        except ConnectionLost:
            is_done = False
        end = process.end(kill=not is_done)
        return end.cpu_seconds if is_done else None


class _Output:
    """A program that is run, once a test."""

    def __init__(self, box: Box, limits: Limits, code: str, tests: StdioTests) -> None:
        self._box, self._limits, self._code, self._tests = box, limits, code, tests

    def measured(self) -> float | None:
        """The cost of all tests, without that of a program of no text."""
        total = 0.0
        for case in self._tests.cases:
            (outcome, _), end = run_main(self._box, self._limits, self._code, *case)
            _, start = run_main(self._box, self._limits, "", case[0], "")
            if outcome != "passed":
                return None
            total += end.cpu_seconds - start.cpu_seconds
        return max(total, _LEAST_COST)
