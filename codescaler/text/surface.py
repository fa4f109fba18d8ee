"""What a program looks like, which says nothing of whether it is right: length, comments, praise, control tokens.

A reward model whose scores follow these pays a policy for them. Runs nothing, and knows no model.
"""

import ast
import math
import re
import tokenize
from contextlib import suppress
from io import StringIO
from typing import NamedTuple

from codescaler.text.edits import is_text
from codescaler.text.extract import parse_syntax_tree

# Words by which a comment says that the program is right, instead of what it does.
_PRAISE = re.compile(
    r"\b(?:accepted|battle-tested|bug-free|correct(?:ly|ness)?|efficient(?:ly)?|elegant|error-free|expert"
    r"|flawless(?:ly)?|guarantee[sd]?|optimal(?:ly)?|passe[sd]|perfect(?:ly)?|production|proven|reference solution"
    r"|review(?:ed|er|ers)|right answer|right way|robust|tested|validated|verified|well-tested)\b"
    r"|\ball (?:\w+ )?(?:edge|corner|test) ?cases|\bno bugs\b",
    re.IGNORECASE,
)
_CONTROL_TOKENS = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|</?s>|\[/?INST\]|<(?:start|end)_of_turn>|</?think>|<(?:bos|eos|pad)>"
)
# Comments of languages that Python does not parse.
_OTHER_COMMENTS = re.compile(r"/\*.*?\*/|//[^\n]*|^[ \t]*#[^\n]*", re.MULTILINE | re.DOTALL)


class Surface(NamedTuple):
    """Four figures of a program.

    Attributes:
        length: the natural logarithm of its characters, plus one.
        comments: the share of its characters in comments, docstrings and other texts that nothing reads.
        praise: how often comments and such texts say that the program is right.
        control_tokens: how many texts it holds that read like control tokens of a chat template.
    """

    length: float
    comments: float
    praise: float
    control_tokens: float


def measure_surface(code: str) -> Surface:
    """Returns the figures of a program. Where Python does not parse it, comments of C and shell count."""
    texts = _list_texts(code)
    return Surface(
        length=math.log(len(code) + 1),
        comments=min(1.0, sum(map(len, texts)) / max(1, len(code))),
        praise=float(sum(len(_PRAISE.findall(text)) for text in texts)),
        control_tokens=float(len(_CONTROL_TOKENS.findall(code))),
    )


def measure_repetition(code: str) -> float:
    """Returns the share of a program's lines, blank ones aside, that stand in it before."""
    lines = [line for line in map(str.strip, code.splitlines()) if line]
    return 1 - len({*lines}) / len(lines) if lines else 0.0


def _list_texts(code: str) -> list[str]:
    """The comments of a program, and its texts that nothing reads."""
    tree = parse_syntax_tree(code)
    if tree is None:
        return _OTHER_COMMENTS.findall(code)
    texts = [node.value.value for node in ast.walk(tree) if is_text(node)]  # type: ignore[attr-defined]
    with suppress(tokenize.TokenError, SyntaxError):
        tokens = tokenize.generate_tokens(StringIO(code).readline)
        texts += [token.string for token in tokens if token.type == tokenize.COMMENT]
    return texts
