"""What is said of a process that has ended, and of a program by all its tests."""

import signal
from typing import Any

from codescaler.sandbox.box import End, Process
from codescaler.sandbox.inside.wire import MessageTooLarge
from codescaler.sandbox.limits import Limits
from codescaler.types import Outcome, Verdict

Report = tuple[Outcome, str]

MESSAGE_CHARS = 500
CPU_TIME_OUT = "took more than"  # begins what is said of a test that ran out of CPU time
CLOCK_SECONDS = 0.5  # by which the kernel may end a process early or late


def tell_work(process: Process, message: Any, otherwise: Report) -> Report | None:
    """Sends a process its work, or returns a report that the work is too large."""
    try:
        process.tell(message)
    except MessageTooLarge as error:
        outcome, subject = otherwise
        return outcome, f"{subject}: {error}; make them smaller"
    return None


def make_verdict(reports: list[Report], cpu_seconds: float) -> Verdict:
    message = next((message for outcome, message in reports if outcome != "passed"), "")
    return Verdict(tuple(outcome for outcome, _ in reports), message, cpu_seconds)


def report_time_out(limits: Limits, end: End) -> str | None:
    if end.how == "late":
        return f"ran for more than {limits.wall_seconds:g} s"
    if end.how == "uncounted":
        return "escaped what counts its time"
    if end.cpu_seconds > limits.cpu_seconds + (-CLOCK_SECONDS if end.exit_code == -signal.SIGKILL else CLOCK_SECONDS):
        return f"{CPU_TIME_OUT} {limits.cpu_seconds} s of CPU time"
    return None


def describe_ending(end: End) -> str:
    if end.how == "stopped":
        return "closed its connection"
    if end.exit_code < 0:
        number = -end.exit_code
        return f"was ended by signal {signal.Signals(number).name if number in {*signal.Signals} else number}"
    return f"ended with exit code {end.exit_code}"
