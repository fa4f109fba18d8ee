"""Labelled groups to preferences, their records, and counts of what was left out. Knows no model."""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from codescaler.data.prefer import correctness, efficiency, human, readability
from codescaler.data.prefer.leakage import HeldOut, Leak, find_leaks
from codescaler.data.prefer.preference import MEASURED_ASPECTS, Preference
from codescaler.data.programs import LabelledProblem, drop_duplicates, read_labelled_problems
from codescaler.errors import InvalidInput

_SPLITS = (None, "train", "validation")
# A shortcut that few tests let pass is shorter and faster than what solves the problem. On MBPP's 3 asserts readability
# preferred one in 3 of the 16 problems that it spoke on. 5 is what CodeScaler asks of a problem.
MIN_QUALITY_TESTS = 5


@dataclass(frozen=True)
class PairSettings:
    """What preferences are asked for.

    Attributes:
        aspects: of `MEASURED_ASPECTS`. rule: of `correctness.RULES`.
        margins: by aspect, by how much training asks chosen to score above rejected; 0 where none is named.
        min_tests: programs with fewer are left out; None is 0 for correctness, `MIN_QUALITY_TESTS` for the others.
        min_weight: programs whose label is right with a smaller chance, by an audit of the tests, are left out.
        max_pairs: of one problem and aspect that become pairs; which ones does not depend on their order.
        refuse_leaks: a problem that is held out is an error; else it is left out.
    """

    aspects: tuple[str, ...] = ("correctness",)
    rule: str = "all"
    margins: Mapping[str, float] = field(default_factory=dict)
    min_tests: int | None = None
    max_pairs: int | None = None
    refuse_leaks: bool = False
    min_weight: float = 0.0

    def __post_init__(self) -> None:
        if not self.aspects:
            raise InvalidInput(f"no aspect is asked for; choose of {', '.join(MEASURED_ASPECTS)}")
        for aspect in self.aspects:
            if aspect not in MEASURED_ASPECTS:
                raise InvalidInput(f"aspect {aspect!r} is not measured; choose of {', '.join(MEASURED_ASPECTS)}")
        if self.rule not in correctness.RULES:
            raise InvalidInput(f"rule {self.rule!r} is unknown; choose one of {', '.join(correctness.RULES)}")
        for aspect, margin in self.margins.items():
            if aspect not in self.aspects:
                raise InvalidInput(f"margin of {aspect!r}, which is not asked for; choose of {', '.join(self.aspects)}")
            if not math.isfinite(margin):
                raise InvalidInput(f"margin of {aspect!r} is {margin}; give a finite number, 0 for none")
        if self.min_tests is not None and self.min_tests < 0:
            raise InvalidInput(f"min_tests {self.min_tests}; give a whole number of at least 0")
        if not 0 <= self.min_weight <= 1:
            raise InvalidInput(f"min_weight {self.min_weight}; give a number from 0 to 1")
        if self.max_pairs is not None and self.max_pairs < 1:
            raise InvalidInput(f"max_pairs {self.max_pairs}; give a whole number of at least 1, or none for all")


@dataclass(frozen=True)
class PreferenceData:
    """The preferences that stand, with the problems they are of, and counts of what was left out."""

    preferences: Sequence[Preference]
    problems: Mapping[str, LabelledProblem]
    left_out: Counter[str]
    conflicts: Counter[str]
    leaks: Mapping[str, Leak]
    versions: Mapping[str, str]


