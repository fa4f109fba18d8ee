"""The prefix tree against its definition, by brute force over random token lists."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codescaler.ops.plan import KEY_BLOCK, plan


def as_arrays(sequences):
    return [np.array(sequence, dtype=np.int32) for sequence in sequences]


def path_of(batch, node):
    """Packed tokens from the root to the end of a node, as attention would read them."""
    blocks = batch.node_blocks[batch.node_block_offsets[node] : batch.node_block_offsets[node + 1]]
    tokens = batch.block_tokens[blocks].ravel()
    return tokens[tokens >= 0]


def check_steps(batch, num_keys):
    """Each step of each path has its first token if its tokens lie side by side, and knows the next that has not."""
    steps = batch.plan_steps(num_keys)
    for node, first_block in enumerate(batch.node_block_offsets[:-1]):
        path = path_of(batch, node)
        at = first_block * max(KEY_BLOCK // num_keys, 1)
        parts = [path[i : i + num_keys] for i in range(0, len(path), num_keys)]
        is_run = [(np.diff(part) == 1).all() for part in parts]
        first_tokens, straddling = steps[at : at + len(parts)].T
        assert first_tokens.tolist() == [part[0] if run else -1 for part, run in zip(parts, is_run, strict=True)]
        for i, found in enumerate(straddling):
            expected = next((j for j in range(i, len(parts)) if not is_run[j]), len(parts))
            assert min(found, len(parts)) == expected
        assert at + len(parts) < len(steps)  # a row is left to read ahead


def check(sequences, max_batch_tokens):
    """Every promise of `TreeBatch`, one by one."""
    batches = plan(as_arrays(sequences), max_batch_tokens)
    seen = []
    for batch in batches:
        lists = [tuple(sequences[i]) for i in batch.sequences]
        prefixes = {tokens[: i + 1] for tokens in lists for i in range(len(tokens))}
        assert batch.num_tokens == len(prefixes)
        assert batch.num_tokens <= max_batch_tokens or len(set(lists)) == 1
        assert len(batch.read_queries) == len(set(lists))
        for tokens, row in zip(lists, batch.rows, strict=True):
            node, last_token, num_tokens, out_row = batch.read_queries[row]
            path = path_of(batch, node)
            assert (num_tokens, out_row, path[-1]) == (1, row, last_token)
            assert tuple(batch.token_ids[path]) == tokens
            assert batch.positions[path].tolist() == list(range(len(tokens)))
        covered = []
        for node, first_token, num_tokens, out_row in batch.all_queries:
            assert out_row == first_token
            assert batch.positions[first_token] == batch.node_starts[node]
            assert path_of(batch, node)[-num_tokens:].tolist() == list(range(first_token, first_token + num_tokens))
            covered += range(first_token, first_token + num_tokens)
        assert covered == list(range(batch.num_tokens))
        for num_keys in (KEY_BLOCK // 2, KEY_BLOCK, 2 * KEY_BLOCK):
            check_steps(batch, num_keys)
        # A key block starts at a multiple of its size and has no holes.
        starts = batch.positions[batch.block_tokens[:, 0]]
        assert (starts % KEY_BLOCK == 0).all()
        assert (np.diff((batch.block_tokens >= 0).astype(int), axis=1) <= 0).all()
        check_padded(batch)
        seen += batch.sequences.tolist()
    assert sorted(seen) == list(range(len(sequences)))
    return batches


def check_padded(batch):
    """A padded tree has the arrays of the tree in front, and shapes that follow from its sizes."""
    sizes = batch.round_up_sizes()
    padded = batch.pad(sizes)
    assert (len(padded.token_ids), padded.num_positions) == (sizes.num_tokens, sizes.num_positions)
    assert batch.num_tokens <= sizes.num_tokens <= max(17 / 16 * batch.num_tokens, batch.num_tokens + 15)
    assert len(padded.block_tokens) == sizes.num_tokens // KEY_BLOCK + 2 * sizes.num_nodes
    assert len(padded.node_blocks) == sizes.num_nodes * sizes.num_positions // KEY_BLOCK
    for name in ("token_ids", "positions", "block_tokens", "node_blocks", "all_queries", "read_queries", "rows"):
        array = getattr(batch, name)
        assert np.array_equal(getattr(padded, name)[: len(array)], array)
    for max_tokens in (1, 7):
        for queries, others in ((batch.all_queries, padded.all_queries), (batch.read_queries, padded.read_queries)):
            tiles = batch.plan_tiles(queries, max_tokens, is_padded=True)
            lengthened = padded.plan_tiles(others, max_tokens, is_padded=True)
            assert np.array_equal(lengthened[: len(tiles)], tiles)
            assert not lengthened[len(tiles) :].any()
            assert len(lengthened) == sizes.num_tokens // max_tokens + sizes.num_nodes


@st.composite
def families_of_lists(draw):
    """Token lists of few symbols that branch off one another at random places, some of them equal."""
    sequences = []
    for _ in range(draw(st.integers(1, 8))):
        base = draw(st.sampled_from(sequences)) if sequences and draw(st.booleans()) else []
        tail = draw(st.lists(st.integers(0, 2), max_size=draw(st.sampled_from([3, 150]))))
        sequences.append((base[: draw(st.integers(0, len(base)))] + tail) or [0])
    return sequences


@settings(max_examples=200, deadline=None)
@given(families_of_lists(), st.sampled_from([1, 40, 300, 10**9]))
def test_keeps_every_promise(sequences, max_batch_tokens):
    check(sequences, max_batch_tokens)


@settings(max_examples=100, deadline=None)
@given(families_of_lists(), st.sampled_from([40, 10**9]), st.randoms())
def test_sequences_may_be_read_from_any_position_on(sequences, max_batch_tokens, random):
    first_read = [random.randrange(len(tokens)) for tokens in sequences]
    for batch in plan(as_arrays(sequences), max_batch_tokens, first_read=first_read):
        rows = np.split(batch.rows, batch.row_counts.cumsum()[:-1])
        read = {}
        for index, of_sequence in zip(batch.sequences, rows, strict=True):
            positions = range(first_read[index], len(sequences[index]))
            for position, row in zip(positions, of_sequence, strict=True):
                assert read.setdefault(row, tuple(sequences[index][: position + 1])) == tuple(
                    sequences[index][: position + 1]
                )
        assert sorted(read) == list(range(len(batch.read_tokens))) and len(set(read.values())) == len(read)
        for node, first_token, num_tokens, out_row in batch.read_queries:
            path = path_of(batch, node)
            at = path.tolist().index(first_token)
            for step in range(num_tokens):
                assert tuple(batch.token_ids[path[: at + step + 1]]) == read[out_row + step]


@pytest.mark.parametrize("length", [1, KEY_BLOCK - 1, KEY_BLOCK, KEY_BLOCK + 1, 5 * KEY_BLOCK])
def test_prompt_and_branches_around_a_key_block(length):
    prompt = [7] * length
    check([prompt, [*prompt, 1], [*prompt, 2, 3], [*prompt, 2, 4], prompt, [9]], 10**9)


def test_a_shared_prompt_is_computed_once():
    prompt = list(range(500))
    (batch,) = check([[*prompt, 1000 + i] for i in range(16)], 10**9)
    assert batch.num_tokens == 516


def test_blocks_inside_a_shared_prompt_are_shared():
    prompt = list(range(4 * KEY_BLOCK))
    (batch,) = check([[*prompt, 1000 + i] for i in range(16)], 10**9)
    assert len(batch.block_tokens) == 4 + 16


def test_the_budget_cuts_and_a_longer_list_goes_alone():
    batches = check([[1] * 30, [2] * 30, [3] * 100, [4] * 30], 64)
    assert [batch.num_tokens for batch in batches] == [60, 100, 30]


def test_nothing_to_plan():
    assert plan([], 100) == []


def test_thousands_of_sequences_take_a_moment(benchmark):
    random = np.random.default_rng(0)
    prompts = random.integers(0, 150_000, (500, 600))
    sequences = [
        np.concatenate([prompts[i // 8], random.integers(0, 150_000, 300)]).astype(np.int32) for i in range(4000)
    ]
    batches = benchmark.pedantic(plan, (sequences, 8192), rounds=1)
    assert sum(batch.num_tokens for batch in batches) >= 500 * 600 + 4000 * 300
    if benchmark.enabled:
        assert benchmark.stats.stats.max < 5.0  # 0.1 s where this was written; its forward takes an hour


def test_tiles_cover_every_query_once_longest_path_first():
    batch = plan([np.array([1] * 90 + tail, dtype=np.int32) for tail in ([2] * 30, [3] * 3)], 1000)[0]
    tiles = batch.plan_tiles(batch.all_queries, 7, is_padded=True)
    covered = np.concatenate([np.arange(first, first + count) for _, first, count, _, _ in tiles])
    assert sorted(covered.tolist()) == list(range(batch.num_tokens))
    assert tiles[:, 2].max() == 7
    ends = tiles[:, 4] + tiles[:, 2]
    assert (np.diff(ends) <= 0).all()
    assert np.array_equal(batch.positions[tiles[:, 1]], tiles[:, 4])
    for first_block, first, _, out_row, position in tiles:
        assert batch.block_tokens[batch.node_blocks[first_block + position // KEY_BLOCK], position % KEY_BLOCK] == first
        assert out_row == first
    assert len(batch.plan_tiles(batch.read_queries, 7, is_padded=True)) == 2


def test_a_tile_that_is_not_padded_costs_by_its_tokens():
    (batch,) = plan(as_arrays([[1] * 9]), 100)
    first_positions = [
        batch.plan_tiles(batch.all_queries, 8, is_padded=is_padded)[:, 4].tolist() for is_padded in (True, False)
    ]
    assert first_positions == [[8, 0], [0, 8]]  # 8 tokens to position 8, and one token to position 9


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=150), min_size=1, max_size=6),
    st.lists(st.booleans(), min_size=6, max_size=6),
)
def test_a_cut_is_the_tree_of_what_is_kept(sequences, kept):
    (batch,) = plan(as_arrays(sequences), 10**6)
    is_kept = np.array(kept)[batch.sequences]
    if not is_kept.any():
        return
    cut, tokens = batch.cut(is_kept)
    left = sorted(cut.sequences.tolist())
    assert left == sorted(batch.sequences[is_kept].tolist())
    (expected,) = plan([np.array(sequences[index], np.int32) for index in left], 10**6)
    for name in ("token_ids", "positions", "block_tokens", "node_blocks", "all_queries", "read_queries", "rows"):
        assert np.array_equal(getattr(cut, name), getattr(expected, name)), name
    assert [left.index(index) for index in cut.sequences] == expected.sequences.tolist()
    assert np.array_equal(batch.token_ids[tokens], cut.token_ids)
    assert np.array_equal(batch.positions[tokens], cut.positions)
