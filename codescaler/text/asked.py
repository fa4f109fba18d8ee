"""The names that a problem asks a program to define, and those that a program does not define. Executes nothing.

A problem names what it calls in three places: tests that it shows (`assert f(1) == 2`, `>>> f(1)`), a signature without
a body (`def f(x):`, a method of `class Solution:`), and a sentence such as "Write a function `f(x)`". What the problem
defines itself is given, and not asked for. A problem that names nothing asks for nothing, so that no program is marked.
"""

import ast
import builtins
import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from textwrap import dedent

from codescaler.text.extract import parse_syntax_tree

_SENTENCE = re.compile(
    r"\b(?:write|implement|define|create|complete)\s+(?:an?|the)\s+(?:python\s+)?(?:function|class)\s+"
    r"(?:named\s+|called\s+)?`([A-Za-z_]\w*)[`(]",
    re.IGNORECASE,
)
_DEFINITION = re.compile(r"(?:async\s+def|def|class)\s")
_BINDING = re.compile(r"(?:from|import)\s|[A-Za-z_]\w*\s*=[^=]")
_MOST_LINES = 40  # of a test or a header
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_BUILTINS = frozenset(dir(builtins))
# A program that uses these may define any name, so nothing is said of it.
_OPEN = frozenset({"eval", "exec", "globals", "locals", "vars"})


def list_asked_names(problem: str) -> tuple[str, ...]:
    """Returns the names that a program has to define, such as "min_cost" and "Solution.twoSum", in their order."""
    reader = _read_problem(problem)
    asked = [*reader.declared, *(name for name in reader.called if name not in reader.given | _BUILTINS)]
    asked += _SENTENCE.findall(problem)
    classes = {name.partition(".")[0] for name in asked if "." in name}
    return tuple(name for name in dict.fromkeys(asked) if name not in classes)


def find_shown_answer(problem: str, name: str) -> str | None:
    """Returns the expression that a shown test compares a call of `name` with, as in `assert f(1) == 2`; the first."""
    last = name.rpartition(".")[2]
    for tree in _read_problem(problem).tests:
        for test in (node.test for node in tree.body if isinstance(node, ast.Assert)):
            if not isinstance(test, ast.Compare) or not isinstance(test.left, ast.Call):
                continue
            function = test.left.func
            called = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", None)
            if called == last and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq):
                return ast.unparse(test.comparators[0])
    return None


