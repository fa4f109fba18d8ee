"""Suites of tests for problems that may have no reference.

Inputs are the problem's own, made ones of three kinds (`suite_inputs`), and those of programs that a language model
writes, which a validator filters. Outputs are those of the reference, or of a weighted majority of solutions. Solutions
that fail a test which the problem's text shows do not vote, and count as incorrect. A suite is then reduced to the
fewest tests that reject the same incorrect programs. Programs that pass although they differ from the majority
elsewhere go back to the language model for more inputs.
"""

import dataclasses
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from codescaler.data.execution.examples import read_examples
from codescaler.data.execution.minimal import choose_minimal_tests
from codescaler.data.execution.outputs import Capturer, Interface, Output, collect_outputs, find_interface
from codescaler.data.execution.votes import Vote, hold_vote, hold_weighted_vote, measure_agreement, weigh_programs
from codescaler.data.label.generated_tests import SAME
from codescaler.data.mutants import make_mutants
from codescaler.data.synthesis.suite_inputs import write_inputs
from codescaler.data.synthesis.validators import ask_checker, choose_checker
from codescaler.data.synthesis.writer import Tools, Writer
from codescaler.errors import InvalidInput
from codescaler.io.records import read_groups, read_lines
from codescaler.io.resumable import ResumableFile, compute_digest
from codescaler.tasks import make_task_record
from codescaler.types import CallTests, StdioTests, Task, Tests, Verdict


class Runner(Capturer, Protocol):
    """What runs programs: `codescaler.sandbox.Sandbox`."""

    def run_many(self, jobs: Iterable[tuple[str, Tests]]) -> Iterator[Verdict]:
        """Yields the verdict of one job after the other, in order."""
        ...

    @property
    def isolation(self) -> str:
        """What keeps programs from the host."""
        ...


