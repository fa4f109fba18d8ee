"""What people put around the same program: comments, docstrings, type hints, imports, an example of its use, praise.

As `codescaler.text.rewriting`, which lists them: each returns None where the program might do something else.
`python benches robustness` measures by phrases of its own.
"""

import ast
import itertools
import random
import re
import tokenize
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from io import StringIO
from typing import TypeAlias

from codescaler.text.edits import Edit, apply_edits, get_first_row, is_text
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
# No function among them that a problem may ask for.
IMPORTS: Sequence[str] = (
    *("import bisect", "import collections", "import functools", "import heapq", "import itertools", "import math"),
    *("import os", "import random", "import re", "import string", "import sys", "import typing"),
    *(
        "from collections import Counter",
        "from collections import defaultdict, deque",
        "from dataclasses import dataclass",
    ),
    *("from typing import Any, Optional", "from typing import Dict, Tuple"),
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
    (r"words|strs|strings|names", "list[str]"),
    (r"s|str\d?|string\d?|\w*_str(ing)?|text|word|t|sentence|char|ch|name", "str"),
    (r"\w*(list|arr|array|nums|numbers|lst|values|items)\d?|l", "list[int]"),
    (r"n|m|k|i|j|x|y|a|b|c|num\w*|\w*count|limit|size|target|index", "int"),
    (r"\w*(dict|map)|d", "dict"),
    (r"(\w*_)?tup(le)?s?\d?", "tuple"),
)
# What takes types, or calls, for more than a text to read.
_READS_TYPES = {
    *("beartype", "dataclass_transform", "get_type_hints", "singledispatch", "singledispatchmethod", "typechecked"),
    *("validate_arguments", "validate_call"),
}
_TAKEN = {*(kind.partition("[")[0] for kind in _TYPES)}
_DECORATORS = {"abstractmethod", "cache", "classmethod", "dataclass", "lru_cache", "property", "staticmethod", "wraps"}

_FUNCTION_OR_CLASS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef


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
            row = get_first_row(first)
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
        indent = lines[get_first_row(first) - 1].encode()[: first.col_offset].decode()
        if is_text(first) or indent.strip() or not 1 < row <= get_first_row(first):
            continue
        words = re.sub(r"(?<=[a-z])(?=[A-Z])|_+", " ", function.name).strip().lower()
        text = summary.format(words) or "."
        names = [arg.arg for arg in _list_parameters(function)]
        inside = [text[0].upper() + text[1:], *(_describe_parameters(style, names) if names else ())]
        rows = [f'"""{inside[0]}"""'] if len(inside) == 1 else [f'"""{inside[0]}', *inside[1:], '"""']
        edits.append((row, 0, row, 0, "".join(f"{indent}{each}\n" if each else "\n" for each in rows)))
    return check_form(code, apply_edits(code, edits), dump_without_texts)


def add_type_hints(code: str, seed: int = 0) -> str | None:
    """Adds types to parameters and results that have none, guessed by the parameter's name.

    They are built-in types, or with `List` of `typing`, which is imported then. All else of the syntax tree stays.
    """
    tree = parse_rewritable(code)
    if tree is None:
        return None
    names, bound = {*list_identifiers(tree)}, [*_list_bound_names(tree)]
    if not _READS_TYPES.isdisjoint(names) or not _TAKEN.isdisjoint(bound):
        return None
    code = normalize_lines(code)
    choice, edits, colons = make_random(code, seed), list[Edit](), _find_colons(code)
    before = itertools.takewhile(lambda each: not isinstance(each, _FUNCTION_OR_CLASS), tree.body)
    has_list = bound.count("List") == 1 and any(map(_is_import_of_list, before))
    above = [] if "List" in names else _add_above(tree, code, ["from typing import List"])
    is_old, has_result = choice.random() < 0.5 and (has_list or bool(above)), choice.random() < 0.7

    def write(kind: str) -> str:
        return kind.replace("list", "List") if is_old else kind

    for function in _list_functions(tree):
        for arg in _list_parameters(function):
            if arg.annotation is None:
                place = arg.end_lineno or arg.lineno, arg.end_col_offset or 0
                edits.append((*place, *place, f": {write(_choose_type(arg, choice.choice([*_TYPES])))}"))
        colon = colons.get(function.lineno)
        if has_result and function.returns is None and colon is not None and not _is_generator(function):
            kind = "None" if function.name == "__init__" else write(choice.choice([*_TYPES]))
            edits.append((*colon, *colon, f" -> {kind}"))
    if any("List" in edit[-1] for edit in edits):
        edits += above
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

    return check_form(code, apply_edits(code, _add_above(tree, code, chosen)), dump_without_added)


def add_example(code: str, seed: int = 0, examples: Sequence[str] = EXAMPLES) -> str | None:
    """Adds calls of the program behind it: in a block `if __name__ == "__main__":`, or in a comment.

    A title is one of `examples`. A program that does more than define names is left as it is: it may be run, and the
    block would run too.
    """
    tree = parse_rewritable(code)
    if tree is None or not all(map(_is_definition, tree.body)) or "__name__" in {*list_identifiers(tree)}:
        return None
    code, choice = normalize_lines(code), make_random(code, seed)
    function = next((each for each in reversed([*_list_functions(tree)]) if _is_callable(each)), None)
    if function is None:
        return None
    owner = next((each for each in tree.body if isinstance(each, ast.ClassDef) and function in each.body), None)
    call, title = _write_calls(function, owner, choice), f"# {choice.choice(examples)}"
    form = choice.choice(("print({})", "print({})", "result = {}\nprint(result)", "assert {} is not None"))
    calls = [line for _ in range(choice.randint(1, 3)) for line in form.format(call()).split("\n")]
    if choice.random() < 0.3:
        block = [title, *(f"# {line}" for line in calls)]
    else:
        titled = [title, *calls] if choice.random() < 0.5 else calls
        block = ['if __name__ == "__main__":', *(f"    {line}" for line in titled)]
    blank = "\n" * choice.randint(1, 3)
    return check_form(code, "\n".join([code.rstrip() + blank, *block]), _dump_without_guard)


