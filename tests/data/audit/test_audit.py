"""Audits of small suites in the real sandbox: each fault is found, and a sound suite has none."""

import json
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt

from codescaler.data.audit.audit import AuditSettings, KnownPrograms, audit_tasks, read_known_programs
from codescaler.data.audit.coverage import trace_tests
from codescaler.data.audit.report import (
    find_worst,
    format_html,
    format_markdown,
    list_findings,
    read_audit,
    read_trust,
    summarize_audit,
)
from codescaler.errors import InvalidInput
from codescaler.sandbox import Limits, Sandbox
from codescaler.types import CallTests, StdioTests, Task

CLAMP = "def clamp(x, low):\n    if x < low:\n        return low\n    return x\n"
STRONG = ("assert clamp(1, 3) == 3", "assert clamp(5, 3) == 5", "assert clamp(-7, -9) == -7", "assert clamp(0, 0) == 0")
LIMITS = {"cpu_seconds": 1}
SETTINGS = AuditSettings(num_mutants=8, num_inputs=20)


def task(*statements, name="clamp", reference=CLAMP, prompt="Return the larger one.", task_id="t/1"):
    return Task(task_id, prompt, CallTests(tuple(statements), (name,)), reference)


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(Limits(cpu_seconds=1, wall_seconds=4.0), num_workers=2) as sandbox:
        yield sandbox


@pytest.fixture
def audit(sandbox, tmp_path):
    def run(*tasks, settings=SETTINGS, **options):
        target = tmp_path / "audit.jsonl"
        target.unlink(missing_ok=True)
        audit_tasks(tasks, target, sandbox, settings, limits=LIMITS, **options)
        return read_audit(target)

    return run


def test_a_sound_suite(audit):
    (record,) = audit(task(*STRONG))
    assert record["reference"]["passes"] is True and record["trivial"] == {"passing": [], "tests_passed_by_pass": []}
    mutation = record["mutation"]
    assert mutation["score"] == 1 and mutation["killed"] >= 2 and mutation["survived"] == 0
    assert mutation["equivalent"] == 1  # `<=` for `<` is the same function
    assert record["coverage"] == {"branches": 2, "reached": 2, "missed": []}
    assert not [words for weight, words in list_findings(record) if weight > 1]


def test_a_weak_suite(audit):
    known = {"t/1": KnownPrograms((CLAMP, CLAMP.replace("<", "<=")), ("def clamp(x, low): return 3",))}
    (record,) = audit(task("assert clamp(1, 3) == 3", "assert clamp(5, 3) != 9", "assert True"), programs=known)
    assert record["programs"] == {
        "correct_passed": 2, "correct_failed": 0, "wrong_passed": 1, "wrong_failed": 0, "unjudged": 0,
    }  # fmt: skip
    assert record["mutation"]["survived"] >= 1 and record["mutation"]["score"] < 1
    survivor = record["mutation"]["survivors"][0]
    scope = {}
    exec(survivor["code"], scope)
    assert repr(scope["clamp"](*eval(f"({survivor['arguments']})"))) == survivor["seen"] != survivor["expected"]
    assert record["redundant"]["needed"] == 1 and len(record["redundant"]["tests"]) == 2
    assert record["trivial"]["tests_passed_by_pass"] == [1, 2]
    assert record["trust"]["tpr"] == 3 / 4 and record["trust"]["tnr"] < 0.8
    assert "x: negative" in record["edge_cases"]["missing"]
    assert [words for _, words in list_findings(record) if "known to be incorrect" in words]


def test_a_suite_that_pass_passes(audit):
    records = audit(
        task("assert not log(3)", name="log", reference="def log(x):\n    return []"),
        Task("t/2", "Print nothing.", StdioTests((("1\n", ""),)), "x = input()"),
    )
    assert records[0]["trivial"]["passing"] == ["pass", "return 0", "return False", "return ''", "return []"]
    assert records[1]["trivial"]["passing"] == ["pass"]
    assert summarize_audit(records)["suites_that_a_trivial_program_passes"] == 2


