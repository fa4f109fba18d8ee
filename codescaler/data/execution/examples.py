"""The inputs of a problem's own tests. Knows the text of tests, and runs nothing."""

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from codescaler.data.execution.outputs import Interface
from codescaler.text.extract import parse_syntax_tree
from codescaler.types import CallTests

Call = tuple[Any, ...]


@dataclass(frozen=True)
class Examples:
    """Calls of one function: the values of their arguments, and the names of those that are given by name."""

    calls: tuple[Call, ...]
    names: tuple[str, ...] = ()

    def write(self, call: Call) -> str:
        """The text of the arguments of a call."""
        num_bare = len(call) - len(self.names)
        texts = list(map(repr, call))
        named = [f"{name}={text}" for name, text in zip(self.names, texts[num_bare:], strict=True)]
        return ", ".join([*texts[:num_bare], *named])


def read_examples(tests: CallTests, interface: Interface) -> Examples | None:
    """The calls of tests that give plain values, in the form of the first one; None if there is none."""
    names = {tests.entry_points[0], *_find_bound_names(tests)}
    found = [call for statement in tests.statements if (call := read_call(statement, names)) is not None]
    if interface.call is None or not found:
        return None
    (first, keywords), *_ = found
    calls = [call for call, given in found if given == keywords and len(call) == len(first)]
    return Examples(tuple(calls), keywords) if first else None


def _find_bound_names(tests: CallTests) -> set[str]:
    """Names that tests bind to what they call: `candidate = Solution().f`."""
    name, bound = tests.entry_points[0], set()
    for statement in tests.statements:
        tree = parse_syntax_tree(statement)
        for node in tree.body if tree is not None else ():
            if isinstance(node, ast.Assign) and any(
                isinstance(part, ast.Name) and part.id == name for part in ast.walk(node.value)
            ):
                bound |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return bound


def read_call(statement: str, names: set[str]) -> tuple[Call, tuple[str, ...]] | None:
    """The arguments of the one call of one of these names, or of a method of its object, if they are plain values."""
    tree = parse_syntax_tree(statement)
    found = [node for node in ast.walk(tree) if _is_call_of(node, names)] if tree is not None else []
    if len(found) != 1:
        return None
    call = found[0]
    assert isinstance(call, ast.Call)
    keywords = tuple(keyword.arg or "" for keyword in call.keywords)
    try:
        values = [ast.literal_eval(node) for node in (*call.args, *(keyword.value for keyword in call.keywords))]
    except (ValueError, TypeError, RecursionError, MemoryError):
        return None
    return None if "" in keywords else (tuple(values), keywords)


def _is_call_of(node: ast.AST, names: Sequence[str] | set[str]) -> bool:
    """Whether it is `f(...)` or `Class().method(...)`, and not `Class()`, which makes an object."""
    if not isinstance(node, ast.Call):
        return False
    function = node.func
    if isinstance(function, ast.Name):
        return function.id in names and bool(node.args or node.keywords)
    return (
        isinstance(function, ast.Attribute)
        and isinstance(function.value, ast.Call)
        and isinstance(function.value.func, ast.Name)
        and function.value.func.id in names
    )
