"""`PrefixMemory`: keys and values of prefixes that sequences of several forwards share, such as a problem's.

A problem is kept when its first program comes, because the chat template tells where the program begins.

A sequence has the same bits in any batch, so what one forward computed of a prefix is what another would compute:
scores do not change. What is kept of a client's sequences serves that client alone, so that the time of a call tells
nobody what another has scored. Only the worker thread calls it.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from codescaler.ops.plan import KEY_BLOCK, TreeBatch
from codescaler.text.token_ids import Int32, measure_common_prefix

DEFAULT_BYTES = 256 << 20
MIN_TOKENS = KEY_BLOCK  # of a prefix that is kept, and by which it is longer than one that is kept already
_NUM_RECENT = 4  # sequences of one beginning whose ids are kept, to find what the next has in common with them
_NUM_BEGINNINGS = 256

NO_TOKENS: Int32 = np.empty(0, np.int32)

Beginning: TypeAlias = tuple[str | None, bytes]


@dataclass(eq=False)
class Prefix:
    """A prefix of a client's sequences, and its keys and values in each layer. Shape of each: [P, 2 * K * H]."""

    client: str | None
    tokens: Int32
    layers: list[Tensor] = field(default_factory=list)

    @property
    def beginning(self) -> Beginning:
        return _get_beginning(self.client, self.tokens)

    @property
    def num_bytes(self) -> int:
        return sum(layer.nbytes for layer in self.layers)


class PrefixMemory:
    """Prefixes of at most `max_bytes`; the one that was not used for the longest time goes first.

    `get_answer_start` returns the tokens between a problem and its answer, or none if nobody knows them.
    """

    def __init__(
        self,
        max_bytes: int = DEFAULT_BYTES,
        bytes_per_token: int = 1,
        get_answer_start: Callable[[], Int32] = lambda: NO_TOKENS,
    ) -> None:
        self.max_bytes = max_bytes
        self._bytes_per_token = bytes_per_token
        self._get_answer_start = get_answer_start
        self.num_bytes = 0
        self._prefixes: OrderedDict[Prefix, None] = OrderedDict()
        self._by_beginning: dict[Beginning, list[Prefix]] = {}
        self._recent: OrderedDict[Beginning, deque[Int32]] = OrderedDict()

    def __len__(self) -> int:
        """The number of prefixes."""
        return len(self._prefixes)

    def find(self, client: str | None, tokens: Int32) -> tuple[Prefix, int] | None:
        """Returns the prefix that has most in common with a sequence, and how many tokens that are; None if too few.

        A sequence has a token of its own to compute.
        """
        kept = self._by_beginning.get(_get_beginning(client, tokens), ())
        shared = {prefix: min(measure_common_prefix(prefix.tokens, tokens), len(tokens) - 1) for prefix in kept}
        best = max(shared, key=shared.__getitem__, default=None)
        if best is None or shared[best] < MIN_TOKENS:
            return None
        self._prefixes.move_to_end(best)
        return best, shared[best]

    def choose(self, clients: Sequence[str | None], sequences: Sequence[Int32]) -> dict[int, Prefix]:
        """Returns new prefixes to keep, empty yet, each by the index of a sequence that begins with it.

        These are sequences up to their answers. Of a sequence without a start of an answer, it is what two have in
        common, of this forward or of earlier ones.
        """
        chosen: dict[int, Prefix] = {}
        families: dict[Beginning, list[int]] = {}
        for index, (client, tokens) in enumerate(zip(clients, sequences, strict=True)):
            if len(tokens) > MIN_TOKENS:
                families.setdefault(_get_beginning(client, tokens), []).append(index)
        answer_start = self._get_answer_start()
        for beginning, indices in families.items():
            problems = [(index, _find_end(sequences[index], answer_start)) for index in indices]
            others = [index for index, length in problems if length < MIN_TOKENS]
            candidates = [(index, length) for index, length in problems if length >= MIN_TOKENS]
            candidates += self._list_shared_with_recent(beginning, sequences, others)
            known = [prefix.tokens for prefix in self._by_beginning.get(beginning, ())]
            for index, length in candidates:
                tokens = sequences[index][:length]
                # A prefix of which less than a key block is new gains nothing.
                if all(length - measure_common_prefix(tokens, other) >= MIN_TOKENS for other in known):
                    known.append(tokens)
                    chosen[index] = Prefix(beginning[0], tokens.copy())
        return self._drop_above_limit(chosen)

    def _list_shared_with_recent(
        self, beginning: Beginning, sequences: Sequence[Int32], indices: Sequence[int]
    ) -> list[tuple[int, int]]:
        if not indices:
            return []
        recent = self._recent.pop(beginning, deque(maxlen=_NUM_RECENT))
        shared = _list_shared(sequences, indices, recent)
        recent.extend(sequences[index].copy() for index in indices[-_NUM_RECENT:])
        self._recent[beginning] = recent
        while len(self._recent) > _NUM_BEGINNINGS:
            self._recent.popitem(last=False)
        return shared

    def _drop_above_limit(self, chosen: dict[int, Prefix]) -> dict[int, Prefix]:
        """Returns the last prefixes that fit: more siblings of the last sequences are yet to come."""
        room = self.max_bytes // self._bytes_per_token
        fitting: dict[int, Prefix] = {}
        for index, prefix in reversed(chosen.items()):
            room -= len(prefix.tokens)
            if room < 0:
                break
            fitting[index] = prefix
        return fitting

    def keep(self, prefixes: Sequence[Prefix]) -> None:
        """Keeps prefixes that a forward has filled, and forgets others if there is no room."""
        for prefix in prefixes:
            if prefix.num_bytes > self.max_bytes:
                continue
            self._prefixes[prefix] = None
            self._by_beginning.setdefault(prefix.beginning, []).append(prefix)
            self.num_bytes += prefix.num_bytes
        while self.num_bytes > self.max_bytes:
            oldest, _ = self._prefixes.popitem(last=False)
            self.num_bytes -= oldest.num_bytes
            siblings = self._by_beginning[oldest.beginning]
            siblings.remove(oldest)
            if not siblings:
                del self._by_beginning[oldest.beginning]

    def clear(self) -> None:
        """Forgets everything."""
        self.__init__(self.max_bytes, self._bytes_per_token, self._get_answer_start)  # type: ignore[misc]


