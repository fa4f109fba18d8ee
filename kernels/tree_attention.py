"""Causal attention over the packed prefix tree, flash style, in one launch: one program a query tile and kv head.

A tile holds query tokens of one node, each with all query heads of its kv head, and walks the key blocks of the node's
path where they lie in the packed batch; nothing is gathered or copied first. Steps over keys start at absolute
multiples of `key_step`; rows of a tile never mix; a key that a row may not see has weight exactly 0. So a row's
bits depend on its own path alone, whatever tile, batch or tree it stands in. (Only for a row that sees an infinite
value with a weight that underflowed to 0 may the tile decide between infinity and NaN.) That rests on two things
more: products of a row do not depend on its place in the tile, and the compiler fuses no multiplication into an
addition in one of the loops below that it leaves alone in another (`enable_fp_fusion=False`; where one is
wanted it is written).

A block that lies inside one node could be read by its first token alone; it is read through its list of tokens like
the others, which costs an index a key and keeps one path.
"""

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from .configurations import AttentionConfiguration

_LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _apply_softcap(logits, softcap, scale):
    """Softcap * tanh(logits * scale / softcap), in units of log 2."""
    x = logits * (scale / softcap)
    e = tl.exp2(tl.abs(x) * (-2.0 * _LOG2_E))
    tanh = tl.where(x < 0.0, -1.0, 1.0) * (1.0 - e) / (1.0 + e)
    return tl.where(tl.abs(x) < 0.125, x - x * x * x * (1.0 / 3.0 - x * x * (2.0 / 15.0)), tanh) * (softcap * _LOG2_E)


