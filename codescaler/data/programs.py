"""Labelled groups to problems with distinct programs. Knows labels and syntax trees, no aspect."""

import ast
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from codescaler.errors import InvalidInput
from codescaler.io.records import Group, parse_group, read_lines
from codescaler.text.edits import is_text
from codescaler.text.extract import parse_syntax_tree


@dataclass(frozen=True)
class Program:
    """A labelled program.

    Attributes:
        passed_tests, num_tests: None where the record does not say.
        cost_seconds: of running the tests once, in rounds that took turns with the problem's other programs.
        generator: what wrote it.
        weight: the chance that its label is right, by an audit of the tests; 1 where the record does not say.
        form: equal for programs that differ in names, comments, docstrings and layout only.
    """

    code: str
    passed: bool
    form: str
    passed_tests: int | None = None
    num_tests: int | None = None
    cost_seconds: tuple[float, ...] = ()
    generator: str = "unknown"
    weight: float = 1.0


@dataclass(frozen=True)
class LabelledProblem:
    """A problem, with all that any file holds of it."""

    task_id: str
    prompt: str
    split: str | None
    programs: tuple[Program, ...]
    license: str = "unknown"
    isolations: tuple[str, ...] = ()


def compute_form(code: str, *, keeps_names: bool = True) -> str:
    """A text that is equal for programs that do the same by the same steps, whatever they call things.

    It is the syntax tree without docstrings, where each name that the program binds is numbered by its first use; names
    at top level of functions and classes, which tests call, stay, as do attributes. Without `keeps_names` those at top
    level are numbered too. Text that is no Python is only stripped of the whitespace around its lines.
    """
    tree = parse_syntax_tree(code)
    if tree is not None:
        with suppress(RecursionError):
            return ast.dump(_Renamed(tree, keeps_names).visit(tree))
    return "\n".join(line.strip() for line in code.strip().splitlines())


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


class _Renamed(ast.NodeTransformer):
    def __init__(self, tree: ast.Module, keeps_names: bool) -> None:
        kept = {node.name for node in tree.body if isinstance(node, (*_FUNCTIONS, ast.ClassDef))}
        for node in tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda):
                kept |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        bound = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        bound |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
        bound |= {node.name for node in ast.walk(tree) if isinstance(node, _FUNCTIONS)}
        methods = {
            node.name
            for parent in ast.walk(tree)
            if isinstance(parent, ast.ClassDef)
            for node in parent.body
            if isinstance(node, _FUNCTIONS)
        }
        self._bound = bound - methods - (kept if keeps_names else set())
        self._numbers: dict[str, str] = {}

    def generic_visit(self, node: ast.AST) -> ast.AST:
        body = getattr(node, "body", None)
        if isinstance(node, (ast.Module, *_FUNCTIONS, ast.ClassDef)) and isinstance(body, list):
            node.body = [statement for statement in body if not is_text(statement)]
        for field in ("id", "arg", "name"):
            name = getattr(node, field, None)
            if isinstance(name, str):
                setattr(node, field, self._number_name(name))
        if isinstance(node, (ast.Global, ast.Nonlocal)):
            node.names = [self._number_name(name) for name in node.names]
        return super().generic_visit(node)

    def _number_name(self, name: str) -> str:
        return self._numbers.setdefault(name, f"_{len(self._numbers)}") if name in self._bound else name


def read_labelled_problems(paths: Sequence[Path]) -> tuple[list[LabelledProblem], Counter[str]]:
    """Returns the problems of files of labelled groups, one for each task_id, and counts of what has no label.

    Raises: InvalidInput if a record is malformed, one task has two prompts or splits, or nothing is labelled.
    """
    problems: dict[str, LabelledProblem] = {}
    counts = Counter({name: 0 for name in ("invalid_programs", "unjudged_programs", "unlabelled_groups")})
    for path in paths:
        for name, _, record in read_lines(path):
            problem = _parse_problem(record, name, counts)
            before = problems.get(problem.task_id)
            problems[problem.task_id] = problem if before is None else _join_problems(before, problem, name)
    if not any(problem.programs for problem in problems.values()):
        raise InvalidInput(
            f"{', '.join(map(str, paths))} has no program with a label; run `codescaler data label` on it first"
        )
    return list(problems.values()), counts


