"""Completion text to program, and whether a program parses. Knows no model, runs no code.

The two extractors are those of CodeScaler (arXiv:2602.17684). Any `str` gets a verdict: text that no parser should be
shown, or that the parser gives up on, is invalid.
"""

import ast
import re
import warnings
from collections import deque
from itertools import islice

# Longer programs are invalid, unparsed: Codeforces' source limit, and the paper's 16,384 response tokens at four
# characters each. The limit keeps the parser safe: CPython builds deep syntax trees by recursion in C, up to once every
# two characters in 3.11, where `x.a.a.a...` of this length takes 3 MB of an 8 MB stack; ten times it ends the process.
MAX_CODE_CHARS = 65_536

# Linear in time. A block that is opened and never closed is scanned to the end of the text, but no other can be opened
# in what was scanned, since that takes three backticks, and those would have closed it.
_BLOCK = re.compile(r"```(?:\w+)?\n(.*?)```", re.DOTALL)

_FILENAME = "<codescaler.extract>"


def extract_training_code(completion: str) -> str | None:
    r"""The program of a completion that holds exactly one fenced block, if that block parses; else None, for invalid.

    Blocks are the matches of "```(?:\w+)?\n(.*?)```", where the dot matches newlines; a block is stripped of the
    whitespace around it. An empty block is a valid, empty program: an empty text parses. A fence with a tag that is
    not a word (`c++`), or with a carriage return after it, opens no block.

    Source: CodeScaler, arXiv:2602.17684, syntax-aware code extraction, training.
    """
    blocks = [match[1] for match in islice(_BLOCK.finditer(completion), 2)]
    if len(blocks) != 1:
        return None
    code = blocks[0].strip()
    return code if is_valid_code(code) else None


def extract_evaluation_code(completion: str) -> str | None:
    """The last fenced block of a completion, stripped, whether it parses or not; None if there is no block.

    Source: CodeScaler, arXiv:2602.17684, syntax-aware code extraction, evaluation.
    """
    last = deque(_BLOCK.finditer(completion), maxlen=1)
    return last[0][1].strip() if last else None


def is_valid_code(code: str) -> bool:
    """Whether `code` is at most `MAX_CODE_CHARS` long and parses as Python: whether `ast.parse` succeeds.

    Failing for any reason counts as invalid, a NUL, a lone surrogate or nesting beyond the interpreter's limits among
    them. At worst it needs 4 MB of stack; threads have 8 MB unless told otherwise.
    """
    if len(code) > MAX_CODE_CHARS:
        return False
    # A literal such as "\d" warns on stderr, or fails to parse where warnings are errors. This filter names only what
    # is parsed here, so it can stay; `catch_warnings` would put back other threads' filters. Adding it again is no
    # duplicate: it moves to the front.
    warnings.filterwarnings("ignore", module=re.escape(_FILENAME))
    try:
        ast.parse(code, filename=_FILENAME)
    except Exception:  # RecursionError and MemoryError are how the parser says "too deep"
        return False
    return True
