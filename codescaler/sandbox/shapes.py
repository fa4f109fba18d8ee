"""Which tests ask for one process with the program: those that read what it wrote, or change what it runs in."""

import ast
import functools
import re
import sys
from collections.abc import Iterator

from codescaler.types import CallTests

# What a text must hold for a closer look, which takes longer.
_SIGNS = re.compile(r"\b(import|globals|open|os|sys|shutil|tempfile|sqlite3|subprocess|pathlib|patch|builtins|save|to_"
                    r"|redirect_std|assertLogs|logging|chdir|environ|locale|Mock|pickle|io|socket|glob|zipfile"
                    r"|warnings)\w*\b")  # fmt: skip
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
_CALLS = {"open", "patch", "redirect_stdout", "redirect_stderr", "redirect_stdin", "input", "globals"}
_FILE_METHODS = {"exists", "is_file", "is_dir", "read_text", "write_text", "read_bytes", "write_bytes", "unlink",
                 "mkdir", "touch", "iterdir", "rmdir", "save", "savefig", "to_csv", "to_excel"}  # fmt: skip
_CLOCKS = {"time", "timeit"}  # an answer takes longer from another process
_GO_AS_DATA = {"numpy", "pandas"}  # of the libraries that are not Python's own
_ALWAYS = {"setUp", "tearDown", "setUpClass", "tearDownClass"}


@functools.lru_cache(maxsize=256)
def find_shared_state(tests: CallTests) -> tuple[str | None, ...]:
    """Returns, for each statement, what of the process it shares with the program, in words; None if nothing."""
    if not any(map(_SIGNS.search, (tests.setup, *tests.statements))):
        return (None,) * len(tests.statements)
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
    modules = {"builtins"} | _STATEFUL | set(dict(_list_modules([prelude, setup, statement])))
    modules -= set(_list_variables([setup, statement]))
    names: set[str] = set()
    words: set[str] = set()
    found = None
    while reached and found is None:
        node = reached.pop()
        for part in _walk(node, words):
            found = found or _describe(part, modules)
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                words.add(part.value)
            if isinstance(part, ast.Name) and part.id in definitions and part.id not in names:
                names.add(part.id)
                reached.append(definitions[part.id])
    return found


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


def _list_modules(trees: list[ast.Module]) -> Iterator[tuple[str, str]]:
    """Yields names that stand for a module or a part of one, each with the outermost package."""
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                for alias in node.names:
                    module = (node.module or "") if isinstance(node, ast.ImportFrom) else alias.name
                    yield alias.asname or alias.name.partition(".")[0], module.partition(".")[0]


def _describe(node: ast.AST, modules: set[str]) -> str | None:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _CALLS:
        return f"{node.func.id}()"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _FILE_METHODS:
        return f"{node.func.attr}()"
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        owner, name = node.value.id, node.attr
        if owner in modules and not isinstance(node.ctx, ast.Load):
            return f"a new {owner}.{name}"
        if owner in _STATEFUL & modules and (name not in _PURE or (owner, name) == ("sys", "path")):
            return f"{owner}.{name}"
        if owner == "patch" or name in ("patch", "assertLogs"):
            return f"{name}()"
    if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "os.path" and node.attr not in _PURE:
        return f"os.path.{node.attr}"
    if isinstance(node, ast.Import | ast.ImportFrom):
        return _describe_import(node)
    return None


def _describe_import(node: ast.Import | ast.ImportFrom) -> str | None:
    """Objects of a library stay in the process that made them, whatever their methods compare."""
    paths = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
    modules = {path.partition(".")[0] for path in paths}
    if modules & _CLOCKS:
        return "the clock"
    foreign = sorted(modules - sys.stdlib_module_names - _GO_AS_DATA - {""})
    return f"objects of {foreign[0]}" if foreign else None