def make_preferences(
    labelled: Sequence[Path],
    settings: PairSettings,
    *,
    people: Sequence[Path] = (),
    held_out: HeldOut | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> PreferenceData:
    """Reads labelled groups and people's pairs, and returns the preferences that satisfy the rules.

    `advance` is told of problems done.

    Raises: InvalidInput if a record is malformed, an aspect cannot be measured, or a held-out problem is refused.
    """
    problems, left_out = read_labelled_problems(labelled)
    said = human.read_human(people, problems)
    leaks = _find_all_leaks(problems, said, held_out or HeldOut())
    if settings.refuse_leaks:
        _refuse(leaks)
    left_out["problems_held_out"] = sum(problem.task_id in leaks for problem in problems)
    usable = [problem for problem in problems if problem.task_id not in leaks]
    left_out["problems_of_other_splits"] = sum(problem.split not in _SPLITS for problem in usable)
    kept = [_prepare_problem(problem, settings, left_out) for problem in usable if problem.split in _SPLITS]
    measured = _Measured(settings)
    found: list[Preference] = []
    for problem in kept:
        found += measured.list_preferences(problem, left_out)
        advance(1)
    versions = measured.finish(kept, left_out)
    left_out["human_pairs_held_out"] = sum(item.task_id in leaks for item in said)
    left_out["human_pairs_of_other_splits"] = sum(
        item.split not in _SPLITS and item.task_id not in leaks for item in said
    )
    found += [item for item in said if item.task_id not in leaks and item.split in _SPLITS]
    standing, conflicts = human.remove_conflicts(found)
    standing = [_add_margin(item, settings.margins) for item in _limit_preferences(standing, settings, left_out)]
    return PreferenceData(standing, {item.task_id: item for item in kept}, left_out, conflicts, leaks, versions)


def _find_all_leaks(
    problems: Sequence[LabelledProblem], said: Sequence[Preference], held_out: HeldOut
) -> dict[str, Leak]:
    """Problems that are held out, and training problems that nearly are one of validation."""
    everything: list[Preference | LabelledProblem] = [*problems, *said]
    asked = dict.fromkeys((item.split, item.task_id, item.prompt) for item in everything)
    leaks = find_leaks(((task_id, prompt) for _, task_id, prompt in asked), held_out)
    validation = {task_id: prompt for split, task_id, prompt in asked if split == "validation"}
    train = [(task_id, prompt) for split, task_id, prompt in asked if split in (None, "train")]
    return find_leaks(train, HeldOut(frozenset(), validation)) | leaks


def _refuse(leaks: Mapping[str, Leak]) -> None:
    for task_id, leak in leaks.items():
        raise InvalidInput(
            f"{len(leaks)} problems are held out, such as {task_id!r:.80} ({leak.kind} of {leak.held_out!r:.80}, "
            f"overlap {leak.overlap}); remove them, or have them left out"
        )


def _prepare_problem(problem: LabelledProblem, settings: PairSettings, left_out: Counter[str]) -> LabelledProblem:
    tested = tuple(program for program in problem.programs if (program.num_tests or 0) >= (settings.min_tests or 0))
    left_out["programs_of_few_tests"] += len(problem.programs) - len(tested)
    trusted = tuple(program for program in tested if program.weight >= settings.min_weight)
    if settings.min_weight:
        left_out["programs_of_weak_suites"] += len(tested) - len(trusted)
    return drop_duplicates(replace(problem, programs=trusted), left_out)


class _Measured:
    """The rules of the aspects that are asked for."""

    def __init__(self, settings: PairSettings) -> None:
        self._settings = settings
        self._readability = readability.Readability() if "readability" in settings.aspects else None

    def list_preferences(self, problem: LabelledProblem, left_out: Counter[str]) -> Iterator[Preference]:
        if "correctness" in self._settings.aspects:
            yield from correctness.make_correctness_preferences(problem, self._settings.rule)
        if self._settings.aspects == ("correctness",):
            return
        least = MIN_QUALITY_TESTS if self._settings.min_tests is None else self._settings.min_tests
        right = [program for program in problem.programs if program.passed]
        tested = tuple(program for program in right if (program.num_tests or 0) >= least)
        left_out["correct_programs_of_few_tests"] += len(right) - len(tested)
        problem = replace(problem, programs=tested)
        if "efficiency" in self._settings.aspects:
            yield from efficiency.make_efficiency_preferences(problem)
        if self._readability:
            yield from self._readability.list_preferences(problem)

    def finish(self, problems: Sequence[LabelledProblem], left_out: Counter[str]) -> dict[str, str]:
        """Counts what could not be measured, and returns the versions of what measured."""
        if "efficiency" in self._settings.aspects:
            right = [program for problem in problems for program in problem.programs if program.passed]
            left_out["programs_without_cost"] = sum(not program.cost_seconds for program in right)
            if right and left_out["programs_without_cost"] == len(right):
                raise InvalidInput(
                    f"none of {len(right)} programs that passed has cost_seconds; measure them, or leave efficiency out"
                )
        if self._readability is None:
            return {}
        left_out["programs_without_readability"] = self._readability.num_unmeasured
        return self._readability.versions


def _add_margin(found: Preference, margins: Mapping[str, float]) -> Preference:
    """What a person's record says of its margin stays."""
    return found if found.is_human else replace(found, margin=margins.get(found.aspect, 0.0))


def _limit_preferences(
    found: Iterable[Preference], settings: PairSettings, left_out: Counter[str]
) -> Iterator[Preference]:
    """At most `max_pairs` of a problem and aspect, in an order that is drawn from the programs themselves."""
    found = list(found)
    if settings.max_pairs is None:
        yield from found
        return
    drawn = sorted(found, key=lambda item: hashlib.sha256(f"{item.chosen.form}|{item.rejected.form}".encode()).digest())
    seen: Counter[tuple[str, str]] = Counter()
    chosen = set()
    for item in drawn:
        key = (item.task_id, item.aspect)
        seen[key] += 1
        if seen[key] <= settings.max_pairs:
            chosen.add(id(item))
    left_out["pairs_beyond_max_pairs"] = len(found) - len(chosen)
    yield from (item for item in found if id(item) in chosen)


def is_grouped(found: Preference, settings: PairSettings) -> bool:
    """Whether a preference is part of a group of correct and incorrect programs, of which training takes every pair."""
    return (
        found.aspect == "correctness"
        and not found.is_human
        and settings.rule == "all"
        and not settings.margins.get("correctness")
        and settings.max_pairs is None
    )


def make_records(data: PreferenceData, settings: PairSettings) -> Iterator[dict[str, Any]]:
    """Yields what training reads: a group a problem where `is_grouped`, and else a pair a preference."""
    grouped = {item.task_id for item in data.preferences if is_grouped(item, settings)}
    for task_id in sorted(grouped):
        yield _make_group(data.problems[task_id], settings.rule)
    for item in data.preferences:
        if not is_grouped(item, settings):
            split = {} if item.split is None else {"split": item.split}
            yield {
                "task_id": item.task_id,
                **split,
                "prompt": item.prompt,
                "chosen": item.chosen.code,
                "rejected": item.rejected.code,
                "aspect": item.aspect,
                "evidence": item.evidence,
                "margin": item.margin,
            }


def _make_group(problem: LabelledProblem, rule: str) -> dict[str, Any]:
    candidates = [
        {"code": item.code, "passed": item.passed, "passed_tests": item.passed_tests, "num_tests": item.num_tests}
        for item in problem.programs
    ]
    return {
        "task_id": problem.task_id,
        **({} if problem.split is None else {"split": problem.split}),
        "prompt": problem.prompt,
        "candidates": candidates,
        "aspect": "correctness",
        "evidence": {"rule": rule, "isolation": list(problem.isolations)},
        "margin": 0.0,
    }
