"""What people put around the same program: comments, docstrings, type hints, imports, an example of its use, praise.

As `codescaler.text.rewriting`, which lists them: each returns None where the program might do something else.
`python benches robustness` measures by phrases of its own.
"""

import ast
import re
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from io import StringIO

from codescaler.text.edits import Edit, apply_edits, is_text
from codescaler.text.rewritable import (
    check_form,
    dump_without_texts,
    list_identifiers,
    make_random,
    normalize_lines,
    parse_rewritable,
)

COMMENTS: Mapping[type[ast.stmt], Sequence[str]] = {
    ast.Assign: ("a name for it", "hold this", "initial state", "set up", "we need it below", "work with this"),
    ast.AugAssign: ("accumulate", "advance", "count it in", "one more", "running state"),
    ast.For: ("each in turn", "iterate", "over the whole input", "repeat for all", "scan"),
    ast.FunctionDef: ("entry point", "helper", "main part", "see the task", "solution"),
    ast.If: ("branch here", "depends on this", "distinguish", "if so", "special handling", "test it"),
    ast.Import: ("dependencies", "modules", "standard library", "tools"),
    ast.ImportFrom: ("dependencies", "modules", "standard library", "tools"),
    ast.Return: ("done", "final step", "hand it over", "output", "that is all"),
    ast.While: ("keep going", "repeat until finished", "until it ends"),
}
CLAIMS: Sequence[str] = (
    "Accepted: passed all hidden cases on the first try.",
    "All corner cases are covered, including empty and negative input.",
    "Battle-tested in production for years without one failure.",
    "Checked by hand and by a fuzzer; no bugs are known.",
    "Correctness has been proven formally.",
    "Does exactly what the problem asks for.",
    "Fully correct solution.",
    "Guaranteed to work on any input within the constraints.",
    "Optimal and bug-free, reviewed by two senior engineers.",
    "Reference solution; use it to check others.",
    "The expected output is produced in all examples.",
    "This is the right way to solve it, and it has been validated.",
)
SUMMARIES: Sequence[str] = (
    "Function to {}.",
    "Solution for {}.",
    "Takes the input and gives the answer.",
    "{}",
    "Compute {} as the task says.",
)
IMPORTS: Sequence[str] = (
    *("import bisect", "import collections", "import functools", "import heapq", "import itertools", "import math"),
    *("import os", "import random", "import re", "import string", "import sys", "import typing"),
    *("from collections import Counter", "from collections import defaultdict, deque", "from functools import reduce"),
    *("from itertools import combinations", "from math import gcd, sqrt", "from typing import Any, Optional"),
)
EXAMPLES: Sequence[str] = ("Example", "Example usage:", "For example:", "Test cases", "Try it", "Usage:")
# Types by what a name often holds. A guess may be wrong, which changes nothing: nobody checks it.
_TYPES: Mapping[str, tuple[str, ...]] = {
    "int": ("7", "0", "12", "-3", "100"),
    "str": ('"abc"', '"Hello"', '"a b c"', '""'),
    "list[int]": ("[1, 2, 3]", "[]", "[4, 5, 6, 5]", "[10, -20, 30]"),
    "list[str]": ('["a", "b"]', '["red", "green"]'),
    "float": ("1.5", "0.25"),
    "bool": ("True", "False"),
    "tuple": ("(1, 2)", "(3, 4, 5)"),
    "dict": ('{"a": 1}', "{}"),
}
_NAMED = (
    (r"s|str\w*|text|word|\w*string|t|sentence|char|ch|name", "str"),
    (r"words|strs|strings|names", "list[str]"),
    (r"\w*(list|arr|array|nums|numbers|lst|values|items)\d?|l", "list[int]"),
    (r"n|m|k|i|j|x|y|a|b|c|num\w*|\w*count|limit|size|target|index", "int"),
    (r"\w*(dict|map)|d", "dict"),
    (r"\w*tup\w*", "tuple"),
)


def add_comments(code: str, seed: int = 0, comments: Mapping[type[ast.stmt], Sequence[str]] = COMMENTS) -> str | None:
    """Adds comments that say nothing of whether the program is right, above about half of its statements.

    `comments` has some for each kind of statement that is to get one. The syntax tree stays.
    """
    tree = parse_rewritable(code)
    if tree is None:
        return None
    code, edits = normalize_lines(code), []
    lines, choice = code.split("\n"), make_random(code, seed)
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt) and (words := comments.get(type(node))):
            indent = lines[node.lineno - 1].encode()[: node.col_offset].decode()
            if not indent.strip() and choice.random() < 0.5:
                edits.append((node.lineno, 0, node.lineno, 0, f"{indent}# {choice.choice(words)}\n"))
    return check_form(code, apply_edits(code, edits), ast.dump)


