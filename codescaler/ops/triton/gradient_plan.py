"""Which query rows see which keys, and how that work is cut: what `kernels.tree_attention_backward` reads of a tree.

Sizes depend on the tree alone, so a tree's gradients have the same bits in each run.
"""

from typing import NamedTuple

import numpy as np
from torch import Tensor

from codescaler.ops.plan import TreeBatch
from codescaler.ops.tree import Tree, upload
from codescaler.text.token_ids import Int32

# Query tokens of a part. The keys of a prompt are seen by thousands of tokens, those of a program by a hundred:
# uncut, the former are as long as all the rest. A part more costs 2 float32 sums of its keys, written and read.
ROWS_OF_A_PART = 512


class GradientPlan(NamedTuple):
    """The plan for query rows of one kind, on the device. Legend: T packed tokens, R query rows.

    Shapes (all int32):
        subtree_ends: [T] the packed token after the last one that sees a key.
        row_tokens: [R] the packed token of each row; None where row and token are the same number.
        parts: [., 6], the dearest first: (first key, first row, first and end of the rows that see all keys, end row,
            slot of the sums, -1 for none). The rows that see all keys fill their steps.
        totals: [., 3] (first key, first slot, number of slots) of keys that have several parts.
    `num_slots` is how many slots there are.
    """

    subtree_ends: Tensor
    row_tokens: Tensor | None
    parts: Tensor
    totals: Tensor
    num_slots: int


def plan_gradient(tree: Tree, queries: Tensor, num_keys: int, step: int) -> GradientPlan:
    """Returns the plan of `all_queries` or `read_queries` on their device, made once for all layers."""

    def make(runs: Int32) -> GradientPlan:
        ends, is_every_token = find_subtree_ends(tree.batch), queries is tree.all_queries
        row_tokens = np.arange(len(ends), dtype=np.int32) if is_every_token else runs[:, 1]
        parts, totals = plan_parts(ends, row_tokens, num_keys, step)
        arrays = upload([ends, row_tokens, parts, totals], queries.device)
        num_slots = int(totals[:, 2].sum())
        return GradientPlan(arrays[0], None if is_every_token else arrays[1], arrays[2], arrays[3], num_slots)

    return tree.plan_once(queries, ("gradient", num_keys, step), make)


def find_subtree_ends(batch: TreeBatch) -> Int32:
    """Returns for each packed token the end of its subtree: tokens lie depth-first, so its descendants are a run."""
    _, first_tokens, num_tokens, _ = batch.all_queries.T
    ends = np.full(len(num_tokens), batch.num_tokens)
    node_ends = batch.node_starts + num_tokens
    open_nodes: list[int] = []
    for node, start in enumerate(batch.node_starts):
        while open_nodes and start < node_ends[open_nodes[-1]]:  # it branches off before that node's end
            ends[open_nodes.pop()] = first_tokens[node]
        open_nodes.append(node)
    return np.repeat(ends, num_tokens).astype(np.int32)


def plan_parts(
    subtree_ends: Int32, row_tokens: Int32, num_keys: int, step: int, rows_of_a_part: int = ROWS_OF_A_PART
) -> tuple[Int32, Int32]:
    """Returns `GradientPlan.parts` and `totals` for tiles of `num_keys` keys and steps of `step` query tokens."""
    parts, totals = [], []
    num_slots = 0
    for key in range(0, len(subtree_ends), num_keys):
        ends = subtree_ends[key : key + num_keys]
        first, whole, end_whole, end = np.searchsorted(
            row_tokens, [key, key + num_keys - 1, ends.min(), ends.max()], side="left"
        ).tolist()
        count = -(-(end - first) // rows_of_a_part)
        size = -(-(end - first) // count) if count else 0
        for index in range(max(count, 1)):
            start, stop = first + index * size, min(first + (index + 1) * size, end)
            inner = min(max(whole, start), stop)
            outer = max(min(end_whole, stop), inner)
            slot = num_slots + index if count > 1 else -1
            parts.append((key, start, inner, outer - (outer - inner) % step, stop, slot))
        if count > 1:
            totals.append((key, num_slots, count))
            num_slots += count
    rows = np.array(parts, dtype=np.int32).reshape(-1, 6)
    return rows[np.argsort(rows[:, 1] - rows[:, 4], kind="stable")], np.array(totals, dtype=np.int32).reshape(-1, 3)
