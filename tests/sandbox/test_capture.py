"""What programs print is handed over as it is, and how they ended."""

from codescaler.types import StdioTests


def test_output_is_captured_with_how_a_program_ended(any_sandbox):
    tests = StdioTests((("1\n", "ignored"), ("0\n", ""), ("2\n", "")), prelude="START = 7")
    code = "n = int(input())\nprint(START // n)\nif n == 2:\n    while True: pass"
    first, second, third = any_sandbox.capture(code, tests)
    assert (first.output, first.outcome, first.message) == ("7\n", "passed", "")
    assert second.outcome == "error" and "ZeroDivisionError" in second.message
    assert third.outcome == "timeout" and third.cpu_seconds > 0


def test_captures_come_in_the_order_of_the_jobs(any_sandbox):
    jobs = [(f"print(input(), {number})", StdioTests((("a\n", ""), ("b\n", "")))) for number in range(9)]
    printed = [[capture.output for capture in captures] for captures in any_sandbox.capture_many(jobs)]
    assert printed == [[f"a {number}\n", f"b {number}\n"] for number in range(9)]