def _parse_problem(record: Mapping[str, Any], name: str, counts: Counter[str]) -> LabelledProblem:
    group = parse_group(record, name)
    if "candidates" not in record:
        raise InvalidInput(f"{name} is a pair; give labelled groups here, and people's pairs by --human")
    require_text_problem(group)
    generator, verifier = record.get("generator"), record.get("verifier")
    writer = generator.get("model") if isinstance(generator, Mapping) else generator
    isolation = verifier.get("isolation") if isinstance(verifier, Mapping) else None
    counts["unlabelled_groups"] += "unlabelled" in record
    programs = []
    for index, (candidate, fields) in enumerate(zip(group.candidates, record["candidates"], strict=True)):
        if candidate.code is None:
            counts["invalid_programs"] += 1
        elif candidate.passed is None:
            counts["unjudged_programs"] += 1
        else:
            where = f"{name}: candidates[{index}]"
            programs.append(_parse_program(candidate.code, candidate.passed, fields, where, str(writer or "unknown")))
    return LabelledProblem(
        group.task_id,
        group.prompt,
        group.split,
        tuple(programs),
        str(record.get("license") or "unknown"),
        (str(isolation or "unknown"),) if programs else (),
    )


def require_text_problem(group: Group) -> None:
    """Refuses a system prompt, and a problem of several messages, which a preference does not keep."""
    if group.turns is not None or group.system is not None:
        raise InvalidInput(
            f"{group.name} has messages or a system prompt, which pairs would lose; take them out, and give a system "
            "prompt to training by --system"
        )


def _parse_program(code: str, passed: bool, fields: Mapping[str, Any], name: str, generator: str) -> Program:
    passed_tests, num_tests = (_count(fields, key, name) for key in ("passed_tests", "num_tests"))
    if passed_tests is not None and num_tests is not None and passed_tests > num_tests:
        raise InvalidInput(f"{name}: passed_tests is {passed_tests} of num_tests {num_tests}; label again")
    costs = fields.get("cost_seconds", [])
    if not isinstance(costs, list) or not all(type(cost) in (int, float) and 0 < cost < float("inf") for cost in costs):
        raise InvalidInput(f"{name}: cost_seconds is {costs!r:.80}; give a list of positive numbers, one a round")
    weight = fields.get("weight", 1.0)
    if type(weight) not in (int, float) or not 0 <= weight <= 1:
        raise InvalidInput(f"{name}: weight is {weight!r:.80}; give a number from 0 to 1")
    form = compute_form(code)
    return Program(code, passed, form, passed_tests, num_tests, tuple(costs), generator, float(weight))


def _count(fields: Mapping[str, Any], key: str, name: str) -> int | None:
    value = fields.get(key)
    if value is not None and (type(value) is not int or value < 0):
        raise InvalidInput(f"{name}: {key} is {value!r:.80}; give a whole number")
    return value


def _join_problems(first: LabelledProblem, second: LabelledProblem, name: str) -> LabelledProblem:
    for field in ("prompt", "split"):
        if getattr(first, field) != getattr(second, field):
            raise InvalidInput(
                f"{name}: the task {first.task_id!r:.80} has the {field} {getattr(second, field)!r:.80}, and before "
                f"{getattr(first, field)!r:.80}; give different tasks different ids"
            )
    isolations = tuple(sorted({*first.isolations, *second.isolations}))
    license = second.license if first.license == "unknown" else first.license
    return replace(first, programs=first.programs + second.programs, isolations=isolations, license=license)


def drop_duplicates(problem: LabelledProblem, counts: Counter[str]) -> LabelledProblem:
    """The problem with the first program of each form; a form that both passed and failed is left out, all are counted.

    Which of two programs that differ in names is kept does not depend on their verdict, so nothing is learned from it.
    """
    verdicts: dict[str, set[bool]] = {}
    kept: dict[str, Program] = {}
    codes: set[str] = set()
    for program in problem.programs:
        if program.code in codes:
            counts["exact_duplicates"] += 1
        elif program.form in kept:
            counts["near_duplicates"] += 1
        codes.add(program.code)
        kept.setdefault(program.form, program)
        verdicts.setdefault(program.form, set()).add(program.passed)
    clear = tuple(program for form, program in kept.items() if len(verdicts[form]) == 1)
    counts["contradictory_programs"] += len(kept) - len(clear)
    return replace(problem, programs=clear)
