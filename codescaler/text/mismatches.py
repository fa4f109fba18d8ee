"""Programs that do not do what their problem asks, made from correct ones by a rule. Runs nothing.

Each rule takes a program and the name of the function that its problem asks for, such as "f" or "Solution.f". It edits
the text at places of the syntax tree, so that the rest of the text stays. It returns None where the rule does not apply
for certain: where the program does not parse or does not define the function, or where a name would mean two things.
"""

import ast
import builtins
import copy
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from codescaler.text.asked import find_shown_answer, list_asked_names, list_missing_names
from codescaler.text.edits import Edit, apply_edits, get_span
from codescaler.text.extract import parse_syntax_tree

Function = ast.FunctionDef | ast.AsyncFunctionDef
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_SCOPES = (*_FUNCTIONS, ast.ClassDef, ast.Lambda)

OTHER, RENAMED, NEAR_MISS = "another problem's program", "the same, renamed", "near-miss name"
DROPPED, NONE, CONSTANT = "last return dropped", "return None", "constant of the shown test"
KINDS = (OTHER, RENAMED, NEAR_MISS, DROPPED, NONE, CONSTANT)


@dataclass(frozen=True)
class CorrectProgram:
    """A correct program that defines the function that its problem asks for, and the name of that function."""

    code: str
    name: str
    num_parameters: int | None


def find_correct_programs(prompt: str, codes: Iterable[str]) -> list[CorrectProgram]:
    """Returns the distinct ones that define all that is asked, as a function that a rule can edit."""
    asked = list_asked_names(prompt)
    found = []
    for code in dict.fromkeys(codes):
        function = find_function(code, asked[0]) if asked and not list_missing_names(code, asked) else None
        if function is not None:
            found.append(CorrectProgram(code, asked[0], count_parameters(function)))
    return found


def choose_other(program: CorrectProgram, others: Sequence[CorrectProgram]) -> CorrectProgram | None:
    """Returns the first of `others` with as many parameters, else with fewer; a method stands in for a method alone."""
    alike = [other for other in others if ("." in other.name) == ("." in program.name)]
    num = program.num_parameters
    known = [(other, other.num_parameters) for other in alike if other.num_parameters is not None]
    same = (other for other, count in known if count == num)
    fewer = (other for other, count in known if num is not None and count < num)
    return next(same, None) or next(fewer, None) or next(iter(others), None)


def make_mismatches(program: CorrectProgram, other: CorrectProgram | None, prompt: str) -> Iterator[tuple[str, str]]:
    """Yields kind and program of each rule that applies. `other` is a correct program of another problem."""
    code, name = program.code, program.name
    last = name.rpartition(".")[2]
    made: dict[str, str | None] = {NEAR_MISS: rename_function(code, name, misspell_name(last))}
    if other is not None:
        made[OTHER] = other.code
        made[RENAMED] = _disguise(other, program)
    made[DROPPED] = drop_last_return(code, name)
    made[NONE] = answer_with(code, name, "None")
    answer = find_shown_answer(prompt, name)
    made[CONSTANT] = None if answer is None else answer_with(code, name, answer)
    yield from ((kind, text) for kind, text in made.items() if text is not None and text != code)


def _disguise(other: CorrectProgram, program: CorrectProgram) -> str | None:
    """Another problem's program under the name, and with the number of parameters, of this problem's function."""
    owners, names = zip(*(each.name.rpartition(".")[::2] for each in (other, program)), strict=True)
    if owners[0] != owners[1] or program.num_parameters is None:
        return None
    code = other.code if names[0] == names[1] else rename_function(other.code, other.name, names[1])
    return None if code is None else add_parameters(code, program.name, program.num_parameters)


def find_function(code: str, name: str) -> Function | None:
    """Returns the function, or the method of a class, that a program defines at top level; the last one of the name."""
    tree = parse_syntax_tree(code)
    body: Sequence[ast.stmt] = [] if tree is None else tree.body
    owner, _, method = name.rpartition(".")
    if owner:
        classes = [node for node in body if isinstance(node, ast.ClassDef) and node.name == owner]
        body = classes[-1].body if classes else []
    found = [node for node in body if isinstance(node, _FUNCTIONS) and node.name == method]
    return found[-1] if found else None


def count_parameters(function: Function) -> int | None:
    """Returns the number of parameters by place; None if there are others."""
    args = function.args
    return None if args.vararg or args.kwonlyargs or args.kwarg else len(args.posonlyargs) + len(args.args)


