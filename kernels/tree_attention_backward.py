"""The gradient of `tree_attention`, flash style and without an atomic addition: every sum has one order.

With O = P V, P = softmax(c(S)), S = scale * Q K^T and c the soft-cap:
    grad_V = P^T grad_O,  grad_S = P * (grad_O V^T - d) * c'(S) with d the row sums of O * grad_O,
    grad_Q = scale * grad_S K,  grad_K = scale * grad_S^T Q.

P is computed again from the logarithms of the softmax sums, which the forward leaves. Two kernels follow one another:
- queries: a program is a query tile and kv head, walks the keys as the forward does, and writes d and grad_Q;
- keys: a program is some consecutive packed tokens as keys, a kv head, and a part of the query rows.
Tokens lie depth-first, so who sees a key is one run of packed tokens: from the key to the end of its subtree. What
falls between, for tokens of several nodes, is masked. The keys of a shared prefix are seen by whole subtrees: their
rows are cut into parts of one size, which leave float32 sums, and a third kernel adds up the parts in order.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .configurations import AttentionConfiguration
from .launch import Kernel, round_up_to_power
from .tree_attention import _LOG2_E, apply_softcap


@triton.jit
def _weigh(x, log_sums, scale, softcap, HAS_SOFTCAP: tl.constexpr):
    """Returns P and the slope of the soft-cap from Q K^T; the vector broadcasts along the keys."""
    if HAS_SOFTCAP:
        x = apply_softcap(x, softcap, scale)
        tanh = x / (softcap * _LOG2_E)
        p, slope = tl.exp2(x - log_sums), 1.0 - tanh * tanh
    else:
        p, slope = tl.exp2(tl.fma(x, scale * _LOG2_E, -log_sums)), 1.0
    return p, slope


@triton.jit
def _pull_queries(q, grad_out, log_sums, dots, grad_q, start, stop, end, position, keys, values, qkv_stride, blocks,
            block_tokens, scale, softcap, window, HEAD_DIM: tl.constexpr, HEAD_BLOCK: tl.constexpr,
            KEY_BLOCK: tl.constexpr, STEP: tl.constexpr, HAS_SOFTCAP: tl.constexpr, HAS_WINDOW: tl.constexpr,
            IS_WHOLE: tl.constexpr):  # fmt: skip
    """Adds what the keys at positions [start, stop) give to a tile's gradient by its queries; as `_attend`."""
    column = tl.arange(0, HEAD_BLOCK)[None, :]
    in_head = column < HEAD_DIM
    for step in tl.range(start, stop, STEP, num_stages=None if IS_WHOLE else 1):
        key = step + tl.arange(0, STEP)
        is_key = key < end
        block = tl.load(blocks + key // KEY_BLOCK) if IS_WHOLE else tl.load(blocks + key // KEY_BLOCK, is_key, 0)
        at = block_tokens + block * KEY_BLOCK + key % KEY_BLOCK
        token = tl.load(at) if IS_WHOLE else tl.load(at, is_key, -1)
        row = token.to(tl.int64)[:, None] * qkv_stride + column
        if IS_WHOLE and HEAD_DIM == HEAD_BLOCK:
            k = tl.load(keys + row)
            v = tl.load(values + row)
        else:
            mask = (token >= 0)[:, None] & in_head
            k = tl.load(keys + row, mask, 0.0)
            v = tl.load(values + row, mask, 0.0)
        x = tl.dot(q, tl.trans(k), input_precision="ieee")
        grad_p = tl.dot(grad_out, tl.trans(v), input_precision="ieee")
        p, slope = _weigh(x, log_sums[:, None], scale, softcap, HAS_SOFTCAP)
        grad_s = p * (grad_p - dots[:, None]) * slope
        if not IS_WHOLE:
            distance = position[:, None] - key[None, :]
            is_seen = distance >= 0
            if HAS_WINDOW:
                is_seen = is_seen & (distance < window)
            grad_s = tl.where(is_seen, grad_s, 0.0)
        grad_q = tl.dot(grad_s.to(k.dtype), k, grad_q, input_precision="ieee")
    return grad_q


@Kernel
def tree_attention_backward_queries_kernel(
    qkv,
    block_tokens,
    node_blocks,
    tiles,
    out,
    grad_out,
    log_sums,
    dots,
    grad_qkv,
    qkv_stride,
    out_stride,
    grad_out_stride,
    grad_qkv_stride,
    num_rows,
    scale,
    softcap,
    window,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_BLOCK: tl.constexpr,
    KEY_BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    STEP: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
):
    group: tl.constexpr = NUM_HEADS // NUM_KV_HEADS
    tile = tiles + tl.program_id(0) // NUM_KV_HEADS * 5
    kv_head = tl.program_id(0) % NUM_KV_HEADS
    first_block, first_token, num_tokens = tl.load(tile), tl.load(tile + 1), tl.load(tile + 2)
    out_row, first_position = tl.load(tile + 3), tl.load(tile + 4)
    end = first_position + num_tokens

    token = tl.arange(0, ROWS) // group
    column = tl.arange(0, HEAD_BLOCK)[None, :]
    is_row = token < num_tokens
    mask = is_row[:, None] & (column < HEAD_DIM)
    head_column = ((kv_head * group + tl.arange(0, ROWS) % group) * HEAD_DIM)[:, None] + column
    out_rows = (out_row + token).to(tl.int64)[:, None]
    g = tl.load(grad_out + out_rows * grad_out_stride + head_column, mask, 0.0)
    o = tl.load(out + out_rows * out_stride + head_column, mask, 0.0)
    row_dots = tl.sum(o.to(tl.float32) * g.to(tl.float32), axis=1)
    vector = (kv_head.to(tl.int64) * num_rows + out_row) * group + tl.arange(0, ROWS)
    tl.store(dots + vector, row_dots, is_row)
    row_log_sums = tl.load(log_sums + vector, is_row, 0.0)
    tokens = (first_token + token).to(tl.int64)[:, None]
    q = tl.load(qkv + tokens * qkv_stride + head_column, mask, 0.0)
    position = first_position + token
    keys = qkv + (NUM_HEADS + kv_head) * HEAD_DIM
    values = keys + NUM_KV_HEADS * HEAD_DIM

    begin = tl.maximum(first_position - window + 1, 0) // STEP * STEP if HAS_WINDOW else 0
    whole = begin if HAS_WINDOW else (first_position + 1) // STEP * STEP
    grad_q = tl.zeros([ROWS, HEAD_BLOCK], tl.float32)
    if not HAS_WINDOW:
        grad_q = _pull_queries(
            q, g, row_log_sums, row_dots, grad_q, begin, whole, end, position, keys, values, qkv_stride,
            node_blocks + first_block, block_tokens, scale, softcap, window, HEAD_DIM, HEAD_BLOCK, KEY_BLOCK, STEP,
            HAS_SOFTCAP, HAS_WINDOW, IS_WHOLE=True,
        )  # fmt: skip
    grad_q = _pull_queries(
        q, g, row_log_sums, row_dots, grad_q, whole, end, end, position, keys, values, qkv_stride,
        node_blocks + first_block, block_tokens, scale, softcap, window, HEAD_DIM, HEAD_BLOCK, KEY_BLOCK, STEP,
        HAS_SOFTCAP, HAS_WINDOW, IS_WHOLE=False,
    )  # fmt: skip
    tl.store(grad_qkv + tokens * grad_qkv_stride + head_column, grad_q * scale, mask)


@triton.jit
def _pull_keys(k, v, grad_k, grad_v, num_rows, first_row, skip_from, skipped, key, key_end, key_position, queries,
            positions, row_tokens, grad_out, log_sums, dots, qkv_stride, grad_out_stride, scale, softcap, window,
            GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, HEAD_BLOCK: tl.constexpr, ROWS: tl.constexpr,
            HAS_SOFTCAP: tl.constexpr, HAS_WINDOW: tl.constexpr, IS_EVERY_TOKEN: tl.constexpr,
            IS_WHOLE: tl.constexpr):  # fmt: skip
    """Adds what `num_rows` query rows from `first_row` on give to the gradients by some keys and values.

    Behind row `skip_from`, `skipped` rows are left out. `IS_WHOLE`: each of the rows sees each of the keys, and the
    rows fill their steps.
    """
    tokens_at_once: tl.constexpr = ROWS // GROUP
    place = tl.arange(0, ROWS) // GROUP
    head_column = ((tl.arange(0, ROWS) % GROUP) * HEAD_DIM)[:, None] + tl.arange(0, HEAD_BLOCK)[None, :]
    in_head = (tl.arange(0, HEAD_BLOCK) < HEAD_DIM)[None, :]
    for step in tl.range(0, num_rows, tokens_at_once, num_stages=None if IS_WHOLE else 1):
        row = first_row + step + place
        if IS_WHOLE:
            is_row = place < tokens_at_once
        else:
            is_row = (place < tokens_at_once) & (step + place < num_rows)
            row += tl.where(row >= skip_from, skipped, 0)
        is_full: tl.constexpr = IS_WHOLE and ROWS % GROUP == 0
        if is_full:
            token = row if IS_EVERY_TOKEN else tl.load(row_tokens + row)
        else:
            token = row if IS_EVERY_TOKEN else tl.load(row_tokens + row, is_row, 0)
        source = queries + token.to(tl.int64)[:, None] * qkv_stride + head_column
        grad_source = grad_out + row.to(tl.int64)[:, None] * grad_out_stride + head_column
        vector = row * GROUP + tl.arange(0, ROWS) % GROUP
        if is_full:
            row_log_sums, row_dots = tl.load(log_sums + vector), tl.load(dots + vector)
        else:
            row_log_sums, row_dots = tl.load(log_sums + vector, is_row, 0.0), tl.load(dots + vector, is_row, 0.0)
        if is_full and HEAD_DIM == HEAD_BLOCK:
            q, g = tl.load(source), tl.load(grad_source)
        else:
            mask = is_row[:, None] & in_head
            q, g = tl.load(source, mask, 0.0), tl.load(grad_source, mask, 0.0)
        x = tl.dot(k, tl.trans(q), input_precision="ieee")
        p, slope = _weigh(x, row_log_sums[None, :], scale, softcap, HAS_SOFTCAP)
        if not IS_WHOLE:
            is_seen = (token[None, :] >= key[:, None]) & (token[None, :] < key_end[:, None]) & is_row[None, :]
            if HAS_WINDOW:
                position = tl.load(positions + token, is_row, 0)
                is_seen = is_seen & (position[None, :] - key_position[:, None] < window)
            p = tl.where(is_seen, p, 0.0)
        grad_v = tl.dot(p.to(g.dtype), g, grad_v, input_precision="ieee")
        grad_p = tl.dot(v, tl.trans(g), input_precision="ieee")
        grad_s = p * (grad_p - row_dots[None, :]) * slope
        grad_k = tl.dot(grad_s.to(q.dtype), q, grad_k, input_precision="ieee")
    return grad_k, grad_v


@Kernel
def tree_attention_backward_keys_kernel(
    qkv,
    positions,
    subtree_ends,
    row_tokens,
    parts,
    grad_out,
    log_sums,
    dots,
    grad_qkv,
    sums,
    qkv_stride,
    grad_out_stride,
    grad_qkv_stride,
    num_tokens,
    num_rows,
    scale,
    softcap,
    window,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    IS_EVERY_TOKEN: tl.constexpr,
):
    group: tl.constexpr = NUM_HEADS // NUM_KV_HEADS
    part = parts + tl.program_id(0) // NUM_KV_HEADS * 6
    kv_head = tl.program_id(0) % NUM_KV_HEADS
    first_key, first_row, first_whole = tl.load(part), tl.load(part + 1), tl.load(part + 2)
    end_whole, end_row, slot = tl.load(part + 3), tl.load(part + 4), tl.load(part + 5)

    key = first_key + tl.arange(0, KEYS)
    is_key = key < num_tokens
    key_end = tl.load(subtree_ends + key, is_key, 0)
    key_position = tl.load(positions + key, is_key, 0) if HAS_WINDOW else key
    column = tl.arange(0, HEAD_BLOCK)[None, :]
    mask = is_key[:, None] & (column < HEAD_DIM)
    key_columns = (NUM_HEADS + kv_head) * HEAD_DIM + column
    at = key.to(tl.int64)[:, None] * qkv_stride + key_columns
    k = tl.load(qkv + at, mask, 0.0)
    v = tl.load(qkv + at + NUM_KV_HEADS * HEAD_DIM, mask, 0.0)

    heads = kv_head * group * HEAD_DIM
    vectors = kv_head.to(tl.int64) * num_rows * group
    grad_k = tl.zeros([KEYS, HEAD_BLOCK], tl.float32)
    grad_v = tl.zeros([KEYS, HEAD_BLOCK], tl.float32)
    if not HAS_WINDOW:
        grad_k, grad_v = _pull_keys(
            k, v, grad_k, grad_v, end_whole - first_whole, first_whole, end_row, 0, key, key_end, key_position,
            qkv + heads, positions, row_tokens, grad_out + heads, log_sums + vectors, dots + vectors, qkv_stride,
            grad_out_stride, scale, softcap, window, group, HEAD_DIM, HEAD_BLOCK, ROWS, HAS_SOFTCAP, HAS_WINDOW,
            IS_EVERY_TOKEN, IS_WHOLE=True,
        )  # fmt: skip
    else:
        end_whole = first_whole  # with a window every row is masked
    grad_k, grad_v = _pull_keys(
        k, v, grad_k, grad_v, end_row - first_row - (end_whole - first_whole), first_row, first_whole,
        end_whole - first_whole, key, key_end, key_position, qkv + heads, positions, row_tokens, grad_out + heads,
        log_sums + vectors, dots + vectors, qkv_stride, grad_out_stride, scale, softcap, window, group, HEAD_DIM,
        HEAD_BLOCK, ROWS, HAS_SOFTCAP, HAS_WINDOW, IS_EVERY_TOKEN, IS_WHOLE=False,
    )  # fmt: skip
    grad_k *= scale
    if slot < 0:
        target = grad_qkv + key.to(tl.int64)[:, None] * grad_qkv_stride + key_columns
        tl.store(target, grad_k, mask)
        tl.store(target + NUM_KV_HEADS * HEAD_DIM, grad_v, mask)
    else:
        place = sums + ((slot * NUM_KV_HEADS + kv_head).to(tl.int64) * 2 * KEYS * HEAD_DIM)
        place += tl.arange(0, KEYS)[:, None] * HEAD_DIM + column
        tl.store(place, grad_k, mask)
        tl.store(place + KEYS * HEAD_DIM, grad_v, mask)


@Kernel
def tree_attention_backward_sums_kernel(
    sums,
    totals,
    grad_qkv,
    grad_qkv_stride,
    num_tokens,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_BLOCK: tl.constexpr,
    KEYS: tl.constexpr,
):
    total = totals + tl.program_id(0) // (2 * NUM_KV_HEADS) * 3
    kv_head = tl.program_id(0) // 2 % NUM_KV_HEADS
    is_value = tl.program_id(0) % 2
    first_key, first_slot, num_slots = tl.load(total), tl.load(total + 1), tl.load(total + 2)
    key = first_key + tl.arange(0, KEYS)
    column = tl.arange(0, HEAD_BLOCK)[None, :]
    mask = (key < num_tokens)[:, None] & (column < HEAD_DIM)
    place = tl.arange(0, KEYS)[:, None] * HEAD_DIM + column
    grad = tl.zeros([KEYS, HEAD_BLOCK], tl.float32)
    for slot in range(first_slot, first_slot + num_slots):
        at = ((slot * NUM_KV_HEADS + kv_head) * 2 + is_value).to(tl.int64) * KEYS * HEAD_DIM
        grad += tl.load(sums + at + place, mask, 0.0)
    columns = (NUM_HEADS + is_value * NUM_KV_HEADS + kv_head) * HEAD_DIM + column
    tl.store(grad_qkv + key.to(tl.int64)[:, None] * grad_qkv_stride + columns, grad, mask)


def tree_attention_backward(
    qkv_TE: Tensor,
    spec: Any,
    tree: Any,
    tiles: Tensor,
    plan: Any,
    out: Tensor,
    log_sums_KRG: Tensor,
    grad_out: Tensor,
    grad_qkv_TE: Tensor,
    queries: AttentionConfiguration,
    keys: AttentionConfiguration,
) -> None:
    """Writes the gradient by qkv. The query part of tokens that are no queries is left as it is.

    `spec` is an `ops.spec.AttentionSpec`, `tree` an `ops.tree.Tree`; `tiles`, `out` and `log_sums` are the forward's,
    tiles of at most `queries.rows // group` tokens. `plan` is an `ops.triton.gradient_plan.GradientPlan` for tiles of
    `keys.key_step` keys and steps of `keys.rows // group` query tokens.
    Dtypes: log_sums float32; the others as qkv.
    """
    if len(tiles) == 0:
        return
    heads = spec.heads
    dots_KRG = torch.empty_like(log_sums_KRG)
    common = {
        "NUM_HEADS": heads.num_heads,
        "NUM_KV_HEADS": heads.num_kv_heads,
        "HEAD_DIM": heads.head_dim,
        "HEAD_BLOCK": max(round_up_to_power(heads.head_dim), 16),
    }
    options = {"HAS_SOFTCAP": spec.softcap is not None, "HAS_WINDOW": spec.window is not None}
    numbers = (spec.scale, spec.softcap or 0.0, spec.window or 0)
    tree_attention_backward_queries_kernel[(len(tiles) * heads.num_kv_heads,)](
        qkv_TE,
        tree.block_tokens,
        tree.node_blocks,
        tiles,
        out,
        grad_out,
        log_sums_KRG,
        dots_KRG,
        grad_qkv_TE,
        qkv_TE.stride(0),
        out.stride(0),
        grad_out.stride(0),
        grad_qkv_TE.stride(0),
        len(out),
        *numbers,
        **common,
        **options,
        KEY_BLOCK=tree.block_tokens.shape[1],
        ROWS=queries.rows,
        STEP=queries.key_step,
        num_warps=queries.num_warps,
        num_stages=queries.num_stages,
    )
    size = (plan.num_slots, heads.num_kv_heads, 2, keys.key_step, heads.head_dim)
    sums = qkv_TE.new_empty(size, dtype=torch.float32)
    tree_attention_backward_keys_kernel[(len(plan.parts) * heads.num_kv_heads,)](
        qkv_TE,
        tree.positions,
        plan.subtree_ends,
        plan.row_tokens,
        plan.parts,
        grad_out,
        log_sums_KRG,
        dots_KRG,
        grad_qkv_TE,
        sums,
        qkv_TE.stride(0),
        grad_out.stride(0),
        grad_qkv_TE.stride(0),
        len(qkv_TE),
        len(out),
        *numbers,
        **common,
        **options,
        ROWS=keys.rows,
        KEYS=keys.key_step,
        IS_EVERY_TOKEN=plan.row_tokens is None,
        num_warps=keys.num_warps,
        num_stages=keys.num_stages,
    )
    if len(plan.totals):
        tree_attention_backward_sums_kernel[(len(plan.totals) * heads.num_kv_heads * 2,)](
            sums,
            plan.totals,
            grad_qkv_TE,
            grad_qkv_TE.stride(0),
            len(qkv_TE),
            **common,
            KEYS=keys.key_step,
            num_warps=16,
        )
