"""Completion text to program, and whether a program parses. Knows no model, runs no code.

The two extractors are those of CodeScaler (arXiv:2602.17684). Any `str` gets a verdict: text that no parser should be
shown, or that a parser gives up on, is invalid.
"""

import ast
import re
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from importlib import import_module
from itertools import islice

from codescaler.errors import InvalidInput

# Longer programs are invalid, unparsed: Codeforces' source limit, and the paper's 16,384 response tokens at four
# characters each. The limit keeps the parser safe: CPython builds deep syntax trees by recursion in C, up to once every
# two characters in 3.11, where `x.a.a.a...` of this length takes 3 MB of an 8 MB stack; ten times it ends the process.
MAX_CODE_CHARS = 65_536

# Linear in time. A block that is opened and never closed is scanned to the end of the text, but no other can be opened
# in what was scanned, since that takes three backticks, and those would have closed it.
_BLOCK = re.compile(r"```(?:\w+)?\n(.*?)```", re.DOTALL)

_FILENAME = "<codescaler.text.extract>"

_ANY_DIGITS = 4300  # that Python reads in a whole number; more are a matter of its release and settings
_LONG_NUMBER = re.compile(rf"(?<![\w.])[0-9]{{{_ANY_DIGITS + 1},}}(?![\w.])")

# Packages that ship their grammar compiled, and the function in each that returns it.
_GRAMMARS = {
    "c": ("tree_sitter_c", "language"),
    "cpp": ("tree_sitter_cpp", "language"),
    "go": ("tree_sitter_go", "language"),
    "java": ("tree_sitter_java", "language"),
    "javascript": ("tree_sitter_javascript", "language"),
    "rust": ("tree_sitter_rust", "language"),
    "typescript": ("tree_sitter_typescript", "language_typescript"),
}
LANGUAGES = ("python", *_GRAMMARS)

# What people call a language, in small letters, beside its own name.
ALIASES = {
    "python": {"py", "python3", "py3", "pypy", "pypy3"},
    "cpp": {"c++", "cc", "cxx"},
    "go": {"golang"},
    "javascript": {"js", "node", "nodejs"},
    "rust": {"rs"},
    "typescript": {"ts"},
}

# Lines that tree-sitter may log, most of which tell of one character read: real programs need 3 to 16 a character.
# `a /*b / a /*b / ...` in C, division by what pointers point to, is searched for a comment's end again and again.
_MAX_LOG_LINES_PER_CHAR = 32
# Steps in a row for which tree-sitter may follow several readings at once. Real programs need tens, a JavaScript list
# of 1,000 names 4,000. `a<a<a<...` in Java needs all its steps, in memory that grows with their square.
_MAX_AMBIGUOUS_STEPS = 8000


def extract_training_code(completion: str, language: str = "python") -> str | None:
    r"""The program of a completion that holds exactly one fenced block, if that block parses; else None, for invalid.

    Blocks are the matches of "```(?:\w+)?\n(.*?)```", where the dot matches newlines; a block is stripped of the
    whitespace around it. An empty block is a valid, empty program: an empty text parses. A fence with a tag that is
    not a word (`c++`), or with a carriage return after it, opens no block.

    Raises: InvalidInput as `is_valid_code` does, whatever the completion.
    Source: CodeScaler, arXiv:2602.17684, syntax-aware code extraction, training.
    """
    parses = _make_syntax_check(language)
    blocks = [match[1] for match in islice(_BLOCK.finditer(completion), 2)]
    if len(blocks) != 1:
        return None
    code = blocks[0].strip()
    return code if parses(code) else None


def extract_evaluation_code(completion: str) -> str | None:
    """The last fenced block of a completion, stripped, whether it parses or not; None if there is no block.

    Source: CodeScaler, arXiv:2602.17684, syntax-aware code extraction, evaluation.
    """
    last = deque(_BLOCK.finditer(completion), maxlen=1)
    return last[0][1].strip() if last else None


def resolve_language(name: object) -> str | None:
    """Returns the one of `LANGUAGES` that people call so, in letters of any size, or None."""
    known = name.lower() if isinstance(name, str) else ""
    return next((own for own in LANGUAGES if known in {own, *ALIASES.get(own, ())}), None)


def read_language(record: Mapping[str, object], name: str) -> str | None:
    """Returns the language that a record says its programs are in; None if it does not say."""
    value = record.get("language")
    language = resolve_language(value)
    if value is not None and language is None:
        raise InvalidInput(f"{name}: language is {value!r:.80}; give one of {', '.join(LANGUAGES)}")
    return language


def is_valid_code(code: str, language: str = "python") -> bool:
    """Whether `code` is at most `MAX_CODE_CHARS` long and parses as a program of `language`, one of `LANGUAGES`.

    Python parses if `ast.parse` succeeds, other languages if tree-sitter reads them to the end without an error; that
    is syntax alone, as far as the grammar's release knows it: names and types are not looked at, and macros are not
    expanded, so that `REP(i, n) { ... }` in C is invalid. Failing for any reason counts as invalid, a NUL, a lone
    surrogate or nesting beyond the Python interpreter's limits among them. At worst Python needs 4 MB of stack; threads
    have 8 MB unless told otherwise.

    Raises: InvalidInput if the language is not known, or if its grammar is not installed.
    """
    return _make_syntax_check(language)(code)


