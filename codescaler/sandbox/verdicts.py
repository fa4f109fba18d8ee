"""From what processes in a box say, and how they end, to a verdict."""

import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, cast, get_args

from codescaler.sandbox.box import Box, End, Process
from codescaler.sandbox.comparison import is_expected
from codescaler.sandbox.inside.judge import GONE
from codescaler.sandbox.inside.wire import ConnectionLost, receive
from codescaler.sandbox.limits import Limits
from codescaler.sandbox.shapes import find_shared_state
from codescaler.types import CallTests, Capture, Outcome, StdioTests, Verdict

Report = tuple[Outcome, str]

_MAX_REPORT_BYTES = 1 << 14
_MESSAGE_CHARS = 500
_MAX_PROCESSES = 3  # of a program: each may use up its time
_CPU_TIME_OUT = "took more than"  # begins what is said of a test that ran out of CPU time
_CLOCK_SECONDS = 0.5  # by which the kernel may end a process early or late


def judge_calls(box: Box, limits: Limits, code: str, tests: CallTests) -> Verdict:
    """Runs tests in one process, and the program in another; if it ends in a test, a new one meets the next test.

    A test that does not pass, and asks for one process with the program, is unjudged.
    """
    reports, cpu_seconds = _run_in_turn(attempt_calls, box, limits, code, tests)
    if any(outcome != "passed" for outcome, _ in reports):
        shared = find_shared_state(tests)
        reports = [_excuse(report, reason) for report, reason in zip(reports, shared, strict=True)]
    return _make_verdict(reports, cpu_seconds)


def _excuse(report: Report, reason: str | None) -> Report:
    if reason is None or report[0] in ("passed", "timeout"):
        return report
    return "unjudged", f"the test shares {reason} with the program; allow_one_process judges it, forgeably"


def judge_together(box: Box, limits: Limits, code: str, tests: CallTests) -> Verdict:
    """Runs tests and the program in one process. The verdict is forgeable, and says so."""
    reports, cpu_seconds = _run_in_turn(_attempt_together, box, limits, code, tests)
    return replace(_make_verdict(reports, cpu_seconds), is_forgeable=True)


def _run_in_turn(
    attempt_tests: Callable[..., "Attempt"], box: Box, limits: Limits, code: str, tests: CallTests
) -> tuple[list[Report], float]:
    reports: list[Report] = []
    cpu_seconds, num_ended = 0.0, 0
    while len(reports) < len(tests.statements) and num_ended < _MAX_PROCESSES:
        attempt = attempt_tests(box, limits, code, tests, start=len(reports))
        own = _drop_shared_time_out(attempt.reports)
        reports += own
        num_ended += len(own) == len(attempt.reports)
        cpu_seconds += attempt.end.cpu_seconds
    rest = len(tests.statements) - len(reports)
    return reports + [("error", f"its process had ended {_MAX_PROCESSES} times by then")] * rest, cpu_seconds


def _drop_shared_time_out(reports: list[Report]) -> list[Report]:
    """The reports before CPU time ran out in a test that was not the first of its process.

    Each test has the time of a process. What is dropped meets a new one.
    """
    is_late = [outcome == "timeout" and message.startswith(_CPU_TIME_OUT) for outcome, message in reports]
    return reports[: is_late.index(True)] if any(is_late) and not is_late[0] else reports


@dataclass(frozen=True)
class Attempt:
    """What one process of the program came to, how it ended, and what it was asked, if every test was reached."""

    reports: list[Report]
    end: End
    dialogue: list[Any] | None


