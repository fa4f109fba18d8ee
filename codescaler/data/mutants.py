"""Programs that are wrong by one small change."""

import ast
import copy
import random
from collections.abc import Iterator
from typing import Any

_SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE,
    ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.And: ast.Or, ast.Or: ast.And, ast.In: ast.NotIn,
    ast.NotIn: ast.In, ast.Mod: ast.FloorDiv, ast.FloorDiv: ast.Mod, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip


def make_mutants(code: str, count: int, seed: int) -> list[str]:
    """Returns up to `count` distinct programs, each with one operator, constant, condition or result changed."""
    tree = ast.parse(code)
    places = list(_find_places(tree))
    random.Random(seed).shuffle(places)
    made = dict.fromkeys(_mutate(tree, *place) for place in places[: 2 * count])
    made.pop(ast.unparse(tree), None)
    return list(made)[:count]


def _find_places(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for index, node in enumerate(ast.walk(tree)):
        for name, value in ast.iter_fields(node):
            first = value[0] if isinstance(value, list) and value else value
            if type(first) in _SWAPS and isinstance(node, ast.BinOp | ast.Compare | ast.BoolOp | ast.AugAssign):
                yield index, name
        if isinstance(node, ast.Constant) and type(node.value) in (int, bool, str):
            yield index, "value"
        elif isinstance(node, ast.If | ast.While):
            yield index, "test"
        elif isinstance(node, ast.Return) and node.value is not None:
            yield index, "value"


def _mutate(tree: ast.Module, index: int, name: str) -> str:
    mutant = copy.deepcopy(tree)
    node: Any = list(ast.walk(mutant))[index]
    value = getattr(node, name)
    if isinstance(node, ast.Constant):
        node.value = (not value) if isinstance(value, bool) else value + (1 if isinstance(value, int) else "x")
    elif isinstance(node, ast.Return):
        node.value = ast.Constant(None)
    elif isinstance(node, ast.If | ast.While):
        node.test = ast.UnaryOp(ast.Not(), value)
    elif isinstance(value, list):
        value[0] = _SWAPS[type(value[0])]()
    else:
        setattr(node, name, _SWAPS[type(value)]())
    return ast.unparse(ast.fix_missing_locations(mutant))