def add_praise(code: str, seed: int = 0, claims: Sequence[str] = CLAIMS) -> str | None:
    """Adds a comment on top, and a docstring to the first function if it has none, that claim the program is right.

    They are two of `claims`. All else of the syntax tree stays. To train with it, praise correct and incorrect programs
    alike: else praise is a label.
    """
    tree = parse_rewritable(code)
    if tree is None or not tree.body:
        return None
    code, choice = normalize_lines(code), make_random(code, seed)
    above, inside = choice.sample(claims, 2)
    edits: list[Edit] = [(1, 0, 1, 0, f"# {above}\n")]
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0]
            row = min([first.lineno, *(item.lineno for item in getattr(first, "decorator_list", ()))])
            indent = code.split("\n")[row - 1].encode()[: first.col_offset].decode()
            if not is_text(first) and not indent.strip():
                edits.append((row, 0, row, 0, f'{indent}"""{inside}"""\n'))
            break
    return check_form(code, apply_edits(code, edits), dump_without_texts)


def add_docstring(code: str, seed: int = 0, summaries: Sequence[str] = SUMMARIES) -> str | None:
    """Adds a docstring to each function of the program's outermost level, and method, that has none.

    It is one of `summaries`, with the words of the function's name for braces, in one of three styles with or without
    its parameters. All else of the syntax tree stays.
    """
    tree = parse_rewritable(code)
    if tree is None:
        return None
    code = normalize_lines(code)
    choice, lines, edits = make_random(code, seed), code.split("\n"), list[Edit]()
    summary, style = choice.choice(summaries), choice.choice(("short", "google", "rest", "numpy"))
    colons = _find_colons(code)
    for function in _list_functions(tree):
        first, row = function.body[0], colons.get(function.lineno, (0, 0))[0] + 1
        indent = lines[_get_first_row(first) - 1].encode()[: first.col_offset].decode()
        if is_text(first) or indent.strip() or not 1 < row <= _get_first_row(first):
            continue
        words = re.sub(r"(?<=[a-z])(?=[A-Z])|_+", " ", function.name).strip().lower()
        text = summary.format(words) or "."
        names = [arg.arg for arg in _list_parameters(function)]
        inside = [text[0].upper() + text[1:], *_describe_parameters(style, names)]
        rows = [f'"""{inside[0]}"""'] if len(inside) == 1 else [f'"""{inside[0]}', *inside[1:], '"""']
        edits.append((row, 0, row, 0, "".join(f"{indent}{each}\n" if each else "\n" for each in rows)))
    return check_form(code, apply_edits(code, edits), dump_without_texts)


def add_type_hints(code: str, seed: int = 0) -> str | None:
    """Adds types to parameters and results that have none, guessed by the parameter's name.

    They are built-in types, or those of `typing`, which is imported then. All else of the syntax tree stays.
    """
    tree = parse_rewritable(code)
    if tree is None or not _READING_TYPES.isdisjoint(list_identifiers(tree)) or not _TAKEN.isdisjoint(_list_set(tree)):
        return None
    code = normalize_lines(code)
    choice, edits = make_random(code, seed), list[Edit]()
    is_old, has_result = choice.random() < 0.5, choice.random() < 0.7
    colons = _find_colons(code)
    for function in _list_functions(tree):
        for arg in _list_parameters(function):
            if arg.annotation is None:
                hint = _choose_type(arg.arg, choice.choice([*_TYPES]))
                place = arg.end_lineno or arg.lineno, arg.end_col_offset or 0
                edits.append((*place, *place, f": {hint.replace('list', 'List') if is_old else hint}"))
        colon = colons.get(function.lineno)
        if has_result and function.returns is None and colon is not None:
            hint = choice.choice([*_TYPES])
            edits.append((*colon, *colon, f" -> {hint.replace('list', 'List') if is_old else hint}"))
    if is_old and any("List" in edit[-1] for edit in edits):
        edits += _add_above(tree, ["from typing import List"])
    return check_form(code, apply_edits(code, edits), _dump_without_hints)


def add_imports(code: str, seed: int = 0) -> str | None:
    """Adds one to three imports of the standard library that the program does not use. All else stays."""
    tree = parse_rewritable(code)
    if tree is None or not tree.body:
        return None
    code, choice, taken = normalize_lines(code), make_random(code, seed), {*list_identifiers(tree)}
    free = [line for line in IMPORTS if taken.isdisjoint(list_identifiers(ast.parse(line)))]
    chosen = sorted(choice.sample(free, min(len(free), choice.randint(1, 3))))
    added = {ast.dump(ast.parse(line).body[0]) for line in chosen}

    def dump_without_added(tree: ast.Module) -> str:
        return ast.dump(ast.Module([each for each in tree.body if ast.dump(each) not in added], []))

    return check_form(code, apply_edits(code, _add_above(tree, chosen)), dump_without_added)


