"""Edits of a program's text at the places of its syntax tree: comments and layout elsewhere stay."""

import ast
import itertools
from collections.abc import Iterable

# From line and column to line and column, in bytes of UTF-8 as in syntax trees, and what stands there instead.
Edit = tuple[int, int, int, int, str]
Span = tuple[int, int, int, int]


def get_span(node: ast.stmt | ast.expr | ast.arg) -> Span:
    """Returns where a node stands."""
    return node.lineno, node.col_offset, node.end_lineno or node.lineno, node.end_col_offset or 0


def get_first_row(statement: ast.stmt) -> int:
    """Returns the row in which a statement begins, its decorators among it."""
    decorators: list[ast.expr] = getattr(statement, "decorator_list", [])
    return min([statement.lineno, *(each.lineno for each in decorators)])


def is_text(statement: ast.AST) -> bool:
    """Whether it is a docstring, or another text that nothing reads."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def apply_edits(code: str, edits: Iterable[Edit]) -> str:
    r"""Returns the program with all edits made, none of which overlap. Lines end with "\n"."""
    lines = [line.encode() for line in code.split("\n")]
    starts = [0, *itertools.accumulate(len(line) + 1 for line in lines)]
    text = code.encode()
    for row, column, end_row, end_column, new in sorted(edits, reverse=True):
        text = text[: starts[row - 1] + column] + new.encode() + text[starts[end_row - 1] + end_column :]
    return text.decode()