def _get_beginning(client: str | None, tokens: Int32) -> Beginning:
    return client, tokens[:MIN_TOKENS].tobytes()


def _find_end(tokens: Int32, part: Int32) -> int:
    """Returns where the last occurrence of `part` ends, if a token follows it; else 0."""
    if not len(part):
        return 0
    for end in np.flatnonzero(tokens[:-1] == part[-1])[::-1] + 1:
        if end >= len(part) and (tokens[end - len(part) : end] == part).all():
            return int(end)
    return 0


def _list_shared(sequences: Sequence[Int32], indices: Sequence[int], recent: Sequence[Int32]) -> list[tuple[int, int]]:
    """Returns what neighbours in a family have in common, as (index, length), the longest first."""
    shared: list[tuple[int, int]] = []
    others = [(None, tokens) for tokens in recent]
    named = [(index, sequences[index]) for index in indices]
    ordered = sorted([*others, *named], key=lambda item: item[1].astype(">i4").tobytes())
    for (left, before), (right, after) in pairwise(ordered):
        index = right if left is None else left
        length = measure_common_prefix(before, after)
        if index is not None and MIN_TOKENS <= length < max(len(before), len(after)):
            shared.append((index, min(length, len(sequences[index]) - 1)))
    return sorted(shared, key=lambda item: -item[1])


class LayerMemory:
    """One forward's use of the memory: the layers pass through it in order.

    `used` are the prefixes by the numbers of the tree's `remembered`; `filled` are those that the forward fills, each
    with where its keys stand.
    """

    def __init__(
        self, batch: TreeBatch, used: Sequence[Prefix], filled: Sequence[tuple[Prefix, Int32]], device: torch.device
    ) -> None:
        self._remembered = [(used[number], start, end) for number, start, end in batch.remembered]
        self._num_keys = batch.num_keys
        self._filled = [(prefix, torch.from_numpy(path).to(device, torch.int64)) for prefix, path in filled]
        self._layer = 0

    def join(self, qkv_TE: Tensor, q_width: int) -> Tensor:
        """Returns q|k|v with the keys and values of remembered tokens below, and copies those that are to be kept.

        Nothing reads the queries of remembered tokens. Shapes: [T, E] -> [num_keys, E].
        """
        layer, self._layer = self._layer, self._layer + 1
        joined = qkv_TE
        if self._remembered:
            joined = qkv_TE.new_empty(self._num_keys, qkv_TE.shape[1])
            at = len(qkv_TE)
            joined[:at] = qkv_TE
            for prefix, start, end in self._remembered:
                joined[at : at + end - start, q_width:] = prefix.layers[layer][start:end]
                at += end - start
        for prefix, path in self._filled:
            prefix.layers.append(joined[:, q_width:].index_select(0, path))
        return joined