def _list_bound_names(tree: ast.AST) -> Iterator[str]:
    """The names that a program gives to something, but for parameters."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.alias):
            yield node.asname or node.name
        elif not isinstance(node, (ast.Name, ast.arg, ast.Attribute)):
            names = (getattr(node, field, None) for field in ("name", "rest"))
            yield from (name for name in names if isinstance(name, str))


def _is_definition(statement: ast.stmt) -> bool:
    """Whether it only defines something, and nothing is called for that."""
    if isinstance(statement, (ast.Assign, ast.AnnAssign)):
        return not _has_call(statement)
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return not _has_call(statement.args) and all(map(_is_known_decorator, statement.decorator_list))
    if isinstance(statement, ast.ClassDef):
        given = [*statement.bases, *(keyword.value for keyword in statement.keywords)]
        is_plain = not any(map(_has_call, given)) and all(map(_is_known_decorator, statement.decorator_list))
        return is_plain and all(map(_is_definition, statement.body))
    return isinstance(statement, (ast.Import, ast.ImportFrom, ast.Pass)) or is_text(statement)


def _has_call(node: ast.AST) -> bool:
    return any(isinstance(each, ast.Call) for each in ast.walk(node))


def _is_known_decorator(decorator: ast.expr) -> bool:
    named = decorator.func if isinstance(decorator, ast.Call) else decorator
    return getattr(named, "attr", getattr(named, "id", None)) in _DECORATORS


def _list_functions(tree: ast.Module) -> Iterator[Function]:
    """The functions of the outermost level, and the methods of its classes."""
    for statement in tree.body:
        for each in statement.body if isinstance(statement, ast.ClassDef) else [statement]:
            if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield each


def _is_callable(function: Function) -> bool:
    """Whether a call by place alone gives what the function returns."""
    is_plain = isinstance(function, ast.FunctionDef) and not function.decorator_list
    return is_plain and not function.name.startswith("_") and None not in function.args.kw_defaults


def _is_generator(function: Function) -> bool:
    return any(isinstance(each, (ast.Yield, ast.YieldFrom)) for each in ast.walk(function))


def _list_parameters(function: Function) -> list[ast.arg]:
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


def _choose_type(arg: ast.arg, otherwise: str) -> str:
    """The type that the parameter says it has, or its name, or another one."""
    given = "" if arg.annotation is None else ast.unparse(arg.annotation).lower()
    if given in _TYPES:
        return given
    return next((kind for pattern, kind in _NAMED if re.fullmatch(pattern, arg.arg, re.IGNORECASE)), otherwise)


def _write_calls(function: Function, owner: ast.ClassDef | None, choice: random.Random) -> Callable[[], str]:
    """What writes a call of the function with other values each time."""
    kinds = [_choose_type(arg, choice.choice([*_TYPES])) for arg in _list_parameters(function)]
    makers = [each for each in _list_functions(ast.Module([owner] if owner else [], [])) if each.name == "__init__"]
    made = [_choose_type(arg, "int") for maker in makers for arg in _list_parameters(maker)]
    head = f"{function.name}" if owner is None else f"{owner.name}({_write_values(made, choice)}).{function.name}"
    return lambda: f"{head}({_write_values(kinds, choice)})"


def _write_values(kinds: Sequence[str], choice: random.Random) -> str:
    return ", ".join(choice.choice(_TYPES[kind]) for kind in kinds)


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


def _add_above(tree: ast.Module, code: str, lines: Sequence[str]) -> list[Edit]:
    """Lines above the first statement that is no text and no import of the future, and above the comment on it.

    None are added where that statement does not begin its row.
    """
    places = [n for n, each in enumerate(tree.body) if not is_text(each) and not _is_import_of_future(each)]
    if not places:
        return []
    first, given = tree.body[places[0]], code.split("\n")
    row = get_first_row(first)
    if first.col_offset or given[row - 1].startswith("\f"):
        return []
    while row > 1 and given[row - 2].startswith("#") and not re.match(r"#!|#.*coding[:=]", given[row - 2]):
        row -= 1
    blank = "" if isinstance(first, (ast.Import, ast.ImportFrom)) else "\n"
    return [(row, 0, row, 0, "".join(f"{line}\n" for line in lines) + blank)]


def _is_import_of_future(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.ImportFrom) and statement.module == "__future__"


def _is_import_of_list(statement: ast.stmt) -> bool:
    if not isinstance(statement, ast.ImportFrom) or statement.module != "typing":
        return False
    return any(each.name == "List" and each.asname is None for each in statement.names)


def _dump_without_hints(tree: ast.Module) -> str:
    for function in _list_functions(tree):
        function.returns = None
        for arg in _list_parameters(function):
            arg.annotation = None
    only_list = ast.dump(ast.parse("from typing import List").body[0])
    return ast.dump(ast.Module([each for each in tree.body if ast.dump(each) != only_list], []))


def _dump_without_guard(tree: ast.Module) -> str:
    return ast.dump(ast.Module([each for each in tree.body if not isinstance(each, ast.If)], []))
