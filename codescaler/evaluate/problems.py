"""`EvaluationProblem`: candidate programs with verdicts, from a file of groups; and the strata that problems fall
into.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from codescaler.errors import InvalidInput
from codescaler.evaluate.scorers import Response
from codescaler.evaluate.verdict_rows import gather_verdict_rows
from codescaler.io.records import Group, parse_group, read_objects
from codescaler.io.turns import Problem, join_contents
from codescaler.metrics import Figures
from codescaler.text.extract import is_valid_code, read_language
from codescaler.text.program import make_conversation, normalize_program
from codescaler.types import Task

IN_FILE = "score in the file"


@dataclass(frozen=True, eq=False)
class EvaluationProblem:
    """One problem's candidates. `codes` is None where there is no program, which is incorrect whatever its label.

    `own_scores` are the file's, of the candidates with a program; None if it has none. `system` is as in `Group`.
    `places` are those of the candidates in the record, of which some may have no verdict.
    """

    task_id: str
    problem: Problem
    codes: tuple[str | None, ...]
    is_correct: npt.NDArray[np.bool_]
    name: str
    own_scores: Figures | None = None
    difficulty: str | None = None
    domain: str | None = None
    system: str | None = None
    places: tuple[int, ...] = ()

    @property
    def prompt(self) -> str:
        """The problem as one text."""
        return join_contents(self.problem)

    @cached_property
    def has_code(self) -> npt.NDArray[np.bool_]:
        return np.array([code is not None for code in self.codes], dtype=bool)

    @property
    def is_mixed(self) -> bool:
        """Whether there is something to rank: a correct and an incorrect program."""
        return len(set(self.is_correct[self.has_code].tolist())) == 2

    @cached_property
    def responses(self) -> list[Response]:
        """The candidates with a program."""
        return [
            Response(
                make_conversation(self.problem, code, self.system),
                code,
                bool(correct),
                f"{self.name}: candidates[{place}]",
            )
            for place, code, correct in zip(
                self.places or range(len(self.codes)), self.codes, self.is_correct, strict=True
            )
            if code is not None
        ]


def read_evaluation_problems(
    path: Path,
    *,
    split: str | None = None,
    tasks: Sequence[Task] = (),
    require_syntax: bool = False,
    counts: Counter[str] | None = None,
) -> list[EvaluationProblem]:
    """Returns the problems of a file of groups, or of rows with verdicts, those of one split if it is given.

    Difficulty and domain are the group's own, else those of the task of the same task_id. Candidates whose `passed` is
    null, and groups of no others, are left out; `counts` counts them. A program that has to parse is read in the
    language of its group, else of its task.

    Raises: InvalidInput if the file or a group cannot be used, or no group is left.
    """
    task_of, problems, splits = {task.task_id: task for task in tasks}, [], set()
    counts = Counter() if counts is None else counts
    for name, record in gather_verdict_rows(read_objects(path), tasks):
        if "candidates" not in record:
            raise InvalidInput(f"{name} has no candidates; give groups, and pairs to `codescaler eval pairs`")
        group = parse_group(record, name)
        splits.add(str(group.split))
        if split is not None and group.split != split:
            continue
        num_unjudged = sum(candidate.passed is None for candidate in group.candidates)
        counts["unjudged_programs"] += num_unjudged
        has_verdict = any(c.passed is not None and c.code is not None for c in group.candidates)
        if num_unjudged and not has_verdict:  # what holds no program failed, whatever its tests
            counts["unlabelled_groups"] += 1
            continue
        task = task_of.get(group.task_id)
        known = {key: _label(record, key, name) or getattr(task, key, None) for key in ("difficulty", "domain")}
        language = "python" if task is None else task.language
        if require_syntax:
            language = read_language(record, name) or language
        problems.append(parse_problem(group, require_syntax=require_syntax, language=language, **known))
    if not problems:
        if counts["unlabelled_groups"]:
            raise InvalidInput(f"{path} has no candidate with a verdict; run `codescaler data label` on it first")
        seen = f", but of {', '.join(sorted(splits))}" if splits else ""
        raise InvalidInput(f"{path} has no group{f' of split {split!r}' if split else ''}{seen}; name another")
    return problems


def parse_problem(
    group: Group,
    *,
    difficulty: str | None = None,
    domain: str | None = None,
    require_syntax: bool = False,
    language: str = "python",
) -> EvaluationProblem:
    """Returns a group's problem after a check of its labels, and of its own scores if it has any."""
    if not group.candidates:
        raise InvalidInput(f"{group.name} has no candidate; take it out, since nothing can be picked from it")
    judged = [(place, candidate) for place, candidate in enumerate(group.candidates) if candidate.passed is not None]
    if not judged:
        raise InvalidInput(f"{group.name} has no candidate with a verdict; give true or false as passed")
    programs = [None if c.code is None else normalize_program(c.code) for _, c in judged]
    codes = tuple(
        None if code is None or (require_syntax and not is_valid_code(code, language)) else code for code in programs
    )
    correct = [bool(c.passed) and code is not None for (_, c), code in zip(judged, codes, strict=True)]
    own = None
    if any(candidate.score is not None for _, candidate in judged):
        held = [(place, c) for (place, c), code in zip(judged, codes, strict=True) if code is not None]
        unscored = [place for place, candidate in held if candidate.score is None]
        if unscored:
            raise InvalidInput(
                f"{group.name}: candidates[{unscored[0]}] has no score, others have; give one to every program, or none"
            )
        own = np.array([candidate.score for _, candidate in held], dtype=np.float64)
    places = tuple(place for place, _ in judged)
    return EvaluationProblem(
        group.task_id,
        group.problem,
        codes,
        np.array(correct),
        group.name,
        own,
        difficulty,
        domain,
        group.system,
        places,
    )


