"""From what the judge of calls says, and how it and the program end, to a verdict."""

import signal
import socket
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Any, cast, get_args

from codescaler.sandbox.box import Box, End, Process
from codescaler.sandbox.inside.judge import GONE, ONE_PROCESS
from codescaler.sandbox.inside.wire import ConnectionLost, receive
from codescaler.sandbox.limits import Limits
from codescaler.sandbox.reports import (
    CLOCK_SECONDS,
    CPU_TIME_OUT,
    MESSAGE_CHARS,
    Report,
    describe_ending,
    make_verdict,
    report_time_out,
    tell_work,
)
from codescaler.sandbox.shapes import find_shared_state, may_share_files
from codescaler.types import CallTests, Outcome, Verdict

_MAX_REPORT_BYTES = 1 << 14
_MAX_PROCESSES = 3  # of a program: each may use up its time


def judge_calls(box: Box, limits: Limits, code: str, tests: CallTests) -> Verdict:
    """Runs tests in one process, and the program in another; if it ends in a test, a new one meets the next test.

    A test that does not pass, and asks for one process with the program, runs in one too. There the program could only
    forge that it passes. So what fails there is wrong, and what passes there is unjudged.
    """
    with box.share_scratch() if may_share_files(tests) else nullcontext():
        reports, cpu_seconds = _run_in_turn(attempt_calls, box, limits, code, tests)
    if any(outcome != "passed" for outcome, _ in reports):
        shared = find_shared_state(tests)
        reports = [_excuse(report, reason) for report, reason in zip(reports, shared, strict=True)]
    verdict = make_verdict(reports, cpu_seconds)
    if verdict.passed is None and any(map(_should_run_together, reports)):
        others, _ = _run_in_turn(_attempt_together, box, limits, code, tests)
        reports = [_choose_failure(*pair) for pair in zip(reports, others, strict=True)]
        verdict = make_verdict(reports, cpu_seconds)
    return verdict


def _excuse(report: Report, reason: str | None) -> Report:
    if reason is None or report[0] in ("passed", "unjudged"):
        return report
    return "unjudged", f"the test shares {reason} with the program; {ONE_PROCESS} judges it, forgeably"


def _should_run_together(report: Report) -> bool:
    return report[0] == "unjudged" and ONE_PROCESS in report[1]


def _choose_failure(report: Report, other: Report) -> Report:
    """The report of the test in one process, if it was to run in one and did not pass there."""
    return other if _should_run_together(report) and other[0] in ("failed", "error", "timeout") else report


def judge_together(box: Box, limits: Limits, code: str, tests: CallTests) -> Verdict:
    """Runs tests and the program in one process. The verdict is forgeable, and says so."""
    reports, cpu_seconds = _run_in_turn(_attempt_together, box, limits, code, tests)
    return replace(make_verdict(reports, cpu_seconds), is_forgeable=True)


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
    is_late = [outcome == "timeout" and message.startswith(CPU_TIME_OUT) for outcome, message in reports]
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
    num_left = len(tests.statements) - start
    told = {"code": code, "prelude": tests.prelude}
    asked = {**vars(tests), "statements": tests.statements[start:], "has_to_record": has_to_record}
    refused = tell_work(program, told, ("error", "the program")) or tell_work(judge, asked, ("unjudged", "the tests"))
    reports, has_gone = ([refused] * num_left, False) if refused else _receive_reports(judge, num_left)
    dialogue = None
    if has_to_record and len(reports) == num_left:
        with suppress(ConnectionLost):
            dialogue = receive(judge.work)
    judge_end, program_end = judge.end(kill=True), program.end(kill=True)
    num_left -= len(reports)
    if program_end.cpu_seconds > limits.cpu_seconds + CLOCK_SECONDS:
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
    asked = {**vars(tests), "code": code, "statements": statements}
    refused = tell_work(process, asked, ("unjudged", "the tests"))
    reports = [refused] * len(statements) if refused else _receive_reports(process, len(statements))[0]
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
        reports.append((cast(Outcome, outcome), message[:MESSAGE_CHARS]))
    return reports, False


def _report_unreported(limits: Limits, end: End, otherwise: Report, num_left: int) -> list[Report]:
    """Reports on the test that a process ended in; on all that are left if time has run out, as it has for them."""
    late = report_time_out(limits, end)
    if late:
        return [("timeout", late)] * num_left
    outcome, subject = otherwise
    if -end.exit_code in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS):
        outcome = "error"  # also of the judge, in which the tests use what the program gave
    return [(outcome, f"{subject} {describe_ending(end)}")]
