"""Who sees whom, and that the parts of attention's gradient hold each pair of a query and a key once."""

import numpy as np
import pytest

from codescaler.ops.triton.gradient_plan import find_subtree_ends, plan_parts
from codescaler.testing import BRANCHES, make_random_tree

TREES = [BRANCHES, [(5, (3,))], [(1, (1, 1, 1)), (2, (2, 2))]]


def find_visible_pairs(batch):
    """[T, T]: whether the query token sees the key token, by the key blocks that attention reads."""
    visible = np.zeros((batch.num_tokens, batch.num_tokens), dtype=bool)
    offsets = batch.node_block_offsets
    for node, first_token, num_tokens, _ in batch.all_queries:
        path = batch.block_tokens[batch.node_blocks[offsets[node] : offsets[node + 1]]].ravel()
        for token in range(first_token, first_token + num_tokens):
            visible[token, path[: batch.positions[token] + 1]] = True
    return visible


@pytest.mark.parametrize("branches", TREES)
def test_a_key_is_seen_by_the_run_of_its_subtree(branches):
    batch = make_random_tree(branches).batch
    ends, tokens = find_subtree_ends(batch), np.arange(batch.num_tokens)
    expected = (tokens[:, None] >= tokens) & (tokens[:, None] < ends)
    assert np.array_equal(find_visible_pairs(batch), expected)


@pytest.mark.parametrize("is_last", [False, True])
@pytest.mark.parametrize("num_keys, step, rows_of_a_part", [(64, 32, 512), (16, 8, 40), (128, 3, 7)])
@pytest.mark.parametrize("branches", TREES)
def test_parts_hold_each_visible_pair_once(branches, num_keys, step, rows_of_a_part, is_last):
    batch = make_random_tree(branches).batch
    row_tokens = batch.read_queries[:, 1] if is_last else np.arange(batch.num_tokens, dtype=np.int32)
    parts, totals = plan_parts(find_subtree_ends(batch), row_tokens, num_keys, step, rows_of_a_part)
    visible = find_visible_pairs(batch)[row_tokens]
    counts = np.zeros_like(visible, dtype=int)
    for key, first, whole, end_whole, end, _ in parts:
        assert end - first <= rows_of_a_part and (end_whole - whole) % step == 0
        assert first <= whole <= end_whole <= end
        assert visible[whole:end_whole, key : key + num_keys].all()
        counts[first:end, key : key + num_keys] += 1
    assert (counts[visible] == 1).all() and counts.max() <= 1
    # Keys of several parts have one slot a part, in order; the others have none.
    slots = [range(first, first + count) for _, first, count in totals]
    assert [slot for run in slots for slot in run] == sorted(slot for slot in parts[:, 5] if slot >= 0)
    for (key, _, _), run in zip(totals, slots, strict=True):
        of_key = parts[parts[:, 0] == key]
        assert of_key[np.argsort(of_key[:, 1]), 5].tolist() == list(run)
    assert sorted(set(parts[:, 0].tolist())) == list(range(0, batch.num_tokens, num_keys))
    assert (np.diff(parts[:, 4] - parts[:, 1]) <= 0).all()
