"""Suites by vote in the real sandbox: what they reject, what they need, and what a language model adds."""

import json
import random

import pytest

from codescaler.data.label.generated_tests import list_facts
from codescaler.data.sample.sampling import Completion, Sampling
from codescaler.data.synthesis.suite_inputs import make_call_inputs, make_limits, make_small
from codescaler.data.synthesis.suites import SuiteSettings, count_suites, write_suites
from codescaler.data.synthesis.validators import Probes, choose_validator, keep_valid, parse_probes
from codescaler.data.synthesis.writer import Writer
from codescaler.errors import InvalidInput
from codescaler.sandbox import Limits, Sandbox
from codescaler.tasks import read_tasks
from codescaler.types import CallTests, StdioTests, Task

LIMITS = {"cpu_seconds": 1}
RIGHT = ("def top(a):\n    return max(a)", "def top(a):\n    return sorted(a)[-1]")
WRONG = ("def top(a):\n    return a[-1]", "def top(a):\n    return a[0]", "def top(a):\n    return sum(a)")
OWN = ("assert top([1, 5]) == 5", "assert top([9, 3, 4]) == 9", "assert top([-2, 7, 7]) == 7")
TASK = Task("t/1", "Return the largest number.", CallTests(OWN, ("top",)))
SETTINGS = SuiteSettings(num_inputs=16, min_share=0.5, num_mutants=6)


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(Limits(cpu_seconds=1, wall_seconds=4.0), num_workers=2) as sandbox:
        yield sandbox


def make(sandbox, folder, programs, task=TASK, settings=SETTINGS, **options):
    groups, target = folder / "groups.jsonl", folder / "suites.jsonl"
    target.unlink(missing_ok=True)
    candidates = [{"code": code} for code in programs]
    groups.write_text(json.dumps({"task_id": task.task_id, "prompt": task.prompt, "candidates": candidates}))
    suites = write_suites([task], groups, target, sandbox, settings, limits=LIMITS, **options)
    return read_tasks(target)[0], suites[0]


@pytest.mark.parametrize("is_minimal", [True, False])
def test_a_voted_suite_tells_right_from_wrong(sandbox, tmp_path, is_minimal):
    settings = SuiteSettings(num_inputs=16, min_share=0.5, num_mutants=6, is_minimal=is_minimal, min_tests=2)
    made, suite = make(sandbox, tmp_path, [*RIGHT, *WRONG], settings=settings)
    assert suite["outputs"] == "majority" and suite["num_tests"] == len(made.tests.statements)
    for code in RIGHT:
        assert sandbox.run(code, made.tests).passed
    for code in (*WRONG, "def top(a):\n    return max(a[:-1])", "def top(a): pass"):
        assert sandbox.run(code, made.tests).passed is False
    if is_minimal:
        assert 2 * suite["num_tests"] <= suite["num_with_majority"] and suite["num_needed"] <= suite["num_tests"]
        _, all_tests = make(sandbox, tmp_path, [*RIGHT, *WRONG], settings=SuiteSettings(16, 0.5, 6, 1, True, False))
        assert all_tests["num_rejected"] == suite["num_rejected"] and all_tests["num_tests"] > suite["num_tests"]
    else:
        assert suite["num_tests"] == suite["num_with_majority"]


def test_a_reference_decides_unless_it_is_left_out(sandbox, tmp_path):
    task = Task("t/1", "p", CallTests(OWN, ("top",)), "def top(a):\n    return min(a)")
    made, suite = make(sandbox, tmp_path, RIGHT, task)
    assert suite["outputs"] == "reference" and sandbox.run(task.reference, made.tests).passed
    without = SuiteSettings(num_inputs=16, min_share=0.5, num_mutants=6, uses_references=False)
    made, suite = make(sandbox, tmp_path, RIGHT, task, without)
    assert suite["outputs"] == "majority" and sandbox.run(task.reference, made.tests).passed is False


