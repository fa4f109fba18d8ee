r"""Program text is one thing: the same program, whichever editor, fence or file it comes from.

A reward model scores the last token that it reads, so a newline at the end of a file moves a score further than a
mistake in it. `normalize_program` takes away what is no part of a program. It is applied wherever programs enter to be
compared: `rerank`, groups, pairs, `eval`, training and the reward function. `Engine.score` and plain rows take text as
given.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TypeVar

from codescaler.errors import InvalidInput

Message = Mapping[str, str]
Turns = tuple[str, str] | Sequence[Message]  # (problem, response), or messages

_START = re.compile(r"(?:\ufeff|[^\S\n]*\n)+")


def normalize_program(text: str) -> str:
    r"""Returns a program without a byte-order mark, with "\n" as its only line end, and without what surrounds it.

    Blank lines before the program and white space after it are taken away. The indentation of the first line stays,
    and so does the inside of each line. A program that was normalised stays as it is.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n").rstrip()
    start = _START.match(text)
    return text[start.end() :] if start else text


@dataclass(frozen=True)
class Conversation:
    """Turns to score, and how their text is read. Build that of a program with `make_conversation`.

    Attributes:
        turns: (problem, response), or messages.
        system: the system prompt. None leaves it to the engine, and an empty text stands for no system message.
        is_program: whether a program is compared, whose control tokens are text. Otherwise they are tokens.
    """

    turns: Turns
    system: str | None = None
    is_program: bool = False


Pair = Turns | Conversation  # what an engine scores
PairT = TypeVar("PairT", bound=Pair)


def make_conversation(problem: str | Sequence[Message], program: str, system: str | None = None) -> Conversation:
    """Returns what is scored for a program that is compared with others of its problem, a text or messages."""
    program = normalize_program(program)
    if isinstance(problem, str):
        return Conversation((problem, program), system, is_program=True)
    return Conversation((*problem, {"role": "assistant", "content": program}), system, is_program=True)


def join_names(names: Iterable[str] | None, pairs: Iterable[PairT]) -> Iterator[tuple[str, PairT]]:
    """Yields each pair with what errors call it: its name, or its number. Names may go on for ever.

    Raises: InvalidInput if there are too few names.
    """
    called = iter(names) if names is not None else (f"pairs[{index}]" for index in count())
    for index, pair in enumerate(pairs):
        name = next(called, None)
        if name is None:
            raise InvalidInput(f"names has {index} names, and there are more pairs; give one for each")
        yield name, pair
