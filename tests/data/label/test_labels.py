"""Labels, with a runner that knows each program's verdict: no program is run here."""

import json
from collections import Counter

import pytest

from codescaler.data.label.labels import label_groups
from codescaler.errors import InvalidInput, SandboxUnavailable
from codescaler.io.records import read_groups
from codescaler.types import CallTests, StdioTests, Task, Verdict

CALLS = CallTests(("assert f() == 1", "assert f() == 2"))
TASKS = [
    Task("t/0", "p0", CALLS, reference="right"),
    Task("t/1", "p1", StdioTests((("1", "2"),) * 3), reference="right", license="MIT"),
    Task("t/2", "p2", CALLS, reference="wrong"),
    Task("t/3", "p3", None),
    Task("t/4", "p4", CALLS),
    Task("t/5", "p5", CALLS, reference="right"),
]
LIMITS = {"cpu_seconds": 5.0}
OUTCOMES = {"right": "passed", "wrong": "failed", "raises": "error", "slow": "timeout", "unclear": "unjudged"}


class Runner:
    """Knows verdicts by the program's text; takes jobs one ahead; stops after some programs."""

    isolation = "none, in memory"

    def __init__(self, stop_after=None):
        self.ran, self.languages = [], []
        self.stop_after = stop_after

    def require_language(self, name):
        if name == "go":
            raise SandboxUnavailable("go is not on the path")
        self.languages.append(name)

    def run_many(self, jobs):
        jobs = iter(jobs)
        ahead = next(jobs, None)
        while ahead is not None:
            (code, tests), ahead = ahead, next(jobs, None)
            if len(self.ran) == self.stop_after:
                raise KeyboardInterrupt
            self.ran.append(code)
            self.tests = tests
            number = len(tests.statements if isinstance(tests, CallTests) else tests.cases)
            first = "passed" if code == "wrong" else OUTCOMES[code]
            yield Verdict((first,) + (OUTCOMES[code],) * (number - 1), message=f"{code}!")


def write_groups(path, groups):
    lines = []
    for task_id, codes in groups:
        candidates = [{"code": code, "completion": f"<{code}>"} for code in codes]
        lines.append(json.dumps({"task_id": task_id, "prompt": f"p{task_id[-1]}", "candidates": candidates}))
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def groups(tmp_path):
    return write_groups(
        tmp_path / "groups.jsonl",
        [
            ("t/3", ["right"]),
            ("t/0", ["right", "wrong", "right", None, "unclear"]),
            ("t/1", ["slow", "raises"]),
            ("t/5", [None]),
            ("t/2", ["right"]),
            ("t/4", ["wrong", "right"]),
            ("t/5", []),
        ],
    )


def label(groups, target, runner=None, tasks=TASKS, **options):
    report = label_groups(groups, tasks, target, runner or Runner(), limits=LIMITS, **options)
    return report, [json.loads(line) for line in target.read_text().splitlines()]


def test_candidates_get_verdicts(groups, tmp_path):
    runner = Runner()
    report, records = label(groups, tmp_path / "out.jsonl", runner)
    assert [record["task_id"] for record in records] == ["t/3", "t/0", "t/1", "t/5", "t/2", "t/4", "t/5"]
    candidates = records[1]["candidates"]
    assert [candidate["passed"] for candidate in candidates] == [True, False, True, False, None]
    assert [candidate["passed_tests"] for candidate in candidates] == [2, 1, 2, 0, 0]
    assert [candidate["num_tests"] for candidate in candidates] == [2] * 5
    assert [candidate["outcomes"] for candidate in candidates] == [
        ["passed"] * 2, ["passed", "failed"], ["passed"] * 2, [], ["unjudged"] * 2
    ]  # fmt: skip
    assert candidates[1]["completion"] == "<wrong>"
    assert [candidate["outcomes"][0] for candidate in records[2]["candidates"]] == ["timeout", "error"]
    assert records[2]["candidates"][0]["num_tests"] == 3
    assert records[2]["license"] == "MIT"
    assert records[2]["verifier"] == {"isolation": "none, in memory", "cpu_seconds": 5.0}
    assert runner.ran[:4] == ["right", "right", "right", "wrong"], "references come first"
    assert runner.ran[4:] == ["right", "wrong", "unclear", "slow", "raises", "wrong", "right"]
    assert report.num_run == 7
    assert report.counts == Counter(
        groups=7, groups_without_labels=2, passed=3, failed=4, unjudged=1, invalid=2, tasks_without_reference=2
    )
    assert len(read_groups(tmp_path / "out.jsonl")) == 7


def test_a_bad_reference_leaves_its_groups_without_labels(groups, tmp_path):
    report, records = label(groups, tmp_path / "out.jsonl")
    assert report.bad_references == {"t/2": "1 of 2 tests passed. wrong!"}
    assert records[4]["unlabelled"] == "the task's reference fails its own tests: 1 of 2 tests passed. wrong!"
    assert [candidate["passed"] for candidate in records[4]["candidates"]] == [None]
    assert records[0]["unlabelled"] == "the task has no tests"
    assert "unlabelled" not in records[1]
    report, records = label(groups, tmp_path / "trusting.jsonl", check_references=False)
    assert report.bad_references == {}
    assert records[4]["candidates"][0]["passed"] is True


