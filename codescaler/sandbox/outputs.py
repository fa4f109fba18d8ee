"""From what whole programs print, or how they end, to a verdict. One way for all languages: made ready, then run."""

import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from codescaler.errors import make_printable
from codescaler.sandbox.box import Box, End, Role
from codescaler.sandbox.comparison import is_expected
from codescaler.sandbox.languages import COMPILE_LIMITS, Toolchain
from codescaler.sandbox.limits import Limits
from codescaler.sandbox.reports import MESSAGE_CHARS, Report, describe_ending, make_verdict, report_time_out, tell_work
from codescaler.types import Capture, StdioTests, Verdict

_PROGRAM: Report = ("error", "the program")
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


@dataclass(frozen=True)
class Program:
    """A program that is ready: what runs it once, and what it is told and given."""

    role: Role
    task: dict[str, Any]
    files: tuple[int, ...]
    tests: StdioTests

    def run(self, box: Box, limits: Limits, stdin: str, expected: str) -> tuple[Report, End]:
        """Runs the program once, and returns the report on its output, and how it ended."""
        output, report, end = self.capture(box, limits, stdin)
        is_too_long = not self.tests.harness and len(expected.encode("utf-8", "surrogatepass")) >= limits.output_bytes
        if is_too_long and (report is None or report[0] != "timeout"):
            report = "unjudged", f"more is expected than output_bytes, {limits.output_bytes}, allow; raise them"
        elif report is None and is_expected(output, expected, self.tests.comparison):
            report = "passed", ""
        return report or ("failed", f"printed {output[:200]!r}, not {expected[:200]!r}"), end

    def capture(self, box: Box, limits: Limits, stdin: str) -> tuple[str, Report | None, End]:
        """Runs the program once. Returns what it printed, the report if its end decides, and how it ended."""
        with ExitStack() as stack:
            streams = [_make_file(stack, name) for name in ("stdin", "stdout", "stderr")]
            _write(streams[0], stdin)
            process = box.start(self.role, *self.files, *streams)
            refused = tell_work(process, self.task, _PROGRAM)
            end = process.end(kill=refused is not None)
            output, errors = (_read(file, limits.output_bytes) for file in streams[1:])
        return output, refused or _judge_ending(limits, end, output, errors, self.tests), end


def judge_output(
    box: Box, limits: Limits, code: str, tests: StdioTests, toolchain: Toolchain | None = None,
    compile_limits: Limits = COMPILE_LIMITS,
) -> Verdict:  # fmt: skip
    """Runs the program once a test, and compares what it prints. Of a harness, the exit status decides."""
    reports: list[Report] = []
    cpu_seconds = 0.0
    with prepare_program(box, limits, code, tests, toolchain, compile_limits) as program:
        for stdin, expected in tests.cases:
            if not isinstance(program, Program):
                report = program
            else:
                report, end = program.run(box, limits, stdin, expected)
                cpu_seconds += end.cpu_seconds
            reports.append(report)
            if report[0] == "timeout":
                reports += [report] * (len(tests.cases) - len(reports))
                break
    return replace(make_verdict(reports, cpu_seconds), is_forgeable=bool(tests.harness))


def capture_outputs(
    box: Box, limits: Limits, code: str, tests: StdioTests, toolchain: Toolchain | None = None,
    compile_limits: Limits = COMPILE_LIMITS,
) -> list[Capture]:  # fmt: skip
    """What the program prints for the input of each test. What a test expects is not looked at."""
    captures = []
    with prepare_program(box, limits, code, tests, toolchain, compile_limits) as program:
        for stdin, _ in tests.cases:
            if isinstance(program, Program):
                output, report, end = program.capture(box, limits, stdin)
                captures.append(Capture(output, *(report or ("passed", "")), end.cpu_seconds))
            else:
                captures.append(Capture("", *program, 0.0))
    return captures


@contextmanager
def prepare_program(
    box: Box, limits: Limits, code: str, tests: StdioTests, toolchain: Toolchain | None = None,
    compile_limits: Limits = COMPILE_LIMITS,
) -> Iterator[Program | Report]:  # fmt: skip
    """Gives the program of a text, or the report on all its tests if it does not compile.

    `toolchain` is None for Python.
    """
    fields = ("prelude", "allows_return", "input_file", "output_file")
    task: dict[str, Any] = {name: getattr(tests, name) for name in fields}
    text = "\n".join(filter(None, (code, tests.harness)))
    if toolchain is None:
        yield Program("main", {**task, "code": text}, (), tests)
        return
    text = "\n".join(filter(None, (tests.prelude, text)))
    source, compile, run = toolchain.plan(text, bool(tests.harness), limits)
    task["environment"] = toolchain.environment
    with ExitStack() as stack:
        packed, said = _make_file(stack, "program", os.MFD_ALLOW_SEALING), _make_file(stack, "said")
        process = box.start("compile", packed, said)
        report = tell_work(process, {**task, "source": source, "text": text, "command": compile}, _PROGRAM)
        end = process.end(kill=report is not None)
        if (report := report or _judge_compiler(compile_limits, end, said)) is not None:
            yield report
            return
        fcntl.fcntl(packed, fcntl.F_ADD_SEALS, _SEALS)  # one run leaves nothing to the next
        task |= {"command": run, "output_bytes": limits.output_bytes}
        yield Program("execute", task, (packed,), tests)


def _judge_compiler(limits: Limits, end: End, said: int) -> Report | None:
    # A compiler may be several processes, of which the first says how the others ended in its own way.
    killed = replace(end, exit_code=-signal.SIGKILL) if end.exit_code else end
    if late := report_time_out(limits, killed):
        return "timeout", f"its compiler {late}"
    if not end.exit_code:
        return None
    lines = _read(said, 8 * MESSAGE_CHARS).strip().splitlines()
    message = "\n".join(map(make_printable, lines))[:MESSAGE_CHARS]
    return "error", message or f"its compiler {describe_ending(end)}, of what it may use"


def _judge_ending(limits: Limits, end: End, output: str, errors: str, tests: StdioTests) -> Report | None:
    late = report_time_out(limits, end)
    if late:
        return "timeout", late
    if not end.exit_code:
        return ("passed", "") if tests.harness else None
    said = errors.strip() or (output.strip() if tests.harness else "")
    # Python says at last what the error is, and others say it first.
    said = said[-MESSAGE_CHARS:] if tests.language == "python" else said[:MESSAGE_CHARS]
    is_assertion = bool(tests.harness) and (end.exit_code > 0 or end.exit_code == -signal.SIGABRT)  # as C's assert ends
    return "failed" if is_assertion else "error", said or f"the program {describe_ending(end)}"


def _make_file(stack: ExitStack, name: str, flags: int = 0) -> int:
    file = os.memfd_create(name, os.MFD_CLOEXEC | flags)
    stack.callback(os.close, file)
    return file


def _write(file: int, text: str) -> None:
    with open(file, "wb", closefd=False) as stream:
        stream.write(text.encode("utf-8", "surrogatepass"))
    os.lseek(file, 0, os.SEEK_SET)


def _read(file: int, max_bytes: int) -> str:
    return os.pread(file, max_bytes, 0).decode("utf-8", "replace")
