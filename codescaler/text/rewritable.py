"""What rewrites of a program share: what may be rewritten, and that the result is still the same program."""

import ast
import random
from collections.abc import Callable, Iterator
from contextlib import suppress

from codescaler.text.edits import is_text
from codescaler.text.extract import parse_syntax_tree

# By these a program can see its own names, text or docstrings. Some are given as text, such as to `getattr`.
_REFLECTION = {
    *("__annotations__", "__code__", "__doc__", "__file__", "_getframe", "dir", "dis", "doctest", "eval", "exec"),
    *("globals", "help", "inspect", "linecache", "locals", "pydoc", "traceback", "vars"),
}


def parse_rewritable(code: str) -> ast.Module | None:
    """The syntax tree, None where there is none or the program may look at its own text."""
    tree = parse_syntax_tree(normalize_lines(code))
    if tree is None:
        return None
    texts = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    seen = {*list_identifiers(tree), *(text for text in texts if text.startswith("__"))}
    return tree if _REFLECTION.isdisjoint(seen) else None


def normalize_lines(code: str) -> str:
    """The program with the line ends that Python reads, and that places in its syntax tree are of."""
    return code.replace("\r\n", "\n").replace("\r", "\n")


def make_random(code: str, seed: int) -> random.Random:
    """What a rewrite chooses by, so that it makes the same of a program each time."""
    return random.Random(f"{seed}|{code}")


def list_identifiers(tree: ast.AST) -> Iterator[str]:
    """Every name in a program, whatever it names."""
    for node in ast.walk(tree):
        for field in ("id", "arg", "name", "attr", "asname", "module", "rest"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                yield from value.split(".")
        yield from getattr(node, "names", ()) if isinstance(node, (ast.Global, ast.Nonlocal)) else ()


def list_blocks(tree: ast.AST) -> Iterator[list[ast.stmt]]:
    """The lists of statements of a program."""
    for node in ast.walk(tree):
        for field in ("body", "orelse", "finalbody"):
            block = getattr(node, field, None)
            if isinstance(block, list) and block:
                yield block


def dump_without_texts(tree: ast.Module) -> str:
    """The form of a program in which docstrings do not count. The tree loses them."""
    for block in list(list_blocks(tree)):
        kept = [statement for statement in block if not is_text(statement)]
        block[:] = kept or ([] if block is tree.body else [ast.Pass()])
    return ast.dump(tree)


def check_form(code: str, result: str, form: Callable[[ast.Module], str]) -> str | None:
    """The result if it differs from the program, and their syntax trees have the same form; it ends as the program."""
    result = result.rstrip() + code[len(code.rstrip()) :]
    if result.strip() == code.strip() or not result.strip():
        return None
    before, after = parse_syntax_tree(code), parse_syntax_tree(result)
    with suppress(RecursionError):
        if before is not None and after is not None and form(before) == form(after):
            return result
    return None
