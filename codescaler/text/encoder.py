"""`Encoder`: the one way from pairs, messages or token lists to the ids that a forward computes.

The ids of a sequence are checked against the vocabulary, cut after the pooled token, and truncated as asked. Scoring,
training and quantization all read text through it. It knows a checkpoint's folders and limits, and no weights.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

from codescaler.errors import CapacityExceeded
from codescaler.text.chat import Chat, Pair, load_chat, make_messages
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
from codescaler.types import HeadKind, ModelConfig


class Encoded(NamedTuple):
    """Sequences of ids, ready for a plan, and how many of them were truncated."""

    sequences: list[Int32]
    num_truncated: int


@dataclass(frozen=True)
class Encoder:
    """Encodes for one checkpoint. Build one with `build_encoder`. Any thread may call it.

    Attributes:
        chat_folders: where tokenizer and chat template are looked for, in this order. They are read on first use, so
            a folder without them takes token lists.
        vocab_size: the first id that is refused.
        pad_token_id: a sequence ends at its last token that is not this one. None keeps all tokens.
        max_length: tokens that a sequence may have, None for any number.
        truncation: what happens to a longer sequence.
        max_batch_tokens: tokens that one forward may have, None for any number.
    """

    chat_folders: tuple[Path, ...]
    vocab_size: int
    pad_token_id: int | None = None
    max_length: int | None = None
    truncation: Truncation = "error"
    max_batch_tokens: int | None = None

    @cached_property
    def chat(self) -> Chat:
        """The checkpoint's chat template and tokenizer."""
        return load_chat(*self.chat_folders)

    def encode_pairs(self, pairs: Iterable[Pair], names: Sequence[str]) -> Encoded:
        """Renders and tokenizes (problem, response) pairs or lists of messages. `names` are what errors call them.

        Raises:
            InvalidInput: a pair is malformed, or too long. CapacityExceeded: a sequence exceeds `max_batch_tokens`.
            WeightsError: the checkpoint has no tokenizer or template, or they fail.
        """
        texts = [self.chat.render(make_messages(pair, name)) for pair, name in zip(pairs, names, strict=True)]
        return self._encode(zip(names, self.chat.encode(texts, names), strict=True))

    def encode_texts(self, texts: Sequence[str], names: Sequence[str]) -> Encoded:
        """Tokenizes texts that a template has been applied to; control tokens in them are control tokens.

        Raises: as `encode_pairs`.
        """
        return self._encode(zip(names, self.chat.encode(texts, names), strict=True))

    def encode_tokens(self, ids: TokenLists) -> Encoded:
        """Encodes a caller's token lists; errors call them "ids[0]", "ids[1]", ...

        Raises:
            InvalidInput: a list is empty, too long, or holds an id that is no integer of the vocabulary.
            CapacityExceeded: a list exceeds `max_batch_tokens`.
        """
        return self._encode((f"ids[{index}]", tokens) for index, tokens in enumerate(check_lists(ids)))

    def _encode(self, named: Iterable[tuple[str, object]]) -> Encoded:
        sequences, num_truncated = [], 0
        for name, tokens in named:
            sequence = self._cut_after_pooled(check_ids(name, tokens, self.vocab_size))
            if self.max_length is not None and len(sequence) > self.max_length:
                sequence = truncate(name, sequence, self.max_length, self.truncation)
                num_truncated += 1
            if self.max_batch_tokens is not None and len(sequence) > self.max_batch_tokens:
                raise CapacityExceeded(
                    f"{name} has {len(sequence)} tokens, more than max_batch_tokens={self.max_batch_tokens}; "
                    "raise max_batch_tokens or shorten the sequence"
                )
            sequences.append(sequence)
        return Encoded(sequences, num_truncated)

    def _cut_after_pooled(self, sequence: Int32) -> Int32:
        """What follows the pooled token cannot influence a causal model's score, so it does not count as length."""
        if self.pad_token_id is None:
            return sequence
        return sequence[: find_hf_pooled_index(sequence, self.pad_token_id) + 1]


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
) -> Encoder:
    """Returns a checkpoint's encoder, which pools as a model with this head does (None: the checkpoint's own).

    With "hf" the pooled token is transformers': in sequence classification the last one that is not the pad token.
    """
    config = checkpoint.config
    skips_pads = pooling == "hf" and (head or config.head) == "sequence_classification"
    folders = (checkpoint.folder, checkpoint.base_folder)
    return Encoder(
        chat_folders=tuple(folder for folder in folders if folder is not None),
        vocab_size=config.vocab_size,
        pad_token_id=config.pad_token_id if skips_pads else None,
        max_length=max_length,
        truncation=truncation,
        max_batch_tokens=max_batch_tokens,
    )