@cache
def _make_syntax_check(language: str) -> Callable[[str], bool]:
    if language not in LANGUAGES:
        raise InvalidInput(f"language {language!r} is not known; use one of {', '.join(LANGUAGES)}")
    if language == "python":
        return lambda code: parse_syntax_tree(code) is not None
    parses = _make_tree_sitter_check(language)
    return lambda code: len(code) <= MAX_CODE_CHARS and parses(code)


def parse_syntax_tree(code: str) -> ast.Module | None:
    """The syntax tree of a Python program, None where `is_valid_code` is false."""
    parsed = _parse_python(code)
    return parsed if isinstance(parsed, ast.Module) else None


def _parse_python(code: str) -> ast.Module | Exception | None:
    """Returns the syntax tree of a program, or why there is none; None for a text that is too long to be parsed."""
    # A literal such as "\d" warns on stderr, or fails to parse where warnings are errors. This filter names only what
    # is parsed here, so it can stay; `catch_warnings` would put back other threads' filters. Adding it again is no
    # duplicate: it moves to the front.
    warnings.filterwarnings("ignore", module=re.escape(_FILENAME))
    failure: Exception | None = None
    for text in dict.fromkeys((code, _shorten_numbers(code))) if len(code) <= MAX_CODE_CHARS else ():
        try:
            return ast.parse(text, filename=_FILENAME)
        except Exception as error:  # RecursionError and MemoryError are how the parser says "too deep"
            failure = error.with_traceback(None)
    return failure


def describe_syntax_error(code: str) -> str | None:
    """Returns where and why Python's parser gives a program up, None if the program parses."""
    match _parse_python(code):
        case ast.Module():
            return None
        case None:
            return f"it has {len(code)} characters, and at most {MAX_CODE_CHARS} are read"
        case SyntaxError() as error:
            return error.msg if error.lineno is None else f"line {error.lineno}: {error.msg}"
        case ValueError() as error:  # a NUL, a lone surrogate
            return str(error)
    return "it is nested too deeply"


def _shorten_numbers(code: str) -> str:
    """A text of the same length, with a small number for each whole number of more digits than Python reads."""
    return _LONG_NUMBER.sub(lambda match: "0x" + "0" * (len(match[0]) - 2), code)


def is_compilable(code: str, *, allows_return: bool = False) -> bool:
    """Whether Python compiles a program, which asks for more than that it parses: a `return` stands in a function.

    With `allows_return` it may stand at top level.
    """
    tree = parse_syntax_tree(code)
    try:
        return tree is not None and bool(compile(tree, _FILENAME, "exec", dont_inherit=True))
    except SyntaxError as error:
        return allows_return and error.msg == "'return' outside function"
    except Exception:  # RecursionError and MemoryError: too deep
        return False


class _Watch:
    """Takes the verdict on a text of `num_chars` characters from tree-sitter's log, then stops the parse.

    tree-sitter repairs what it cannot read, and that has no bound: 16,000 characters of `x=>x=>...` in C take more than
    8 GB. We need no repaired tree: a text is valid if it is accepted before repairing starts ("resume" in the log:
    every reading has met an error). The progress callback's `has_error` will not do, it stays False through all of
    this. Counts, not clocks, keep a verdict the same anywhere.
    """

    def __init__(self, num_chars: int) -> None:
        self.verdict: bool | None = None
        self._lines_left = 10_000 + _MAX_LOG_LINES_PER_CHAR * num_chars
        self._ambiguous_steps = 0

    def log(self, _kind: object, line: str) -> None:
        self._lines_left -= 1
        if line.startswith("process"):
            self._ambiguous_steps = 0 if "version_count:1," in line else self._ambiguous_steps + 1
        if self.verdict is None:
            if line.startswith("accept"):
                self.verdict = True
            elif line.startswith("resume") or not self._lines_left or self._ambiguous_steps > _MAX_AMBIGUOUS_STEPS:
                self.verdict = False

    def should_stop(self, _offset: int, _has_error: bool) -> bool:
        return self.verdict is not None


def _make_tree_sitter_check(language: str) -> Callable[[str], bool]:
    package, function = _GRAMMARS[language]
    try:
        from tree_sitter import Language, Parser

        grammar = Language(getattr(import_module(package), function)())
    except ImportError as error:
        raise InvalidInput(
            f"language {language!r} needs tree-sitter ({error}); run: pip install 'codescaler[languages]'"
        ) from error

    def parse_code(code: str) -> bool:
        try:
            source = f"{code}\n".encode()  # a preprocessor line of C must end, and extraction strips the end
        except UnicodeEncodeError:  # a lone surrogate
            return False
        if 0 in source:  # Rust's grammar takes it in a comment
            return False
        watch = _Watch(len(code))
        parser = Parser(grammar, logger=watch.log)  # one for each call: a parser is state, and threads share a grammar
        with suppress(ValueError):  # stopped
            parser.parse(lambda offset, _: source[offset : offset + 4096], progress_callback=watch.should_stop)
        return watch.verdict is True

    return parse_code
