"""Groups of completions to labelled groups, by running each program against its task's tests.

Knows tasks and verdicts, not how a program is isolated.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from codescaler.errors import InvalidInput
from codescaler.io.records import parse_group, read_lines
from codescaler.io.resumable import ResumableFile, compute_digest, compute_file_digest
from codescaler.text.extract import read_language
from codescaler.types import CallTests, Task, Tests, Verdict


class Runner(Protocol):
    """What runs programs: `codescaler.sandbox.Sandbox`."""

    @property
    def isolation(self) -> str:
        """What keeps programs from the host."""
        ...

    def require_language(self, name: str) -> object:
        """Raises SandboxUnavailable if programs of a language cannot be judged here."""
        ...

    def run_many(self, jobs: Iterable[tuple[str, Tests]]) -> Iterator[Verdict]:
        """Yields the verdict of one job after the other, in order; jobs are taken as they are needed."""
        ...


@dataclass(frozen=True)
class LabelReport:
    """What a file of labelled groups holds, and what this run did for it.

    Attributes:
        counts: of the whole file: groups, groups without labels by reason, candidates by verdict.
        bad_references: tasks whose reference does not pass their own tests, and what was seen.
        num_run: distinct programs that this run executed, references aside.
    """

    counts: Counter[str]
    bad_references: Mapping[str, str]
    num_run: int


def label_groups(
    groups: Path,
    tasks: Iterable[Task],
    target: Path,
    runner: Runner,
    *,
    limits: Mapping[str, Any],
    check_references: bool = True,
    trust: Mapping[str, tuple[float, float]] | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> LabelReport:
    """Writes the groups of a file with `passed`, `passed_tests`, `num_tests` and `outcomes` of each candidate.

    With `trust`, true negative rate and true positive rate of a task's suite, a candidate that passed has the first as
    its `weight`, and one that failed the second: the better a suite rejects, the more a program that passes says.

    A group may say the `language` of its programs, where tests are of standard input and output. Without, it is that of
    the tests. A candidate without code failed; `passed` is null where the tests could not judge. A group whose task has
    no tests, or whose reference fails them, is written with `unlabelled`, the reason, and null for every `passed`. A
    killed run goes on; `limits` is what the runner allows a program, and stands on each group beside the isolation.

    With `check_references` each task's reference is run first; a task without one is taken on trust, and counted.
    `advance` is told of groups done.

    Raises: InvalidInput if a group has no task, or as `ResumableFile`; SandboxUnavailable if a language is not judged
        here.
    """
    by_id = index_tasks(tasks)
    used = [find_task(record, name, by_id) for name, _, record in read_lines(groups)]
    languages = {read_language(record, name) for name, _, record in read_lines(groups)}
    languages |= {task.language for task in used}
    for language in sorted(filter(None, languages - {"python"})):
        runner.require_language(language)
    verifier = {"isolation": runner.isolation, **limits}
    settings = {
        "groups": compute_file_digest([groups]),
        "tests": compute_digest(repr((task.task_id, task.tests, task.reference)) for task in used),
        "check_references": check_references,
        "verifier": verifier,
        **({} if trust is None else {"trust": compute_digest(map(repr, sorted(trust.items())))}),
    }
    with ResumableFile(target, settings) as output:
        advance(len(output.done))
        left = {task.task_id: task for task in used[len(output.done) :]}
        bad = find_failing_references(left.values(), runner) if check_references else {}
        lines = ((name, record) for name, _, record in read_lines(groups))
        rest = output.skip_done(lines, lambda line: str(line[1]["task_id"]))
        run = _Run(by_id, bad, verifier, trust or {})
        for record in run.label_lines(rest, runner):
            output.write(record)
            advance(1)
    counts = _read_counts(target)
    counts["tasks_without_reference"] = len({task.task_id for task in used if task.reference is None})
    return LabelReport(counts, bad, run.num_run)


def find_failing_references(tasks: Iterable[Task], runner: Runner) -> dict[str, str]:
    """The tasks whose reference does not pass every test of theirs, and what was seen."""
    checked = [task for task in tasks if task.reference is not None and task.tests is not None]
    jobs = ((task.reference or "", task.tests) for task in checked if task.tests is not None)
    verdicts = zip(checked, runner.run_many(jobs), strict=True)
    return {task.task_id: _describe_verdict(verdict) for task, verdict in verdicts if verdict.passed is not True}


def _describe_verdict(verdict: Verdict) -> str:
    return f"{verdict.num_passed} of {len(verdict.outcomes)} tests passed. {verdict.message}".strip()


@dataclass
class _Pending:
    """A group on its way: distinct programs, and their verdicts as they come."""

    record: Mapping[str, Any]
    tests: Tests | None
    programs: list[str]
    reason: str | None = None
    verdicts: list[Verdict] = field(default_factory=list)


class _Run:
    def __init__(
        self,
        tasks: Mapping[str, Task],
        bad: Mapping[str, str],
        verifier: Mapping[str, Any],
        trust: Mapping[str, tuple[float, float]],
    ) -> None:
        self.num_run = 0
        self._tasks, self._bad, self._verifier, self._trust = tasks, bad, verifier, trust

    def label_lines(self, lines: Iterable[tuple[str, Mapping[str, Any]]], runner: Runner) -> Iterator[dict[str, Any]]:
        """Yields the groups in order; the runner takes programs of following groups while one is not done."""
        pending: deque[_Pending] = deque()

        def list_jobs() -> Iterator[tuple[str, Tests]]:
            for name, record in lines:
                group = self._make_pending(record, name)
                pending.append(group)
                for program in group.programs:
                    assert group.tests is not None  # without tests there is no program to run
                    yield program, group.tests

        for verdict in runner.run_many(list_jobs()):
            while len(pending[0].verdicts) == len(pending[0].programs):  # nothing, or nothing more, to run
                yield self._record(pending.popleft())
            pending[0].verdicts.append(verdict)
            self.num_run += 1
        while pending:
            yield self._record(pending.popleft())

    def _make_pending(self, record: Mapping[str, Any], name: str) -> _Pending:
        task = self._tasks[str(record["task_id"])]
        language = read_language(record, name) or task.language
        tests, reason = _convert_tests(task.tests, language), None
        if task.tests is None:
            reason = "the task has no tests"
        elif tests is None:
            reason = f"the task's tests are in {task.language}, and the programs in {language}"
        elif task.task_id in self._bad:
            reason = f"the task's reference fails its own tests: {self._bad[task.task_id]}"
        codes = [candidate["code"] for candidate in record["candidates"] if candidate["code"] is not None]
        return _Pending(record, tests or task.tests, [] if reason else list(dict.fromkeys(codes)), reason)

    def _record(self, group: _Pending) -> dict[str, Any]:
        verdicts = dict(zip(group.programs, group.verdicts, strict=True))
        num_tests = _count_tests(group.tests)
        task = self._tasks[str(group.record["task_id"])]
        labelled = []
        for candidate in group.record["candidates"]:
            label: dict[str, Any] = {"passed": None}
            if group.reason is None and candidate["code"] is None:
                label = {"passed": False, "passed_tests": 0, "num_tests": num_tests, "outcomes": []}
            elif group.reason is None:
                verdict = verdicts[candidate["code"]]
                label = {
                    "passed": verdict.passed,
                    "passed_tests": verdict.num_passed,
                    "num_tests": len(verdict.outcomes),
                    "outcomes": list(verdict.outcomes),
                }
            if label["passed"] is not None and task.task_id in self._trust:
                label["weight"] = self._trust[task.task_id][0 if label["passed"] else 1]
            stale = ("passed", "passed_tests", "num_tests", "outcomes", "weight")
            labelled.append({key: value for key, value in candidate.items() if key not in stale} | label)
        added = {} if group.reason is None else {"unlabelled": group.reason}
        if task.license is not None and "license" not in group.record:
            added["license"] = task.license
        return {**group.record, **added, "candidates": labelled, "verifier": self._verifier}


def _convert_tests(tests: Tests | None, language: str) -> Tests | None:
    """Tests for programs in a language; None if they cannot be, since they are in another language themselves."""
    if tests is None or language == ("python" if isinstance(tests, CallTests) else tests.language):
        return tests
    if isinstance(tests, CallTests) or tests.harness:
        return None
    return replace(tests, language=language, prelude="", allows_return=False)


def _count_tests(tests: Tests | None) -> int:
    if tests is None:
        return 0
    return len(tests.statements if isinstance(tests, CallTests) else tests.cases)


def index_tasks(tasks: Iterable[Task]) -> dict[str, Task]:
    """Tasks by their ids. Raises: InvalidInput if two have the same."""
    by_id: dict[str, Task] = {}
    for task in tasks:
        if task.task_id in by_id:
            raise InvalidInput(f"{task.name}: the task_id {task.task_id!r:.80} is there twice; keep one of them")
        by_id[task.task_id] = task
    return by_id


def find_task(record: Mapping[str, Any], name: str, tasks: Mapping[str, Task]) -> Task:
    """The task of a group, after a check of the group. Raises: InvalidInput if it has none."""
    group = parse_group(record, name)
    if "candidates" not in record:
        raise InvalidInput(f"{name} is a pair; give groups, such as `codescaler data sample` writes")
    if group.task_id not in tasks:
        seen = f"such as {next(iter(tasks))!r:.80}" if tasks else "none"
        raise InvalidInput(
            f"{name}: there is no task {group.task_id!r:.80} among {len(tasks)}, {seen}; give the sampled tasks"
        )
    return tasks[group.task_id]


def _read_counts(path: Path) -> Counter[str]:
    names = ("groups", "groups_without_labels", "passed", "failed", "unjudged", "invalid")
    counts = Counter({name: 0 for name in names})
    for _, _, record in read_lines(path):
        counts["groups"] += 1
        if "unlabelled" in record:
            counts["groups_without_labels"] += 1
            continue
        for candidate in record["candidates"]:
            verdict = {True: "passed", False: "failed", None: "unjudged"}[candidate["passed"]]
            counts["invalid" if candidate["code"] is None else verdict] += 1
    return counts
