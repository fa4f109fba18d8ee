"""The models of a server, and the rows of a request as token ids of one of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple

from codescaler.engine import Engine
from codescaler.errors import InvalidInput
from codescaler.serve.job import GapCalibration, Query, Row
from codescaler.serve.refusal import Refusal
from codescaler.text.program import Conversation
from codescaler.text.queries import cut_prompt
from codescaler.text.token_ids import Int32

MAX_CHARS_PER_TOKEN = 64  # of a row: tokens of code have 3 or 4, and few have more than this
MAX_CHARS = 1 << 26  # of a request's rows


class EncodedRows(NamedTuple):
    """Rows as ids. How many were truncated, had lost the BOS of their template, or had the template of a policy."""

    sequences: list[Int32]
    num_truncated: int
    num_bos_restored: int
    num_rebuilt: int

    @classmethod
    def join(cls, parts: Sequence["EncodedRows"]) -> "EncodedRows":
        """Returns rows that follow each other as one."""
        sequences, truncated, restored, rebuilt = zip(*parts, strict=True)
        return cls(list(chain.from_iterable(sequences)), sum(truncated), sum(restored), sum(rebuilt))


@dataclass(frozen=True)
class ServedModel:
    """An engine and the names that clients may call it by: names are compared, and never opened."""

    engine: Engine
    names: tuple[str, ...]
    calibration: GapCalibration | None = None

    @cached_property
    def template_start(self) -> str:
        """What the template writes before the first content, "" if there is no template."""
        chat = self.engine.encoder.chat
        texts = [chat.render([{"role": "user", "content": content}]) for content in ("0", "1")]
        length = next((i for i, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), 0)
        return texts[0][:length]

    @cached_property
    def template_starts(self) -> tuple[str, ...]:
        """How texts of the template may begin: with a message of the user or the system, and with a BOS or without."""
        try:
            system = {"role": "system", "content": "0"}
            text = self.engine.encoder.chat.render([system, {"role": "user", "content": "1"}])
            starts = {self.template_start, text.partition("0")[0]}
        except InvalidInput:  # there is no place for it
            starts = {self.template_start}
        bos = self.engine.encoder.chat.special_tokens.get("bos_token") or ""
        starts |= {start.removeprefix(bos) for start in starts}
        return tuple(starts - {""})  # any text begins with nothing, and none is known by it

    def _restore_messages(self, query: Query) -> Row:
        """Returns the text of a query in this model's template, and of another template the messages."""
        if query.text.startswith(self.template_starts):
            return query.text
        completion = cut_prompt(query.text, query.prompt)
        return [{"role": "user", "content": query.prompt}, {"role": "assistant", "content": completion}]

    def check_sizes(self, rows: Sequence[Row]) -> int:
        """Refuses texts that no model of this length takes, before anything reads them; else returns their characters.

        Raises: Refusal, with status 400.
        """
        longest = MAX_CHARS_PER_TOKEN * self.engine.max_length
        total = 0
        for index, row in enumerate(rows):
            size = 0 if _is_ids(row) else _count_chars(row)
            total += size
            if size > longest:
                message = f"row {index} has {size} characters; a row may have {longest}, so shorten it"
                raise Refusal(400, "too_long", message)
            if total > MAX_CHARS:  # a query of a megabyte stands in the row of each document
                message = f"the rows have more than {MAX_CHARS} characters together; send fewer at a time"
                raise Refusal(400, "too_long", message)
        return total

    def encode(self, rows: Sequence[Row], first: int = 0) -> EncodedRows:
        """Turns rows into token ids; the first is number `first` of its request.

        Raises:
            InvalidInput, CapacityExceeded, WeightsError: as `Engine.score`; a row is called "row 0", "row 1", ...
        """
        encoder = self.engine.encoder
        given = rows
        rows = [self._restore_messages(row) if isinstance(row, Query) else row for row in given]
        num_rebuilt = sum(
            isinstance(old, Query) and not isinstance(new, str) for old, new in zip(given, rows, strict=True)
        )
        restored = [self._restore_bos(row) if isinstance(row, str) else row for row in rows]
        sequences: dict[int, Int32] = {}
        num_truncated = 0
        for encode, is_kind in (
            (encoder.encode_texts, lambda row: isinstance(row, str)),
            (encoder.encode_tokens, _is_ids),
            (encoder.encode_pairs, lambda row: not isinstance(row, str) and not _is_ids(row)),
        ):
            indices = [index for index, row in enumerate(restored) if is_kind(row)]
            if indices:
                values: list[Any] = [restored[index] for index in indices]
                encoded = encode(values, [f"row {first + index}" for index in indices])
                num_truncated += encoded.num_truncated
                sequences.update(zip(indices, encoded.sequences, strict=True))
        num_restored = sum(new is not old for new, old in zip(restored, rows, strict=True))
        return EncodedRows([sequences[index] for index in range(len(rows))], num_truncated, num_restored, num_rebuilt)

    def _restore_bos(self, text: str) -> str:
        """Puts a BOS back that a client has cut off in the belief that the server adds one, as verl does."""
        chat = self.engine.encoder.chat
        bos = chat.special_tokens.get("bos_token")
        if chat.bos_id is not None or not bos or not self.template_start.startswith(bos):
            return text
        rest = self.template_start[len(bos) :]
        return bos + text if rest and text.startswith(rest) and not text.startswith(bos) else text


def _is_ids(row: Row) -> bool:
    return isinstance(row, list) and all(isinstance(token, int) for token in row)


def _count_chars(row: object) -> int:
    """Returns the characters of all texts in a row, however deep they are."""
    total = 0
    values = [row]
    while values:
        value = values.pop()
        if isinstance(value, str):
            total += len(value)
        elif isinstance(value, Conversation):
            values += [value.turns, value.system]
        elif isinstance(value, (list, tuple)):
            values += value
        elif isinstance(value, Mapping):
            values += value.values()
    return total


class ModelRegistry:
    """The models by every name."""

    def __init__(self, models: Iterable[ServedModel]) -> None:
        self.models = tuple(models)
        self._by_name: Mapping[str, ServedModel] = {name: model for model in self.models for name in model.names}
        if len(self._by_name) != sum(len(model.names) for model in self.models):
            raise InvalidInput("two models have one name; give each its own with --served-name")

    def find(self, name: str | None) -> ServedModel:
        """Returns the model of this name, or the only one if there is no name.

        Raises:
            Refusal: no model has the name (404), or there are several and none was named (400).
        """
        if name is None and len(self.models) == 1:
            return self.models[0]
        if name is None:
            raise Refusal(400, "model_missing", f"name a model: {', '.join(self._by_name)}")
        if name not in self._by_name:
            raise Refusal(
                404, "model_not_found", f"there is no model {name!r:.200}; there is {', '.join(self._by_name)}"
            )
        return self._by_name[name]
