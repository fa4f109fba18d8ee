"""The program of a completion by CommonMark: fences of any length and indentation, attributes, lists, line ends.

Text before the last `</think>` is not looked at. Blocks in another language, and blocks without one behind a program
that has one, are no programs: they hold output, commands or data. Knows no model, runs no code.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

from codescaler.errors import InvalidInput
from codescaler.text.extract import ALIASES, is_valid_code, parse_syntax_tree

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

_WORD = re.compile(r"[\w+#]+")
_THOUGHT_START, _THOUGHT_END = "<think>", "</think>"


def extract_markdown_code(completion: str, language: str = "python", *, allow_unclosed: bool = False) -> str | None:
    """The program of a completion, or None if there is none that parses.

    The program is the last block that names the language. Where none does, it is the last block without a name that
    parses, and that is more than a value. A fence that the text ends in opens a block with `allow_unclosed` alone.

    Raises: InvalidInput as `is_valid_code`, or if markdown-it-py is not installed.
    """
    is_valid_code("", language)  # a language that is not known is an error, whatever the completion
    before, _, text = completion.rpartition(_THOUGHT_END)
    if not before and _THOUGHT_START in text:
        return None  # the thought has been cut off
    names = {language} | ALIASES.get(language, set())
    named, nameless = [], []
    for name, code in _list_blocks(text, allow_unclosed):
        if name in names:
            named.append(code)
        elif name is None and is_valid_code(code, language) and not (language == "python" and _is_value(code)):
            nameless.append(code)
    if named:
        return named[-1] if is_valid_code(named[-1], language) else None
    return nameless[-1] if nameless else None


def _list_blocks(text: str, allow_unclosed: bool) -> Iterator[tuple[str | None, str]]:
    """Yields what each fenced block names as its language, in small letters, and its program."""
    lines = re.split(r"\r\n|\n|\r", text)
    for token in _make_parser().parse(text):
        if token.type != "fence" or token.map is None:
            continue
        start, end = token.map
        last = lines[end - 1].rstrip() if end - start > 1 else ""
        if not allow_unclosed and not last.endswith(token.markup):
            continue
        word = _WORD.search(token.info)
        yield word[0].lower() if word else None, token.content.strip()


def _is_value(code: str) -> bool:
    """Whether a text that parses is blank, or a value such as a program prints."""
    tree = parse_syntax_tree(code)
    expressions = (ast.Constant, ast.Tuple, ast.List, ast.Dict, ast.Set, ast.UnaryOp, ast.Name)
    return tree is not None and all(isinstance(s, ast.Expr) and isinstance(s.value, expressions) for s in tree.body)


@cache
def _make_parser() -> "MarkdownIt":
    try:
        from markdown_it import MarkdownIt
    except ImportError as error:
        raise InvalidInput(f"Markdown needs markdown-it-py ({error}); run: pip install markdown-it-py") from error
    # Only blocks are looked at: emphasis and links have hostile cases, and cost most of the time.
    return MarkdownIt("commonmark").disable(["inline", "reference", "text_join"], True)
