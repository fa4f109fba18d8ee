"""`Encoder`: the one way from pairs, messages or token lists to the ids that a forward computes.

The ids of a sequence are checked against the vocabulary, cut after the pooled token, and truncated as asked. Scoring,
training and quantization all read text through it. It knows a checkpoint's folders and limits, and no weights.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from codescaler.errors import CapacityExceeded, InvalidInput, WeightsError
from codescaler.text.chat import Chat, load_chat, make_messages
from codescaler.text.control_tokens import ControlTokenMode
from codescaler.text.program import Conversation, Message, Pair
from codescaler.text.settings import DEFAULT_SETTINGS, TextSettings, read_system_prompt
from codescaler.text.token_ids import (
    Int32,
    Pooling,
    TokenLists,
    Truncation,
    check_ids,
    check_lists,
    find_hf_pooled_index,
    truncate,
)
from codescaler.types import HeadInput, HeadKind, ModelConfig


class Encoded(NamedTuple):
    """Sequences of ids, ready for a plan, and how many of them were truncated."""

    sequences: list[Int32]
    num_truncated: int


class Continuations(NamedTuple):
    """Sequences of ids that end with the last turn of their conversation, and where it begins in each."""

    sequences: list[Int32]
    starts: list[int]


@dataclass(frozen=True)
class Encoder:
    """Encodes for one checkpoint. Build one with `build_encoder`. Any thread may call it.

    Attributes:
        chat_folders: where tokenizer and chat template are looked for, in this order. They are read on first use, so
            a folder without them takes token lists.
        vocab_size: the first id that is refused.
        pad_token_id: a sequence ends at its last token that is not this one. None keeps all tokens.
        closes_with_eos: a text loses its last newlines, and ends with the EOS token.
        appended_id: the token that every sequence ends with; None for any.
        max_length: tokens that a sequence may have, None for any number.
        truncation: what happens to a longer sequence.
        max_batch_tokens: tokens that one forward may have, None for any number.
        text: the system prompt, and what control tokens are.
    """

    chat_folders: tuple[Path, ...]
    vocab_size: int
    pad_token_id: int | None = None
    closes_with_eos: bool = False
    appended_id: int | None = None
    max_length: int | None = None
    truncation: Truncation = "error"
    max_batch_tokens: int | None = None
    text: TextSettings = DEFAULT_SETTINGS

    @cached_property
    def chat(self) -> Chat:
        """The checkpoint's chat template and tokenizer."""
        return load_chat(*self.chat_folders, template=self.text.chat_template, bos=self.text.bos)

    @property
    def answer_start(self) -> Int32:
        """The tokens between a problem and its answer; none before a text has been encoded."""
        return self.chat.answer_start if "chat" in self.__dict__ else np.empty(0, np.int32)

    def encode_pairs(self, pairs: Iterable[Pair], names: Sequence[str], system: str | None = None) -> Encoded:
        """Renders and tokenizes pairs, messages or conversations. `names` are what errors call them.

        A conversation's own system message or prompt comes first, then `system`, then that of the settings.

        Raises:
            InvalidInput: a pair is malformed, or too long. CapacityExceeded: a sequence exceeds `max_batch_tokens`.
            WeightsError: the checkpoint has no tokenizer or template, or they fail.
        """
        settings = self.text if system is None else replace(self.text, system=system)
        conversations = (_settle(settings, pair, name) for pair, name in zip(pairs, names, strict=True))
        close = self._close if self.closes_with_eos else None
        return self._encode(zip(names, self.chat.encode_conversations(conversations, names, close), strict=True))

    def encode_continuations(
        self, pairs: Iterable[Pair], names: Sequence[str], system: str | None = None
    ) -> Continuations:
        """Renders and tokenizes pairs whose last turn's tokens are to be predicted. What follows that turn is cut off.

        Raises: as `encode_pairs`. InvalidInput: a sequence is longer than `max_length`, or its last turn has no token.
        """
        settings = self.text if system is None else replace(self.text, system=system)
        conversations = [_settle(settings, pair, name) for pair, name in zip(pairs, names, strict=True)]
        found = Continuations([], [])
        for name, turn in zip(names, self.chat.encode_last_turns(conversations, names), strict=True):
            sequence = check_ids(name, turn.ids[: turn.end], self.vocab_size)
            if turn.end <= max(turn.start, 1):
                raise InvalidInput(f"{name}: its last turn has no token whose likelihood could be asked for")
            if self.max_length is not None and len(sequence) > self.max_length:
                raise InvalidInput(
                    f"{name} has {len(sequence)} tokens, more than max_length={self.max_length}; shorten it, since "
                    "what is truncated has no likelihood"
                )
            self._check_capacity(name, sequence)
            found.sequences.append(sequence)
            found.starts.append(max(turn.start, 1))
        return found

    def encode_texts(self, texts: Sequence[str], names: Sequence[str]) -> Encoded:
        """Tokenizes texts that a template has been applied to; control tokens in them are control tokens.

        Raises: as `encode_pairs`.
        """
        return self._encode(zip(names, self.chat.encode(texts, names), strict=True))

    def encode_tokens(self, ids: TokenLists, names: Sequence[str] | None = None) -> Encoded:
        """Encodes a caller's token lists; errors call them "ids[0]", "ids[1]", ... if they have no names.

        Raises:
            InvalidInput: a list is empty, too long, or holds an id that is no integer of the vocabulary.
            CapacityExceeded: a list exceeds `max_batch_tokens`.
        """
        lists = check_lists(ids)
        return self._encode(zip(names or [f"ids[{index}]" for index in range(len(lists))], lists, strict=True))

    def _close(self, text: str) -> str:
        """Ends a text as OpenRLHF does, whose heads are read at an EOS token."""
        eos = self.chat.special_tokens.get("eos_token")
        if not eos:
            folders = " and ".join(map(str, self.chat_folders))
            raise WeightsError(f"{folders}: the head is read at the EOS token; name eos_token in tokenizer_config.json")
        text = text.rstrip("\n")
        return text if text.endswith(eos) else f"{text} {eos}"

    def _append(self, sequence: Int32) -> Int32:
        """Ends a sequence with the token that the head is read at, if it does not end so already."""
        if self.appended_id is None or sequence[-1] == self.appended_id:
            return sequence
        return np.append(sequence, np.int32(self.appended_id))

    def _encode(self, named: Iterable[tuple[str, object]]) -> Encoded:
        sequences, num_truncated = [], 0
        for name, tokens in named:
            sequence = self._append(self._cut_after_pooled(check_ids(name, tokens, self.vocab_size)))
            if self.max_length is not None and len(sequence) > self.max_length:
                sequence = truncate(name, sequence, self.max_length, self.truncation)
                num_truncated += 1
            self._check_capacity(name, sequence)
            sequences.append(sequence)
        return Encoded(sequences, num_truncated)

    def _check_capacity(self, name: str, sequence: Int32) -> None:
        if self.max_batch_tokens is not None and len(sequence) > self.max_batch_tokens:
            raise CapacityExceeded(
                f"{name} has {len(sequence)} tokens, more than max_batch_tokens={self.max_batch_tokens}; "
                "raise max_batch_tokens or shorten the sequence"
            )

    def _cut_after_pooled(self, sequence: Int32) -> Int32:
        """What follows the pooled token cannot influence a causal model's score, so it does not count as length."""
        if self.pad_token_id is None:
            return sequence
        return sequence[: find_hf_pooled_index(sequence, self.pad_token_id) + 1]