def rename_function(code: str, name: str, new: str) -> str | None:
    """Gives the function another name, where it is defined and wherever the program uses it.

    `new` is the last part of a name: a method stays in its class.
    """
    tree, function, old = parse_syntax_tree(code), find_function(code, name), name.rpartition(".")[2]
    if tree is None or function is None or new in _list_identifiers(tree):
        return None
    is_method, edits = "." in name, []
    for node in ast.walk(tree):
        if isinstance(node, _FUNCTIONS) and node.name == old:
            edits.append(_edit_defined_name(code, node, new))
        elif isinstance(node, ast.arg) and node.arg == old and not is_method:
            return None
        elif isinstance(node, ast.Name) and node.id == old and not is_method:
            if not isinstance(node.ctx, ast.Load):
                return None
            edits.append((*get_span(node), new))
        elif isinstance(node, ast.Attribute) and node.attr == old and is_method:
            _, _, row, end = get_span(node)
            edits.append((row, end - len(old.encode()), row, end, new))
    return apply_edits(code, edits)


def misspell_name(name: str) -> str:
    """Returns a name that is nearly the same: without its last "s", or with one."""
    return name[:-1] if name.endswith("s") and len(name) > 1 else f"{name}s"


def drop_last_return(code: str, name: str) -> str | None:
    """Takes away the last `return` of a value in the function."""
    function = find_function(code, name)
    if function is None:
        return None
    found = [(node, block) for node, block in _list_returns(function) if not _is_none(node.value)]
    if not found:
        return None
    node, block = max(found, key=lambda item: item[0].lineno)
    row, column, end_row, end_column = get_span(node)
    lines = code.split("\n")
    is_alone = not lines[row - 1].encode()[:column].strip() and not lines[end_row - 1].encode()[end_column:].strip()
    if len(block) == 1 or not is_alone:
        return apply_edits(code, [(row, column, end_row, end_column, "pass")])
    return "\n".join([*lines[: row - 1], *lines[end_row:]])


def answer_with(code: str, name: str, expression: str) -> str | None:
    """Returns a program whose function has the same parameters and returns one expression, whatever it is given."""
    function = find_function(code, name)
    if function is None:
        return None
    arguments = copy.deepcopy(function.args)
    for node in ast.walk(arguments):
        if isinstance(node, ast.arg):
            node.annotation = None
    owner, _, own = name.rpartition(".")
    lines = [f"def {own}({ast.unparse(arguments)}):", f"    return {expression}"]
    return "\n".join([f"class {owner}:", *(f"    {line}" for line in lines)] if owner else lines)


def add_parameters(code: str, name: str, count: int) -> str | None:
    """Gives the function parameters that it does not use, in front, until it has `count`."""
    function, tree = find_function(code, name), parse_syntax_tree(code)
    if function is None or tree is None or (num := count_parameters(function)) is None or num > count:
        return None
    taken = _list_identifiers(tree)
    free = (word for word in (f"arg{place}" for place in range(2 * count + len(taken))) if word not in taken)
    words = [next(free) for _ in range(count - num)]
    if not words:
        return code
    args = [*function.args.posonlyargs, *function.args.args]
    keeps_first = "." in name and bool(args)  # self
    if len(args) > keeps_first:
        row, column, _, _ = get_span(args[keeps_first])
        return apply_edits(code, [(row, column, row, column, "".join(f"{word}, " for word in words))])
    if keeps_first:
        _, _, row, column = get_span(args[0])
        return apply_edits(code, [(row, column, row, column, "".join(f", {word}" for word in words))])
    row, _, _, column, _ = _edit_defined_name(code, function, "")
    line = code.split("\n")[row - 1].encode()
    opening = line.find(b"(", column)
    return None if opening < 0 else apply_edits(code, [(row, opening + 1, row, opening + 1, ", ".join(words))])


def _edit_defined_name(code: str, node: Function, new: str) -> Edit:
    line = code.split("\n")[node.lineno - 1].encode()
    found = re.compile(rb"(?:async\s+)?def\s+").match(line, node.col_offset)
    start = found.end() if found else node.col_offset
    return node.lineno, start, node.lineno, start + len(node.name.encode()), new


def _list_returns(function: Function) -> Iterator[tuple[ast.Return, Sequence[ast.stmt]]]:
    """Yields each `return` of the function itself, with the block that it stands in."""
    left: list[ast.AST] = [function]
    while left:
        node = left.pop()
        for _, value in ast.iter_fields(node):
            block = value if isinstance(value, list) else []
            for child in block:
                if isinstance(child, ast.Return):
                    yield child, block
                elif isinstance(child, ast.AST) and not isinstance(child, _SCOPES):
                    left.append(child)


def _is_none(value: ast.expr | None) -> bool:
    return value is None or (isinstance(value, ast.Constant) and value.value is None)


def _list_identifiers(tree: ast.AST) -> set[str]:
    """All names that a program uses for anything, and those of Python's builtins that it could use."""
    names = set(dir(builtins))
    for node in ast.walk(tree):
        for _, value in ast.iter_fields(node):
            names |= {value} if isinstance(value, str) else set()
    return names
