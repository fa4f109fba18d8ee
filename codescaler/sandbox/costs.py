"""What correct programs of one problem cost on the same inputs, in CPU time.

The cost of a program is the CPU time of running its text and all that its tests ask of it once, without the start
of Python. For calls that is far below what a clock can tell, so it is repeated in bursts, and what it takes to repeat
without the program is taken off. In each round every program has several short bursts of both kinds, of which the
fastest counts, since what else a machine does only ever adds; programs take turns, so that it meets all of them alike.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from codescaler.sandbox.box import Box, Process
from codescaler.sandbox.inside.wire import ConnectionLost, receive
from codescaler.sandbox.limits import Limits
from codescaler.sandbox.outputs import Program, prepare_program
from codescaler.sandbox.verdicts import attempt_calls
from codescaler.types import CallTests, StdioTests, Tests

Costs = tuple[float, ...]  # of each round, in seconds

_BURST_SECONDS = 0.001  # long beside the clock's error, short beside the time between two disturbances
_NUM_BURSTS = 20
_MAX_REPETITIONS = 1 << 16
_LEAST_COST = 1e-9  # what is said of a program whose cost is lost in noise


def measure_costs(box: Box, limits: Limits, codes: Sequence[str], tests: Tests, num_rounds: int) -> list[Costs | None]:
    """Returns the cost of each program in each round; None of one that does not pass the tests, or not every time."""
    if isinstance(tests, StdioTests):
        rounds = [[_measure_output_cost(box, limits, code, tests) for code in codes] for _ in range(num_rounds)]
    else:
        with ExitStack() as stack:
            runs = [_Calls.start(stack, box, limits, code, tests) for code in codes]
            rounds = []
            for _ in range(num_rounds):
                bursts = [[None if run is None else run.time_bursts() for run in runs] for _ in range(_NUM_BURSTS)]
                columns = zip(runs, zip(*bursts, strict=True), strict=True)
                rounds.append([None if run is None else run.compute_cost(column) for run, column in columns])
    measured = [[cost for cost in column if cost is not None] for column in zip(*rounds, strict=True)]
    return [tuple(costs) if len(costs) == num_rounds else None for costs in measured]


class _Calls:
    """A process with a program and what its tests ask, which does so on demand."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._num_repetitions = 1

    @classmethod
    def start(cls, stack: ExitStack, box: Box, limits: Limits, code: str, tests: CallTests) -> "_Calls | None":
        """Runs the tests, and starts the process if they pass; the stack ends it."""
        attempt = attempt_calls(box, limits, code, tests, has_to_record=True)
        if attempt.dialogue is None or any(outcome != "passed" for outcome, _ in attempt.reports):
            return None
        process = box.start("replay")
        stack.callback(process.end, kill=True)
        process.tell({"code": code, "prelude": tests.prelude, "dialogue": attempt.dialogue})
        run = cls(process)
        if run._read_answer() != "ready":
            return None
        while (seconds := run._time_burst(has_calls=True)) is not None and seconds < _BURST_SECONDS:
            if run._num_repetitions >= _MAX_REPETITIONS:
                break
            run._num_repetitions *= 2
        return None if seconds is None else run

    def time_bursts(self) -> tuple[float, float] | None:
        """The seconds of a burst with the program's part, and of one without."""
        with_calls, without = self._time_burst(has_calls=True), self._time_burst(has_calls=False)
        return None if with_calls is None or without is None else (with_calls, without)

    def compute_cost(self, bursts: Sequence[tuple[float, float] | None]) -> float | None:
        """The seconds of one repetition."""
        whole = [burst for burst in bursts if burst is not None]
        if len(whole) < len(bursts):
            return None
        with_calls, without = min(first for first, _ in whole), min(second for _, second in whole)
        return max((with_calls - without) / self._num_repetitions, _LEAST_COST)

    def _time_burst(self, *, has_calls: bool) -> float | None:
        self._process.tell([self._num_repetitions, has_calls])
        answer = self._read_answer()
        return answer / 1e9 if isinstance(answer, int) and answer >= 0 else None

    def _read_answer(self) -> Any:
        try:
            return receive(self._process.work, 64)
        except ConnectionLost:
            return None


def _measure_output_cost(box: Box, limits: Limits, code: str, tests: StdioTests) -> float | None:
    """The seconds of all tests, without those of a program of no text."""
    total = 0.0
    with prepare_program(box, limits, code, tests) as program, prepare_program(box, limits, "", tests) as empty:
        assert isinstance(program, Program) and isinstance(empty, Program)  # nothing to compile
        for stdin, expected in tests.cases:
            (outcome, _), end = program.run(box, limits, stdin, expected)
            _, start = empty.run(box, limits, stdin, "")
            if outcome != "passed":
                return None
            total += end.cpu_seconds - start.cpu_seconds
    return max(total, _LEAST_COST)
