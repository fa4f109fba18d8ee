"""Rewrites of a program that keep what it does: other names, another layout, other things around it. Runs nothing.

Each takes a program and a seed and returns the rewritten text, or None where that is not certain to do the same: where
the program does not parse, looks at its own names, text or docstrings, or nothing would change. What comes back is
parsed again and held against the program's syntax tree, so that a slip of an edit is a None, and never another program.
"""

import ast
import builtins
import itertools
import keyword
import re
import subprocess
import symtable
import sys
import tokenize
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from io import StringIO

from codescaler.errors import InvalidInput
from codescaler.text.additions import add_comments, add_docstring, add_example, add_imports, add_type_hints
from codescaler.text.edits import apply_edits, get_span, is_text
from codescaler.text.rewritable import (
    check_form,
    dump_without_texts,
    list_blocks,
    list_identifiers,
    make_random,
    normalize_lines,
    parse_rewritable,
)

_NAMES = (
    *("alpha", "amount", "base", "bucket", "chunk", "current", "data", "delta", "element", "entry", "factor", "first"),
    *("flag", "group", "holder", "index", "info", "inner", "item", "key", "left", "limit", "mark", "number", "offset"),
    *("other", "outer", "part", "piece", "place", "probe", "ref", "result", "right", "second", "size", "source"),
    *("start", "step", "store", "target", "temp", "third", "token", "total", "unit", "value", "window"),
)


def rename_locals(code: str, seed: int = 0, keep: Collection[str] = ()) -> str | None:
    """Gives local variables and parameters other names; comments and layout stay.

    A name is replaced everywhere or nowhere. These names stay: names with a meaning outside of functions or in a class,
    imported names, names of functions, keywords of calls, names in `keep`, and names whose place in the text is not
    known.
    """
    tree = parse_rewritable(code)
    if tree is None or any(isinstance(node, ast.keyword) and node.arg is None for node in ast.walk(tree)):
        return None  # f(**values) names parameters by text
    code = normalize_lines(code)
    with suppress(SyntaxError, ValueError, RecursionError):  # of symtable, which checks more than the parser
        names = sorted(_find_local_names(code, tree) - {*keep})
        taken = {*list_identifiers(tree), *dir(builtins), *keyword.kwlist, *keyword.softkwlist, *keep}
        random_words = make_random(code, seed)
        words = random_words.sample(_NAMES, len(_NAMES))
        free = (word for word in itertools.chain(words, (f"v{n}" for n in itertools.count())) if word not in taken)
        new = dict(zip(random_words.sample(names, len(names)), free, strict=False))
        edits = [
            (node.lineno, node.col_offset, node.lineno, node.col_offset + len(name.encode()), new[name])
            for node, name in _list_named(tree)
            if name in new
        ]
        old = {word: name for name, word in new.items()}
        return check_form(code, apply_edits(code, edits), lambda given: ast.dump(_Renamed(old).visit(given)))
    return None


def strip_texts(code: str, seed: int = 0) -> str | None:
    """Takes out comments, docstrings and other texts that nothing reads; all else of the syntax tree stays."""
    tree = parse_rewritable(code)
    if tree is None:
        return None
    code, edits = normalize_lines(code), []
    for block in list_blocks(tree):
        texts = [statement for statement in block if is_text(statement)]
        needs_pass = len(texts) == len(block) and block is not tree.body
        for place, text in enumerate(texts):
            edits.append((*get_span(text), "pass" if needs_pass and not place else "\0"))
    lines = code.split("\n")
    with suppress(tokenize.TokenError, SyntaxError):
        for token in tokenize.generate_tokens(StringIO(code).readline):
            if token.type == tokenize.COMMENT:
                row, column = token.start[0], len(lines[token.start[0] - 1][: token.start[1]].encode())
                edits.append((row, column, row, column + len(token.string.encode()), "\0"))
        # What was marked leaves no blank line behind, and no blank at the end of a line; a program holds no NUL.
        left = re.sub(r"^[ \t]*\0[ \t\0]*(\n|\Z)|[ \t]*\0", "", apply_edits(code, edits), flags=re.MULTILINE)
        return check_form(code, left, dump_without_texts)
    return None


