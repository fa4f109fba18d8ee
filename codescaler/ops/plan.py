"""Token lists to packed prefix trees: integers only, no tensor and no model.

A batch is a forest of *nodes*. A node is a run of tokens that the same sequences share; its parent is the
run that precedes it. Tokens are packed in depth-first order, so a node's tokens are contiguous and every
distinct (prefix, token) pair is held, and later computed, once. Each sequence ends at the end of a node.

Attention reads keys in *blocks* of `KEY_BLOCK` absolute positions. A block that lies inside one node's path
is shared by all descendants; a block that straddles a node boundary is listed again for each path. Where
a block starts depends on positions alone, never on where sequences happen to branch: this is what makes a
sequence's arithmetic, and so its bits, the same in every batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from codescaler.text.token_ids import Int32

KEY_BLOCK = 64  # positions a key block covers; part of the numbers: changing it changes bits


@dataclass(frozen=True)
class TreeBatch:
    """One packed prefix tree. Legend: T tokens, M nodes, U distinct sequences, B sequences, C key blocks.

    A *query run* is a row `(node, first_token, num_tokens, out_row)`: these tokens of the node are queries,
    and their results go to rows `out_row, out_row + 1, ...`.

    Shapes (all int32):
        token_ids, positions: [T]; position counts from the start of the sequence.
        node_starts: [M] position of each node's first token.
        block_tokens: [C, KEY_BLOCK] packed token at each position of a key block, -1 past its end.
        node_block_offsets: [M + 1]; node m attends to the key blocks
            `node_blocks[node_block_offsets[m]:node_block_offsets[m + 1]]`, in order of position.
        all_queries: [M, 4] query runs that cover every token.
        last_queries: [U, 4] query runs of each distinct sequence's last token alone.
        rows: [B] which of the U distinct sequences each sequence is.
        sequences: [B] each sequence's index in the list that was planned.
    """

    token_ids: Int32
    positions: Int32
    node_starts: Int32
    block_tokens: Int32
    node_block_offsets: Int32
    node_blocks: Int32
    all_queries: Int32
    last_queries: Int32
    rows: Int32
    sequences: Int32

    @property
    def num_tokens(self) -> int:
        """Number of distinct tokens, which is what the forward computes."""
        return len(self.token_ids)

    def plan_tiles(self, queries: Int32, max_tokens: int, *, is_padded: bool) -> Int32:
        """Cuts query runs into tiles of at most `max_tokens` tokens, the dearest first.

        A tile costs the length of its path, times its tokens unless it `is_padded` to `max_tokens`.
        Shape: [., 5], each row `(first_block, first_token, num_tokens, out_row, first_position)`, where the key blocks
        of the path stand from `node_blocks[first_block]` on.
        """
        node, first_token, num_tokens, out_row = queries.T
        counts = -(-num_tokens // max_tokens)
        skipped = max_tokens * (np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts))
        first_token, length, out_row = (np.repeat(x, counts) for x in (first_token, num_tokens, out_row))
        length, first_token = np.minimum(length - skipped, max_tokens), first_token + skipped
        position = self.positions[first_token]
        first_block = np.repeat(self.node_block_offsets[node], counts)
        tiles = np.stack([first_block, first_token, length, out_row + skipped, position], axis=1)
        cost = (position + length).astype(np.int64) * (1 if is_padded else length)
        return _make_int32(tiles[np.argsort(-cost, kind="stable")])

    def plan_steps(self, num_keys: int) -> Int32:
        """Says where each path's keys lie, in steps of `num_keys` absolute positions.

        Shape: [., 2], each row `(first_token, straddling_step)`. The tokens of a step lie side by side from
        `first_token` on; a step that straddles runs of tokens has -1. `straddling_step` is the first such step of the
        path from here on; it lies past the path where there is none. The steps of a path whose blocks stand from
        `node_blocks[first_block]` on stand from row `first_block * max(KEY_BLOCK // num_keys, 1)` on. The last row is
        of no path, so that a loop may read one row too many.
        """
        rows = max(KEY_BLOCK // num_keys, 1)  # of a block; of larger steps a path fills the first rows alone
        offsets = self.node_block_offsets.astype(np.int64)
        node = np.repeat(np.arange(len(self.all_queries)), np.diff(offsets) * rows)
        start = offsets[node] * rows
        key = (np.arange(len(node)) - start) * num_keys
        last = (self.node_starts + self.all_queries[:, 2])[node] - 1
        first_token, last_token = (
            self.block_tokens[self.node_blocks[offsets[node] + at // KEY_BLOCK], at % KEY_BLOCK]
            for at in (np.minimum(key, last), np.minimum(key + num_keys - 1, last))
        )
        # Tokens follow one another along a path, so a step's lie side by side if its ends are as far apart as its keys.
        is_run = (last_token - first_token == np.minimum(num_keys - 1, last - key)) | (key > last)
        straddling = np.where(is_run, len(node), np.arange(len(node)))
        straddling = np.minimum.accumulate(straddling[::-1])[::-1] - start
        steps = np.stack([np.where(is_run, first_token, -1), straddling], axis=1)
        return _make_int32(np.concatenate([steps, [[-1, 0]]]))


def plan(sequences: Sequence[Int32], max_batch_tokens: int) -> list[TreeBatch]:
    """Cuts non-empty token lists (1-D int32, ids not negative) into prefix trees of at most
    `max_batch_tokens` distinct tokens each; a longer single sequence gets a tree of its own.

    Sequences are visited in lexicographic order, which puts shared prefixes side by side: a sequence's cost
    is its length less the prefix it shares with the one before.
    """
    # Big-endian bytes sort as the ids do, and bytes compare at memcmp speed.
    keys = [sequence.astype(">i4").tobytes() for sequence in sequences]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    batches = []
    start, cost = 0, 0
    shared = [0] * len(order)
    for at, index in enumerate(order):
        length = len(sequences[index])
        if at > start:
            shared[at] = _measure_common_prefix(sequences[order[at - 1]], sequences[index])
            if cost + length - shared[at] > max_batch_tokens:
                batches.append(_build([sequences[i] for i in order[start:at]], shared[start:at], order[start:at]))
                start, cost, shared[at] = at, 0, 0
        cost += length - shared[at]
    if order:
        batches.append(_build([sequences[i] for i in order[start:]], shared[start:], order[start:]))
    return batches


def _measure_common_prefix(left: Int32, right: Int32) -> int:
    size = min(len(left), len(right))
    different = left[:size] != right[:size]
    first = int(different.argmax()) if size else 0
    return first if size and different[first] else size


@dataclass
class _Run:
    """The tokens that a sequence adds to the tree: positions [start, end), later cut where others branch off."""

    start: int
    end: int
    first_token: int
    parent: "_Run | None"
    cuts: list[int]

    def split_into_pieces(self) -> Iterator[tuple[int, int]]:
        bounds = [self.start, *sorted(set(self.cuts)), self.end]
        return pairwise(bounds)


def _build(sequences: list[Int32], shared: list[int], indices: list[int]) -> TreeBatch:
    """Builds the tree of lexicographically sorted `sequences`; `shared[i]` is the prefix common with i - 1."""
    runs: list[_Run] = []
    path: list[_Run] = []  # the runs that make up the sequence before, root first
    rows: list[int] = []
    num_tokens = 0
    for sequence, prefix in zip(sequences, shared, strict=True):
        if runs and prefix == len(sequence):
            # Sorted order puts a proper prefix first, so this is the sequence before over again.
            rows.append(rows[-1])
            continue
        while path and path[-1].start >= prefix:
            path.pop()
        if path and prefix < path[-1].end:
            path[-1].cuts.append(prefix)
        run = _Run(prefix, len(sequence), num_tokens, path[-1] if path else None, [])
        rows.append(len(runs))
        num_tokens += run.end - run.start
        runs.append(run)
        path.append(run)
    token_ids = [sequences[i][shared[i] :] for i in range(len(sequences)) if i == 0 or rows[i] != rows[i - 1]]
    return _lay_out(runs, np.concatenate(token_ids), np.array(rows), np.array(indices))


def _lay_out(runs: list[_Run], token_ids: Int32, rows: Int32, sequences: Int32) -> TreeBatch:
    """Numbers nodes and key blocks, parents before children."""
    node_starts: list[int] = []
    queries: list[tuple[int, int, int, int]] = []
    last_queries: list[tuple[int, int, int, int]] = []
    node_blocks: list[list[int]] = []
    blocks: list[Int32] = []
    node_at: dict[tuple[int, int], int] = {}  # (run's first token, end position) -> node

    for run in runs:
        parent = node_at[run.parent.first_token, run.start] if run.parent else None
        for start, end in run.split_into_pieces():
            node = len(node_starts)
            node_at[run.first_token, end] = node
            first_token = run.first_token + start - run.start
            node_starts.append(start)
            queries.append((node, first_token, end - start, first_token))
            first_block = start // KEY_BLOCK
            own = _fill_blocks(start, end, first_token)
            if parent is not None and start % KEY_BLOCK:
                straddled = blocks[node_blocks[parent][first_block]]
                own[0, : start % KEY_BLOCK] = straddled[: start % KEY_BLOCK]
            inherited = node_blocks[parent][:first_block] if parent is not None else []
            node_blocks.append([*inherited, *range(len(blocks), len(blocks) + len(own))])
            blocks.extend(own)
            parent = node
        last_queries.append((node, run.first_token + run.end - run.start - 1, 1, len(last_queries)))

    lengths = np.array([length for _, _, length, _ in queries])
    positions = np.arange(len(token_ids)) - np.repeat(np.array([row[1] for row in queries]) - node_starts, lengths)
    return TreeBatch(
        token_ids=_make_int32(token_ids),
        positions=_make_int32(positions),
        node_starts=_make_int32(node_starts),
        block_tokens=_make_int32(blocks),
        node_block_offsets=_make_int32(np.cumsum([0, *map(len, node_blocks)])),
        node_blocks=_make_int32(np.concatenate(node_blocks)),
        all_queries=_make_int32(queries),
        last_queries=_make_int32(last_queries),
        rows=_make_int32(rows),
        sequences=_make_int32(sequences),
    )


def _fill_blocks(start: int, end: int, first_token: int) -> Int32:
    """Key blocks that cover positions [start, end): rows of packed token indices, -1 outside."""
    first, last = start // KEY_BLOCK, -(-end // KEY_BLOCK)
    blocks = np.full((last - first) * KEY_BLOCK, -1, dtype=np.int32)
    inside = slice(start - first * KEY_BLOCK, end - first * KEY_BLOCK)
    blocks[inside] = np.arange(first_token, first_token + end - start)
    return blocks.reshape(-1, KEY_BLOCK)


def _make_int32(values: object) -> Int32:
    return np.ascontiguousarray(values, dtype=np.int32)