def collect_file_scores(problems: Sequence[EvaluationProblem]) -> dict[str, list[Figures]]:
    """The file's own scores as one more scorer; nothing if no candidate has one."""
    found = [problem.own_scores for problem in problems if problem.own_scores is not None]
    if not found:
        return {}
    scores = []
    for problem in problems:
        if problem.own_scores is None and problem.has_code.any():
            raise InvalidInput(f"{problem.name} has no scores, others have; give all candidates a score, or none")
        scores.append(np.zeros(0) if problem.own_scores is None else problem.own_scores)
    return {IN_FILE: scores}


@dataclass(frozen=True)
class Strata:
    """A label for each problem, `by` what, and a `note` for people on why so."""

    by: str
    labels: tuple[str, ...]
    note: str


# Of all sources that `codescaler.tasks` reads; other labels come after, by the alphabet.
_ORDER = ("introductory", "easy", "medium", "medium_hard", "interview", "hard", "very_hard", "competition")


def stratify(problems: Sequence[EvaluationProblem], by: str) -> Strata | None:
    """Sorts problems by "difficulty", "domain" or "length" of the prompt; by "none" not at all.

    "auto" is difficulty if that of every problem is known, else length.

    Raises: InvalidInput if it is asked for by name and not known of every problem.
    """
    if by == "none":
        return None
    if by in ("difficulty", "domain", "auto"):
        key = "difficulty" if by == "auto" else by
        labels = [getattr(problem, key) for problem in problems]
        missing = [problem for problem, label in zip(problems, labels, strict=True) if label is None]
        if not missing:
            return Strata(key, tuple(labels), f"by {key}, as the problems say")
        unknown = f"the {key} of {len(missing)} of {len(problems)} problems is not known"
        if by != "auto":
            raise InvalidInput(f"{unknown}, e.g. of {missing[0].name}; give --tasks a file with it, or --by length")
        return _stratify_by_length(problems, f"by length of the prompt, since {unknown}")
    return _stratify_by_length(problems, "by length of the prompt")


def order_stratum(label: str) -> tuple[int, str]:
    """What sorts labels of difficulty from easy to hard."""
    known = label.lower().replace(" ", "_").replace("-", "_")
    return (_ORDER.index(known) if known in _ORDER else len(_ORDER)), label


def _stratify_by_length(problems: Sequence[EvaluationProblem], note: str) -> Strata:
    lengths = np.array([len(problem.prompt) for problem in problems])
    low, high = (int(bound) for bound in np.quantile(lengths, [1 / 3, 2 / 3]))
    names = (f"1: to {low} characters", f"2: to {high}", "3: longer")
    return Strata("length", tuple(names[int(n > low) + int(n > high)] for n in lengths), f"{note}, in thirds")


def _label(record: Mapping[str, Any], key: str, name: str) -> str | None:
    value = record.get(key)
    if value is not None and (not isinstance(value, str | int) or isinstance(value, bool)):
        raise InvalidInput(f"{name}: {key} is {value!r:.80}; give a string or a whole number")
    return None if value in (None, "") else str(value)
