"""Branches of a reference that its tests reach, and the calls that they make. The reference runs in the sandbox.

A branch is a condition of `if`, `while`, a conditional expression or a comprehension that was true, and one that was
false; a loop that was entered, and one that was not; a handler of exceptions, or a case of `match`, that was reached.
"""

import ast
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import codescaler.data.execution
from codescaler.data.execution.outputs import Capturer
from codescaler.text.extract import parse_syntax_tree
from codescaler.types import CallTests, StdioTests, Tests

_DRIVER = Path(codescaler.data.execution.__file__).with_name("tests_driver.py").read_text(encoding="utf-8")
_MARK = "__branches__ "
# What reading a line may raise that was cut off, or that the reference wrote.
_BROKEN = (ValueError, KeyError, TypeError, SyntaxError, RecursionError, MemoryError)
_PRELUDE = f"""
def __prepare__():
    import atexit, json, os
    found, file = set(), os.dup(1)
    def branch(number, value):
        found.add(f"{{number}}{{'+' if value else '-'}}")
        return value
    def loop(number, values):
        entered = False
        for value in values:
            if not entered:
                found.add(f"{{number}}+")
                entered = True
            yield value
        if not entered:
            found.add(f"{{number}}-")
    atexit.register(lambda: os.write(file, ("\\n{_MARK}" + json.dumps(sorted(found)) + "\\n").encode()))
    return branch, loop
__branch__, __loop__ = __prepare__()
"""


@dataclass(frozen=True)
class Trace:
    """What tests did with a reference.

    Attributes:
        reached: branches, each a number with "+" or "-". branches: all there are, with words for each.
        calls: the arguments of each call by name; none of whole programs.
        is_complete: every test was traced.
    """

    branches: dict[str, str]
    reached: frozenset[str] = frozenset()
    calls: list[dict[str, Any]] = field(default_factory=list)
    is_complete: bool = False


def trace_tests(runner: Capturer, reference: str, tests: Tests) -> Trace | None:
    """Runs a reference against its tests, and says what they reach. None of a reference that does not parse."""
    tree = parse_syntax_tree(reference)
    if tree is None:
        return None
    marker = _Marker()
    code = ast.unparse(ast.fix_missing_locations(marker.visit(tree)))
    if isinstance(tests, StdioTests):
        return _trace_programs(runner, code, tests, marker.branches)
    asked = {"code": code, **{key: getattr(tests, key) for key in ("prelude", "setup", "statements", "entry_points")}}
    (capture,) = runner.capture(_DRIVER, StdioTests(((json.dumps(asked), ""),), cpu_seconds=tests.cpu_seconds))
    return _read_trace(capture.output, tests, marker.branches)


def _read_trace(printed: str, tests: CallTests, branches: dict[str, str]) -> Trace:
    reached: set[str] = set()
    calls: list[dict[str, Any]] = []
    num_traced = 0
    for line in printed.splitlines():
        try:
            record = json.loads(line)
            reached.update(record["branches"])
            calls += [_read_call(call) for call in record["calls"] if call]
        except _BROKEN:
            break
        num_traced += 1
    return Trace(branches, frozenset(reached & set(branches)), calls, num_traced == len(tests.statements))


def _read_call(call: Sequence[tuple[str, str]]) -> dict[str, Any]:
    return {name: ast.literal_eval(text) for name, text in call}


def _trace_programs(runner: Capturer, code: str, tests: StdioTests, branches: dict[str, str]) -> Trace:
    settings = {**vars(tests), "prelude": f"{tests.prelude}\n{_PRELUDE}", "output_file": ""}
    reached: set[str] = set()
    num_traced = 0
    for capture in runner.capture(code, StdioTests(**settings)):
        _, mark, found = capture.output.rpartition(_MARK)
        with suppress(ValueError, TypeError):  # the reference may have written it
            reached.update(json.loads(found.partition("\n")[0]))  # what it printed last may stand behind
            num_traced += bool(mark)
    return Trace(branches, frozenset(reached & set(branches)), [], num_traced == len(tests.cases))


class _Marker(ast.NodeTransformer):
    """Puts a call around each condition and loop, and at the start of each handler and case."""

    def __init__(self) -> None:
        self.branches: dict[str, str] = {}

    def visit_If(self, node: ast.If) -> ast.AST:
        return self._mark_test(node, "if")

    def visit_While(self, node: ast.While) -> ast.AST:
        return self._mark_test(node, "while")

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        return self._mark_test(node, "conditional expression")

    def visit_comprehension(self, node: ast.comprehension) -> ast.AST:
        self.generic_visit(node)
        node.ifs = [self._wrap(test, "condition of a comprehension", test.lineno) for test in node.ifs]
        return node

    def visit_For(self, node: ast.For) -> ast.AST:
        self.generic_visit(node)
        number = self._add(node.lineno, "loop", "entered", "not entered")
        node.iter = _make_call("__loop__", number, node.iter)
        return node

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.AST:
        self.generic_visit(node)
        return self._mark_start(node, node.lineno, "handler")

    def visit_match_case(self, node: ast.match_case) -> ast.AST:
        self.generic_visit(node)
        return self._mark_start(node, node.body[0].lineno, "case")

    def _mark_test(self, node: Any, what: str) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.test, ast.Constant):  # while True
            node.test = self._wrap(node.test, what, node.lineno)
        return node  # type: ignore[no-any-return]

    def _mark_start(self, node: Any, line: int, what: str) -> ast.AST:
        number = self._add(line, what, "reached")
        node.body.insert(0, ast.Expr(_make_call("__branch__", number, ast.Constant(True))))
        return node  # type: ignore[no-any-return]

    def _wrap(self, test: ast.expr, what: str, line: int) -> ast.expr:
        return _make_call("__branch__", self._add(line, what, "true", "false"), test)

    def _add(self, line: int, what: str, positive: str, negative: str | None = None) -> int:
        number = len({name[:-1] for name in self.branches})
        self.branches[f"{number}+"] = f"line {line}: {what} {positive}"
        if negative is not None:
            self.branches[f"{number}-"] = f"line {line}: {what} {negative}"
        return number


def _make_call(name: str, number: int, value: ast.expr) -> ast.expr:
    return ast.Call(ast.Name(name, ast.Load()), [ast.Constant(number), value], [])