def attempt_calls(
    box: Box, limits: Limits, code: str, tests: CallTests, *, start: int = 0, has_to_record: bool = False
) -> Attempt:
    """Runs tests from `start` on as far as the processes get: through one test at least."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        program = box.start("program", ours.fileno())
        judge = box.start("judge", theirs.fileno())
    program.tell({"code": code, "prelude": tests.prelude})
    judge.tell({**vars(tests), "statements": tests.statements[start:], "has_to_record": has_to_record})
    num_left = len(tests.statements) - start
    reports, has_gone = _receive_reports(judge, num_left)
    dialogue = None
    if has_to_record and len(reports) == num_left:
        with suppress(ConnectionLost):
            dialogue = receive(judge.work)
    judge_end, program_end = judge.end(kill=True), program.end(kill=True)
    num_left -= len(reports)
    if program_end.cpu_seconds > limits.cpu_seconds + _CLOCK_SECONDS:
        # The kernel ends each process that takes too long; of what several take together, it knows nothing.
        late = f"took more than {limits.cpu_seconds} s of CPU time, in several processes"
        reports = [("timeout", late)] * (num_left + len(reports))
    elif has_gone:
        reports += _report_unreported(limits, program_end, ("error", "the program's process"), num_left)
    elif num_left and (judge_end.exit_code or not reports):
        reports += _report_unreported(limits, judge_end, ("unjudged", "the process of the tests"), num_left)
    return Attempt(reports, program_end, dialogue)


def _attempt_together(box: Box, limits: Limits, code: str, tests: CallTests, *, start: int) -> Attempt:
    process = box.start("together")
    statements = tests.statements[start:]
    process.tell({**vars(tests), "code": code, "statements": statements})
    reports, _ = _receive_reports(process, len(statements))
    num_left = len(statements) - len(reports)
    end = process.end(kill=not num_left)
    if num_left:
        reports += _report_unreported(limits, end, ("error", "the program's process"), num_left)
    return Attempt(reports, end, None)


def _receive_reports(process: Process, num_left: int) -> tuple[list[Report], bool]:
    """Returns the reports of a process until it ends, and whether it says that the program has gone."""
    reports: list[Report] = []
    while len(reports) < num_left:
        try:
            outcome, message = map(str, receive(process.work, _MAX_REPORT_BYTES))
            if outcome == GONE:
                return reports, True
            if outcome not in get_args(Outcome):
                raise ValueError(outcome)
        except (ConnectionLost, TypeError, ValueError):  # the judge has ended, or a test speaks in its place
            break
        reports.append((cast(Outcome, outcome), message[:_MESSAGE_CHARS]))
    return reports, False


def _report_unreported(limits: Limits, end: End, otherwise: Report, num_left: int) -> list[Report]:
    """Reports on the test that a process ended in; on all that are left if time has run out, as it has for them."""
    late = _report_time_out(limits, end)
    if late:
        return [("timeout", late)] * num_left
    outcome, subject = otherwise
    if -end.exit_code in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS):
        outcome = "error"  # also of the judge, in which the tests use what the program gave
    return [(outcome, f"{subject} {_describe_ending(end)}")]


def judge_output(box: Box, limits: Limits, code: str, tests: StdioTests) -> Verdict:
    """Runs the program once a test, and compares what it prints."""
    reports: list[Report] = []
    cpu_seconds = 0.0
    for stdin, expected in tests.cases:
        report, end = run_main(box, limits, code, tests, stdin, expected)
        reports.append(report)
        cpu_seconds += end.cpu_seconds
        if report[0] == "timeout":
            reports += [report] * (len(tests.cases) - len(reports))
            break
    return _make_verdict(reports, cpu_seconds)


def run_main(box: Box, limits: Limits, code: str, tests: StdioTests, stdin: str, expected: str) -> tuple[Report, End]:
    """Runs the program once, and returns the report on its output, and how it ended."""
    output, report, end = capture_main(box, limits, code, tests, stdin)
    if report is not None and report[0] == "timeout":
        return report, end
    if len(expected.encode("utf-8", "surrogatepass")) >= limits.output_bytes:
        return ("unjudged", f"more is expected than output_bytes, {limits.output_bytes}, allow; raise them"), end
    if report is not None:
        return report, end
    if is_expected(output, expected, tests.comparison):
        return ("passed", ""), end
    return ("failed", f"printed {output[:200]!r}, not {expected[:200]!r}"), end


def capture_main(box: Box, limits: Limits, code: str, tests: StdioTests, stdin: str) -> tuple[str, Report | None, End]:
    """Runs the program once. Returns what it printed, the report if it did not end well, and how it ended."""
    files = [os.memfd_create(name) for name in ("stdin", "stdout", "stderr")]
    try:
        _write(files[0], stdin)
        main = box.start("main", *files)
        main.tell({"code": code, **{key: value for key, value in vars(tests).items() if key != "cases"}})
        end = main.end(kill=False)
        output, errors = (_read(file, limits.output_bytes) for file in files[1:])
    finally:
        for file in files:
            os.close(file)
    late = _report_time_out(limits, end)
    if late:
        return output, ("timeout", late), end
    if end.exit_code:
        return output, ("error", errors.strip()[-_MESSAGE_CHARS:] or f"the program {_describe_ending(end)}"), end
    return output, None, end


def capture_outputs(box: Box, limits: Limits, code: str, tests: StdioTests) -> list[Capture]:
    """What the program prints for the input of each test. What a test expects is not looked at."""
    captures = []
    for stdin, _ in tests.cases:
        output, report, end = capture_main(box, limits, code, tests, stdin)
        captures.append(Capture(output, *(report or ("passed", "")), end.cpu_seconds))
    return captures


def _make_verdict(reports: list[Report], cpu_seconds: float) -> Verdict:
    message = next((message for outcome, message in reports if outcome != "passed"), "")
    return Verdict(tuple(outcome for outcome, _ in reports), message, cpu_seconds)


def _report_time_out(limits: Limits, end: End) -> str | None:
    if end.how == "late":
        return f"ran for more than {limits.wall_seconds:g} s"
    if end.how == "uncounted":
        return "escaped what counts its time"
    if end.cpu_seconds > limits.cpu_seconds + (-_CLOCK_SECONDS if end.exit_code == -signal.SIGKILL else _CLOCK_SECONDS):
        return f"{_CPU_TIME_OUT} {limits.cpu_seconds} s of CPU time"
    return None


def _describe_ending(end: End) -> str:
    if end.how == "stopped":
        return "closed its connection"
    if end.exit_code < 0:
        number = -end.exit_code
        return f"was ended by signal {signal.Signals(number).name if number in {*signal.Signals} else number}"
    return f"ended with exit code {end.exit_code}"


def _write(file: int, text: str) -> None:
    with open(file, "wb", closefd=False) as stream:
        stream.write(text.encode("utf-8", "surrogatepass"))
    os.lseek(file, 0, os.SEEK_SET)


def _read(file: int, max_bytes: int) -> str:
    return os.pread(file, max_bytes, 0).decode("utf-8", "replace")