def _settle(settings: TextSettings, pair: Pair, name: str) -> tuple[list[Message], ControlTokenMode]:
    """Returns the messages of a pair, its system message among them, and what control tokens in them are."""
    given = pair if isinstance(pair, Conversation) else Conversation(pair)
    messages: list[Message] = [*make_messages(given.turns, name)]
    if messages[0]["role"] != "system":
        system = settings.system if given.system is None else given.system
        messages = [{"role": "system", "content": system}, *messages] if system else messages
    elif given.system not in (None, messages[0]["content"]):
        raise InvalidInput(f"{name} has a system message, and {given.system!r:.80} as system; give one of them")
    return messages, settings.choose_mode(is_program=given.is_program)


class EncodedFor(Protocol):
    """What an encoder needs to know of a checkpoint: `checkpoint.load.Checkpoint` knows it."""

    @property
    def config(self) -> ModelConfig: ...

    @property
    def folder(self) -> Path: ...

    @property
    def base_folder(self) -> Path | None: ...


def build_encoder(
    checkpoint: EncodedFor,
    *,
    head: HeadKind | None = None,
    pooling: Pooling = "hf",
    truncation: Truncation = "error",
    max_length: int | None = None,
    max_batch_tokens: int | None = None,
    text: TextSettings | None = None,
) -> Encoder:
    """Returns a checkpoint's encoder, which pools as a model with this head does (None: the checkpoint's own).

    With "hf" the pooled token is transformers': in sequence classification the last one that is not the pad token.
    Where the settings name no system prompt, that of the folder counts.

    Raises: InvalidInput if `max_length` is more than the model's RoPE is computed for.
    """
    config = checkpoint.config
    reads = config.head_input if head is None else HeadInput(skips_pads=head == "sequence_classification")
    if max_length is not None and config.rope.ends_at_max_positions and max_length > config.max_positions:
        raise InvalidInput(
            f"max_length={max_length}; this model's RoPE ({config.rope.kind}) is computed up to {config.max_positions} "
            "positions; give no more"
        )
    folders = tuple(folder for folder in (checkpoint.folder, checkpoint.base_folder) if folder is not None)
    settings = text or DEFAULT_SETTINGS
    if settings.system is None:
        settings = replace(settings, system=read_system_prompt(folders))
    return Encoder(
        chat_folders=folders,
        vocab_size=config.vocab_size,
        pad_token_id=config.pad_token_id if pooling == "hf" and reads.skips_pads else None,
        closes_with_eos=reads.closes_with_eos,
        appended_id=reads.appended_id,
        max_length=max_length,
        truncation=truncation,
        max_batch_tokens=max_batch_tokens,
        text=settings,
    )
