"""A caller's token lists to checked arrays: types, vocabulary, pooled token, length. Knows no text and no model.

All errors are `InvalidInput` and name the list and the value seen.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from codescaler.errors import InvalidInput

Int32 = npt.NDArray[np.int32]
TokenLists = Sequence[Sequence[int] | npt.NDArray[np.integer[Any]]]
Pooling = Literal["hf", "last"]
Truncation = Literal["error", "left", "middle"]


def check_lists(ids: TokenLists) -> Sequence[object]:
    """Returns the token lists one by one, each yet to be checked."""
    if isinstance(ids, (str, bytes)) or not isinstance(ids, (Sequence, np.ndarray)):
        raise InvalidInput(f"ids is a {type(ids).__name__}; give a list of token-id lists")
    return list(ids)


def check_ids(name: str, tokens: object, vocab_size: int) -> Int32:
    """One token list as a 1-D int32 array, every id checked against the vocabulary."""
    if isinstance(tokens, (str, bytes, bool, int)):
        raise InvalidInput(f"{name} is {tokens!r:.80}; give a list of token-id lists")
    if not isinstance(tokens, np.ndarray) and bool in set(map(type, tokens)):  # type: ignore[call-overload]
        raise InvalidInput(f"{name} holds bool values, not integers")
    try:
        array = np.asarray(tokens)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidInput(f"{name} is not a flat list of integers ({error})") from error
    if array.ndim != 1:
        raise InvalidInput(f"{name} has shape {array.shape}; give a flat list of token ids")
    if not len(array):
        raise InvalidInput(f"{name} is empty; a sequence needs at least one token")
    if array.dtype.kind not in "iu":
        raise InvalidInput(f"{name} holds {array.dtype} values, not integers, e.g. {array[0]!r:.80}")
    outside = (array < 0) | (array >= vocab_size)
    if outside.any():
        at = int(outside.argmax())
        raise InvalidInput(
            f"{name}[{at}] is {array[at]}, outside the vocabulary 0..{vocab_size - 1}; use the tokenizer of this model"
        )
    return array.astype(np.int32)


def find_hf_pooled_index(sequence: Int32, pad_token_id: int) -> int:
    """Index of the token that transformers pools in sequence classification."""
    real = np.flatnonzero(sequence != pad_token_id)
    return int(real[-1]) if len(real) else 0


def truncate(name: str, sequence: Int32, max_length: int, truncation: Truncation) -> Int32:
    """Cuts a list that is longer than `max_length`: its left, or its middle; "error" refuses it."""
    if truncation == "error":
        raise InvalidInput(
            f"{name} has {len(sequence)} tokens, more than max_length={max_length}; shorten it, or load the "
            "engine with truncation='left' or 'middle' (--truncation)"
        )
    head = max_length // 2 if truncation == "middle" else 0
    return np.concatenate([sequence[:head], sequence[len(sequence) - max_length + head :]])


def measure_common_prefix(left: Int32, right: Int32) -> int:
    """Returns how many first tokens two lists have in common."""
    size = min(len(left), len(right))
    different = left[:size] != right[:size]
    first = int(different.argmax()) if size else 0
    return first if size and different[first] else size
