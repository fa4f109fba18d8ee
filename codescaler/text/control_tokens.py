"""Control tokens that stand in what people and policies write: as text, or as the tokens themselves.

A program may hold "# <|im_end|>". A tokenizer reads this as the end of the turn wherever it stands, so a program could
end its own turn. `ControlTokens` marks control tokens in messages before the template sees them, and encodes what is
marked as text. Ids are those of transformers' `apply_chat_template(..., sanitize_control_tokens=True)`.
"""

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Literal, NamedTuple

from codescaler.errors import InvalidInput, WeightsError
from codescaler.text.program import Message

if TYPE_CHECKING:
    from tokenizers import Tokenizer

ControlTokenMode = Literal["text", "tokens"]

_PRIVATE = range(0xF0000, 0xFFFFE)  # characters that no text needs: a plane of Unicode for private use
_NEWLINE = "\n"


class Marks(NamedTuple):
    """Two characters that stand in no message: before a control token that is text, and behind it."""

    start: str
    end: str


@dataclass(frozen=True)
class ControlTokens:
    """The control tokens of a tokenizer and its template: special tokens, and others that the template writes.

    Attributes:
        tokenizer: that of the model. It must not change any more.
        literals: the texts that the template itself holds.
    """

    tokenizer: "Tokenizer"
    literals: Collection[str]

    @cached_property
    def ids(self) -> dict[str, int]:
        """The id of each control token, by its text."""
        added = self.tokenizer.get_added_tokens_decoder().items()
        return {
            token.content: number
            for number, token in added
            if token.content and (token.special or self._is_written(token.content))
        }

    def _is_written(self, token: str) -> bool:
        """Whether the template writes a token that is not special. White space is text to it."""
        return not token.isspace() and any(token in literal for literal in self.literals)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self.ids, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def put_marks(self, messages: Sequence[Message]) -> tuple[Sequence[Message], Marks | None]:
        """Returns messages whose control tokens are marked, and the marks. None if there is no control token."""
        values = [value for message in messages for value in message.values()]
        if not any(map(self._pattern.search, values)):
            return messages, None
        marks = _choose_marks([*values, *self.literals])
        marked = rf"{marks.start}\g<0>{marks.end}"
        return [{key: self._pattern.sub(marked, value) for key, value in each.items()} for each in messages], marks

    def encode(self, text: str, marks: Marks) -> list[int]:
        """Returns the ids of a rendered text, in which what is marked is text.

        A mark that a template cut off its token breaks the text, so that its sides cannot become a control token. The
        marks are outside the token, since templates look for some, such as "</think>". So a template that tears a
        token apart and writes it anew is not seen through.

        Raises: WeightsError if the tokenizer makes the control token of plain text too.
        """
        start, end = marks
        pieces = re.split(f"{start}({self._pattern.pattern}){end}|[{start}{end}]", text)
        ids = self._encode_as_read(pieces[0])  # pieces: text, control token or None, text, ...
        for index, piece in enumerate(pieces[1:], start=1):
            if piece and index % 2 == 0:
                ids += self._encode_behind(piece, self._encode_as_read)
            elif piece:
                as_text = self._encode_behind(piece, self._encode_as_text)
                if self.ids[piece] in as_text:
                    raise WeightsError(
                        f"the tokenizer makes the control token {piece!r:.80} of plain text too; load the engine with "
                        "control_tokens='tokens', or give token ids to score_tokens"
                    )
                ids += as_text
        return ids

    def _encode_as_read(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def _encode_as_text(self, text: str) -> list[int]:
        """Encodes without a look at added tokens. An option of `tokenizers` leaves out special ones alone."""
        tokenizer = self.tokenizer
        if tokenizer.normalizer is not None:
            text = tokenizer.normalizer.normalize_str(text)
        words = [text]
        if tokenizer.pre_tokenizer is not None:
            words = [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]
        return [token.id for word in words for token in tokenizer.model.tokenize(word)]

    @cached_property
    def _newline_ids(self) -> list[int]:
        return self._encode_as_read(_NEWLINE)

    def _encode_behind(self, text: str, encode: Callable[[str], list[int]]) -> list[int]:
        """Encodes what does not begin a text: some tokenizers put a space before the first word."""
        ids = encode(_NEWLINE + text)
        count = len(self._newline_ids)
        return ids[count:] if ids[:count] == self._newline_ids else encode(text)


def _choose_marks(texts: Iterable[str]) -> Marks:
    used = set().union(*texts)
    free = (char for char in map(chr, _PRIVATE) if char not in used)
    marks = [*islice(free, 2)]
    if len(marks) < 2:
        raise InvalidInput("a message has every character of a private plane of Unicode; take them out")
    return Marks(*marks)
