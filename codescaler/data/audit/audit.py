"""Audits suites of tests, problem by problem. A line of the result holds figures and findings of one suite."""

import dataclasses
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from codescaler.data.audit.constraints import (
    Constraint,
    find_violations,
    name_first_line,
    read_constraints,
    read_first_line,
)
from codescaler.data.audit.coverage import Trace, trace_tests
from codescaler.data.audit.edge_cases import find_edge_cases
from codescaler.data.audit.mutation import Mutation, classify_mutants
from codescaler.data.audit.references import Contradiction, find_contradictions
from codescaler.data.audit.trivial import make_trivial_programs
from codescaler.data.execution.minimal import choose_minimal_tests
from codescaler.data.execution.outputs import Capturer, Interface, Output, collect_outputs, find_interface
from codescaler.data.label.generated_tests import vary_calls
from codescaler.data.mutants import make_mutants
from codescaler.errors import InvalidInput
from codescaler.io.records import read_groups
from codescaler.io.resumable import ResumableFile, compute_digest
from codescaler.text.extract import parse_syntax_tree
from codescaler.types import CallTests, StdioTests, Task, Tests, Verdict

_MAX_SHOWN = 5  # of each kind of finding


class Runner(Capturer, Protocol):
    """What runs programs: `codescaler.sandbox.Sandbox`."""

    @property
    def isolation(self) -> str:
        """What keeps programs from the host."""
        ...

    def run_many(self, jobs: Iterable[tuple[str, Tests]]) -> Iterator[Verdict]:
        """Yields the verdict of one job after the other, in order."""
        ...


@dataclass(frozen=True)
class AuditSettings:
    """How far a suite is tried: mutants of its reference, inputs that they are compared on, and the seed of both."""

    num_mutants: int = 20
    num_inputs: int = 30
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_mutants", "num_inputs"):
            if getattr(self, name) < 0:
                raise InvalidInput(f"{name} {getattr(self, name)}; give a whole number of at least 0")


@dataclass(frozen=True)
class KnownPrograms:
    """Programs of a problem whose verdict is known from elsewhere."""

    correct: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()


def read_known_programs(paths: Sequence[Path]) -> dict[str, KnownPrograms]:
    """The distinct programs of labelled groups by task. A program with both labels is neither.

    Raises: InvalidInput if no program is labelled.
    """
    labels: dict[str, dict[str, set[bool]]] = {}
    for path in paths:
        for group in read_groups(path):
            for candidate in group.candidates:
                if candidate.code is not None and candidate.passed is not None:
                    labels.setdefault(group.task_id, {}).setdefault(candidate.code, set()).add(candidate.passed)
    if paths and not labels:
        raise InvalidInput(f"{', '.join(map(str, paths))} has no labelled program; run `codescaler data label` first")
    return {
        task_id: KnownPrograms(
            tuple(code for code, seen in programs.items() if seen == {True}),
            tuple(code for code, seen in programs.items() if seen == {False}),
        )
        for task_id, programs in labels.items()
    }