def test_floats_methods_and_whole_programs(sandbox, tmp_path):
    prelude = "from typing import *"
    statements = ("c = Solution().mean\nassert c(a=[1, 2]) == 1.5", "c = Solution().mean\nassert c(a=[3, 3, 9]) == 5.0")
    task = Task("t/1", "p", CallTests(statements, ("Solution",), prelude, classes=("Solution",)))
    program = "class Solution:\n    def mean(self, a: List[int]):\n        return {}"
    codes = [program.format(body) for body in ("sum(a) / len(a)", "sum(x / len(a) for x in a)", "a[0]")]
    made, _ = make(sandbox, tmp_path, codes, task)
    assert [sandbox.run(code, made.tests).passed for code in codes] == [True, True, False]
    task = Task("t/1", "p", StdioTests((("1\n", "2"), ("5\n", "6"), ("0\n", "1"))))
    codes = ["print(int(input()) + 1)", "x = int(input())\nprint(x + 1)", "print(2)"]
    made, suite = make(sandbox, tmp_path, codes, task)
    assert suite["num_inputs"] == 3 and [sandbox.run(code, made.tests).passed for code in codes] == [True, True, False]


@pytest.mark.parametrize(
    "task, programs, reason",
    [
        (Task("t/1", "p"), RIGHT, "its tests do not say how"), (TASK, RIGHT[:1], "it has 1 solutions to vote"),
        (TASK, ("def top(a):\n    return 1 / 0", "def f(): pass"), "no input has a majority"),
    ],
)  # fmt: skip
def test_a_suite_that_cannot_be_made_has_a_reason(sandbox, tmp_path, task, programs, reason):
    made, suite = make(sandbox, tmp_path, programs, task)
    assert made.tests is None and suite["reason"].startswith(reason)
    assert count_suites([suite]) == {"problems": 1, "suites": 0, "inputs": 0, "inputs_with_majority": 0, "tests": 0}


def test_solutions_that_fail_a_shown_test_do_not_vote(sandbox, tmp_path):
    alike = [f"def top(a):\n    return a[-1] + {zeros}" for zeros in ("0", "0 * 1", "0 + 0")]
    made, suite = make(sandbox, tmp_path, [*RIGHT, *alike])
    assert suite["num_failed_shown"] == 0 and sandbox.run(RIGHT[0], made.tests).passed is False  # they are the majority
    task = Task("t/1", f"Return the largest number.\n\n{OWN[1]}", TASK.tests)
    made, suite = make(sandbox, tmp_path, [*RIGHT, *alike], task)
    assert (suite["num_solutions"], suite["num_failed_shown"]) == (2, 3)
    assert all(sandbox.run(code, made.tests).passed for code in RIGHT)
    assert sandbox.run(alike[0], made.tests).passed is False
    made, suite = make(sandbox, tmp_path, [RIGHT[0], *alike], task)
    assert suite["reason"] == "it has 1 solutions to vote (3 fail the tests that it shows), and no reference"


def test_a_problem_whose_solutions_disagree_has_no_suite(sandbox, tmp_path):
    made, suite = make(sandbox, tmp_path, [*RIGHT, *WRONG])
    asked = {"num_inputs": 16, "min_share": 0.5, "num_mutants": 6}
    least = suite["agreement"] - 1e-4  # it is rounded
    same = make(sandbox, tmp_path, [*RIGHT, *WRONG], settings=SuiteSettings(**asked, min_agreement=least))
    assert same[1]["made"] and same[0].tests == made.tests and suite["agreement"] < 0.9
    made, suite = make(sandbox, tmp_path, [*RIGHT, *WRONG], settings=SuiteSettings(**asked, min_agreement=0.95))
    assert made.tests is None and suite["reason"] == "solutions disagree"
    # Two agree and weigh all; that is not much of seven.
    alone = [f"def top(a):\n    return {number}" for number in range(100, 105)]
    _, suite = make(sandbox, tmp_path, [*RIGHT, *alone], settings=SuiteSettings(**asked, min_agreement=0.3))
    assert suite["reason"] == "solutions disagree" and suite["agreement"] == pytest.approx(2 / 7, abs=1e-4)
    assert make(sandbox, tmp_path, RIGHT, settings=SuiteSettings(**asked, min_agreement=0.95))[1]["agreement"] == 1.0
    with pytest.raises(InvalidInput, match=r"min_agreement 1.5; give a number from 0 to 1"):
        SuiteSettings(min_agreement=1.5)


