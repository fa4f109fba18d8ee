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
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from codescaler.text.token_ids import Int32, measure_common_prefix

KEY_BLOCK = 64  # positions a key block covers; part of the numbers: changing it changes bits


class TreeSizes(NamedTuple):
    """What the shapes of a tree follow from, if it is padded: trees of equal sizes have arrays of equal shapes."""

    num_tokens: int
    num_nodes: int
    num_sequences: int
    num_positions: int


@dataclass(frozen=True)
class TreeBatch:
    """One packed prefix tree. Legend: T tokens, M nodes, B sequences, C key blocks, Q runs, P positions that are read.

    Of most sequences the last position alone is read. Sequences that share a token share what is read there: U distinct
    tokens are read.

    A *query run* is a row `(node, first_token, num_tokens, out_row)`: these tokens of the node are queries,
    and their results go to rows `out_row, out_row + 1, ...`.

    Shapes (all int32):
        token_ids, positions: [T]; position counts from the start of the sequence.
        node_starts: [M] position of each node's first token.
        block_tokens: [C, KEY_BLOCK] packed token at each position of a key block, -1 past its end.
        node_block_offsets: [M + 1]; node m attends to the key blocks
            `node_blocks[node_block_offsets[m]:node_block_offsets[m + 1]]`, in order of position.
        all_queries: [M, 4] query runs that cover every token.
        read_queries: [Q, 4] query runs of the tokens that are read.
        rows: [P] the row of each position that is read, sequence by sequence, among those of the U tokens.
        row_counts: [B] how many last positions of each sequence are read.
        sequences: [B] each sequence's index in the list that was planned.

    Attributes:
        num_positions: one more than the largest position. sizes: those that `pad` gave it, else None.
        remembered: prefixes whose keys and values are known: `(prefix, start, end)` is positions [start, end) of the
            prefix of that index in the list that was given. They are keys T, T + 1, ... in this order, and no queries.
    """

    token_ids: Int32
    positions: Int32
    node_starts: Int32
    block_tokens: Int32
    node_block_offsets: Int32
    node_blocks: Int32
    all_queries: Int32
    read_queries: Int32
    rows: Int32
    row_counts: Int32
    sequences: Int32
    num_positions: int
    sizes: TreeSizes | None = None
    remembered: tuple[tuple[int, int, int], ...] = ()

    @property
    def num_keys(self) -> int:
        """Number of tokens that can be attended to: those of the forward, and those remembered."""
        return self.num_tokens + sum(end - start for _, start, end in self.remembered)

    @property
    def read_tokens(self) -> Int32:
        """The packed tokens that are read. Shape: [U]."""
        _, first_token, num_tokens, out_row = self.read_queries.T
        tokens = _make_int32(np.repeat(first_token - out_row, num_tokens) + np.arange(num_tokens.sum()))
        return tokens if self.sizes is None else _lengthen(tokens, self.sizes.num_sequences)

    def list_path(self, row: int, length: int) -> Int32:
        """Returns the keys at the first `length` positions of a sequence of which the last token alone is read."""
        node = self.read_queries[row, 0]
        blocks = self.node_blocks[self.node_block_offsets[node] : self.node_block_offsets[node + 1]]
        path: Int32 = self.block_tokens[blocks].ravel()[:length]
        return path

    def cut(self, is_kept: npt.NDArray[np.bool_]) -> tuple["TreeBatch", Int32]:
        """Returns the tree of some sequences of this one, and the packed tokens of this tree that are its tokens.

        Of each sequence the last token alone is read, and nothing is remembered. Packed order is depth first, with
        branches in the order of their ids, so that the tokens that stay keep their order. Shapes: [B] -> [T'].
        """
        assert not self.remembered and self.sizes is None and len(self.rows) == len(self.sequences)
        last = self.read_tokens[self.rows[is_kept]]
        paths = [
            self.list_path(row, self.positions[token] + 1) for row, token in zip(self.rows[is_kept], last, strict=True)
        ]
        tokens = np.unique(np.concatenate(paths))
        batch = plan([self.token_ids[path] for path in paths], self.num_tokens)[0]
        return replace(batch, sequences=self.sequences[is_kept][batch.sequences]), tokens

    @property
    def num_tokens(self) -> int:
        """Number of distinct tokens, which is what the forward computes."""
        return len(self.token_ids)

    def round_up_sizes(self) -> TreeSizes:
        """Returns the sizes of the smallest padded tree that holds this one: at most a 16th more tokens from 256 on.

        The other sizes are powers of two, since they cost little.
        """
        step = max(16, (1 << self.num_tokens.bit_length()) >> 5)
        others = (len(self.all_queries), len(self.rows), max(self.num_positions, KEY_BLOCK))
        return TreeSizes(-(-self.num_tokens // step) * step, *(1 << (count - 1).bit_length() for count in others))

    def pad(self, sizes: TreeSizes) -> "TreeBatch":
        """Returns this tree in arrays whose shapes follow from `sizes` alone.

        What is added belongs to no node: nothing attends to an added token, and an added sequence repeats the first.
        A node covers at most two key blocks more than its tokens fill, and has at most as many nodes on its path as it
        has positions. Of each sequence the last position alone is read.
        """
        assert len(self.rows) == len(self.sequences), "several positions of a sequence are read"
        num_blocks = sizes.num_tokens // KEY_BLOCK + 2 * sizes.num_nodes
        num_node_blocks = sizes.num_nodes * (sizes.num_positions // KEY_BLOCK)
        return TreeBatch(
            token_ids=_lengthen(self.token_ids, sizes.num_tokens),
            positions=_lengthen(self.positions, sizes.num_tokens),
            node_starts=_lengthen(self.node_starts, sizes.num_nodes),
            block_tokens=_lengthen(self.block_tokens, num_blocks, -1),
            node_block_offsets=_lengthen(self.node_block_offsets, sizes.num_nodes + 1, self.node_block_offsets[-1]),
            node_blocks=_lengthen(self.node_blocks, num_node_blocks),
            all_queries=_lengthen(self.all_queries, sizes.num_nodes),
            read_queries=_lengthen(self.read_queries, sizes.num_nodes),
            rows=_lengthen(self.rows, sizes.num_sequences),
            row_counts=self.row_counts,
            sequences=self.sequences,
            num_positions=sizes.num_positions,
            sizes=sizes,
        )

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
        tiles = _make_int32(tiles[np.argsort(-cost, kind="stable")])
        # In a padded tree the number of tiles follows from its sizes too: a tile that is added has no token.
        return tiles if self.sizes is None else _lengthen(tiles, self.num_tokens // max_tokens + len(queries))

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
        node = np.repeat(np.arange(len(self.node_starts)), np.diff(offsets) * rows)
        start = offsets[node] * rows
        key = (np.arange(len(node)) - start) * num_keys
        held = (self.block_tokens[self.node_blocks[offsets[1:] - 1]] >= 0).sum(axis=1)  # by a node's last block
        last = ((np.diff(offsets) - 1) * KEY_BLOCK + held)[node] - 1
        first_token, last_token = (
            self.block_tokens[self.node_blocks[offsets[node] + at // KEY_BLOCK], at % KEY_BLOCK]
            for at in (np.minimum(key, last), np.minimum(key + num_keys - 1, last))
        )
        # Tokens follow one another along a path, so a step's lie side by side if its ends are as far apart as its keys.
        is_run = (last_token - first_token == np.minimum(num_keys - 1, last - key)) | (key > last)
        straddling = np.where(is_run, len(node), np.arange(len(node)))
        straddling = np.minimum.accumulate(straddling[::-1])[::-1] - start
        steps = np.stack([np.where(is_run, first_token, -1), straddling], axis=1)
        steps = _make_int32(np.concatenate([steps, [[-1, 0]]]))
        return steps if self.sizes is None else _lengthen(steps, len(self.node_blocks) * rows + 1, -1)


class _Item(NamedTuple):
    """A token list of a tree, and how much of it the list before has too. It is the sequence of number `sequence`, or
    the remembered prefix of number `prefix`: one of them is None.
    """

    tokens: Int32
    shared: int
    sequence: int | None
    prefix: int | None
    first_read: int  # position from which on the sequence is read


def plan(
    sequences: Sequence[Int32],
    max_batch_tokens: int,
    prefixes: Sequence[Int32] = (),
    prefix_of: Sequence[int | None] | None = None,
    first_read: Sequence[int] | None = None,
) -> list[TreeBatch]:
    """Cuts non-empty token lists (1-D int32, ids not negative) into prefix trees of at most
    `max_batch_tokens` distinct tokens each; a longer single sequence gets a tree of its own.

    Sequences are visited in lexicographic order, which puts shared prefixes side by side: a sequence's cost
    is its length less the prefix it shares with the one before. `prefix_of` says which of the remembered `prefixes`
    a sequence begins with, if any. A prefix is shorter than its sequence, and costs nothing.
    `first_read` are the positions from which on sequences are read, None for the last alone; none is within a prefix.
    """
    # Big-endian bytes sort as the ids do, and bytes compare at memcmp speed.
    keys = [sequence.astype(">i4").tobytes() for sequence in sequences]
    batches: list[TreeBatch] = []
    items: list[_Item] = []
    cost = 0
    for index in sorted(range(len(keys)), key=keys.__getitem__):
        number = None if prefix_of is None else prefix_of[index]
        prefix = None if number is None else prefixes[number]
        read = len(sequences[index]) - 1 if first_read is None else first_read[index]
        added = _list_items(items, sequences[index], index, read, prefix, number)
        if items and cost + len(sequences[index]) - added[-1].shared > max_batch_tokens:
            batches.append(_build(items))
            items, cost = [], 0
            added = _list_items(items, sequences[index], index, read, prefix, number)
        items += added
        cost += len(sequences[index]) - added[-1].shared
    return [*batches, _build(items)] if items else batches


def _list_items(
    items: Sequence[_Item], tokens: Int32, index: int, first_read: int, prefix: Int32 | None, number: int | None
) -> list[_Item]:
    """Returns what a sequence adds to a tree: itself, and before it a remembered prefix that the tree has not yet."""
    shared = measure_common_prefix(items[-1].tokens, tokens) if items else 0
    if prefix is None or len(prefix) <= shared:
        return [_Item(tokens, shared, index, None, first_read)]
    return [_Item(prefix, shared, None, number, 0), _Item(tokens, len(prefix), index, None, first_read)]


@dataclass
class _Run:
    """The tokens that a list adds to the tree: positions [start, end), later cut where others branch off."""

    start: int
    end: int
    first_token: int
    parent: "_Run | None"
    is_remembered: bool
    cuts: list[int]

    def split_into_pieces(self) -> Iterator[tuple[int, int]]:
        bounds = [self.start, *sorted(set(self.cuts)), self.end]
        return pairwise(bounds)


def _build(items: Sequence[_Item]) -> TreeBatch:
    """Builds the tree of token lists in lexicographic order."""
    runs: list[_Run] = []
    path: list[_Run] = []  # the runs that make up the list before, root first
    reads: list[npt.NDArray[np.int64]] = []  # packed tokens that are read, of each sequence
    token_ids: list[Int32] = []
    remembered: list[tuple[int, int, int]] = []
    num_tokens = num_remembered = 0
    for tokens, shared, sequence, prefix, first_read in items:
        if sequence is not None and reads and shared == len(tokens):
            # Sorted order puts a proper prefix first, so this is the sequence before over again.
            reads.append(_list_tokens(path, first_read))
            continue
        while path and path[-1].start >= shared:
            path.pop()
        if path and shared < path[-1].end:
            path[-1].cuts.append(shared)
        first_token = num_tokens if prefix is None else num_remembered
        run = _Run(shared, len(tokens), first_token, path[-1] if path else None, prefix is not None, [])
        runs.append(run)
        path.append(run)
        if prefix is None:
            reads.append(_list_tokens(path, first_read))
            token_ids.append(tokens[shared:])
            num_tokens += len(tokens) - shared
        else:
            remembered.append((prefix, shared, len(tokens)))
            num_remembered += len(tokens) - shared
    for run in runs:
        run.first_token += num_tokens if run.is_remembered else 0
    indices = [item.sequence for item in items if item.sequence is not None]
    return _lay_out(runs, np.concatenate(token_ids), reads, np.array(indices), tuple(remembered))


def _list_tokens(path: Sequence[_Run], first: int) -> npt.NDArray[np.int64]:
    """Returns the packed tokens of a path from position `first` on."""
    pieces: list[npt.NDArray[np.int64]] = []
    end = path[-1].end
    for run in reversed(path):
        assert not run.is_remembered, "a remembered token is no query"
        pieces.append(np.arange(max(run.start, first), end) + (run.first_token - run.start))
        end = run.start
        if end <= first:
            break
    return np.concatenate(pieces[::-1])


def _lay_out(
    runs: list[_Run],
    token_ids: Int32,
    reads: Sequence[npt.NDArray[np.int64]],
    sequences: Int32,
    remembered: tuple[tuple[int, int, int], ...],
) -> TreeBatch:
    """Numbers nodes and key blocks, parents before children."""
    node_starts: list[int] = []
    queries: list[tuple[int, int, int, int]] = []
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
            if not run.is_remembered:
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

    read_queries, rows = _find_read_runs(np.array(queries), np.concatenate(reads))
    lengths = np.array([length for _, _, length, _ in queries])
    shifts = [first_token - node_starts[node] for node, first_token, _, _ in queries]
    positions = np.arange(len(token_ids)) - np.repeat(shifts, lengths)
    return TreeBatch(
        token_ids=_make_int32(token_ids),
        positions=_make_int32(positions),
        node_starts=_make_int32(node_starts),
        block_tokens=_make_int32(blocks),
        node_block_offsets=_make_int32(np.cumsum([0, *map(len, node_blocks)])),
        node_blocks=_make_int32(np.concatenate(node_blocks)),
        all_queries=_make_int32(queries),
        read_queries=_make_int32(read_queries),
        rows=_make_int32(rows),
        row_counts=_make_int32([len(tokens) for tokens in reads]),
        sequences=_make_int32(sequences),
        num_positions=int(positions.max()) + 1,
        remembered=remembered,
    )


def _find_read_runs(
    queries: npt.NDArray[np.int64], reads: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Returns the query runs of the distinct tokens in `reads`, and which of their rows each has.

    `queries` are the runs of all tokens, in the order of these.
    """
    tokens, rows = np.unique(reads, return_inverse=True)
    within = queries[:, 1].searchsorted(tokens, side="right") - 1
    is_start = (np.diff(tokens, prepend=-2) != 1) | (np.diff(within, prepend=-1) != 0)
    starts = np.flatnonzero(is_start)
    lengths = np.diff(starts, append=len(tokens))
    return np.stack([queries[within[starts], 0], tokens[starts], lengths, starts], axis=1), rows


def _fill_blocks(start: int, end: int, first_token: int) -> Int32:
    """Key blocks that cover positions [start, end): rows of packed token indices, -1 outside."""
    first, last = start // KEY_BLOCK, -(-end // KEY_BLOCK)
    blocks = np.full((last - first) * KEY_BLOCK, -1, dtype=np.int32)
    inside = slice(start - first * KEY_BLOCK, end - first * KEY_BLOCK)
    blocks[inside] = np.arange(first_token, first_token + end - start)
    return blocks.reshape(-1, KEY_BLOCK)


def _lengthen(array: Int32, length: int, value: int = 0) -> Int32:
    """Returns an array with more rows, all of them `value`."""
    longer = np.full((length, *array.shape[1:]), value, dtype=np.int32)
    longer[: len(array)] = array
    return longer


def _make_int32(values: object) -> Int32:
    return np.ascontiguousarray(values, dtype=np.int32)