def reformat(code: str, seed: int = 0) -> str | None:
    """Writes the program anew from its syntax tree, which stays; comments and its own layout go."""
    tree = parse_rewritable(code)
    if tree is None:
        return None
    with suppress(RecursionError, ValueError):
        return check_form(normalize_lines(code), ast.unparse(tree), ast.dump)
    return None


def rewrap(code: str, seed: int = 0) -> str | None:
    """Lays the program out by `ruff format`, for lines of 40 to 120 characters; comments and the syntax tree stay.

    White space in docstrings may change. Raises: InvalidInput if ruff is not installed.
    """
    try:
        from ruff import find_ruff_bin
    except ImportError as error:
        raise InvalidInput(f"rewrapping needs ruff ({error}); run: pip install 'codescaler[data]'") from error
    if parse_rewritable(code) is None:
        return None
    width = make_random(code, seed).choice((40, 60, 88, 120))
    command = [find_ruff_bin(), "format", "-", "--isolated", "--no-cache", "--quiet", f"--line-length={width}"]
    run = subprocess.run(command, input=code.encode(), capture_output=True, check=False)
    return None if run.returncode else check_form(normalize_lines(code), run.stdout.decode(), dump_without_texts)


# Those that keep what a reader could learn of correct and incorrect as it is; `add_praise` does not.
REWRITES: Mapping[str, Callable[[str, int], str | None]] = {
    "renamed": rename_locals,
    "commented": add_comments,
    "stripped": strip_texts,
    "reformatted": reformat,
    "rewrapped": rewrap,
    "documented": add_docstring,
    "hinted": add_type_hints,
    "imported": add_imports,
    "demonstrated": add_example,
}


def find_callers_names(prompt: str) -> set[str]:
    """Names that a problem's text uses as keywords or parameters, by which its tests may call; to `keep`."""
    parameters = re.findall(r"\bdef\s+\w+\s*\(([^()]*(?:\([^()]*\)[^()]*)*)\)", prompt)
    return {*re.findall(r"\b([^\W\d]\w*)\s*=(?!=)", prompt), *re.findall(r"\b[^\W\d]\w*", " ".join(parameters))}


def _list_named(tree: ast.AST) -> Iterator[tuple[ast.Name | ast.arg, str]]:
    """The nodes that stand exactly where their name does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node, node.id
        elif isinstance(node, ast.arg):
            yield node, node.arg


def _find_local_names(code: str, tree: ast.Module) -> set[str]:
    """Names that are local variables or parameters of functions wherever they stand, each time at a known place."""
    local: set[str] = set()
    kept = {"self", "cls"}
    for table in _list_tables(symtable.symtable(code, "<program>", "exec")):
        for symbol in table.get_symbols():
            is_local = symbol.is_parameter() or symbol.is_local() or symbol.is_free()
            is_other = symbol.is_imported() or symbol.is_namespace() or symbol.is_global() or symbol.is_nonlocal()
            is_renamable = table.get_type() == "function" and is_local and not is_other
            (local if is_renamable else kept).add(symbol.get_name())
    for node in ast.walk(tree):
        if isinstance(node, (ast.Name, ast.arg, ast.Attribute, ast.alias)):
            continue
        if isinstance(node, ast.JoinedStr) and sys.version_info < (3, 12):  # places inside f-strings are not right
            kept.update(name for _, name in _list_named(node))
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):  # which are namespaces
            values = (getattr(node, field, None) for field in ("arg", "name", "rest"))
            kept.update(value for value in values if isinstance(value, str))
    return {name for name in local - kept if name.isidentifier() and not name.startswith("_")}


def _list_tables(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from _list_tables(child)


class _Renamed(ast.NodeTransformer):
    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name(self._names.get(node.id, node.id), node.ctx)

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.arg = self._names.get(node.arg, node.arg)
        self.generic_visit(node)
        return node