def test_inputs_keep_what_holds_in_all_examples():
    calls = [([1, 2, 9], 3), ([4, 5], 2), ([7], 1)]
    kept = set.intersection(*map(list_facts, calls))
    assert ("length of", 1, 0) in kept
    made = make_call_inputs(calls, 40, random.Random(0))
    assert len(made) > 8 and all(kept <= list_facts(call) for call in made)
    assert not {repr(call) for call in made} & {repr(call) for call in calls}


def test_small_inputs_are_exhaustive_and_limits_hold_ties():
    calls = [(5, "ab"), (9, "ccc"), (0, "")]
    small = make_small(calls, random.Random(0))
    assert {call[0] for call in small} == {0, 1, 4} and {call[1] for call in small} == {"", "a", "c"}
    assert len(small) == 9
    limits = make_limits([([3, 1, 2],), ([],), ([1, 1],)])
    for expected in ([], [3], [3, 3, 3], [2, 1, 3], [1, 2, 3], [3, 2, 1], ([3, 1, 2] * 14)[:40]):
        assert (expected,) in limits
    assert make_limits([(True,), (False,)]) == [(False,), (True,)]


def is_valid(body):
    return f"def is_valid(arguments):\n    {body}"


def test_the_best_validator_is_chosen_by_probes(sandbox):
    probes = Probes(("[1], 1", "[1, 2], 2"), ("[], 0", "[1], 2", "'a', 1"))
    codes = [
        is_valid("return True"), "def is_valid(:", is_valid("a, n = arguments\n    return len(a) == n"),
        is_valid("a, n = arguments\n    return isinstance(a, list) and len(a) == n > 0"),
    ]  # fmt: skip
    best = choose_validator(sandbox, codes, probes, is_call=True)
    assert best.code == codes[3] and best.accuracy == 1
    assert keep_valid(sandbox, best, ["[3], 1", "[3], 4"], is_call=True) == ["[3], 1"]
    assert choose_validator(sandbox, codes[:2], probes, is_call=True) is None
    assert choose_validator(sandbox, codes, Probes((), ("1",)), is_call=True) is None


def test_probes_of_an_answer():
    text = 'Here: {"legal": [[1], [1], [], "x"], "illegal": [[[]], 3]} done'
    assert parse_probes(text, is_call=True) == Probes(("1",), ("[]",))
    assert parse_probes('{"legal": ["1\\n"], "illegal": "2"}', is_call=False) == Probes(("1\n",), ())
    assert parse_probes("none", is_call=True) == parse_probes("{]}", is_call=True) == Probes((), ())


class Sampler:
    identity = "a table"

    def __init__(self, **answers):
        self.answers, self.asked = answers, []

    def complete(self, requests):
        for request in requests:
            kind = request.task_id.split("/")[2]
            self.asked.append((kind, request.prompt))
            answer = self.answers[kind]
            yield [Completion(answer, "stop") for _ in request.seeds]


def block(code):
    return f"```python\n{code}\n```"


def write(**answers):
    given = {
        "probes": '{"legal": [[[1]], [[2, 3]]], "illegal": [[[]], [5]]}',
        "validator": block(is_valid("return isinstance(arguments[0], list) and len(arguments[0]) > 0")),
        "inputs": block("def generate_input(rng):\n    return ([rng.randint(0, 9)] * rng.randint(0, 3),)"),
        "checker": "UNIQUE",
        "survivors": block("def generate_input(rng):\n    return ([rng.randint(500, 900), 4],)"),
    }
    return Writer(Sampler(**{**given, **answers}), Sampling("tiny", num_samples=2))