@triton.jit
def _add_nonfinite(acc, start, end, position, values, qkv_stride, blocks, block_tokens, window, column, in_head,
            KEY_BLOCK: tl.constexpr, STEP: tl.constexpr, HAS_WINDOW: tl.constexpr):  # fmt: skip
    """Adds the NaN and infinite values of one step to the rows that see them: rare, so a key at a time."""
    for key in range(start, tl.minimum(start + STEP, end)):
        token = tl.load(block_tokens + tl.load(blocks + key // KEY_BLOCK) * KEY_BLOCK + key % KEY_BLOCK)
        v = tl.load(values + token.to(tl.int64) * qkv_stride + column, in_head, 0.0).to(tl.float32)
        is_seen = position >= key
        if HAS_WINDOW:
            is_seen = is_seen & (position - key < window)
        acc += tl.where(is_seen[:, None] & ~(tl.abs(v) < float("inf")), v, 0.0)
    return acc


@triton.jit
def _attend(
    q,
    row_max,
    row_sum,
    acc,
    start,
    stop,
    end,
    position,
    keys,
    values,
    qkv_stride,
    blocks,
    block_tokens,
    scale,
    softcap,
    window,
    HEAD_DIM: tl.constexpr,
    HEAD_BLOCK: tl.constexpr,
    KEY_BLOCK: tl.constexpr,
    STEP: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    IS_WHOLE: tl.constexpr,
):
    """Takes the keys at positions [start, stop) into a tile's running softmax and sums.

    `IS_WHOLE`: every row sees every key of these steps. Where not, NaN and infinite values go a way of their own, for
    0 * NaN would bring them to rows that do not see them.
    """
    column = tl.arange(0, HEAD_BLOCK)[None, :]
    in_head = column < HEAD_DIM
    # The steps that are not whole are few: loading ahead for them would cost registers in all of them.
    for step in tl.range(start, stop, STEP, num_stages=None if IS_WHOLE else 1):
        key = step + tl.arange(0, STEP)
        if IS_WHOLE:
            block = tl.load(blocks + key // KEY_BLOCK)
            token = tl.load(block_tokens + block * KEY_BLOCK + key % KEY_BLOCK)
            is_key = (key >= 0)[:, None]
        else:
            block = tl.load(blocks + key // KEY_BLOCK, key < end, 0)
            token = tl.load(block_tokens + block * KEY_BLOCK + key % KEY_BLOCK, key < end, -1)
            is_key = (token >= 0)[:, None]
        row = token.to(tl.int64)[:, None] * qkv_stride + column
        if IS_WHOLE and HEAD_DIM == HEAD_BLOCK:  # noqa: SIM108
            k = tl.load(keys + row)
        else:
            k = tl.load(keys + row, is_key & in_head, 0.0)
        x = tl.dot(q, tl.trans(k), input_precision="ieee")
        if HAS_SOFTCAP:
            x = _apply_softcap(x, softcap, scale)
        if not IS_WHOLE:
            distance = position[:, None] - key[None, :]
            is_seen = distance >= 0
            if HAS_WINDOW:
                is_seen = is_seen & (distance < window)
            x = tl.where(is_seen, x, float("-inf"))
        factor = 1.0 if HAS_SOFTCAP else scale * _LOG2_E
        new_max = tl.maximum(row_max, tl.max(x, axis=1) * factor)
        # While a row has seen no key the maximum is -inf, and -inf - (-inf) would be NaN.
        shift = tl.where(new_max == float("-inf"), 0.0, new_max)
        p = tl.exp2(tl.fma(x, factor, -shift[:, None]))
        rescale = tl.exp2(row_max - shift)
        row_sum = row_sum * rescale + tl.sum(p, axis=1)
        acc = acc * rescale[:, None]
        if IS_WHOLE and HEAD_DIM == HEAD_BLOCK:
            v = tl.load(values + row)
        else:
            v = tl.load(values + row, is_key & in_head, 0.0)
        if not IS_WHOLE:
            is_finite = tl.abs(v) < float("inf")
            if tl.min(tl.min(is_finite.to(tl.int32), axis=1), axis=0) == 0:
                acc = _add_nonfinite(acc, step, end, position, values, qkv_stride, blocks, block_tokens, window, column,
                              in_head, KEY_BLOCK, STEP, HAS_WINDOW)  # fmt: skip
            v = tl.where(is_finite, v, 0.0)
        acc = tl.dot(p.to(v.dtype), v, acc, input_precision="ieee")
        row_max = new_max
    return row_max, row_sum, acc


@triton.jit
def tree_attention_kernel(
    qkv,
    block_tokens,
    node_blocks,
    tiles,
    out,
    log_sums,
    qkv_stride,
    out_stride,
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
    HAS_LOG_SUMS: tl.constexpr,
):
    group: tl.constexpr = NUM_HEADS // NUM_KV_HEADS
    tile = tiles + tl.program_id(0) // NUM_KV_HEADS * 5
    kv_head = tl.program_id(0) % NUM_KV_HEADS
    first_block, first_token, num_tokens, out_row = (
        tl.load(tile),
        tl.load(tile + 1),
        tl.load(tile + 2),
        tl.load(tile + 3),
    )
    first_position = tl.load(tile + 4)
    end = first_position + num_tokens

    token = tl.arange(0, ROWS) // group
    column = tl.arange(0, HEAD_BLOCK)[None, :]
    mask = (token < num_tokens)[:, None] & (column < HEAD_DIM)
    head_column = ((kv_head * group + tl.arange(0, ROWS) % group) * HEAD_DIM)[:, None] + column
    q = tl.load(qkv + (first_token + token).to(tl.int64)[:, None] * qkv_stride + head_column, mask, 0.0)
    position = first_position + token
    keys = qkv + (NUM_HEADS + kv_head) * HEAD_DIM
    values = keys + NUM_KV_HEADS * HEAD_DIM

    begin = tl.maximum(first_position - window + 1, 0) // STEP * STEP if HAS_WINDOW else 0
    # With a window only a tile's middle would be whole, and it is short: all of it is masked.
    whole = begin if HAS_WINDOW else (first_position + 1) // STEP * STEP
    row_max = tl.full([ROWS], float("-inf"), tl.float32)
    row_sum = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, HEAD_BLOCK], tl.float32)
    if not HAS_WINDOW:
        row_max, row_sum, acc = _attend(
            q, row_max, row_sum, acc, begin, whole, end, position, keys, values, qkv_stride, node_blocks + first_block,
            block_tokens, scale, softcap, window, HEAD_DIM, HEAD_BLOCK, KEY_BLOCK, STEP, HAS_SOFTCAP, HAS_WINDOW,
            IS_WHOLE=True,
        )  # fmt: skip
    row_max, row_sum, acc = _attend(
        q, row_max, row_sum, acc, whole, end, end, position, keys, values, qkv_stride, node_blocks + first_block,
        block_tokens, scale, softcap, window, HEAD_DIM, HEAD_BLOCK, KEY_BLOCK, STEP, HAS_SOFTCAP, HAS_WINDOW,
        IS_WHOLE=False,
    )  # fmt: skip
    target = out + (out_row + token).to(tl.int64)[:, None] * out_stride + head_column
    tl.store(target, acc / row_sum[:, None], mask)
    if HAS_LOG_SUMS:
        vector = log_sums + (kv_head.to(tl.int64) * num_rows + out_row) * group + tl.arange(0, ROWS)
        tl.store(vector, row_max + tl.log2(row_sum), token < num_tokens)


def tree_attention(
    qkv_TE: Tensor,
    spec: Any,
    block_tokens: Tensor,
    node_blocks: Tensor,
    tiles: Tensor,
    out: Tensor,
    configuration: AttentionConfiguration,
    log_sums_KRG: Tensor | None = None,
) -> None:
    """Writes each query token's attention to its own path; see `ops.reference.tree_attention` for the formula.

    `spec` is an `ops.spec.AttentionSpec`.

    Shapes: block_tokens [C, key block]; tiles [., 5], longest path first, each row (first_block, first_token,
    num_tokens, out_row, first_position): tokens of one node, whose path's key blocks stand from
    node_blocks[first_block] on. A tile has at most `configuration.rows // group` tokens.
    `log_sums`, where given, gets the base-2 logarithm of each row's softmax sum, which the gradient reads; G is the
    query heads of a kv head.
    Dtypes: integers int32; out as qkv; log_sums float32.
    """
    if len(tiles) == 0:
        return
    heads = spec.heads
    tree_attention_kernel[(len(tiles) * heads.num_kv_heads,)](
        qkv_TE,
        block_tokens,
        node_blocks,
        tiles,
        out,
        log_sums_KRG,
        qkv_TE.stride(0),
        out.stride(0),
        len(out),
        spec.scale,
        spec.softcap or 0.0,
        spec.window or 0,
        NUM_HEADS=heads.num_heads,
        NUM_KV_HEADS=heads.num_kv_heads,
        HEAD_DIM=heads.head_dim,
        HEAD_BLOCK=max(triton.next_power_of_2(heads.head_dim), 16),
        KEY_BLOCK=block_tokens.shape[1],
        ROWS=configuration.rows,
        STEP=configuration.key_step,
        HAS_SOFTCAP=spec.softcap is not None,
        HAS_WINDOW=spec.window is not None,
        HAS_LOG_SUMS=log_sums_KRG is not None,
        num_warps=configuration.num_warps,
        num_stages=configuration.num_stages,
        enable_fp_fusion=False,
    )