def test_old_labels_do_not_stay(tmp_path):
    groups = tmp_path / "groups.jsonl"
    candidate = {"code": "right", "passed": True, "passed_tests": 9, "num_tests": 9}
    groups.write_text(json.dumps({"task_id": "t/2", "prompt": "p2", "candidates": [candidate]}))
    _, records = label(groups, tmp_path / "out.jsonl")
    assert records[0]["candidates"] == [{"code": "right", "passed": None}]


@pytest.mark.parametrize("stop_after", range(11))
def test_a_stopped_run_goes_on_to_the_same_file(groups, tmp_path, stop_after):
    label(groups, tmp_path / "whole.jsonl")
    with pytest.raises(KeyboardInterrupt):
        label(groups, tmp_path / "out.jsonl", Runner(stop_after))
    told, runner = [], Runner()
    label(groups, tmp_path / "out.jsonl", runner, advance=told.append)
    assert sum(told) == 7
    assert stop_after < 8 or len(runner.ran) < 11
    assert (tmp_path / "out.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()


def test_other_tests_or_isolation_do_not_go_on(groups, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        label(groups, tmp_path / "out.jsonl", Runner(6))
    changed = [Task("t/0", "p0", CallTests(("assert f()",)), reference="right"), *TASKS[1:]]
    with pytest.raises(InvalidInput, match="were made with tests"):
        label(groups, tmp_path / "out.jsonl", tasks=changed)
    other = Runner()
    other.isolation = "gVisor"
    with pytest.raises(InvalidInput, match="were made with verifier"):
        label(groups, tmp_path / "out.jsonl", other)


@pytest.mark.parametrize(
    "groups, tasks, message",
    [
        ([("t/9", ["right"])], TASKS, r"line 1: there is no task 't/9' among 6, such as 't/0'"),
        ([("t/0", ["right"])], [], "among 0, none"),
        ([("t/0", ["right"])], [TASKS[0], TASKS[0]], "'t/0' is there twice"),
    ],
)
def test_groups_and_tasks_that_do_not_fit_are_refused(tmp_path, groups, tasks, message):
    with pytest.raises(InvalidInput, match=message):
        label(write_groups(tmp_path / "groups.jsonl", groups), tmp_path / "out.jsonl", tasks=tasks)
    assert not (tmp_path / "out.jsonl.partial").exists()


def test_a_pair_is_no_group(tmp_path):
    groups = tmp_path / "pairs.jsonl"
    groups.write_text('{"task_id": "t/0", "prompt": "p", "chosen": "a", "rejected": "b"}')
    with pytest.raises(InvalidInput, match="line 1 is a pair"):
        label(groups, tmp_path / "out.jsonl")


def test_a_group_says_the_language_of_its_programs(tmp_path):
    prelude = StdioTests((("1", "2"),), "import math", "apps", True)
    harness = StdioTests((("", ""),), language="rust", harness="fn main() {}")
    tasks = [Task("t/0", "p0", prelude), Task("t/1", "p1", CALLS), Task("t/2", "p2", harness)]
    path = tmp_path / "groups.jsonl"
    groups = [("t/0", "c++"), ("t/1", "cpp"), ("t/2", "Java"), ("t/2", None)]
    records = [
        {"task_id": task_id, "prompt": "p", "candidates": [{"code": "right"}], "language": language}
        for task_id, language in groups
    ]
    path.write_text("\n".join(map(json.dumps, records)))
    runner = Runner()
    _, labelled = label(path, tmp_path / "out.jsonl", runner, tasks)
    assert runner.languages == ["cpp", "java", "rust"] and runner.ran == ["right", "right"]
    assert [record["candidates"][0]["passed"] for record in labelled] == [True, None, None, True]
    assert [record.get("unlabelled") for record in labelled] == [
        None,
        "the task's tests are in python, and the programs in cpp",
        "the task's tests are in rust, and the programs in java",
        None,
    ]
    assert runner.tests == harness
    path.write_text(json.dumps(records[0]))
    label(path, tmp_path / "one.jsonl", runner, tasks)
    assert runner.tests == StdioTests((("1", "2"),), comparison="apps", language="cpp")


@pytest.mark.parametrize(
    "language, error, message",
    [("go", SandboxUnavailable, "go is not"), ("cobol", InvalidInput, "language is 'cobol'; give one of python, c")],
)
def test_a_language_that_cannot_be_judged_is_refused_before_anything_runs(tmp_path, language, error, message):
    path, runner = tmp_path / "groups.jsonl", Runner()
    record = {"task_id": "t/1", "prompt": "p1", "candidates": [{"code": "right"}], "language": language}
    path.write_text(json.dumps(record))
    with pytest.raises(error, match=message):
        label(path, tmp_path / "out.jsonl", runner)
    assert not runner.ran and not (tmp_path / "out.jsonl").exists()