def test_a_writer_adds_inputs_that_its_validator_allows(sandbox, tmp_path):
    """A mutant of the trusted program differs only for large numbers, which no own input has."""
    programs = [f"def top(a):\n    return 1000 if a[0] > 400 else {body}" for body in ("max(a)", "sorted(a)[-1]")]
    writer = write()
    _, alone = make(sandbox, tmp_path, programs)
    made, suite = make(sandbox, tmp_path, programs, writer=writer)
    assert [kind for kind, _ in writer.sampler.asked] == ["probes", "validator", "inputs", "checker", "survivors"]
    assert "return" in writer.sampler.asked[-1][1] and TASK.prompt in writer.sampler.asked[-1][1]
    assert suite["num_fed_back"] > 0 and suite["num_rejected"] > alone["num_rejected"]
    assert not [text for text in made.tests.statements if "top([])" in text]


def test_a_checker_judges_where_several_answers_are_correct(sandbox, tmp_path):
    """Any place of the largest number will do."""
    own = ("assert top([4, 4]) == 0", "assert top([1, 5, 5, 2]) == 1", "assert top([3, 2]) == 0")
    task = Task("t/1", "Return a place of the largest number.", CallTests(own, ("top",)))
    bodies = ("a.index(max(a))", "len(a) - 1 - a[::-1].index(max(a))", "max(range(len(a)), key=a.__getitem__)", "0")
    programs = [f"def top(a):\n    return {body}" for body in bodies]
    checks = "def is_correct(arguments, result):\n    (a,) = arguments\n    return {}"
    sound = checks.format("isinstance(result, int) and 0 <= result < len(a) and a[result] == max(a)")
    made, suite = make(sandbox, tmp_path, programs, task, writer=write(checker=block(sound)))
    assert suite["outputs"] == "checker" and suite["num_tests"] > 1
    verdicts = [sandbox.run(code, made.tests).passed for code in (*programs, "def top(a):\n    return -1")]
    assert verdicts == [True, True, True, False, False]
    made, suite = make(sandbox, tmp_path, programs, task, writer=write(checker=block(checks.format("True"))))
    assert made.tests is None and suite["reason"].endswith("and no checker is good")


def test_a_whole_program_with_several_answers_is_left_out(sandbox, tmp_path):
    task = Task("t/1", "p", StdioTests((("1\n", "2"), ("5\n", "6"))))
    writer = write(checker=block("def is_correct(text, output):\n    return True"))
    made, suite = make(sandbox, tmp_path, ["print(2)", "print(3)"], task, writer=writer)
    assert made.tests is None and suite["reason"] == "several outputs of a whole program are correct for one input"


def test_a_run_that_was_stopped_goes_on(sandbox, tmp_path):
    tasks = [Task(f"t/{number}", "p", TASK.tests) for number in range(3)]
    groups = tmp_path / "groups.jsonl"
    lines = [{"task_id": t.task_id, "prompt": "p", "candidates": [{"code": c} for c in RIGHT]} for t in tasks]
    groups.write_text("\n".join(map(json.dumps, lines)))
    whole, target, done = tmp_path / "whole.jsonl", tmp_path / "out.jsonl", []
    write_suites(tasks, groups, whole, sandbox, SETTINGS, limits=LIMITS)

    def stop(number):
        done.append(number)
        if len(done) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_suites(tasks, groups, target, sandbox, SETTINGS, limits=LIMITS, advance=stop)
    with pytest.raises(InvalidInput, match="num_inputs"):
        write_suites(tasks, groups, target, sandbox, SuiteSettings(num_inputs=9, min_share=0.5), limits=LIMITS)
    write_suites(tasks, groups, target, sandbox, SETTINGS, limits=LIMITS)
    assert target.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    "settings", [{"num_inputs": 0}, {"min_tests": 0}, {"num_mutants": -1}, {"min_share": 2}], ids=str
)
def test_bad_settings(settings):
    with pytest.raises(InvalidInput, match=next(iter(settings))):
        SuiteSettings(**settings)