@dataclass(frozen=True)
class SuiteSettings:
    """How a suite is made.

    Attributes:
        num_inputs: to try for. min_share: of the weighted majority, from which on its output is a test's.
        num_mutants: of the solution that agrees most, as incorrect programs beside the sampled ones.
        num_rounds: in which programs that pass go back to the writer.
        uses_references: take the outputs of references where there are such.
        is_minimal: leave out tests that reject nothing more. min_tests: that are kept all the same.
        min_agreement: mean share of the majority, all programs weighing the same, below which a problem gets no suite.
            References agree with themselves.
    """

    num_inputs: int = 40
    min_share: float = 0.9
    num_mutants: int = 20
    num_rounds: int = 1
    uses_references: bool = True
    is_minimal: bool = True
    min_tests: int = 5
    seed: int = 0
    min_agreement: float = 0.0

    def __post_init__(self) -> None:
        for name in ("num_inputs", "min_tests"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"{name} {getattr(self, name)}; give a whole number of at least 1")
        for name in ("num_mutants", "num_rounds"):
            if getattr(self, name) < 0:
                raise InvalidInput(f"{name} {getattr(self, name)}; give a whole number of at least 0")
        for name in ("min_share", "min_agreement"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidInput(f"{name} {getattr(self, name)}; give a number from 0 to 1")


def write_suites(
    tasks: Sequence[Task],
    solutions: Path,
    target: Path,
    runner: Runner,
    settings: SuiteSettings,
    *,
    limits: Mapping[str, Any],
    writer: Writer | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Writes each problem with a new suite in place of its tests, and returns what became of each.

    `solutions` are groups of sampled programs, whose labels are not read. A problem whose suite cannot be made is
    written without tests, with the reason in `suite`. A killed run goes on.

    Raises: InvalidInput as `ResumableFile`.
    """
    groups = {group.task_id: group.codes for group in read_groups(solutions)}
    made_with = {
        "tasks": compute_digest(repr((task.task_id, task.prompt, task.tests, task.reference)) for task in tasks),
        "solutions": compute_digest(repr(item) for item in sorted(groups.items())),
        "writer": None if writer is None else writer.describe(),
        "verifier": {"isolation": runner.isolation, **limits},
        **dataclasses.asdict(settings),
    }
    with ResumableFile(target, made_with) as output:
        advance(len(output.done))
        for task in output.skip_done(tasks, lambda task: task.task_id):
            output.write(_Suite(task, groups.get(task.task_id, []), runner, settings, writer).make_record())
            advance(1)
    return [record["suite"] for _, _, record in read_lines(target)]


def split_by_shown_tests(runner: Runner, task: Task, programs: Sequence[str]) -> tuple[list[str], list[str]]:
    """The programs that pass the tests of a task that stand in its text, and those that fail one."""
    if not isinstance(task.tests, CallTests):
        return list(programs), []
    shown = tuple(statement for statement in task.tests.statements if statement in task.prompt)
    if not shown:
        return list(programs), []
    tests = dataclasses.replace(task.tests, statements=shown)
    verdicts = list(runner.run_many((code, tests) for code in programs))
    passes = [verdict.passed is not False for verdict in verdicts]
    judged = list(zip(programs, passes, strict=True))
    return [code for code, does_pass in judged if does_pass], [code for code, does_pass in judged if not does_pass]


@dataclass
class _Suite:
    """One suite in the making: inputs, with the outputs of each program on them."""

    task: Task
    programs: list[str]
    runner: Runner
    settings: SuiteSettings
    writer: Writer | None
    inputs: list[str] = field(default_factory=list)
    rows: list[list[Output | None]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    reference_row: list[Output | None] = field(default_factory=list)
    checker: str | None = None

    def make_record(self) -> dict[str, Any]:
        reason = self._find_obstacle()
        suite: dict[str, Any] = {"made": False, "reason": reason}
        tests: Tests | None = None
        if reason is None:
            tests, suite = self._make_suite()
        return {**make_task_record(dataclasses.replace(self.task, tests=tests)), "suite": suite}

    def _find_obstacle(self) -> str | None:
        if find_interface(self.task) is None:
            return "its tests do not say how one function or program is called"
        if not self._has_reference and len(self.programs) < 2:
            failed = f" ({len(self.failed)} fail the tests that it shows)" if self.failed else ""
            return f"it has {len(self.programs)} solutions to vote{failed}, and no reference"
        return None

    @property
    def _has_reference(self) -> bool:
        return self.settings.uses_references and self.task.reference is not None

    @property
    def _interface(self) -> Interface:
        interface = find_interface(self.task)
        assert interface is not None  # else there is an obstacle
        return interface

    def _make_suite(self) -> tuple[Tests | None, dict[str, Any]]:
        is_call = self._interface.call is not None
        tools = None if self.writer is None else self.writer.make_tools(self.task, self._interface, self.runner)
        if tools is not None and tools.checkers and not is_call:
            return None, {"made": False, "reason": "several outputs of a whole program are correct for one input"}
        if not self._has_reference and (tools is None or not tools.checkers):  # else other outputs may be correct too
            self.programs, self.failed = split_by_shown_tests(self.runner, self.task, self.programs)
            if (reason := self._find_obstacle()) is not None:
                return None, {"made": False, "reason": reason}
        inputs = self._list_own_inputs()
        if tools is not None:
            inputs = tools.filter_inputs([*inputs, *tools.make_inputs(self.settings.num_inputs)])
        self._add_inputs(inputs)
        if tools is not None and tools.checkers:
            self.checker = choose_checker(self.runner, tools.checkers, self.inputs, self._hold_vote())
            if self.checker is None:
                return None, {"made": False, "reason": "several outputs are correct, and no checker is good"}
        agreement = self._measure_agreement()
        if agreement < self.settings.min_agreement:
            return None, {"made": False, "reason": "solutions disagree", "agreement": round(agreement, 4)}
        wrong = [*self.failed, *self._make_wrong_programs()]
        wrong_rows = self._collect(wrong, self.inputs)
        wrong_rows, num_fed_back = self._feed_back(tools, wrong, wrong_rows)
        return self._choose_tests(wrong_rows, num_fed_back, agreement)

    def _feed_back(
        self, tools: Tools | None, wrong: Sequence[str], wrong_rows: list[list[Output | None]]
    ) -> tuple[list[list[Output | None]], int]:
        """Has inputs written against mutants that pass; returns outputs of all mutants, and how many inputs came."""
        num_before = len(self.inputs)
        for _ in range(self.settings.num_rounds):
            survivors = self._list_survivors(wrong, wrong_rows)
            if tools is None or not survivors:
                break
            place = len(self.inputs)
            self._add_inputs(tools.filter_inputs(tools.attack(survivors, self.settings.num_inputs)))
            new = self._collect(wrong, self.inputs[place:])
            wrong_rows = [[*row, *added] for row, added in zip(wrong_rows, new, strict=True)]
        return wrong_rows, len(self.inputs) - num_before

    def _list_own_inputs(self) -> list[str]:
        tests = self.task.tests
        if isinstance(tests, StdioTests):
            return list(dict.fromkeys(stdin for stdin, _ in tests.cases))[: self.settings.num_inputs]
        assert isinstance(tests, CallTests)
        examples = read_examples(tests, self._interface)
        if examples is None:
            return []
        source = random.Random(f"{self.settings.seed} {self.task.task_id}")
        return list(dict.fromkeys(write_inputs(examples, self.settings.num_inputs, source)))

    def _add_inputs(self, inputs: Sequence[str]) -> None:
        new = [text for text in dict.fromkeys(inputs) if text not in self.inputs]
        rows = self._collect(self.programs, new)
        self.rows = [[*row, *added] for row, added in zip(self.rows or [[] for _ in rows], rows, strict=True)]
        if self._has_reference:
            self.reference_row += self._collect([self.task.reference or ""], new)[0]
        self.inputs += new

    def _collect(self, codes: Sequence[str], inputs: Sequence[str]) -> list[list[Output | None]]:
        if not inputs:
            return [[] for _ in codes]
        return list(collect_outputs(self.runner, ((code, self._interface, inputs) for code in codes)))

    def _hold_vote(self) -> list[Vote]:
        if self._has_reference:
            return [Vote(output, 1.0 if output is not None else 0.0) for output in self.reference_row]
        return hold_weighted_vote(self.rows)

    def _measure_agreement(self) -> float:
        """How far solutions agree, or how many of their outputs a checker accepts; 1 with a reference."""
        if self._has_reference:
            return 1.0
        if self.checker is None:
            return measure_agreement(hold_vote(self.rows))
        votes = self._make_rule([]).votes
        shares = [vote.share for place, vote in enumerate(votes) if any(row[place] is not None for row in self.rows)]
        return sum(shares) / len(shares) if shares else 0.0

    def _make_wrong_programs(self) -> list[str]:
        """Mutants of the program that is trusted most."""
        if self._has_reference:
            trusted = self.task.reference
        else:
            weights = weigh_programs(self.rows)
            trusted = self.programs[max(range(len(weights)), key=lambda place: weights[place])]
        try:
            return make_mutants(trusted or "", self.settings.num_mutants, self.settings.seed)
        except (SyntaxError, ValueError, RecursionError):
            return []

    def _list_survivors(self, wrong: Sequence[str], wrong_rows: Sequence[Sequence[Output | None]]) -> list[str]:
        """Mutants that no test rejects so far; some may be no different program at all."""
        rule = self._make_rule(wrong_rows)
        return [
            code
            for code, row in zip(wrong, wrong_rows, strict=True)
            if not any(rule.is_rejected(place, row[place]) for place in rule.kept)
        ]

    def _make_rule(self, wrong_rows: Sequence[Sequence[Output | None]]) -> "_Rule":
        votes = self._hold_vote()
        if self.checker is None:
            accepted = {(place, vote.output.key) for place, vote in enumerate(votes) if vote.output is not None}
        else:
            rows = (*self.rows, *wrong_rows, *([self.reference_row] if self._has_reference else []))
            found = {(place, o.key): o for row in rows for place, o in enumerate(row) if o is not None}
            pairs = [(self.inputs[place], output.text) for (place, _), output in found.items()]
            answers = ask_checker(self.runner, self.checker, pairs)
            accepted = {pair for pair, answer in zip(found, answers, strict=True) if answer is True}
            votes = self._count_accepted(votes, accepted)
        least = self.settings.min_share
        kept = [place for place, vote in enumerate(votes) if vote.output is not None and vote.share >= least]
        return _Rule(votes, kept, accepted)

    def _count_accepted(self, votes: Sequence[Vote], accepted: set[tuple[int, Any]]) -> list[Vote]:
        """The share of programs whose output a checker accepts, in place of the share of the majority."""
        counted = []
        for place, vote in enumerate(votes):
            outputs = [row[place] for row in (self.rows or [self.reference_row])]
            number = sum(output is not None and (place, output.key) in accepted for output in outputs)
            counted.append(Vote(vote.output if number else None, number / len(outputs)))
        return counted

    def _choose_tests(
        self, wrong_rows: Sequence[Sequence[Output | None]], num_fed_back: int, agreement: float
    ) -> tuple[Tests | None, dict[str, Any]]:
        rule = self._make_rule(wrong_rows)
        if not rule.kept:
            return None, {"made": False, "reason": "no input has a majority"}
        every = [*self.rows, *wrong_rows]
        kills = [{number for number, row in enumerate(every) if rule.is_rejected(p, row[p])} for p in rule.kept]
        needed = choose_minimal_tests(kills)
        if self.settings.is_minimal:  # a suite that nothing in sight fails would hold no test at all
            rest = [place for place in range(len(kills)) if place not in needed]
            chosen = sorted([*needed, *rest[: max(self.settings.min_tests - len(needed), 0)]])
        else:
            chosen = list(range(len(kills)))
        picked = [(self.inputs[rule.kept[place]], rule.votes[rule.kept[place]]) for place in chosen]
        cases = [(text, vote.output.text) for text, vote in picked if vote.output is not None]
        return self._write_tests(cases), {
            "made": True,
            "outputs": "reference" if self._has_reference else "majority" if self.checker is None else "checker",
            "agreement": round(agreement, 4),
            "num_solutions": len(self.programs),
            "num_failed_shown": len(self.failed),
            "num_inputs": len(self.inputs),
            "num_fed_back": num_fed_back,
            "num_with_majority": len(rule.kept),
            "num_needed": len(needed),
            "num_tests": len(cases),
            "num_rejected": len(set().union(*kills)),
            "shares": [round(vote.share, 4) for _, vote in picked],
        }

    def _write_tests(self, cases: Sequence[tuple[str, str]]) -> Tests:
        tests = self.task.tests
        if self._interface.call is None:
            assert isinstance(tests, StdioTests)
            return dataclasses.replace(tests, cases=tuple(cases))
        assert isinstance(tests, CallTests)
        call = self._interface.call
        if self.checker is not None:
            statements = tuple(f"assert is_correct(({given},), {call}({given}))" for given, _ in cases)
            return dataclasses.replace(tests, statements=statements, setup=self.checker, comparison=None)
        statements = tuple(f"assert _same({call}({given}), {expected})" for given, expected in cases)
        return dataclasses.replace(tests, statements=statements, setup=SAME, comparison=None)


@dataclass(frozen=True)
class _Rule:
    """Which outputs are correct: places of the inputs that become tests, and accepted pairs of a place and a key."""

    votes: Sequence[Vote]
    kept: Sequence[int]
    accepted: set[tuple[int, Any]]

    def is_rejected(self, place: int, output: Output | None) -> bool:
        return output is None or (place, output.key) not in self.accepted


def count_suites(suites: Sequence[Mapping[str, Any]]) -> Counter[str]:
    """How many suites were made, from how many inputs, and why the others were not."""
    counts: Counter[str] = Counter({"problems": len(suites)})
    for suite in suites:
        counts["suites"] += suite["made"]
        for name in ("num_inputs", "num_with_majority", "num_tests"):
            counts[name.removeprefix("num_").replace("with_majority", "inputs_with_majority")] += suite.get(name, 0)
    return counts