def test_a_reference_that_fails_and_one_that_others_contradict(audit):
    wrong = "def size(a):\n    return len(a) if len(a) < 4 else 3"
    others = tuple(f"def size(a):\n    return {body}" for body in ("len(a)", "sum(1 for _ in a)", "a.__len__() + 0"))
    tests = ("assert size([1]) == 1", "assert size([1, 2, 3]) == 3", "assert size([]) == 0")
    tests += ("assert size([5, 6, 7]) == 3", "assert size([8, 7, 7]) == 3")
    records = audit(
        task(*tests, name="size", reference=wrong),
        task("assert clamp(1, 3) == 1", task_id="t/2"),
        programs={"t/1": KnownPrograms(others, (wrong,))},
    )
    contradiction = records[0]["reference"]["contradictions"][0]
    assert contradiction["reference"] == "3" and int(contradiction["majority"]) > 3
    assert contradiction["share"] == 0.75  # of four forms that pass
    assert records[1]["reference"]["passes"] is False and records[1]["mutation"] is None
    assert "The reference fails its own tests: AssertionError" in list_findings(records[1])[0][1]
    summary = summarize_audit(records)
    assert summary["references_that_fail"] == summary["references_contradicted"] == 1
    assert summary["true_positive_rate"] == 1 and summary["true_negative_rate"] == 0


def test_inputs_that_break_constraints(audit):
    program = Task(
        "t/2", "The first line contains two integers n and m (1 ≤ n, m ≤ 10).",
        StdioTests((("3 4\n", "7"), ("11 0\n", "11"))), "a, b = map(int, input().split())\nprint(a + b)",
    )  # fmt: skip
    records = audit(task(*STRONG, prompt="Return the larger one, where 1 <= low <= 100."), program)
    assert records[0]["constraints"]["violations"] == [
        "low is -9, not 1 or more and 100 or less", "low is 0, not 1 or more and 100 or less",
    ]  # fmt: skip
    assert records[1]["constraints"]["num_violations"] == 2
    assert records[1]["coverage"] == {"branches": 0, "reached": 0, "missed": []}


@pytest.mark.parametrize(
    "body, calls, missed",
    [
        ("for i in a:\n        pass", "[1]", ["line 2: loop not entered"]),
        ("return [i for i in a if i]", "[1]", ["line 2: condition of a comprehension false"]),
        ("return 1 if a else 2", "[]", ["line 2: conditional expression true"]),
        ("while True:\n        break", "[]", []),
        ("try:\n        return a[0]\n    except IndexError:\n        return 0", "[1]", ["line 4: handler reached"]),
        ("match a:\n        case []: return 1\n        case _: return 2", "[]", ["line 3: case reached"]),
        ("while a:\n        a = a[1:]", "[1]", []),
    ],
)
def test_branches(sandbox, body, calls, missed):
    tests = CallTests((f"f({calls})",), ("f",))
    trace = trace_tests(sandbox, f"def f(a):\n    {body}", tests)
    assert trace.is_complete
    names = [words for name, words in trace.branches.items() if name not in trace.reached]
    assert [name.replace("line 4: case", "line 3: case") for name in names] == missed


def test_traces_of_recursion_methods_and_programs(sandbox):
    recursive = "def f(n, step=1):\n    return n if n < 1 else f(n - step)"
    trace = trace_tests(sandbox, recursive, CallTests(("assert f(3) == 0", "f(step=2, n=1)", "f(object)"), ("f",)))
    assert trace.calls == [{"n": 3, "step": 1}, {"n": 1, "step": 2}]
    method = "class Solution:\n    def g(self, a):\n        return a[0]"
    statements = ("c = Solution().g\nassert c(a=(1, 2)) == 1",)
    assert trace_tests(sandbox, method, CallTests(statements, ("Solution",))).calls == [{"a": (1, 2)}]
    program = "import sys\nn = int(input())\nprint(n)\nif n > 1:\n    sys.exit(3)"
    trace = trace_tests(sandbox, program, StdioTests((("1\n", ""), ("5\n", ""))))
    assert trace.is_complete and trace.reached == set(trace.branches) and len(trace.branches) == 2
    assert trace_tests(sandbox, "def f(:", CallTests(("f()",))) is None


