"""Which tests ask for one process with the program: those that read what it wrote, or change what it runs in."""

import ast
import builtins
import functools
import re
import sys
from collections.abc import Iterator

from codescaler.types import CallTests

_FILES = re.compile(r"\b(open|exists|unlink|makedirs|mkdir|listdir|save|read_text|write_text|ZipFile|os\.remove)\(")
_PURE = {  # of os and sys
    "join", "basename", "dirname", "splitext", "split", "sep", "linesep", "name", "path", "normpath", "maxsize",
    "fspath", "version_info", "getsizeof", "getrecursionlimit", "setrecursionlimit", "PathLike", "float_info", "isabs",
}  # fmt: skip
_STATEFUL = {
    "os",
    "sys",
    "shutil",
    "tempfile",
    "sqlite3",
    "subprocess",
    "locale",
    "glob",
    "zipfile",
    "socket",
    "warnings",
}
# Of Python's own modules, those whose functions take what a program gives as they would in its process.
_FAITHFUL = {"abc", "array", "base64", "binascii", "bisect", "builtins", "bz2", "calendar", "cmath", "collections",
             "contextlib", "copy", "csv", "datetime", "decimal", "difflib", "enum", "fractions", "functools", "gzip",
             "hashlib", "heapq", "html", "io", "itertools", "json", "lzma", "math", "numbers", "operator", "os",
             "pathlib", "pprint", "random", "re", "secrets", "statistics", "string", "struct", "sys", "textwrap",
             "types", "typing", "unicodedata", "unittest", "urllib", "uuid", "xml", "zlib"}  # fmt: skip
# What changes how a process computes, looks into a program's objects, or drives its generators.
_WORDS = {"seed", "setstate", "getstate", "getcontext", "setcontext", "localcontext", "get_type_hints", "send", "throw",
          "asend", "athrow"}  # fmt: skip
_HIDDEN = re.compile(r"__(?!(name|class|dict|init)__)\w+__")
_ASYNCHRONOUS = ast.AsyncFunctionDef | ast.AsyncFor | ast.AsyncWith | ast.Await
_CALLS = {"open", "patch", "redirect_stdout", "redirect_stderr", "redirect_stdin", "input", "globals"}
_FILE_METHODS = {"exists", "is_file", "is_dir", "read_text", "write_text", "read_bytes", "write_bytes", "unlink",
                 "mkdir", "touch", "iterdir", "rmdir", "save", "savefig", "to_csv", "to_excel"}  # fmt: skip
_CLOCKS = {"time", "timeit"}  # an answer takes longer from another process
_GO_AS_DATA = {"numpy", "pandas"}  # of the libraries that are not Python's own


@functools.lru_cache(maxsize=256)
def find_shared_state(tests: CallTests) -> tuple[str | None, ...]:
    """Returns, for each statement, what of the process it shares with the program, in words; None if nothing."""
    setup, prelude = _parse(tests.setup), _parse(tests.prelude)
    return tuple(_find_in_statement(setup, _parse(statement), prelude) for statement in tests.statements)


# Modules that a test may use on files which a program wrote: they read data, and run no code that stands in it.
_READERS = {"base64", "binascii", "bz2", "collections", "copy", "csv", "datetime", "difflib", "filecmp", "fnmatch",
            "glob", "gzip", "hashlib", "html", "io", "itertools", "json", "math", "os", "pathlib", "random", "re",
            "shutil", "stat", "string", "tempfile", "textwrap", "time", "typing", "unittest", "xml",
            "zipfile"}  # fmt: skip
_RUNNERS = re.compile(r"exec|eval|compile|__import__|system|popen|startfile|(exec|spawn|posix_spawn|fork)\w*")