def audit_tasks(
    tasks: Sequence[Task],
    target: Path,
    runner: Runner,
    settings: AuditSettings,
    *,
    limits: Mapping[str, Any],
    programs: Mapping[str, KnownPrograms] | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> None:
    """Writes a line for each problem that has tests. A killed run goes on.

    Raises: InvalidInput if no problem has tests, or as `ResumableFile`.
    """
    programs = programs or {}
    audited = [task for task in tasks if task.tests is not None and _list_names(task.tests)]
    if not audited:
        raise InvalidInput(f"none of {len(tasks)} problems has tests; give problems with tests")
    made_with = {
        "tasks": compute_digest(repr((task.task_id, task.prompt, task.tests, task.reference)) for task in audited),
        "programs": compute_digest(repr((name, programs[name])) for name in sorted(programs)),
        "verifier": {"isolation": runner.isolation, **limits},
        **dataclasses.asdict(settings),
    }
    with ResumableFile(target, made_with) as output:
        advance(len(output.done))
        for task in output.skip_done(audited, lambda task: task.task_id):
            output.write(_Audit(task, runner, settings, programs.get(task.task_id, KnownPrograms())).make_record())
            advance(1)


@dataclass
class _Audit:
    """The audit of one suite, in steps that use what the steps before found."""

    task: Task
    runner: Runner
    settings: AuditSettings
    known: KnownPrograms
    verdicts: dict[str, Verdict] = field(default_factory=dict)

    def make_record(self) -> dict[str, Any]:
        tests, reference = self.task.tests, self.task.reference
        assert tests is not None  # chosen so
        trivial = make_trivial_programs(tests, reference)
        mutants = self._make_mutants()
        own = [] if reference is None else [reference]
        self._run([*own, *trivial.values(), *mutants, *self.known.correct, *self.known.wrong], tests)
        is_sound = reference is not None and self.verdicts[reference].passed is True
        trace = trace_tests(self.runner, reference, tests) if reference is not None and is_sound else None
        interface, inputs = self._make_inputs(trace)
        expected = self._collect(reference, interface, inputs) if is_sound else []
        inputs = inputs if expected else []
        mutation = classify_mutants(
            self.runner, {code: self.verdicts[code] for code in mutants}, interface, inputs, expected
        )
        strong = [code for code in (*self.known.correct, *self.known.wrong) if self.verdicts[code].passed]
        against = find_contradictions(self.runner, strong, interface, inputs, expected) if interface is not None else []
        return {
            "task_id": self.task.task_id,
            "num_tests": len(_list_names(tests)),
            "reference": self._describe_reference(against),
            "programs": self._count_programs(),
            "mutation": _describe_mutation(mutation) if is_sound else None,
            "coverage": None if trace is None else _describe_coverage(trace),
            **self._describe_inputs(trace, tests),
            "trivial": self._describe_trivial(trivial),
            "redundant": self._find_redundant(mutants, trivial),
            "trust": self._estimate_trust(mutation if is_sound else None),
        }

    def _make_mutants(self) -> list[str]:
        reference = self.task.reference
        if reference is None or parse_syntax_tree(reference) is None:
            return []
        return make_mutants(reference, self.settings.num_mutants, self.settings.seed)

    def _run(self, codes: Sequence[str], tests: Tests) -> None:
        distinct = list(dict.fromkeys(codes))
        ran = self.runner.run_many((code, tests) for code in distinct)
        self.verdicts = dict(zip(distinct, ran, strict=True))

    def _make_inputs(self, trace: Trace | None) -> tuple[Interface | None, list[str]]:
        """Inputs beside those of the tests, of the same types and ranges. A whole program has those of the tests."""
        interface, tests = find_interface(self.task), self.task.tests
        if interface is None or isinstance(tests, StdioTests) or trace is None:
            return interface, []
        calls = [tuple(call.values()) for call in trace.calls]
        if not calls or len({len(call) for call in calls}) != 1 or not calls[0]:
            return interface, []
        source = random.Random(f"{self.settings.seed} {self.task.task_id}")
        made = vary_calls(calls, self.settings.num_inputs, source) if self.settings.num_inputs else []
        return interface, [", ".join(map(repr, call)) for call in made]

    def _collect(self, code: str | None, interface: Interface | None, inputs: Sequence[str]) -> list[Output | None]:
        if interface is None or not inputs or code is None:
            return []
        (outputs,) = collect_outputs(self.runner, [(code, interface, inputs)])
        return outputs

    def _describe_reference(self, against: Sequence[Contradiction]) -> dict[str, Any]:
        reference = self.task.reference
        if reference is None:
            return {"passes": None}
        verdict = self.verdicts[reference]
        seen = {} if verdict.passed else {"message": verdict.message}
        shown = [dataclasses.asdict(item) for item in against[:_MAX_SHOWN]]
        return {"passes": verdict.passed, **seen, "num_contradictions": len(against), "contradictions": shown}

    def _count_programs(self) -> dict[str, int]:
        correct, wrong = (
            Counter(self.verdicts[code].passed for code in codes) for codes in (self.known.correct, self.known.wrong)
        )
        return {
            "correct_passed": correct[True],
            "correct_failed": correct[False],
            "wrong_passed": wrong[True],
            "wrong_failed": wrong[False],
            "unjudged": correct[None] + wrong[None],
        }

    def _describe_inputs(self, trace: Trace | None, tests: Tests) -> dict[str, Any]:
        constraints = read_constraints(self.task.prompt)
        calls = [] if trace is None else trace.calls
        if isinstance(tests, StdioTests):
            names = read_first_line(self.task.prompt)
            calls = [call for stdin, _ in tests.cases if (call := name_first_line(stdin, names))]
        broken = _list_violations(calls, constraints)
        covered, missing = find_edge_cases(calls, constraints)
        return {
            "constraints": {"read": len(constraints), "num_violations": len(broken), "violations": broken[:_MAX_SHOWN]},
            "edge_cases": {"covered": covered, "missing": missing},
        }

    def _describe_trivial(self, trivial: Mapping[str, str]) -> dict[str, Any]:
        """Trivial programs that pass the suite, and the tests that each program of `pass` passes."""
        passing = [name for name, code in trivial.items() if self.verdicts[code].passed]
        verdict = self.verdicts.get(trivial.get("pass", ""))
        outcomes = () if verdict is None else verdict.outcomes
        return {
            "passing": passing,
            "tests_passed_by_pass": [place for place, outcome in enumerate(outcomes) if outcome == "passed"],
        }

    def _find_redundant(self, mutants: Sequence[str], trivial: Mapping[str, str]) -> dict[str, Any]:
        """Tests without which the suite rejects the same of all programs that ran here."""
        judged = [self.verdicts[code] for code in dict.fromkeys((*mutants, *trivial.values(), *self.known.wrong))]
        rejected = [verdict for verdict in judged if verdict.passed is False]
        assert self.task.tests is not None
        kills: list[set[int]] = [set() for _ in _list_names(self.task.tests)]
        for number, verdict in enumerate(rejected):
            for place, outcome in enumerate(verdict.outcomes):
                if outcome not in ("passed", "unjudged"):
                    kills[place].add(number)
        needed = choose_minimal_tests(kills) if rejected else list(range(len(kills)))
        return {
            "programs": len(rejected),
            "needed": len(needed),
            "tests": [place for place in range(len(kills)) if place not in needed],
        }

    def _estimate_trust(self, mutation: Mutation | None) -> dict[str, float]:
        """The chance that a label is right, from known programs and mutants, with one program more of each verdict."""
        counts = self._count_programs()
        killed, survived = (0, 0) if mutation is None else (mutation.killed, len(mutation.survivors))
        wrong_failed, wrong_passed = counts["wrong_failed"] + killed, counts["wrong_passed"] + survived
        correct_passed, correct_failed = counts["correct_passed"], counts["correct_failed"]
        return {
            "tnr": (wrong_failed + 1) / (wrong_failed + wrong_passed + 2),
            "tpr": (correct_passed + 1) / (correct_passed + correct_failed + 2),
        }


def _list_names(tests: Tests) -> Sequence[object]:
    return tests.statements if isinstance(tests, CallTests) else tests.cases


def _list_violations(calls: Iterable[Mapping[str, Any]], constraints: Sequence[Constraint]) -> list[str]:
    return list(dict.fromkeys(text for call in calls for text in find_violations(call, constraints)))


def _describe_mutation(mutation: Mutation) -> dict[str, Any]:
    counts = {name: getattr(mutation, name) for name in ("made", "killed", "equivalent", "unknown", "score")}
    shown = [dataclasses.asdict(survivor) for survivor in mutation.survivors[:_MAX_SHOWN]]
    return {**counts, "survived": len(mutation.survivors), "survivors": shown}


def _describe_coverage(trace: Trace) -> dict[str, Any]:
    missed = [words for name, words in trace.branches.items() if name not in trace.reached]
    return {"branches": len(trace.branches), "reached": len(trace.reached), "missed": missed}