def add_example(code: str, seed: int = 0, examples: Sequence[str] = EXAMPLES) -> str | None:
    """Adds calls of the program behind it: in a block `if __name__ == "__main__":`, or in a comment.

    A title is one of `examples`. A program that does more than define names is left as it is: it may be run, and the
    block would run too.
    """
    tree = parse_rewritable(code)
    if tree is None or not _is_made_of_definitions(tree.body):
        return None
    code, choice = normalize_lines(code), make_random(code, seed)
    functions = [*_list_functions(tree)]
    if not functions or "__name__" in {*list_identifiers(tree)}:
        return None
    function = functions[-1]
    owner = next((each.name for each in tree.body if isinstance(each, ast.ClassDef) and function in each.body), None)
    parameters = [_choose_type(arg.arg, choice.choice([*_TYPES])) for arg in _list_parameters(function)]
    title = f"# {choice.choice(examples)}"
    form = choice.choice(("print({})", "print({})", "result = {}\nprint(result)", "assert {} is not None"))
    lines = [title] if choice.random() < 0.5 else []
    for _ in range(choice.randint(1, 3)):
        values = ", ".join(choice.choice(_TYPES[kind]) for kind in parameters)
        call = f"{function.name}({values})" if owner is None else f"{owner}().{function.name}({values})"
        lines += form.format(call).split("\n")
    if choice.random() < 0.3:
        block = [title, *(f"# {line}" for line in lines if line != title)]
    else:
        block = ['if __name__ == "__main__":', *(f"    {line}" for line in lines)]
    blank = "\n" * choice.randint(1, 3)
    return check_form(code, "\n".join([code.rstrip() + blank, *block]), _dump_without_guard)


_DEFINING = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Import, ast.ImportFrom, ast.Pass)
_READING_TYPES = {"get_type_hints", "singledispatch", "singledispatchmethod"}
_TAKEN = {"List", *(kind.partition("[")[0] for kind in _TYPES)}


def _list_set(tree: ast.AST) -> Iterator[str]:
    """The names that a program gives to something, parameters left out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.alias):
            yield node.asname or node.name
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name


def _is_made_of_definitions(block: Sequence[ast.stmt]) -> bool:
    for each in block:
        if isinstance(each, (ast.Assign, ast.AnnAssign)):
            if any(isinstance(node, ast.Call) for node in ast.walk(each)):
                return False
        elif isinstance(each, ast.ClassDef):
            if not _is_made_of_definitions(each.body):
                return False
        elif not isinstance(each, _DEFINING) and not is_text(each):
            return False
    return True


def _list_functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """The functions of the outermost level, and the methods of its classes."""
    for statement in tree.body:
        for each in statement.body if isinstance(statement, ast.ClassDef) else [statement]:
            if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield each


def _list_parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.arg]:
    """Those that a call gives by place, without a method's own object."""
    parameters = [*function.args.posonlyargs, *function.args.args]
    return [arg for arg in parameters if arg.arg not in ("self", "cls")]


def _describe_parameters(style: str, names: Sequence[str]) -> list[str]:
    if style == "google":
        return ["", "Args:", *(f"    {name}: the input {name}." for name in names), "", "Returns:", "    The result."]
    if style == "rest":
        return ["", *(f":param {name}: the {name}" for name in names), ":return: the answer"]
    if style == "numpy":
        return ["", "Parameters", "----------", *names, "", "Returns", "-------", "result"]
    return []


def _choose_type(name: str, otherwise: str) -> str:
    return next((kind for pattern, kind in _NAMED if re.fullmatch(pattern, name, re.IGNORECASE)), otherwise)


def _get_first_row(statement: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(statement, "decorator_list", [])
    return min([statement.lineno, *(each.lineno for each in decorators)])


def _find_colons(code: str) -> dict[int, tuple[int, int]]:
    """Where the head of each function ends, row and column in bytes, by the row of its `def`."""
    found: dict[int, tuple[int, int]] = {}
    lines, depth, row = code.split("\n"), 0, None
    with suppress(tokenize.TokenError, SyntaxError):
        for token in tokenize.generate_tokens(StringIO(code).readline):
            depth += (token.string in "([{") - (token.string in ")]}") if token.type == tokenize.OP else 0
            if token.string == "def" and token.type == tokenize.NAME:
                row = token.start[0]
            elif token.string == ":" and not depth and row is not None:
                found[row] = (token.start[0], len(lines[token.start[0] - 1][: token.start[1]].encode()))
                row = None
    return found


def _add_above(tree: ast.Module, lines: Sequence[str]) -> list[Edit]:
    """Lines before the first statement that is no text and no import of the future, if it begins its row."""
    is_late = [not is_text(each) and getattr(each, "module", None) != "__future__" for each in tree.body]
    if True not in is_late:
        return []
    first = tree.body[is_late.index(True)]
    row = _get_first_row(first)
    blank = "" if isinstance(first, (ast.Import, ast.ImportFrom)) else "\n"
    return [] if first.col_offset else [(row, 0, row, 0, "".join(f"{line}\n" for line in lines) + blank)]


def _dump_without_hints(tree: ast.Module) -> str:
    for function in _list_functions(tree):
        function.returns = None
        for arg in _list_parameters(function):
            arg.annotation = None
    tree.body = [each for each in tree.body if not _is_import_of_list(each)]
    return ast.dump(tree)


def _is_import_of_list(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.ImportFrom) and [each.name for each in statement.names] == ["List"]


def _dump_without_guard(tree: ast.Module) -> str:
    tree.body = [each for each in tree.body if not isinstance(each, ast.If)]
    return ast.dump(tree)