@functools.lru_cache(maxsize=256)
def may_share_files(tests: CallTests) -> bool:
    """Whether tests and program can share a folder: the tests use files, and nothing that runs what is in them."""
    if not any(map(_FILES.search, (tests.setup, *tests.statements))):
        return False
    trees = [_parse(text) for text in (tests.setup, *tests.statements)]
    module_of = dict(_list_modules([_parse(tests.prelude), *trees]))
    nodes = [node for tree in trees for node in ast.walk(tree)]
    used = {node.id for node in nodes if isinstance(node, ast.Name)} - set(_list_variables(trees))
    words = used | {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    modules = {module_of.get(name, name) for name in used}
    foreign = {module for module in modules if module in module_of.values() or module in sys.stdlib_module_names}
    return foreign <= _READERS and not any(map(_RUNNERS.fullmatch, words))


def _parse(text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ast.Module([], [])


def _find_in_statement(setup: ast.Module, statement: ast.Module, prelude: ast.Module) -> str | None:
    reached: list[ast.AST] = [statement]
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    definitions: dict[str, ast.AST] = {node.name: node for node in setup.body if isinstance(node, kinds)}
    reached += [node for node in setup.body if node not in definitions.values()]
    module_of = {name: name for name in _list_owners([setup, statement])}
    module_of |= _list_modules([prelude, setup, statement])
    for name in _list_variables([setup, statement]):
        module_of.pop(name, None)
    names: set[str] = set()
    words: set[str] = set()
    found = None
    while reached and found is None:
        node = reached.pop()
        found = _find_changed_table(node, module_of) or found
        for part in _walk(node, words):
            found = found or _describe(part, module_of) or _describe_inspection(part, module_of)
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                words.add(part.value)
            if isinstance(part, ast.Name) and part.id in definitions and part.id not in names:
                names.add(part.id)
                reached.append(definitions[part.id])
    return found


def _find_changed_table(node: ast.AST, module_of: dict[str, str]) -> str | None:
    """A variable that a function gets, and that is looked at later, where libraries of tables are at hand."""
    if not _GO_AS_DATA.intersection(module_of.values()):
        return None
    loads = [each for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Load)]
    last = {each.id: each.lineno for each in sorted(loads, key=lambda each: each.lineno)}
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not hasattr(builtins, call.func.id):
            for each in call.args:
                if isinstance(each, ast.Name) and last[each.id] > call.lineno:
                    return f"{each.id}, which may be changed in place,"
    return None


def _walk(node: ast.AST, words: set[str]) -> Iterator[ast.AST]:
    """The parts of a piece of code; of the test methods of a class, those that a text in the statement names."""
    yield node
    for child in ast.iter_child_nodes(node):
        name = getattr(child, "name", None) or ""
        is_test = isinstance(node, ast.ClassDef) and name.startswith("test")
        if not is_test or name in words or not words:
            yield from _walk(child, words)


def _list_variables(trees: list[ast.Module]) -> Iterator[str]:
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
                yield node.id
            elif isinstance(node, ast.arg):
                yield node.arg


def _list_owners(trees: list[ast.Module]) -> Iterator[str]:
    """Yields the modules of Python that a test uses without an import, by asking for an attribute: the judge has them.

    Else a name of a module, such as `select`, may be the program's.
    """
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                yield from {node.value.id} & sys.stdlib_module_names


def _list_modules(trees: list[ast.Module]) -> Iterator[tuple[str, str]]:
    """Yields names that stand for a module or a part of one, each with the outermost package."""
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                for alias in node.names:
                    module = (node.module or "") if isinstance(node, ast.ImportFrom) else alias.name
                    yield alias.asname or alias.name.partition(".")[0], module.partition(".")[0]


def _describe(node: ast.AST, module_of: dict[str, str]) -> str | None:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _CALLS:
        return f"{node.func.id}()"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _FILE_METHODS:
        return f"{node.func.attr}()"
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        owner, name = node.value.id, node.attr
        if owner in module_of and not isinstance(node.ctx, ast.Load):
            return f"a new {owner}.{name}"
        if module_of.get(owner) in _STATEFUL and (name not in _PURE or (owner, name) == ("sys", "path")):
            return f"{owner}.{name}"
        if owner == "patch" or name in ("patch", "assertLogs"):
            return f"{name}()"
    if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "os.path" and node.attr not in _PURE:
        return f"os.path.{node.attr}"
    if isinstance(node, ast.Import | ast.ImportFrom):
        return _describe_import(node)
    return None


def _describe_inspection(node: ast.AST, module_of: dict[str, str]) -> str | None:
    """What asks more of an object of the program than questions can answer, or runs it in a way of its own."""
    if isinstance(node, _ASYNCHRONOUS):
        return "coroutines"
    if isinstance(node, ast.TryStar | ast.MatchClass):
        return "an exception group" if isinstance(node, ast.TryStar) else "a class pattern"
    if isinstance(node, ast.Attribute) and (node.attr in _WORDS or _HIDDEN.fullmatch(node.attr)):
        return node.attr
    if not isinstance(node, ast.Name) or not isinstance(node.ctx, ast.Load):
        return None
    if node.id in _WORDS:
        return node.id
    module = module_of.get(node.id)
    is_strange = module in sys.stdlib_module_names and module not in _FAITHFUL | _STATEFUL | _CLOCKS
    return f"what {module} does" if is_strange else None


def _describe_import(node: ast.Import | ast.ImportFrom) -> str | None:
    """Objects of a library stay in the process that made them, whatever their methods compare."""
    paths = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
    modules = {path.partition(".")[0] for path in paths}
    if modules & _CLOCKS:
        return "the clock"
    foreign = sorted(modules - sys.stdlib_module_names - _GO_AS_DATA - {""})
    return f"objects of {foreign[0]}" if foreign else None