def test_a_run_that_was_stopped_goes_on(sandbox, tmp_path):
    tasks = [task(*STRONG, task_id=f"t/{number}") for number in range(3)]
    whole, target = tmp_path / "whole.jsonl", tmp_path / "audit.jsonl"
    audit_tasks(tasks, whole, sandbox, SETTINGS, limits=LIMITS)
    done = []

    def stop(number):
        done.append(number)
        if len(done) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        audit_tasks(tasks, target, sandbox, SETTINGS, limits=LIMITS, advance=stop)
    with pytest.raises(InvalidInput, match="num_mutants"):
        audit_tasks(tasks, target, sandbox, AuditSettings(num_mutants=9, num_inputs=20), limits=LIMITS)
    audit_tasks(tasks, target, sandbox, SETTINGS, limits=LIMITS)
    assert target.read_bytes() == whole.read_bytes()
    assert set(read_trust(target)) == {"t/0", "t/1", "t/2"}


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text = [], ""

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, attributes))

    def handle_data(self, data):
        self.text += data


def test_reports_escape_all_text(audit):
    hostile = "<script>alert(1)</script> | [x](http://h) `a` \n# b"
    statements = (f"assert f({hostile!r}) == 1",)
    reference = "def f(x):\n    return 1 if x else 0"
    records = audit(
        task(*statements, name="f", reference=reference, task_id=hostile), settings=AuditSettings(num_mutants=9)
    )
    page = Page()
    page.feed(format_html(records, hostile))
    assert {tag for tag, _ in page.tags} == {"html", "meta", "title", "style", "body", "h1", "table", "tr", "td", "h2",
                                             "ul", "li"}  # fmt: skip
    assert not [name for _, attributes in page.tags for name, _ in attributes if name in ("src", "href")]
    assert "<script>alert(1)</script>" in page.text
    markdown = format_markdown(records, hostile)
    rendered = Page()
    rendered.feed(MarkdownIt("commonmark").enable("table").render(markdown))
    assert {tag for tag, _ in rendered.tags} <= {"h1", "h2", "table", "thead", "tbody", "tr", "th", "td", "ul", "li"}
    assert "[x](http://h) `a`" in rendered.text
    assert [record["task_id"] for record in find_worst(records)] == [hostile]


def test_known_programs_come_from_labels(tmp_path):
    path = tmp_path / "groups.jsonl"
    labels = [("a", True), ("a", True), ("b", False), ("c", True), ("c", False), ("d", None), (None, False)]
    candidates = [{"code": code, "passed": passed} for code, passed in labels]
    path.write_text(json.dumps({"task_id": "t", "prompt": "p", "candidates": candidates}))
    assert read_known_programs([path]) == {"t": KnownPrograms(("a",), ("b",))}
    path.write_text(json.dumps({"task_id": "t", "prompt": "p", "candidates": [{"code": "a"}]}))
    with pytest.raises(InvalidInput, match="has no labelled program"):
        read_known_programs([path])


def test_bad_input(sandbox, tmp_path):
    with pytest.raises(InvalidInput, match="none of 1 problems has tests"):
        audit_tasks([Task("t", "p")], tmp_path / "a.jsonl", sandbox, SETTINGS, limits=LIMITS)
    with pytest.raises(InvalidInput, match="num_inputs -1"):
        AuditSettings(num_inputs=-1)
    path = tmp_path / "other.jsonl"
    path.write_text('{"task_id": "t"}')
    with pytest.raises(InvalidInput, match="line 1 is not a line of `codescaler data audit`"):
        read_audit(path)
