"""Programs that solve nothing: a suite has to reject them."""

import ast
from collections.abc import Sequence
from typing import Any

from codescaler.text.extract import parse_syntax_tree
from codescaler.types import CallTests, Tests

_CONSTANTS: tuple[Any, ...] = (None, 0, 1, True, False, "", [])
_PRINTED = ("0", "1", "-1", "YES", "NO", "Yes", "No")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def make_trivial_programs(tests: Tests, reference: str | None) -> dict[str, str]:
    """Programs by what they do: `pass`, one constant whatever is asked, and the first argument given back.

    Functions have the parameters of the reference; of any number where there is none.
    """
    if not isinstance(tests, CallTests):
        printed = {f"print({text!r})": f"print({text!r})" for text in _PRINTED}
        return {"pass": "pass", **printed, "print(input())": "print(input())"}
    source = reference if reference is not None else _write_stubs(tests.entry_points)
    tree = parse_syntax_tree(source)
    if tree is None:
        return {}
    bodies: dict[str, ast.expr | None] = {"pass": None}
    bodies |= {f"return {value!r}": ast.parse(repr(value), mode="eval").body for value in _CONSTANTS[1:]}
    programs = {name: _replace_bodies(source, body) for name, body in bodies.items()}
    return {**programs, "return the first argument": _replace_bodies(source, _FIRST)}


_FIRST = ast.Name("first argument", ast.Load())  # stands for the name of each function's own


def _write_stubs(entry_points: Sequence[str]) -> str:
    return "\n".join(f"def {name}(*arguments, **named): pass" for name in entry_points)


def _replace_bodies(source: str, body: ast.expr | None) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, _FUNCTIONS):
            node.body = [_make_statement(node, body)]
            node.decorator_list = [each for each in node.decorator_list if isinstance(each, ast.Name)]
    return ast.unparse(ast.fix_missing_locations(tree))


def _make_statement(node: ast.FunctionDef | ast.AsyncFunctionDef, body: ast.expr | None) -> ast.stmt:
    names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args) if argument.arg != "self"]
    is_first = body is _FIRST
    if body is None or node.name == "__init__" or (is_first and not names):
        return ast.Pass()
    return ast.Return(ast.Name(names[0], ast.Load()) if is_first else body)