def list_missing_names(program: str, asked: Sequence[str]) -> tuple[str, ...]:
    """Returns the asked names that a Python program does not define; all of them if it does not parse.

    A name is defined if the program binds it at top level, in any branch. A class with bases, or with decorators, may
    have any method.
    """
    if not asked:
        return ()
    tree = parse_syntax_tree(program)
    if tree is None:
        return tuple(asked)
    nodes = list(ast.walk(tree))
    if any(
        (isinstance(node, ast.Name) and node.id in _OPEN)
        or (isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names))
        for node in nodes
    ):
        return ()
    bound = {name: node for name, node in _list_bindings(tree.body)}
    bound |= {name: node for node in nodes if isinstance(node, ast.Global) for name in node.names if name not in bound}
    stored = {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    return tuple(name for name in asked if not _is_defined(name, bound, stored))


def _is_defined(name: str, bound: dict[str, ast.AST], stored: set[str]) -> bool:
    owner, _, method = name.partition(".")
    node = bound.get(owner)
    if node is None or not method:
        return node is not None
    if not isinstance(node, ast.ClassDef) or node.bases or node.decorator_list or method in stored:
        return True
    return any(name == method for name, _ in _list_bindings(node.body))


def _list_bindings(block: Iterable[ast.AST]) -> Iterator[tuple[str, ast.AST]]:
    """Yields each name that statements bind in their own scope, with the node that binds it."""
    left = list(block)
    while left:  # no recursion: a program may be nested as deep as the parser allows
        node = left.pop()
        if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
            yield node.name, node
        elif isinstance(node, _COMPREHENSIONS):
            left += [each.target for each in ast.walk(node) if isinstance(each, ast.NamedExpr)]
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                yield alias.asname or alias.name.partition(".")[0], node
        elif isinstance(node, ast.Name):
            if isinstance(node.ctx, ast.Store):
                yield node.id, node
        elif not isinstance(node, ast.Lambda):
            left += ast.iter_child_nodes(node)


@functools.lru_cache(maxsize=1024)
def _read_problem(problem: str) -> "_ProblemReader":
    reader = _ProblemReader()
    reader.read(problem)
    return reader


class _ProblemReader:
    """Reads the Python in a problem's text, line by line, since a problem is no program as a whole.

    Attributes:
        declared: functions and methods that the problem shows without a body.
        called: names that its tests call. given: names that the problem binds itself.
        tests: the syntax tree of each.
    """

    def __init__(self) -> None:
        self.declared: list[str] = []
        self.called: list[str] = []
        self.given: set[str] = set()
        self.tests: list[ast.Module] = []

    def read(self, text: str) -> None:
        lines, at = text.expandtabs().splitlines(), 0
        while at < len(lines):
            at += self._read_statement(lines, at)

    def _read_statement(self, lines: Sequence[str], at: int) -> int:
        """Reads what begins in a line, and returns the number of its lines."""
        line = lines[at].strip()
        if _DEFINITION.match(line):
            return self._read_definition(lines, at)
        if line.startswith(">>> "):
            count = next((n for n, more in enumerate(lines[at + 1 :]) if not more.strip().startswith("...")), 0)
            shown = [line[4:], *(more.strip()[4:] for more in lines[at + 1 : at + 1 + count])]
            self._read_tests(parse_syntax_tree("\n".join(shown)))
            return 1 + count
        if line.startswith(("assert ", "assert(")):
            for count in range(1, _MOST_LINES + 1):
                tree = parse_syntax_tree(dedent("\n".join([line, *lines[at + 1 : at + count]])))
                if tree is not None:
                    self._read_tests(tree)
                    return count
        elif _BINDING.match(line) and (tree := parse_syntax_tree(line)) is not None:
            self.given |= {name for name, _ in _list_bindings(tree.body)}
        return 1

    def _read_tests(self, tree: ast.Module | None) -> None:
        if tree is None:
            return
        self.tests.append(tree)
        nodes = list(ast.walk(tree))
        inside = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        inside |= {node.arg for node in nodes if isinstance(node, ast.arg)}
        names = [node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
        self.called += [name for name in names if name not in inside]
        self.given |= {name for name, _ in _list_bindings(tree.body)}

    def _read_definition(self, lines: Sequence[str], at: int) -> int:
        found = _parse_definition(lines, at)
        if found is None:
            return 1
        node, count = found
        stubs = [node] if isinstance(node, _FUNCTIONS) else [each for each in node.body if isinstance(each, _FUNCTIONS)]
        declared = [stub for stub in stubs if _is_stub(stub)]
        if not declared:
            self.given.add(node.name)
        self.declared += [node.name if stub is node else f"{node.name}.{stub.name}" for stub in declared]
        for part in {node, *declared} if declared else ():
            self.read(ast.get_docstring(part) or "")  # tests stand there too
        return count


def _parse_definition(
    lines: Sequence[str], at: int
) -> tuple[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, int] | None:
    """Returns the function or class that begins in a line, and the number of its lines; a body that is cut off ends."""
    indent = len(lines[at]) - len(lines[at].lstrip())
    for header in range(1, _MOST_LINES + 1):
        start = dedent("\n".join(lines[at : at + header]))
        if start.rstrip().endswith(":") and parse_syntax_tree(f"{start}\n    pass") is not None:
            break
        tree = parse_syntax_tree(start)
        if tree is not None and len(tree.body) == 1 and isinstance(tree.body[0], (*_FUNCTIONS, ast.ClassDef)):
            return tree.body[0], header  # all in one line
    else:
        return None
    count = header
    while at + count < len(lines) and (
        not lines[at + count].strip() or len(lines[at + count]) - len(lines[at + count].lstrip()) > indent
    ):
        count += 1
    body = dedent("\n".join(lines[at : at + count])).rstrip()
    last = body.rpartition("\n")[2]
    deeper = " " * (len(last) - len(last.lstrip()) + 4)
    for text, taken in ((body, count), (f"{body}\n{deeper}pass", count), (f"{start}\n    pass", header)):
        tree = parse_syntax_tree(text)
        if tree is not None and isinstance(tree.body[0], (*_FUNCTIONS, ast.ClassDef)):
            return tree.body[0], taken
    return None


def _is_stub(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a function has no body: nothing, a docstring, `pass`, `...`, or `raise NotImplementedError`."""
    return all(
        isinstance(statement, ast.Pass)
        or (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
        or (isinstance(statement, ast.Raise) and "NotImplementedError" in ast.unparse(statement))
        for statement in function.body
    )
